"""Whether it pays to send several pictures through nano's encoders at once, on this machine's processor.

    python benchmarks/label_batch.py [--pictures 8] [--rounds 5]

The labeller encodes a picture at a time; prompts and crops go through the decoder and CLIP in batches, always. Here
the two encoders see the same pictures one by one and in batches; seconds are of processor time, the median of
rounds that take turns. "one by one" is what the labeller does. Writes ``results/label_batch.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textseg import build
from textseg import image as images
from textseg.evaluate.machine import machine_info
from textseg.evaluate.report import write_json

RESULTS = Path(__file__).resolve().parent / "results"
BATCHES = (1, 2, 4, 8)


def works(pipeline: Any, count: int) -> dict[str, Callable[[], object]]:
    """Return name → what encodes ``count`` pictures in one way."""
    chance = np.random.default_rng(0)
    pictures = [images.read(chance.integers(0, 256, (448, 448, 3), dtype=np.uint8)) for _ in range(count)]
    detector, segmenter = pipeline.detector, pipeline.segmenter
    side = int(detector.config.image_size)
    small = torch.from_numpy(chance.standard_normal((count, 3, side, side), np.float32))
    small = small.to(memory_format=torch.channels_last)
    large = torch.cat([segmenter.spec.prepare(picture)[0] for picture in pictures])
    encoder = segmenter.network.model.vision_encoder

    def detect(batch: int) -> None:
        for start in range(0, count, batch):
            detector.network(small[start : start + batch])

    def encode(batch: int) -> None:
        for start in range(0, count, batch):
            encoder(large[start : start + batch])

    def ours() -> None:
        for one in large:
            segmenter.network.features(one[None])

    out: dict[str, Callable[[], object]] = {"segmenter, one by one": ours}
    for batch in BATCHES:
        name = "one by one" if batch == 1 else f"batches of {batch}"
        out[f"detector, {name}"] = lambda batch=batch: detect(batch)  # type: ignore[misc]
        out[f"segmenter by transformers, {name}"] = lambda batch=batch: encode(batch)  # type: ignore[misc]
    return out


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    all_works = works(build.load("nano"), options.pictures)
    times: dict[str, list[float]] = {name: [] for name in all_works}
    with torch.inference_mode():
        for turn in range(options.rounds + 1):
            for name, work in all_works.items():
                started = time.process_time()
                work()
                if turn:  # the first round warms up
                    times[name].append((time.process_time() - started) / options.pictures)
    record = {
        "processor_seconds_a_picture": {name: round(statistics.median(t), 4) for name, t in sorted(times.items())},
        "pictures": options.pictures,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "machine": machine_info(),
    }
    write_json(RESULTS / "label_batch.json", record)
    sys.stdout.write(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
