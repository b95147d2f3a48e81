"""Train the nano mask refiner: ``python -m textseg.train.refiner --config FILE.yaml --out FOLDER``.

The same command resumes from ``FOLDER/last.pt``. Crops of things come with rough masks such as SAM, the detector or
a box gives (``textseg.train.refiner_data``); the network draws them again and says how well it did.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from textseg.config import read_yaml
from textseg.models import onednn
from textseg.models.nano_network import load_fitting
from textseg.models.nano_refiner import Refined, RefinerConfig, RefinerNetwork, load_refiner, save_refiner
from textseg.train import loop
from textseg.train.refiner_data import CropBatch, CropConfig, Crops, CropStream
from textseg.train.sam_loss import mask_losses, pixel_weights, true_iou

logger = logging.getLogger(__name__)

CHECKPOINT, METRICS = "last.pt", "metrics.jsonl"


@dataclass(frozen=True)
class RefinerTrainConfig:
    """One training run.

    Attributes:
        data_root: the folder of training pictures.
        export: folder for the weights.
        start_from: folder of an exported refiner that a new run goes on from, as far as its tensors fit.
        roughs: file of ``textseg.train.refiner_roughs``: real rough masks beside the simulated.
        steps: batches in all; raise it to go on.
        seed, threads, workers: of the draws; torch's threads; background processes.
        rate, warmup, decay, floor: AdamW's peak rate, steps of warm-up, weight decay, the last rate.
        ema: decay of the weights' average.
        iou_weight: of the loss of the mask's IoU.
        checkpoint_minutes, validate_minutes: how often.
        validate_crops: held-out crops that are looked at.
        network, crops: the parts' own configs.
    """

    data_root: str = "../shared/data"
    export: str = "textseg/weights/nano/refiner"
    start_from: str = ""
    roughs: str = ""
    steps: int = 6000
    seed: int = 0
    threads: int = 1
    workers: int = 1
    rate: float = 2e-3
    warmup: int = 200
    decay: float = 0.03
    floor: float = 1e-5
    ema: float = 0.998
    iou_weight: float = 0.2
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 6.0
    validate_crops: int = 512
    network: RefinerConfig = field(default_factory=RefinerConfig)
    crops: CropConfig = field(default_factory=CropConfig)


class RefinerLoss(NamedTuple):
    """Scalars: of the masks, of the claimed IoU; and the true IoU (B,)."""

    mask: Tensor
    claim: Tensor
    iou: Tensor


class RefinerTrainer:
    """The state of a run: weights, optimizer, average, steps; ``network`` replaces the config's, for comparisons."""

    def __init__(self, config: RefinerTrainConfig, out: Path, network: nn.Module | None = None) -> None:
        self.config, self.out = config, out
        loop.seed_everything(config.seed)
        torch.set_num_threads(config.threads)
        network = _start(config) if network is None else network
        self.network = network.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            loop.weight_decay_groups(self.network, config.decay), lr=config.rate, fused=True
        )
        self.ema = loop.Ema(self.network, config.ema)
        self.step = 0
        if (out / CHECKPOINT).is_file():
            state = loop.load_checkpoint(out / CHECKPOINT)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.load_state_dict(state["ema"])
            self.step = int(state["step"])
            logger.info("resumed at step %d", self.step)

    def train_step(self, batch: CropBatch) -> RefinerLoss:
        """One update of the weights."""
        config = self.config
        rate = loop.cosine_rate(self.step, config.steps, peak=config.rate, warmup=config.warmup, floor=config.floor)
        loop.set_rate(self.optimizer, rate)
        self.network.train()
        with onednn.autocast():
            refined = self.network(batch.planes.contiguous(memory_format=torch.channels_last))
        loss = refiner_loss(refined, batch)
        self.optimizer.zero_grad(set_to_none=True)
        (loss.mask + config.iou_weight * loss.claim).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.ema.update(self.network)
        self.step += 1
        return loss

    @torch.no_grad()
    def validate(self, batches: Sequence[CropBatch]) -> dict[str, float]:
        """Mean IoU of the averaged weights' masks on held-out crops, of the rough masks, and the claims' error."""
        got, rough, wrong = [], [], []
        with self.ema.applied(self.network):
            self.network.eval()
            for batch in batches:
                refined = self.network(batch.planes.contiguous(memory_format=torch.channels_last))
                loss = refiner_loss(refined, batch)
                got.append(loss.iou)
                wrong.append((refined.iou.sigmoid() - loss.iou).abs())
                given = functional.avg_pool2d(batch.planes[:, 3:4], 2)
                rough.append(true_iou(given, batch.targets.float() / 255, batch.valid)[:, 0])
        figures = {"iou": got, "rough": rough, "claim_error": wrong}
        return {name: float(torch.cat(values).mean()) for name, values in figures.items()}

    def save(self) -> None:
        """Write the checkpoint that the same command resumes from, and the averaged weights."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
        }
        loop.save_checkpoint(self.out / CHECKPOINT, state)
        if isinstance(self.network, RefinerNetwork):
            with self.ema.applied(self.network):
                save_refiner(self.config.export, self.network)


def _start(config: RefinerTrainConfig) -> RefinerNetwork:
    """Return the network of a new run."""
    network = RefinerNetwork(config.network)
    if config.start_from:
        state = load_refiner(config.start_from).state_dict()
        fitted = load_fitting(network, state)
        logger.info("%d of %d tensors start from %s", fitted, len(network.state_dict()), config.start_from)
    return network


def refiner_loss(refined: Refined, batch: CropBatch) -> RefinerLoss:
    """Dice and cross-entropy, more of it near the edge; and the entropy of the claimed IoU.

    Where what was asked for is not shown, no mask is right and none is wrong: its IoU is 0.
    """
    targets = batch.targets.float() / 255
    inside = batch.valid.float()
    weights = pixel_weights(targets, inside, torch.full((len(targets),), 0.5))
    logits, shown = refined.logits[:, None], batch.shown.float()
    mask = (mask_losses(logits, targets, inside, weights)[:, 0] * shown).sum() / shown.sum().clamp_min(1.0)
    iou = true_iou(logits.detach(), targets, batch.valid)[:, 0] * shown
    claim = functional.binary_cross_entropy_with_logits(refined.iou, iou)
    return RefinerLoss(mask, claim, iou)


def run(config: RefinerTrainConfig, out: str | Path) -> dict[str, float]:
    """Train to the end, or go on with a run; return the last figures."""
    out = Path(out)
    cv2.setNumThreads(0)  # OpenCV's threads would deadlock in the forked worker
    stream = CropStream(
        Crops.load(config.data_root, config.crops, config.network, roughs=config.roughs),
        config.seed + int(time.time()) % 9973,
    )
    batches = loop.start_workers(stream, config.workers)
    held = CropStream(Crops.load(config.data_root, replace(config.crops, ellipse=0.5), config.network, "val"), 0)
    rng = np.random.default_rng(7)
    asked = [held.batch(rng) for _ in range(max(1, config.validate_crops // config.crops.batch))]
    trainer = RefinerTrainer(config, out)
    log = loop.MetricsLog(out / METRICS)
    spent = 0.0
    clocks = {name: loop.Clock(getattr(config, f"{name}_minutes"), spent) for name in ("validate", "checkpoint")}
    started, recent = time.monotonic(), []
    with loop.progress_bar("refiner", config.steps, trainer.step) as bar:
        while trainer.step < config.steps:
            loss = trainer.train_step(next(batches))
            drawn = float(loss.iou.sum() / loss.iou.count_nonzero().clamp_min(1))
            recent.append((float(loss.mask.detach()), float(loss.claim.detach()), drawn))
            bar.advance(f"loss {recent[-1][0]:.3f}")
            spent = time.monotonic() - started
            if trainer.step % 100 == 0:
                means = np.mean(recent, axis=0).tolist()
                recent.clear()
                log.write(step=trainer.step, mask=means[0], claim=means[1], train_iou=means[2])
            if clocks["checkpoint"].rings(spent):
                trainer.save()
            if clocks["validate"].rings(spent):
                log.write(step=trainer.step, val=1, **trainer.validate(asked))
    trainer.save()
    figures = trainer.validate(asked)
    log.write(step=trainer.step, val=1, final=1, **figures)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description="Train the nano mask refiner.")
    parser.add_argument("--config", required=True, help="YAML file with RefinerTrainConfig's keys")
    parser.add_argument("--out", required=True, help="folder of the run: checkpoint and metrics")
    parser.add_argument("--data", metavar="DIR", help="the folder of training pictures, instead of the config's")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = read_yaml(options.config, RefinerTrainConfig)
    run(replace(config, data_root=options.data or config.data_root), options.out)


if __name__ == "__main__":
    main()
