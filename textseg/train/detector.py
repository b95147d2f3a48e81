"""Train the nano detector: ``python -m textseg.train.detector --config FILE.yaml --out FOLDER``.

The same command resumes from ``FOLDER/last.pt``. The length is given as ``minutes`` of wall time
(or as ``steps``); learning rate and picture sizes follow the share that is done. To extend a run,
raise ``minutes`` in the config and give the same command: both then fall back to that share of the
longer run and go on from there.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from textseg.config import read_yaml
from textseg.models import onednn
from textseg.models.nano_boxes import ProposalConfig
from textseg.models.nano_detector import load_detector, normalise, save_detector
from textseg.models.nano_network import Features, NanoNetwork, NetworkConfig, load_fitting
from textseg.train import loop
from textseg.train.detector_data import BatchStream, DataConfig, Sources
from textseg.train.detector_loss import LossConfig, Losses, detector_loss
from textseg.train.detector_names import NameLosses, NameVocabulary, draw_nouns, name_losses
from textseg.train.detector_targets import Batch
from textseg.train.detector_text import TextBank, TextSource, open_text_source, refit
from textseg.train.detector_validation import Question, network_asker, questions, validate
from textseg.train.noun_table import NounTable
from textseg.train.trunk import depthwise_in_float32, drop_paths, freeze, start_trunk

logger = logging.getLogger(__name__)

CHECKPOINT, METRICS = "last.pt", "metrics.jsonl"
_SAME_TEXT = 0.999
"""Mean cosine between stored and present embeddings from which on the text tower counts as the same."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        data_root: the folder of training pictures.
        clip: folder of the trained image–text model that gives text embeddings and the trunk's start.
        export: folder for the weights.
        start_from: folder of an exported detector; a run that starts anew goes on from its weights.
        trunk: where the trunk starts, if not where the rest does: "imagenet", for weights published as a package, or
            the folder of an image–text model: crops of things teach a trunk their names sooner than pictures do.
        drop_path: share of the pictures that pass by the trunk's last block while it learns; less for those before.
        frozen: what of the trunk stays as it started: its parameters whose names start so; [""] for all.
        minutes: length in wall time, over all resumed parts; 0 to go by ``steps``.
        steps: length in batches when ``minutes`` is 0.
        seed, threads, workers: of the draws; torch's threads; background processes (0 or 1).
        rate, warmup, decay, clip_norm: AdamW's peak rate, steps of warm-up, weight decay, largest gradient norm.
        floor: the last learning rate, as a share of the peak.
        ema: decay of the weights' average.
        validate_minutes, checkpoint_minutes, first_export_minutes, export_minutes: how often.
        validate_side, validate_pictures: size and number of the validation pictures per set.
        network, data, loss, proposals: the parts' own configs.
    """

    data_root: str = "data"
    clip: str = "textseg/weights/nano/clip"
    export: str = "textseg/weights/nano/detector"
    start_from: str = ""
    trunk: str = ""
    drop_path: float = 0.0
    frozen: tuple[str, ...] = ()
    minutes: float = 60.0
    steps: int = 0
    seed: int = 0
    threads: int = 1
    workers: int = 1
    rate: float = 1.5e-3
    warmup: int = 300
    decay: float = 0.03
    clip_norm: float = 5.0
    floor: float = 0.01
    ema: float = 0.999
    validate_minutes: float = 5.0
    checkpoint_minutes: float = 3.0
    first_export_minutes: float = 10.0
    export_minutes: float = 20.0
    validate_side: int = 256
    validate_pictures: int = 48
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)


class Trainer:
    """A run in a folder: network, optimizer, average and what has been spent."""

    def __init__(
        self, config: TrainConfig, out: str | Path, text: TextSource | None = None, *, warm_trunk: bool = True
    ) -> None:
        self.config, self.out = config, Path(out)
        loop.seed_everything(config.seed)
        torch.set_num_threads(config.threads)
        self.bank = TextBank(text or open_text_source(config.clip))
        self.network = NanoNetwork(config.network).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            loop.weight_decay_groups(self.network, config.decay), lr=config.rate, fused=True
        )
        # Only now, so that the optimizer knows all parameters: a resumed run may have another `frozen`.
        freeze(self.network.backbone, config.frozen)
        drop_paths(self.network.backbone, config.drop_path)
        depthwise_in_float32(self.network.backbone)
        self.vocabulary = NameVocabulary(NounTable.of(config.data_root))
        self.step, self.spent = 0, 0.0
        self.checkpoint = self.out / CHECKPOINT
        if self.checkpoint.is_file():
            self.ema = loop.Ema(self.network, config.ema)
            self._restore()
        else:
            self._start(warm_trunk)
            self.ema = loop.Ema(self.network, config.ema)
        self.log = loop.MetricsLog(self.out / METRICS)

    def _start(self, warm_trunk: bool) -> None:
        config = self.config
        trunk = config.trunk or ("" if config.start_from or not warm_trunk else config.clip)
        if config.start_from:
            state = load_detector(config.start_from)[0].state_dict()
            fitted = load_fitting(self.network, state)  # all of it, if the network has the same shape
            logger.info("%d of %d tensors go on from %s", fitted, len(state), config.start_from)
        else:
            self.network.text.standardise(self.bank.sample(self.vocabulary.nouns))
        if trunk:
            start_trunk(self.network.backbone, trunk, config.network.backbone, required=bool(config.trunk))

    def _restore(self) -> None:
        state = loop.load_checkpoint(self.checkpoint)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.step, self.spent = int(state["step"]), float(state["spent"])
        self._follow_text(list(state["texts"]), state["embeddings"].float())
        logger.info("resumed at step %d, %.1f minutes", self.step, self.spent / 60)

    def _follow_text(self, texts: list[str], old: Tensor) -> None:
        """Refit the projections, the averaged one too, where the text tower has changed since the checkpoint."""
        new = self.bank(texts)
        if float((old * new).sum(-1).mean()) > _SAME_TEXT:
            return
        logger.info("the text tower has changed: refitting to %d texts", len(texts))
        average = copy.deepcopy(self.network.text)
        average.load_state_dict({k: self.ema.shadow[f"text.{k}"] for k in average.state_dict()})
        left = [refit(projection, old, new) for projection in (self.network.text, average)]
        self.ema.shadow.update({f"text.{k}": v.detach().clone() for k, v in average.state_dict().items()})
        logger.info("unexplained shares of the codes: %.3f, %.3f", *left)

    def save(self) -> None:
        """Write the checkpoint that the same command resumes from."""
        texts, embeddings = self.bank.known()
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
            "spent": self.spent,
            "texts": texts,
            "embeddings": embeddings.clone(),
        }
        loop.save_checkpoint(self.checkpoint, state)

    def export(self, folder: str | Path | None = None) -> None:
        """Write the averaged weights, float16, where the package looks for them."""
        with self.ema.applied(self.network):
            save_detector(folder or self.config.export, self.network, self.config.proposals)

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0..1."""
        config = self.config
        share = self.spent / (60 * config.minutes) if config.minutes else self.step / max(1, config.steps)
        return min(1.0, share)

    def train_step(self, batch: Batch) -> Losses:
        """One update; returns the losses."""
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        loop.set_rate(self.optimizer, config.rate * warm * (config.floor + (1 - config.floor) * cosine))
        self.network.train()
        images = normalise(batch.images_rgb).contiguous(memory_format=torch.channels_last)
        embeddings = torch.stack([self.bank(texts) for texts in batch.texts])  # (B, T, text_dim)
        with onednn.autocast():
            features = self.network(images)
            answers = self.network.answer(features, self.network.text(embeddings), config.data.positives)
            names = self._names(features, batch)
        losses = detector_loss(answers, batch, config.loss, names)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.ema.update(self.network)
        else:
            logger.warning("step %d: the gradient is not finite; left out", self.step)
        self.step += 1
        return losses

    def _names(self, features: Features, batch: Batch) -> NameLosses | None:
        """Return the losses over the vocabulary's nouns; None where the batch knows none."""
        loss = self.config.loss
        if batch.names is None or not (loss.names or loss.maps or loss.many):
            return None
        chosen = draw_nouns(batch.names, loss.nouns)
        codes = self.network.text(self.bank([self.vocabulary.nouns[i] for i in chosen.tolist()]))
        return name_losses(self.network, features, codes, batch.names, chosen, loss.asked)

    def validate(self, asked: Sequence[Question]) -> dict[str, float]:
        """Figures of the averaged weights."""
        with self.ema.applied(self.network):
            return validate(network_asker(self.network.eval(), self.bank), asked)


def _clock(first_minutes: float, minutes: float, spent: float) -> loop.Clock:
    """Return a clock that first rings at ``first_minutes`` of the whole run, if that is still to come."""
    first = 60 * first_minutes
    return loop.Clock(minutes, spent, first if spent < first else None)


def run(config: TrainConfig, out: str | Path, text: TextSource | None = None) -> dict[str, float]:
    """Train to the end (or go on with a run), export, and return the last validation figures."""
    trainer = Trainer(config, out, text)
    sources = Sources(config.data_root, config.data)
    stream = BatchStream(sources, config.data, config.seed, trainer.step, trainer.vocabulary)
    stream.progress.fill_(trainer.progress)
    batches = loop.start_workers(stream, min(1, config.workers))
    asked = questions(config.data_root, config.validate_side, config.validate_pictures)
    _train(trainer, stream, lambda: next(batches), asked)
    trainer.save()
    trainer.export()
    figures = trainer.validate(asked)
    trainer.log.write(step=trainer.step, final=1, **figures)
    return figures


def _train(trainer: Trainer, stream: BatchStream, next_batch: Callable[[], Batch], asked: Sequence[Question]) -> None:
    config, before = trainer.config, trainer.spent
    validation = _clock(config.validate_minutes, config.validate_minutes, before)
    checkpoint = _clock(config.checkpoint_minutes, config.checkpoint_minutes, before)
    export = _clock(config.first_export_minutes, config.export_minutes, before)
    start, first, recent = time.monotonic(), trainer.step, []
    with loop.progress_bar("detector", 1000, int(1000 * trainer.progress)) as bar:
        shown = int(1000 * trainer.progress)
        while trainer.progress < 1.0:
            losses = trainer.train_step(next_batch())
            recent.append(torch.stack([value.detach() for value in losses]))
            trainer.spent = before + time.monotonic() - start
            stream.progress.fill_(trainer.progress)
            if int(1000 * trainer.progress) > shown:
                bar.advance(f"loss {float(losses.total.detach()):.3f}", int(1000 * trainer.progress) - shown)
                shown = int(1000 * trainer.progress)
            if trainer.step - first in (20, 100) or (trainer.step - first) % 250 == 0:
                _log_losses(trainer, recent, (trainer.step - first) / (time.monotonic() - start))
                recent.clear()
            if checkpoint.rings(trainer.spent):
                trainer.save()
            if validation.rings(trainer.spent):
                trainer.log.write(step=trainer.step, minutes=trainer.spent / 60, **trainer.validate(asked))
            if export.rings(trainer.spent):
                trainer.export()


def _log_losses(trainer: Trainer, recent: Sequence[Tensor], steps_per_second: float) -> None:
    means = torch.stack(list(recent)).mean(0).tolist()
    named: dict[str, float] = {f"loss_{name}": v for name, v in zip(Losses._fields, means, strict=True)}
    trainer.log.write(
        step=trainer.step,
        minutes=trainer.spent / 60,
        rate=float(trainer.optimizer.param_groups[0]["lr"]),
        pictures_per_second=steps_per_second * trainer.config.data.batch_size,
        **named,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description="Train the nano detector.")
    parser.add_argument("--config", required=True, help="YAML file with TrainConfig's keys")
    parser.add_argument("--out", required=True, help="folder of the run: checkpoint and metrics")
    parser.add_argument("--data", metavar="DIR", help="the folder of training pictures, instead of the config's")
    parser.add_argument("--export-only", metavar="DIR", help="write the checkpoint's averaged weights there and stop")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = read_yaml(options.config, TrainConfig)
    if options.data:
        config = replace(config, data_root=options.data)
    if options.export_only:
        Trainer(config, options.out).export(options.export_only)
        return
    figures = run(config, options.out)
    logger.info("done: %s", {k: round(v, 3) for k, v in figures.items() if not np.isnan(v)})


if __name__ == "__main__":
    main()
