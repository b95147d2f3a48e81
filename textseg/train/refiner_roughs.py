"""What a pipeline's own masks look like before they are drawn again, kept for the refiner's training.

    python -m textseg.train.refiner_roughs --preset nano --data DIR --out FILE

Training pictures are asked for what is in them, by name and by box, with a recorder in the refiner's place. Each mask
that it is handed is kept with the thing that it covers best.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from textseg import closeup, geometry
from textseg.pipeline import Pipeline
from textseg.redraw import OUTSIDE, RedrawConfig
from textseg.train import sam_prompts as sp
from textseg.train.data import Sample
from textseg.train.loop import load_checkpoint, progress_bar, save_checkpoint
from textseg.train.sam_data import Sources
from textseg.types import Bool, Closeups, Float, Image

logger = logging.getLogger(__name__)

SETS = ("coco", "ccp")
SCENE_SEED = 20_000
LEAST_IOU = 0.35
"""A mask that overlaps nothing by this much shows no one thing, and is not kept."""

_SIDE = 96
_NAMES = 8  # asked for in one picture


@dataclass(frozen=True)
class Rough:
    """A mask that a pipeline made, and the thing that it covers.

    Attributes:
        source: "coco", "ccp" or "scene"; picture: index in the set's training split, or the scene's number.
        label: which of the picture's objects it covers.
        logits: float32 (h, w) over the whole picture.
        box_xyxy: float32 (4,), the prompt's box; NaN where it had none.
    """

    source: str
    picture: int
    label: int
    logits: Float
    box_xyxy: Float


class Recorder:
    """A refiner that changes nothing and keeps what it is asked."""

    model_id = "recorder"

    def __init__(self) -> None:
        self.asked: list[tuple[Float, Float]] = []

    def refine(self, image: Image, logits: Float, boxes_xyxy: Float) -> Closeups:
        """Keep the masks and return them as they are."""
        self.asked += list(zip(logits.copy(), boxes_xyxy.copy(), strict=True))
        height, width = image.size_hw
        whole = np.tile(np.array([0, 0, max(height, width)], np.float32), (len(logits), 1))
        near = [
            closeup.look(one, window, image.size_hw, _SIDE, OUTSIDE) for one, window in zip(logits, whole, strict=True)
        ]
        claims = np.full(len(logits), 0.5, np.float32)
        return Closeups(whole, np.stack(near) if near else np.zeros((0, _SIDE, _SIDE), np.float32), claims)


def collect(pipeline: Pipeline, samples: Iterator[tuple[str, int, Sample]], rng: np.random.Generator) -> list[Rough]:
    """Ask a pipeline for what is in labelled pictures and return the masks that cover something."""
    recorder, found = Recorder(), []
    config = replace(pipeline.config, redraw=RedrawConfig(4, 24))
    pipeline = pipeline.with_parts(refiner=recorder, config=config)
    for source, number, sample in samples:
        labels = [i for i, o in enumerate(sample.objects) if o.mask is not None and not o.crowd]
        if not labels:
            continue
        picture = pipeline.open(sample.image_rgb)
        names = sorted({sample.objects[i].name for i in labels})
        picture.segment([str(name) for name in rng.permutation(names)[:_NAMES]], threshold=0.0)
        size_wh = sample.image_rgb.shape[1], sample.image_rgb.shape[0]
        drawn = [sp.jitter_box(sample.objects[i].box_xyxy, size_wh, rng) for i in labels]
        boxes = geometry.clip_boxes(np.stack(drawn), (size_wh[1], size_wh[0]))
        boxes = boxes[geometry.box_area(boxes) > 1]
        if len(boxes):
            picture.segment(box=boxes)
        masks = [sample.objects[i].mask for i in labels]
        known = np.stack([mask for mask in masks if mask is not None])
        for (logits, box), label in zip(recorder.asked, _covered(recorder.asked, known), strict=True):
            if label >= 0:
                found.append(Rough(source, number, labels[label], logits, box))
        recorder.asked.clear()
    return found


def _covered(asked: Sequence[tuple[Float, Float]], known: Bool) -> list[int]:
    """Return for each mask which of the known ones (T, H, W) it overlaps most, -1 where it does so too little."""
    if not asked:
        return []
    h, w = asked[0][0].shape
    size_hw = (known.shape[1], known.shape[2])
    step = (size_hw[1] / w, size_hw[0] / h)
    truth = np.stack([closeup.resample(one.astype(np.uint8) * 255, (0.0, 0.0), step, (h, w)) > 127 for one in known])
    overlap = geometry.mask_iou(np.stack([logits > 0 for logits, _ in asked]), truth)
    return [int(row.argmax()) if row.max() >= LEAST_IOU else -1 for row in overlap]


def training_samples(
    root: str | Path, scenes: int, every: tuple[int, int] = (0, 1)
) -> Iterator[tuple[str, int, Sample]]:
    """Yield (set, number, picture) of the training photographs and of so many scenes; one in ``every[1]``."""
    sources = Sources.load(root, dict.fromkeys((*SETS, "scene"), 1.0), 448)
    total = sum(len(sources.photos[name]) for name in SETS) + scenes
    with progress_bar("roughs", total) as bar:
        for name in SETS:
            for i in range(len(sources.photos[name])):
                bar.advance(name)
                if i % every[1] == every[0]:
                    yield name, i, sources.photos[name][i]
        for i in range(scenes):
            bar.advance("scene")
            if i % every[1] == every[0]:
                yield "scene", i, scene(sources, i)


def scene(sources: Sources, number: int) -> Sample:
    """Return the scene of a number: the same one each time."""
    return sources.composers[number % 3 == 0].compose(np.random.default_rng([SCENE_SEED, number]))


def save(path: str | Path, roughs: Sequence[Rough]) -> None:
    """Write them into one file."""
    save_checkpoint(
        path,
        {
            "source": [r.source for r in roughs],
            "picture": [r.picture for r in roughs],
            "label": [r.label for r in roughs],
            "logits": [torch.from_numpy(r.logits).half() for r in roughs],
            "boxes": torch.from_numpy(np.stack([r.box_xyxy for r in roughs])),
        },
    )


def load(path: str | Path) -> list[Rough]:
    """Read what ``save`` wrote."""
    table = load_checkpoint(path)
    columns = (table["source"], table["picture"], table["label"], table["logits"], table["boxes"])
    return [Rough(s, p, n, m.float().numpy(), b.numpy()) for s, p, n, m, b in zip(*columns, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description="Keep a pipeline's masks for the refiner's training.")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--data", default=os.environ.get("TEXTSEG_DATA", "../shared/data"))
    parser.add_argument("--out", required=True)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--part", default="0/1", help="I/N: only every N-th picture, from the I-th on")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from textseg.build import load as load_pipeline

    first, step = (int(n) for n in options.part.split("/"))
    samples = training_samples(options.data, options.scenes, (first, step))
    roughs = collect(load_pipeline(options.preset), samples, np.random.default_rng([1, first]))
    save(options.out, roughs)
    logger.info("%d masks", len(roughs))


if __name__ == "__main__":
    main()
