"""Our small mask refiner against a small SegFormer: the same crops, the same loss, the same minutes.

    python benchmarks/refiner_vs_segformer.py --data-root DATA --minutes 4

Both start from random weights and see the same crops, drawn with the same seed: simulated rough masks and boxes'
ellipses, no pipeline's own. They take turns, a step each, so that whatever else the machine does hits both alike; each
stops when its own steps have taken the minutes. SegFormer (Xie et al., 2021) is transformers' own class. Told is the
mean IoU on held-out crops. Writes ``results/refiner_vs_segformer.json``.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from textseg.evaluate import report
from textseg.evaluate.machine import machine_info
from textseg.models.nano_refiner import PLANES, ROUGH_SCALE, Refined, RefinerConfig, RefinerNetwork
from textseg.train.refiner import RefinerTrainConfig, RefinerTrainer
from textseg.train.refiner_data import CropBatch, CropConfig, Crops, CropStream

RESULTS = Path(__file__).resolve().parent / "results" / "refiner_vs_segformer.json"
HELD_OUT = 24
"""Batches of held-out crops."""


class SegformerRefiner(nn.Module):
    """A SegFormer of about our network's size that takes and gives the same."""

    def __init__(self) -> None:
        super().__init__()
        config = SegformerConfig(
            num_channels=PLANES,
            depths=[2, 2, 2, 2],
            hidden_sizes=[24, 48, 96, 144],
            num_attention_heads=[1, 2, 4, 6],
            decoder_hidden_size=96,
            num_labels=2,
        )
        self.network = SegformerForSemanticSegmentation(config)

    def forward(self, planes: Tensor) -> Refined:
        """Map (N, 7, side, side) to the masks at half the side, added to the rough ones as in our network."""
        both = self.network(planes).logits  # (N, 2, side / 4, side / 4)
        both = functional.interpolate(both, scale_factor=2.0, mode="bilinear")
        rough = functional.avg_pool2d(planes[:, 3], 2) * ROUGH_SCALE
        return Refined(both[:, 0].float() + rough, both[:, 1].mean((1, 2)).float())


@dataclass
class Runner:
    """One side of the comparison."""

    name: str
    trainer: RefinerTrainer
    seconds: float = 0.0

    def step(self, batch: CropBatch, minutes: float) -> None:
        """Train on a batch unless the time is up; the learning rate follows the share of it."""
        share = self.seconds / (60 * minutes)
        if share >= 1:
            return
        taken = self.trainer.step
        self.trainer.step = int(share * self.trainer.config.steps)  # where the schedule stands
        started = time.perf_counter()
        self.trainer.train_step(batch)
        self.seconds += time.perf_counter() - started
        self.trainer.step = taken + 1


def compare(root: str, minutes: float, crops: CropConfig) -> dict[str, dict[str, float]]:
    """Train both and return their figures."""
    shape = RefinerConfig()
    stream, rng = CropStream(Crops.load(root, crops, shape), 0), np.random.default_rng(1)
    held, some = CropStream(Crops.load(root, replace(crops, ellipse=0.5), shape, "val"), 0), np.random.default_rng(7)
    asked = [held.batch(some) for _ in range(HELD_OUT)]
    config = RefinerTrainConfig(steps=100_000, warmup=3_000)
    with tempfile.TemporaryDirectory() as folder:
        runners = [
            Runner("ours", RefinerTrainer(config, Path(folder), RefinerNetwork(shape))),
            Runner("SegFormer", RefinerTrainer(replace(config, rate=1e-3), Path(folder), SegformerRefiner())),
        ]
        while any(runner.seconds < 60 * minutes for runner in runners):
            batch = stream.batch(rng)
            for runner in runners:
                runner.step(batch, minutes)
    return {
        runner.name: {
            "parameters_m": sum(p.numel() for p in runner.trainer.network.parameters()) / 1e6,
            "crops": runner.trainer.step * crops.batch,
            **runner.trainer.validate(asked),
        }
        for runner in runners
    }


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="the folder that holds coco/, ccp/, fluent/ …")
    parser.add_argument("--minutes", type=float, default=4.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    rows = compare(options.data_root, options.minutes, CropConfig())
    table = Table("model", "M params", "crops", "IoU", "IoU of the rough masks")
    for name, row in rows.items():
        table.add_row(
            name, f"{row['parameters_m']:.2f}", f"{row['crops']:.0f}", f"{row['iou']:.3f}", f"{row['rough']:.3f}"
        )
    Console().print(table)
    command = f"python benchmarks/refiner_vs_segformer.py --data-root DATA --minutes {options.minutes:g}"
    report.write_json(RESULTS, {"command": command, "machine": machine_info(), "models": rows})


if __name__ == "__main__":
    main()
