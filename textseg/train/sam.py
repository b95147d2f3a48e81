"""Training nano SAM with its text prompt: boxes, points, rough masks and phrases, one at a time or mixed.

Pictures are encoded once and all their prompts decoded together. Masks are trained as in the SAM
paper (arXiv 2304.02643: three masks for one prompt, the best is trained), with dice and
cross-entropy on the coverage of low-resolution pixels. Named prompts carry CLIP's embedding of the
phrase, or (a share of them) CLIP's image embedding of the object itself, as the paper trains.

    python -m textseg.train.sam --config configs/train/sam.yaml --data DIR --out DIR

The same command goes on where a run stopped; `--export` writes the averaged weights of the last
checkpoint. The run directory holds `checkpoint.pt` and `metrics.jsonl`.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from transformers import EdgeTamModel

from textseg.config import read_yaml
from textseg.models import onednn
from textseg.models.edgetam_encode import encode
from textseg.models.text_prompt import TextPrompt, TextPromptConfig
from textseg.train.clip_model import is_exported
from textseg.train.loop import (
    Clock,
    Ema,
    MetricsLog,
    cosine_rate,
    load_checkpoint,
    progress_bar,
    save_checkpoint,
    seed_everything,
    set_rate,
    start_workers,
)
from textseg.train.sam_closeups import Closeups, CloseupShare, WithCloseups
from textseg.train.sam_data import Batch, PromptMaker, SamBatches, Sources
from textseg.train.sam_loss import SamLoss, far_weights, sam_loss
from textseg.train.sam_model import (
    STRIDE,
    PromptTensors,
    SamShape,
    build_sam,
    decode_prompts,
    normalise,
    save_sam,
    start_small,
)
from textseg.train.sam_text import PhraseEmbedder
from textseg.train.sam_val import ValPicture, load_val, validate, validate_closeups
from textseg.train.sam_window import WindowConfig
from textseg.train.trunk import depthwise_in_float32, drop_paths, freeze, rate_groups, rest_norms, start_trunk

logger = logging.getLogger(__name__)

CHECKPOINT, METRICS = "checkpoint.pt", "metrics.jsonl"


@dataclass(frozen=True)
class SamTrainConfig:
    """Everything that a run needs; the YAML's comments say what each is."""

    model: SamShape = field(default_factory=SamShape)
    text_tokens: int = 2
    clip_dim: int = 256
    minutes: float = 98.0
    batch: int = 12
    windows: tuple[tuple[float, int, float, float], ...] = ((1.0, 288, 0.6, 1.9),)
    closeups: CloseupShare = field(default_factory=CloseupShare)
    focus: float = 0.0
    prompts: int = 4
    shares: dict[str, float] = field(default_factory=lambda: {"scene": 0.5, "coco": 0.25, "ccp": 0.25})
    rate: float = 1e-3
    floor: float = 2e-5
    warmup_steps: int = 150
    decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.998
    single_weight: float = 0.5
    refine_every: int = 4
    image_share: float = 0.4
    seed: int = 1
    threads: int = 1
    workers: int = 1
    clip: str = ""
    export: str = ""
    sam_folder: str = "sam"
    start_from: str = ""
    trunk: str = ""
    trunk_rate: float = 1.0
    frozen: tuple[str, ...] = ()
    drop_path: float = 0.0
    validate_minutes: float = 6.0
    checkpoint_minutes: float = 3.0
    first_export_minutes: float = 10.0
    export_minutes: float = 20.0

    def window_configs(self) -> list[WindowConfig]:
        """The windows, in the order in which they are used."""
        frame = self.model.image_size
        return [
            WindowConfig(side, frame, STRIDE, (low, high), self.prompts, focus=self.focus)
            for _, side, low, high in self.windows
        ]

    def stage(self, share: float) -> int:
        """Which of the windows is in use when `share` of the time has gone."""
        return next((i for i, w in enumerate(self.windows) if share < w[0]), len(self.windows) - 1)


class SamWithText(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, config: SamTrainConfig) -> None:
        super().__init__()
        self.sam = build_sam(config.model)
        self.text = TextPrompt(TextPromptConfig(config.clip_dim, config.model.decoder_width, config.text_tokens))

    @property
    def timm_trunk(self) -> nn.Module:
        """The convolutional trunk of SAM's picture side, as timm made it."""
        trunk: nn.Module = self.sam.vision_encoder.backbone.timm_model
        return trunk

    def load_exported(self, folder: Path) -> None:
        """Take over the weights that a run exported: ``sam/`` and ``text_prompt/`` in a folder, or one SAM's own.

        A model of fewer stages takes what fits.
        """
        parts = folder / "sam"
        other = EdgeTamModel.from_pretrained(parts if parts.is_dir() else folder, dtype=torch.float32)
        if len(other.vision_encoder.neck.convs) > len(self.sam.vision_encoder.neck.convs):
            fitted = start_small(self.sam, other)
            logger.info("%d of %d tensors start from %s", fitted, len(self.sam.state_dict()), folder)
            return
        self.sam.load_state_dict(other.state_dict())
        if parts.is_dir():
            self.text.load_state_dict(TextPrompt.load(folder / "text_prompt").state_dict())


class SamTrainer:
    """The state of a run: weights, optimizer, average, seconds trained."""

    def __init__(self, config: SamTrainConfig, embedder: PhraseEmbedder | None) -> None:
        self.config = config
        self.embedder = embedder
        self.model = SamWithText(config)
        if config.start_from:
            self.model.load_exported(Path(config.start_from))
        elif config.trunk:
            start_trunk(self.model.timm_trunk, config.trunk, config.model.trunk)
        groups = rate_groups(self.model, self.model.timm_trunk, config.decay, config.trunk_rate)
        self.optimizer = torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98), fused=True)
        # Only now, so that the optimizer knows all parameters: a resumed run may have another `frozen`.
        self._prepare_trunk()
        self.ema = Ema(self.model, config.ema)
        self.step = 0
        self.seconds = 0.0
        self.generator = torch.Generator().manual_seed(config.seed)

    def _prepare_trunk(self) -> None:
        """Freeze what is to stay, and make the rest quick and robust to train."""
        trunk, config = self.model.timm_trunk, self.config
        freeze(trunk, config.frozen)
        rest_norms(trunk, ("",))  # the averages of ImageNet say more than those of a batch of a few windows
        drop_paths(trunk, config.drop_path)  # only now, or they would rest as well
        depthwise_in_float32(trunk)
        trunk.to(memory_format=torch.channels_last)

    @property
    def share(self) -> float:
        """Share of the planned time that has gone, 0..1."""
        return min(1.0, self.seconds / (60 * self.config.minutes))

    def train_step(self, batch: Batch) -> SamLoss:
        """One update of the weights."""
        started = time.perf_counter()
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        planned = cosine_rate(int(1e6 * self.share), 1_000_000, peak=config.rate, warmup=0, floor=config.floor)
        set_rate(self.optimizer, planned * warm)
        loss = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.ema.update(self.model)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return loss

    def loss(self, batch: Batch) -> SamLoss:
        """The loss of a batch; now and then some prompts are asked again with SAM's own logits."""
        prompts = self.prompts(batch)
        valid = batch.valid[batch.image_index] & ~batch.ignore
        targets = batch.targets.float() / 255
        far = far_weights(targets, torch.tensor([kind in {"text", "absent"} for kind in batch.kinds]))
        with onednn.autocast():
            features = encode(self.model.sam, normalise(batch.image))
            logits, claimed = decode_prompts(self.model.sam, features, prompts, batch.offset_yx)
        first = sam_loss(logits, claimed, targets, valid, far, self.config.single_weight)
        if self.config.refine_every == 0 or self.step % self.config.refine_every:
            return first
        rows = torch.randperm(len(targets), generator=self.generator)[: max(1, len(targets) // 3)]
        with onednn.autocast():
            again = with_masks(prompts, rows, logits.detach(), claimed.detach(), valid)
            logits, claimed = decode_prompts(self.model.sam, features, again, batch.offset_yx)
        second = sam_loss(logits, claimed, targets[rows], valid[rows], far[rows], self.config.single_weight)
        return SamLoss(first.mask + second.mask / 3, first.iou + second.iou / 3, first.true_iou)

    def prompts(self, batch: Batch) -> PromptTensors:
        """The batch's prompts with phrases and crops turned into tokens."""
        tokens = None
        if self.embedder is not None and batch.texts:
            tokens = self.model.text(self.embedder(batch.texts, batch.crops))
        return PromptTensors(
            batch.image_index, batch.boxes, batch.points, batch.labels, batch.mask_rows, batch.mask_logits,
            batch.text_rows, tokens,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "named": self.embedder is not None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])

    def follow_clip(self) -> None:
        """Read CLIP anew where its export has changed; a run without phrases takes them up when it is resumed."""
        if self.embedder is not None and self.embedder.outdated():
            self.embedder = PhraseEmbedder.load(self.config.clip) or self.embedder
            self.center_text()
            logger.info("read the new CLIP")

    def center_text(self) -> None:
        """Tell the text prompt where this CLIP's phrases lie, in the weights and their average."""
        if self.embedder is not None:
            center = self.embedder.center()
            self.model.text.center.copy_(center)
            self.ema.shadow["text.center"].copy_(center)

    def validate(self, pictures: list[ValPicture]) -> dict[str, float]:
        """Scores of the averaged weights."""
        embedder, text = self.embedder, self.model.text
        tokens = None if embedder is None else (lambda phrases: text(embedder.texts(phrases)))
        with self.ema.applied(self.model):
            if self.config.closeups.alone:
                return validate_closeups(self.model.sam, pictures)
            return validate(self.model.sam, self.config.model, pictures, tokens)

    def export(self, folder: str | Path) -> None:
        """Write the averaged weights into ``folder``, each network's replaced whole; of close-ups alone it is one."""
        folder, config = Path(folder), self.config
        parts: dict[str, Callable[[Path], object]] = {config.sam_folder: partial(save_sam, self.model.sam)}
        if not config.closeups.alone:
            parts["text_prompt"] = self.model.text.save
        with self.ema.applied(self.model):
            for name, save in parts.items():
                unfinished = folder / f".{name}.partial"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
                save(unfinished)
                (folder / name).mkdir(exist_ok=True)
                for file in sorted(unfinished.iterdir()):
                    os.replace(file, folder / name / file.name)
                unfinished.rmdir()


def with_masks(prompts: PromptTensors, rows: Tensor, logits: Tensor, claimed: Tensor, valid: Tensor) -> PromptTensors:
    """The prompts at `rows` with SAM's own best logits as their mask; padding holds the lowest logit."""
    best = claimed[rows, 1:].argmax(dim=1) + 1
    masks = logits[rows, best].clamp(-20, 20)
    masks = torch.where(valid[rows], masks, masks.amin(dim=(1, 2), keepdim=True))
    tokens, text_rows = None, torch.zeros(0, dtype=torch.int64)
    if prompts.text_tokens is not None:
        place = {int(row): i for i, row in enumerate(prompts.text_rows.tolist())}
        named = [(i, place[row]) for i, row in enumerate(rows.tolist()) if row in place]
        if named:
            text_rows = torch.tensor([i for i, _ in named])
            tokens = prompts.text_tokens[torch.tensor([j for _, j in named])]
    return PromptTensors(
        prompts.image_index[rows], prompts.boxes[rows], prompts.points[rows], prompts.labels[rows],
        torch.arange(len(rows)), masks, text_rows, tokens,
    )  # fmt: skip


def start_batches(config: SamTrainConfig, data_root: str | Path, named: bool) -> tuple[Iterator[Batch], Tensor]:
    """Batches made in the background, and the stage that they obey; forks, so call it before any threads start."""
    cv2.setNumThreads(0)  # OpenCV's threads would deadlock in the forked worker
    sources = Sources.load(data_root, config.shares, config.model.image_size)
    maker = PromptMaker(text=named, image_share=config.image_share)
    windows = SamBatches(sources, maker, config.window_configs(), config.batch, config.seed + int(time.time()) % 10_000)
    stream = WithCloseups(windows, Closeups(sources, config.closeups, config.model.image_size))
    return start_workers(stream, config.workers), windows.stage


def train(config: SamTrainConfig, data_root: str | Path, out_dir: str | Path) -> None:
    """Train until the planned minutes are over; checkpoints and metrics go to `out_dir`."""
    out = Path(out_dir)
    seed_everything(config.seed)
    torch.set_num_threads(config.threads)
    stream, stage = start_batches(config, data_root, bool(config.clip) and is_exported(config.clip))
    embedder = PhraseEmbedder.load(config.clip) if config.clip else None
    trainer = SamTrainer(config, embedder)
    if (out / CHECKPOINT).is_file():
        trainer.restore(load_checkpoint(out / CHECKPOINT))
        logger.info("going on at step %d, %.1f minutes", trainer.step, trainer.seconds / 60)
    trainer.center_text()
    logger.info("phrases are %s", "off: no CLIP yet" if embedder is None else "on")
    pictures = load_val(data_root, scenes=0 if config.closeups.alone else 40)
    log = MetricsLog(out / METRICS)
    with progress_bar("sam", 1000, int(1000 * trainer.share)) as bar:
        shown = int(1000 * trainer.share)
        for note in _run(trainer, stream, stage, pictures, log, out):
            now = int(1000 * trainer.share)
            bar.advance(note, now - shown)
            shown = now
    finish(trainer, pictures, log, out)


def _run(
    trainer: SamTrainer, stream: Iterator[Batch], stage: Tensor, pictures: list[ValPicture], log: MetricsLog, out: Path
) -> Iterator[str]:
    """The loop itself; gives a note after every step."""
    config = trainer.config
    clocks = {name: Clock(getattr(config, f"{name}_minutes"), trainer.seconds) for name in ("validate", "checkpoint")}
    early = config.first_export_minutes - trainer.seconds / 60
    clocks["export"] = Clock(config.export_minutes, trainer.seconds, trainer.seconds + 60 * max(early, 1.0))
    recent: list[tuple[float, ...]] = []
    while trainer.share < 1.0:
        stage[0] = config.stage(trainer.share)
        waited = time.perf_counter()
        batch = next(stream)
        waited = time.perf_counter() - waited
        trainer.seconds += waited
        loss = trainer.train_step(batch)
        best = float(loss.true_iou[:, 1:].amax(dim=1).mean())
        recent.append((float(loss.mask.detach()), float(loss.iou.detach()), best, waited))
        if trainer.step % 50 == 0:
            means = np.mean(recent, axis=0).tolist()
            recent.clear()
            log.write(step=trainer.step, minutes=trainer.seconds / 60, side=batch.image.shape[1], mask=means[0],
                      iou=means[1], train_iou=means[2], waited=means[3])  # fmt: skip
        _keep(trainer, clocks, pictures, log, out)
        yield f"loss {recent[-1][0] if recent else 0:.3f}"


def _keep(
    trainer: SamTrainer, clocks: dict[str, Clock], pictures: list[ValPicture], log: MetricsLog, out: Path
) -> None:
    """Checkpoint, validate and export when due; the time that takes counts as training."""
    started = time.perf_counter()
    if clocks["checkpoint"].rings(trainer.seconds):
        save_checkpoint(out / CHECKPOINT, trainer.state())
        trainer.follow_clip()
    if clocks["validate"].rings(trainer.seconds):
        log.write(val=1, step=trainer.step, minutes=trainer.seconds / 60, **trainer.validate(pictures))
    if clocks["export"].rings(trainer.seconds) and trainer.config.export:
        trainer.export(trainer.config.export)
    trainer.seconds += time.perf_counter() - started


def finish(trainer: SamTrainer, pictures: list[ValPicture], log: MetricsLog, out: Path) -> None:
    """The last checkpoint, scores and export."""
    save_checkpoint(out / CHECKPOINT, trainer.state())
    log.write(val=1, step=trainer.step, minutes=trainer.seconds / 60, **trainer.validate(pictures))
    if trainer.config.export:
        trainer.export(trainer.config.export)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line in this file's docstring."""
    parser = argparse.ArgumentParser(description="Train nano SAM and its text prompt.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", default=os.environ.get("TEXTSEG_DATA", "../shared/data"))
    parser.add_argument("--out", required=True)
    parser.add_argument("--export", metavar="DIR", help="only export the last checkpoint to DIR")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = read_yaml(given.config, SamTrainConfig)
    if given.export:
        trainer = SamTrainer(config, None)
        trainer.restore(load_checkpoint(Path(given.out) / CHECKPOINT))
        trainer.export(given.export)
    else:
        train(config, given.data, given.out)


if __name__ == "__main__":
    main()
