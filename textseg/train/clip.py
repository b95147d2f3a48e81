"""Training nano CLIP: a small open_clip model, all crops of a batch against all its phrases.

The loss is SigLIP's pairwise sigmoid (Zhai et al., ICCV 2023) with a full multi-label target
matrix, plus a softmax over the phrases of a batch, which learns faster from small batches.

    python -m textseg.train.clip --config configs/train/clip.yaml --data DIR --out DIR
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from textseg.config import read_yaml
from textseg.errors import ConfigError
from textseg.models import onednn
from textseg.models.clip import load as load_clip
from textseg.models.clip_load import WEIGHTS_FILE
from textseg.models.nano_network import load_fitting
from textseg.train.clip_data import CropBatch, CropBatches, CropConfig
from textseg.train.clip_eval import ValidationCrops, measure
from textseg.train.clip_model import MEAN, STD, ClipModelConfig, build_nano_clip, encode_short_text, export, normalise
from textseg.train.loop import (
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
from textseg.train.noun_table import NounTable, exclusive_nouns
from textseg.train.other_words import also_called
from textseg.train.text_tower import train_text_tower
from textseg.train.trunk import (
    Pixels,
    depthwise_in_float32,
    drop_paths,
    freeze,
    rate_groups,
    rest_norms,
    start_trunk,
    trunk_weights,
)
from textseg.train.vocab import NanoTokenizer, all_nouns, build_tokenizer, corpus
from textseg.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_SCALARS = frozenset({"logit_scale", "logit_bias"})

_SENTENCES = ("{}", "the {}", "a {}", "a photo of a {}")


@dataclass(frozen=True)
class ClipTrainConfig:
    """Everything a run depends on but its folders."""

    steps: int = 2100
    peak_rate: float = 1.5e-3
    warmup: int = 100
    weight_decay: float = 0.05
    ema_decay: float = 0.998
    softmax_weight: float = 1.0
    noun_weight: float = 0.0
    """Weight of "which of all nouns is it", see `noun_loss`; needs ``freeze_text``."""
    trunk: str = ""
    """Where the picture tower's trunk starts: "imagenet", for weights published as a package, or the folder of an
    exported image–text model."""
    frozen: tuple[str, ...] = ()
    """What of the trunk stays as it started: its layers whose names start so, their norms' averages too."""
    trunk_rate: float = 1.0
    """The trunk's learning rate, as a share of the others'."""
    drop_path: float = 0.0
    """Share of the pictures that pass by the trunk's last block while it learns; less for the blocks before it."""
    seed: int = 0
    threads: int = 2
    workers: int = 1
    checkpoint_every: int = 200
    validate_every: int = 250
    text_steps: int = 0
    """Steps of the text tower's own first stage, see `text_tower`; 0 leaves it out."""
    freeze_text: bool = False
    """Keep the text tower as it was started from: the detector and the text prompt can train beside."""
    model: ClipModelConfig = field(default_factory=ClipModelConfig)
    crops: CropConfig = field(default_factory=CropConfig)


def pair_loss(logits: Tensor, targets: Tensor, weights: Tensor, softmax_weight: float) -> Tensor:
    """Mean loss of (N, M) logits; `targets` in {0, 1}, `weights` 0 where nobody knows.

    Sigmoid over all known pairs, summed per crop; softmax over a crop's phrases and over a
    phrase's crops, where each has a positive.
    """
    signs = 2 * targets - 1
    sigmoid = -(functional.logsigmoid(signs * logits) * weights).sum() / len(logits)
    if softmax_weight == 0:
        return sigmoid
    masked = logits.masked_fill(weights == 0, -1e4)
    both = [_multi_softmax(masked, targets), _multi_softmax(masked.T, targets.T)]
    return sigmoid + softmax_weight * (both[0] + both[1]) / 2


def _multi_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row against its positives, spread evenly; rows without one are skipped."""
    count = targets.sum(dim=1)
    rows = count > 0
    log_shares = functional.log_softmax(logits[rows], dim=1)
    return -((log_shares * targets[rows]).sum(dim=1) / count[rows]).mean()


def noun_loss(logits: Tensor, known: Tensor) -> Tensor:
    """Mean cross-entropy of (N, V) logits: each of a crop's nouns by itself against all that it surely is not.

    A batch's phrases hold a tenth of the nouns; what a crop is among all of them must be asked of all.

    Args:
        logits: float (N, V).
        known: int8 (N, V): 1, 0 or, where nobody knows, -1; rows without a 1 are skipped.
    """
    rows = (known == 1).any(dim=1)
    logits, own = logits[rows], (known[rows] == 1).float()
    rivals = torch.logsumexp(logits.masked_fill(known[rows] != 0, -1e4), dim=1, keepdim=True)
    each = functional.softplus(rivals - logits) * own
    return (each.sum(dim=1) / own.sum(dim=1)).mean()


def train_clip(
    config: ClipTrainConfig | str | Path,
    data: str | Path,
    out_dir: str | Path,
    *,
    resume: bool = True,
    start_from: str | Path | None = None,
) -> Path:
    """Train, checkpoint into `out_dir` and export to `out_dir/package`; gives the package's folder.

    `config` is a `ClipTrainConfig` or the YAML of one. With `resume`, a checkpoint in `out_dir`
    is gone on from (the crops drawn after it are new ones). A run that starts anew begins with what fits of the
    averaged weights of the checkpoint `start_from`, or of the weights in that folder of an exported model, where
    given, but with its own logit scale and bias.
    """
    if not isinstance(config, ClipTrainConfig):
        config = read_yaml(config, ClipTrainConfig)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    if start_from is not None and not (out / "tokenizer.json").is_file():
        folder = Path(start_from) if Path(start_from).is_dir() else Path(start_from).parent
        shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")
    tokenizer = _tokenizer(Path(data), out / "tokenizer.json", resume or start_from is not None)
    batches = _start_worker(config, Path(data), out, resume)
    torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    model_cfg = config.model.open_clip(tokenizer.vocab_size, tokenizer.context_length)
    model = build_nano_clip(model_cfg)
    if config.trunk:
        trunk_weights(config.trunk, config.model.image_tower)  # a package that is missing is named at once
    if start_from is None and config.text_steps:
        start_from = out / "text.pt"
        if not start_from.is_file():
            train_text_tower(config.model, tokenizer, Path(data), start_from, steps=config.text_steps, seed=config.seed)
    if start_from is not None:
        weights = _stored(Path(start_from))
        fitted = load_fitting(model, {k: v for k, v in weights.items() if k not in _SCALARS})
        logger.info("%d of %d tensors start from %s", fitted, len(weights), start_from)
    if config.trunk and not (resume and (out / "checkpoint.pt").is_file()):
        start_trunk(model.visual.trunk, config.trunk, config.model.image_tower, Pixels(MEAN, STD))
    if config.freeze_text:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("visual.") or name in _SCALARS)
    freeze(model.visual.trunk, config.frozen)
    drop_paths(model.visual.trunk, config.drop_path)
    depthwise_in_float32(model.visual.trunk)
    trainer = _Trainer(config, model, out)
    if resume:
        trainer.restore()
    if config.noun_weight:
        trainer.learn_nouns(tokenizer, NounTable(sorted(all_nouns(data))).vocabulary)
    crops = ValidationCrops.build(data, side=config.model.image_size)
    trainer.run(batches, crops, tokenizer)
    return export(trainer.ema.shadow, model_cfg, out / "tokenizer.json", out / "package")


def _stored(start: Path) -> dict[str, Tensor]:
    """Return the weights in a folder of an exported model, or the averaged ones of a checkpoint."""
    whole = load_file(start / WEIGHTS_FILE) if start.is_dir() else load_checkpoint(start)["ema"]["shadow"]
    weights: dict[str, Tensor] = whole
    return weights


def _start_worker(config: ClipTrainConfig, data: Path, out: Path, resume: bool) -> Iterator[CropBatch]:
    """Load the pictures and fork the worker, before this process has threads that a fork would break."""
    cv2.setNumThreads(0)
    checkpoint = out / "checkpoint.pt"
    step = int(load_checkpoint(checkpoint)["step"]) if resume and checkpoint.is_file() else 0
    dataset = CropBatches(data, out / "tokenizer.json", config.crops, config.seed + step)
    return start_workers(dataset, config.workers)


def _tokenizer(data: Path, path: Path, resume: bool) -> NanoTokenizer:
    if not (resume and path.is_file()):
        build_tokenizer(corpus(data)).save(str(path))
    return NanoTokenizer.load(path)


def _groups(model: open_clip.CLIP, config: ClipTrainConfig) -> list[dict[str, Any]]:
    """The optimizer's groups: the trunk at a rate of its own, scale and bias faster than all else."""
    fast = [p for n, p in model.named_parameters() if n in _SCALARS]
    return [
        *rate_groups(model, model.visual.trunk, config.weight_decay, config.trunk_rate, fast),
        {"params": fast, "weight_decay": 0.0, "rate_scale": 5.0},
    ]


class _Trainer:
    """One run: model, average, optimizer and where it has got to."""

    def __init__(self, config: ClipTrainConfig, model: open_clip.CLIP, out: Path) -> None:
        self.config = config
        self.model = model.to(memory_format=torch.channels_last)
        self.ema = Ema(model, config.ema_decay)
        self.optimizer = torch.optim.AdamW(_groups(model, config), lr=config.peak_rate, betas=(0.9, 0.98))
        self.step = 0
        self.checkpoint = out / "checkpoint.pt"
        self.log = MetricsLog(out / "metrics.jsonl")
        self.nouns: list[Tensor] = []

    @torch.no_grad()
    def learn_nouns(self, tokenizer: NanoTokenizer, nouns: Sequence[str]) -> None:
        """Embed every noun in several sentences, (V, D) each; the text tower stays as it is."""
        if not self.config.freeze_text:
            raise ConfigError("noun_weight: the nouns are embedded once, so it needs freeze_text: true")
        self.model.eval()
        for sentence in _SENTENCES:
            ids = tokenizer([sentence.format(noun) for noun in nouns])
            self.nouns.append(torch.cat([encode_short_text(self.model, part) for part in torch.split(ids, 256)]))

    def restore(self) -> None:
        if not self.checkpoint.is_file():
            return
        state = load_checkpoint(self.checkpoint)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        logger.info("going on from step %d", self.step)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        save_checkpoint(self.checkpoint, state)

    def run(self, batches: Iterator[CropBatch], crops: ValidationCrops, tokenizer: NanoTokenizer) -> None:
        config = self.config
        start, seen, losses = time.monotonic(), 0, []
        with progress_bar("nano CLIP", config.steps, self.step) as bar:
            while self.step < config.steps:
                losses.append(self.learn(next(batches)))
                seen += config.crops.batch
                bar.advance(f"loss {losses[-1]:.3f}")
                if self.step % 50 == 0:
                    rate = seen / (time.monotonic() - start)
                    self.log.write(step=self.step, loss=float(np.mean(losses)), crops_per_second=rate)
                    start, seen, losses = time.monotonic(), 0, []
                last = self.step == config.steps
                if self.step % config.checkpoint_every == 0 or last:
                    self.save()
                if self.step % config.validate_every == 0 or last:
                    self.log.write(step=self.step, **self.validate(crops, tokenizer))

    def learn(self, batch: CropBatch) -> float:
        """One step of the optimizer; gives the loss."""
        images, ids, targets, weights, nouns = batch
        config = self.config
        set_rate(
            self.optimizer,
            cosine_rate(self.step, config.steps, peak=config.peak_rate, warmup=config.warmup, floor=1e-5),
        )
        self.model.train()
        rest_norms(self.model.visual.trunk, config.frozen)
        with onednn.autocast():
            pictures = self.model.encode_image(normalise(images))
            with torch.set_grad_enabled(not config.freeze_text):
                texts = encode_short_text(self.model, ids)
        pictures = functional.normalize(pictures.float(), dim=-1)
        logits = self.model.logit_scale.exp() * pictures @ texts.T + self.model.logit_bias
        loss = pair_loss(logits, targets, weights, config.softmax_weight)
        if self.nouns:
            table = self.nouns[self.step % len(self.nouns)]
            loss = loss + config.noun_weight * noun_loss(self.model.logit_scale.exp() * pictures @ table.T, nouns)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, float(np.log(100)))
        self.ema.update(self.model)
        self.step += 1
        return float(loss.detach())

    def validate(self, crops: ValidationCrops, tokenizer: NanoTokenizer) -> dict[str, float]:
        with self.ema.applied(self.model):
            return evaluate(self.model, crops, tokenizer)


@torch.no_grad()
def evaluate(model: open_clip.CLIP, crops: ValidationCrops, tokenizer: NanoTokenizer) -> dict[str, float]:
    """The measures of `clip_eval.measure` for a model, and its logit scale and bias."""
    model.eval()

    def images(pixels: NDArray[np.uint8]) -> Tensor:
        every = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return torch.cat([model.encode_image(normalise(p), normalize=True) for p in torch.split(every, 128)])

    def texts(phrases: Sequence[str]) -> Tensor:
        return torch.cat([encode_short_text(model, ids) for ids in torch.split(tokenizer(phrases), 256)])

    found = measure(crops, images, texts)
    return {**found, "scale": float(model.logit_scale.exp()), "bias": float(model.logit_bias or 0)}


def export_checkpoint(out_dir: str | Path, folder: str | Path, config: ClipTrainConfig) -> Path:
    """Export the averaged weights of a run that has not ended, from its last checkpoint."""
    out = Path(out_dir)
    tokenizer = NanoTokenizer.load(out / "tokenizer.json")
    model_cfg = config.model.open_clip(tokenizer.vocab_size, tokenizer.context_length)
    shadow = load_checkpoint(out / "checkpoint.pt")["ema"]["shadow"]
    return export(shadow, model_cfg, out / "tokenizer.json", Path(folder))


def write_vocabulary(data: str | Path, package: str | Path) -> None:
    """Put the nouns of the training pictures, embedded, into a package: what the ranking contrasts a phrase with."""
    names, kin = exclusive_nouns(data)
    clip = load_clip(package)
    called = tuple(also_called(entry) for entry in names)
    Vocabulary(called, kin, clip.encode_text([entry[0] for entry in names])).save(package)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line in this file's docstring."""
    parser = argparse.ArgumentParser(description="Train nano CLIP.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", default=os.environ.get("TEXTSEG_DATA", "../shared/data"))
    parser.add_argument("--out", required=True)
    parser.add_argument("--fresh", action="store_true", help="start over where a checkpoint is there")
    parser.add_argument("--start-from", metavar="PATH", help="begin with weights: a run's checkpoint, a model's folder")
    parser.add_argument("--export", metavar="DIR", help="only export the last checkpoint to DIR")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if given.export:
        package = export_checkpoint(given.out, given.export, read_yaml(given.config, ClipTrainConfig))
    else:
        package = train_clip(given.config, given.data, given.out, resume=not given.fresh, start_from=given.start_from)
    write_vocabulary(given.data, package)


if __name__ == "__main__":
    main()
