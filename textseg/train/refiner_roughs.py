"""What a pipeline's own masks look like before they are drawn again, kept for the refiner's training.

    python -m textseg.train.refiner_roughs --preset nano --data DIR --out FILE

Training pictures are asked for what is in them, by name, by colour and name, and by box, with a recorder in the
refiner's place. Each mask that it is handed is kept with the thing that was meant, if it overlaps one, and with the
detector's map of the phrase.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from textseg import closeup, geometry
from textseg.pipeline import Pipeline
from textseg.redraw import RedrawConfig
from textseg.train import sam_prompts as sp
from textseg.train.data import LabelledObject, Sample
from textseg.train.loop import load_checkpoint, progress_bar, save_checkpoint
from textseg.train.sam_data import Sources
from textseg.types import Closeups, Float, Image

logger = logging.getLogger(__name__)

SETS = ("coco", "ccp")
SCENE_SEED = 20_000
LEAST_IOU = 0.3
"""A mask that overlaps what was asked for by less than this, box and all, shows something else."""

Half = NDArray[np.float16]

_SIDE = 96
_NAMES = 6  # asked for in one picture
_COLORED = 4  # and with their colours
_OF_A_NAME = 5


@dataclass(frozen=True)
class Rough:
    """A mask that a pipeline made, and the thing that it was to show.

    Attributes:
        source: "coco", "ccp" or "scene"; picture: index in the set's training split, or the scene's number.
        label: which of the picture's objects was meant; -1 where what was asked for is elsewhere.
        logits: float16 (h, w) over the whole picture.
        box_xyxy: float32 (4,), the prompt's box; NaN where it had none.
        hint: float16 (h', w'), the phrase's map over the whole picture; None where there was none.
    """

    source: str
    picture: int
    label: int
    logits: Half
    box_xyxy: Float
    hint: Half | None = None


class Asked(NamedTuple):
    """What a refiner is asked: a mask's logits (h, w), its prompt's box (4,) and its hint (h', w')."""

    logits: Float
    box_xyxy: Float
    hint: Float | None


class Recorder:
    """A refiner that changes nothing and keeps what it is asked."""

    model_id = "recorder"

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def refine(
        self, image: Image, roughs: Sequence[closeup.Rough], boxes_xyxy: Float, hints: Float | None = None
    ) -> Closeups:
        """Keep the masks, which are over the whole picture, and return them as they are."""
        maps = [None if hint is None else hint.copy() for hint in closeup.each_hint(hints, len(roughs))]
        self.asked += map(Asked, [rough.logits.copy() for rough in roughs], boxes_xyxy.copy(), maps)
        height, width = image.size_hw
        whole = np.tile(np.array([0, 0, max(height, width)], np.float32), (len(roughs), 1))
        near = [closeup.look(one, window, _SIDE) for one, window in zip(roughs, whole, strict=True)]
        claims = np.full(len(roughs), 0.5, np.float32)
        return Closeups(whole, np.stack(near) if near else np.zeros((0, _SIDE, _SIDE), np.float32), claims)

    def take(self) -> list[Asked]:
        """Return what was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked


def collect(pipeline: Pipeline, samples: Iterator[tuple[str, int, Sample]], rng: np.random.Generator) -> list[Rough]:
    """Ask a pipeline for what is in labelled pictures, name by name and by box; return the masks that it made."""
    recorder, found = Recorder(), []
    rank = replace(pipeline.config.rank, clip_budget=0)
    config = replace(pipeline.config, redraw=RedrawConfig(_OF_A_NAME, _OF_A_NAME), rank=rank)
    pipeline = pipeline.with_parts(refiner=recorder, config=config)
    for source, number, sample in samples:
        labels = [i for i, o in enumerate(sample.objects) if o.mask is not None and not o.crowd]
        if not labels:
            continue
        picture, of_one = pipeline.open(sample.image_rgb), functools.partial(_kept, source, number, sample.objects)
        asks = asks_of([sample.objects[i] for i in labels], rng)
        for name, color in asks:
            picture.segment([name if color is None else f"the {color} {name}"], threshold=0.0)
            found += of_one([i for i in labels if is_meant(sample.objects[i], name, color)], recorder.take())
        size_wh = sample.image_rgb.shape[1], sample.image_rgb.shape[0]
        drawn = [sp.jitter_box(sample.objects[i].box_xyxy, size_wh, rng) for i in labels]
        boxes = geometry.clip_boxes(np.stack(drawn), (size_wh[1], size_wh[0]))
        boxes = boxes[geometry.box_area(boxes) > 1]
        if len(boxes):
            picture.segment(box=boxes, multimask=False)
            found += of_one(labels, recorder.take())
    return found


def asks_of(things: Sequence[LabelledObject], rng: np.random.Generator) -> list[tuple[str, str | None]]:
    """Return some of the things' names without a colour, and some with: a red car's wheels belong to it too."""
    plain = sorted({thing.name for thing in things})
    colored = sorted({(thing.name, thing.color) for thing in things if thing.color is not None})
    asks: list[tuple[str, str | None]] = [(plain[i], None) for i in rng.permutation(len(plain))[:_NAMES]]
    return asks + [colored[i] for i in rng.permutation(len(colored))[:_COLORED]]


def is_meant(thing: LabelledObject, name: str, color: str | None) -> bool:
    """Whether a thing has the name, and the colour if one is asked for."""
    return thing.name == name and color in (None, thing.color)


def _kept(
    source: str, number: int, objects: Sequence[LabelledObject], labels: Sequence[int], asked: Sequence[Asked]
) -> list[Rough]:
    """Return what is kept of the masks that were to show some of a picture's objects, those with the ``labels``."""
    meant = _meant(asked, [objects[i] for i in labels])
    hints = [None if one.hint is None else one.hint.astype(np.float16) for one in asked]
    return [
        Rough(source, number, labels[m] if m >= 0 else -1, one.logits.astype(np.float16), one.box_xyxy, hint)
        for m, one, hint in zip(meant, asked, hints, strict=True)
    ]


def _meant(asked: Sequence[Asked], things: Sequence[LabelledObject]) -> list[int]:
    """Return for each mask which of the things its box or itself overlaps most, -1 where that is too little."""
    if not asked:
        return []
    h, w = asked[0].logits.shape
    known = np.stack([thing.mask for thing in things if thing.mask is not None])  # (T, H, W)
    step = (known.shape[2] / w, known.shape[1] / h)
    truth = np.stack([closeup.resample(one.astype(np.uint8) * 255, (0.0, 0.0), step, (h, w)) > 127 for one in known])
    overlap = geometry.mask_iou(np.stack([one.logits > 0 for one in asked]), truth)  # (N, T)
    boxes = np.nan_to_num(np.stack([one.box_xyxy for one in asked]))
    overlap = np.maximum(overlap, geometry.box_iou(boxes, np.stack([thing.box_xyxy for thing in things])))
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
    table: dict[str, Any] = {name: [getattr(r, name) for r in roughs] for name in ("source", "picture", "label")}
    table["logits"] = [torch.from_numpy(r.logits) for r in roughs]
    table["boxes"] = torch.from_numpy(np.stack([r.box_xyxy for r in roughs]))
    table["hints"] = [None if r.hint is None else torch.from_numpy(r.hint) for r in roughs]
    save_checkpoint(path, table)


def load(path: str | Path, wrong: float = 0.2) -> list[Rough]:
    """Read what ``save`` wrote; of the masks of something else so many that they are the share ``wrong`` of all.

    A pipeline makes about as many of them as of the right ones. Where there are more than wanted, it is always the same
    ones that stay.
    """
    table = load_checkpoint(path)
    hints = [None if hint is None else hint.numpy() for hint in table["hints"]]
    columns = (table["source"], table["picture"], table["label"], table["logits"], table["boxes"], hints)
    every = [Rough(s, p, n, m.numpy(), b.numpy(), hint) for s, p, n, m, b, hint in zip(*columns, strict=True)]
    right, others = [r for r in every if r.label >= 0], [r for r in every if r.label < 0]
    most = min(len(others), round(len(right) * wrong / (1 - wrong)))
    return right + [others[i] for i in np.random.default_rng(0).permutation(len(others))[:most]]


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
