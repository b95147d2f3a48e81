"""Close-ups for SAM's training: things with what is around them, their boxes the prompts (``models.close_sam``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset

from textseg import closeup, geometry
from textseg.models import close_sam
from textseg.prior import box_prior
from textseg.train import sam_prompts as sp
from textseg.train.augment import light, tint, turn
from textseg.train.loop import worker_generator
from textseg.train.sam_data import Batch, SamBatches, Sources
from textseg.train.sam_model import STRIDE, TOKEN
from textseg.train.sam_window import FILL_RGB
from textseg.train.things import Drawn, Things, one_piece
from textseg.types import Float, UInt8

_LEAST_TARGET = 8  # pixels of the answer


@dataclass(frozen=True)
class CloseupShare:
    """How much of the training looks closely, and at what.

    Attributes:
        share: of the batches.
        batch: close-ups a batch.
        sides: pixels of the crops, one for each of the run's windows, a multiple of 32.
        grow: range of the crop's side, in sides of the box.
        tight: share of the boxes that are exact; the others' edges are off by up to a tenth.
        rough: share of the boxes with a rough mask beside them; the others have their ellipse.
        no_box: share of the prompts that are a rough mask alone.
        turned: share of the things that are turned by up to ``degrees`` and squeezed by up to the factor ``squeeze``.
        tinted: share of the close-ups in another hue.
        least_side: things of a shorter longer side, pixels of the picture, are left out.
        shares: how often a thing comes from each set; "scene" is composed.
    """

    share: float = 0.0
    batch: int = 16
    sides: tuple[int, ...] = (160,)
    grow: tuple[float, float] = (1.25, 1.6)
    tight: float = 0.6
    rough: float = 0.15
    no_box: float = 0.08
    turned: float = 0.0
    degrees: float = 15.0
    squeeze: float = 1.25
    tinted: float = 0.0
    least_side: float = 10.0
    shares: Mapping[str, float] = field(default_factory=lambda: {"scene": 0.12, "coco": 0.42, "ccp": 0.46})

    @property
    def alone(self) -> bool:
        """Whether a run sees nothing but close-ups, and so no phrases."""
        return self.share >= 1.0


class Made(NamedTuple):
    """A close-up: uint8 crop (S, S, 3), target and validity (m, m); float32 box in it (4,) and rough mask (m, m)."""

    image_rgb: UInt8
    target: UInt8
    valid: UInt8
    box_xyxy: Float
    rough: Float


class Closeups:
    """Makes batches of close-ups; ``frame`` is the side of SAM's input in pixels."""

    def __init__(self, sources: Sources, config: CloseupShare, frame: int) -> None:
        self.config, self.frame = config, frame
        self.sources = replace(sources, shares=dict(config.shares))
        self.things = Things(self.sources, scenes=48, uses=16)

    def batch(self, side: int, rng: np.random.Generator) -> Batch:
        """One batch of crops of ``side`` pixels, a box prompt with its ellipse for each."""
        made: list[Made] = []
        while len(made) < self.config.batch:
            name = self.sources.draw_set(rng)
            drawn = self.things.of(name, rng)
            one = None if drawn is None else self.one(drawn, name, side, rng)
            if one is not None:
                made.append(one)
        images, targets, valid, boxes, masks = (np.stack(some) for some in zip(*made, strict=True))
        n, cells = len(made), side // STRIDE
        first = (self.frame - side) // TOKEN // 2  # a crop smaller than the frame lies in its middle
        return Batch(
            image=torch.from_numpy(images),
            valid=torch.from_numpy(valid > 0),
            offset_yx=(first, first),
            image_index=torch.arange(n),
            boxes=torch.from_numpy(boxes + np.float32(first * TOKEN)),
            points=torch.zeros(n, sp.MAX_POINTS, 2),
            labels=torch.full((n, sp.MAX_POINTS), -1),
            mask_rows=torch.arange(n),
            mask_logits=torch.from_numpy(masks),
            text_rows=torch.zeros(0, dtype=torch.int64),
            texts=[],
            crops=[],
            targets=torch.from_numpy(targets),
            ignore=torch.zeros(n, cells, cells, dtype=torch.bool),
            kinds=["box"] * n,
        )

    def one(self, drawn: Drawn, source: str, side: int, rng: np.random.Generator) -> Made | None:
        """One close-up; mirrored half of the time."""
        found = one_piece(drawn.thing, source, self.config.least_side, rng)
        if found is None:
            return None
        picture, mask, tight = self._turned(drawn.image_rgb, *found, rng)
        height, width = mask.shape
        box = sp.jitter_box(tight, (width, height), rng, tight=self.config.tight)
        factor = float(np.exp(rng.uniform(*np.log(self.config.grow))))
        window = closeup.window_around(box, factor, close_sam.LEAST, rng.uniform(-0.04, 0.04, 2).tolist())
        target = sp.as_uint8(closeup.cut(mask, window, side // STRIDE))
        if int((target > 127).sum()) < _LEAST_TARGET:
            return None
        image, inside = close_sam.crop((picture,), window, side)
        image = light(tint(image, rng) if rng.random() < self.config.tinted else image, rng)
        valid = inside[::STRIDE, ::STRIDE].astype(np.uint8)
        place, rough = self._prompt(target, closeup.box_in(window, box, side), side, rng)
        image = np.where(inside[..., None], close_sam.dim(image, place), np.array(FILL_RGB, np.uint8))
        if rng.random() < 0.5:
            image, target, valid, rough = image[:, ::-1], target[:, ::-1], valid[:, ::-1], rough[:, ::-1]
            place = geometry.mirrored_boxes(place[None], side)[0]
        whole = np.ascontiguousarray  # torch takes no mirrored views
        return Made(whole(image), whole(target), whole(valid), place, whole(rough))

    def _turned(
        self, image_rgb: UInt8, mask: UInt8, tight: Float, rng: np.random.Generator
    ) -> tuple[UInt8, UInt8, Float]:
        """The picture, the mask and its tight box, turned and squeezed now and then."""
        config = self.config
        if rng.random() < config.turned:
            turned, shape = turn(
                image_rgb, mask, rng, degrees=config.degrees, squeeze=config.squeeze, fill_rgb=FILL_RGB
            )
            box = sp.tight_box(shape)
            if box is not None:  # what is thinner than a pixel may be gone
                return turned, shape, box
        return image_rgb, mask, tight

    def _prompt(self, target: UInt8, box: Float, side: int, rng: np.random.Generator) -> tuple[Float, Float]:
        """The box (4,), NaN where there is none, and the rough mask (m, m)."""
        kind, cells = rng.random(), len(target)
        if kind >= self.config.rough + self.config.no_box:
            return box, box_prior(box[None], (side, side), (cells, cells))[0]
        rough = sp.simulate_rough(sp.RoughContext(target, None, (box / STRIDE).astype(np.float32)), rng)
        return (box if kind < self.config.rough else np.full(4, np.nan, np.float32)), rough


class WithCloseups(IterableDataset[Batch]):
    """An endless stream of batches of windows, a share of them of close-ups; it obeys the windows' ``stage``."""

    def __init__(self, windows: SamBatches, closeups: Closeups) -> None:
        self.windows, self.closeups = windows, closeups

    def __iter__(self) -> Iterator[Batch]:
        rng = worker_generator(self.windows.seed)
        config = self.closeups.config
        while True:
            if rng.random() < config.share:
                stage = int(self.windows.stage[0])
                yield self.closeups.batch(config.sides[min(stage, len(config.sides) - 1)], rng)
            else:
                yield self.windows.make(rng)
