"""Crops for the mask refiner: things of pictures, with rough masks as SAM, a detector or a box would give them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from textseg import closeup
from textseg.models.nano_refiner import RefinerConfig, crop_planes
from textseg.prior import box_prior
from textseg.train import refiner_roughs
from textseg.train import sam_prompts as sp
from textseg.train.data import LabelledObject, Sample
from textseg.train.loop import worker_generator
from textseg.train.refiner_roughs import Rough
from textseg.train.sam_data import Sources
from textseg.train.things import Things, one_piece
from textseg.types import Float, UInt8


@dataclass(frozen=True)
class CropConfig:
    """What crops are made of.

    Attributes:
        batch: crops a batch.
        shares: how often a crop comes from each set; "scene" is composed.
        least_side: things of a shorter longer side, pixels of the picture, are left out.
        scenes: how many scenes are kept; each is used ``crops_a_scene`` times, then another takes its place.
        rough_scenes: how many of the scenes with real rough masks are kept, 1.5 MB each.
        ellipse: share of the crops whose rough mask says no more than the box.
        no_box: share of the crops without a box.
        loose: share of the crops whose box is off as a weak detector's is; they get a map, as from one.
        grow: range of the crop's side, in sides of the thing's box.
        real: share of the crops whose rough mask is one that a pipeline made, where there are such.
        near: like ``grow``, for those.
    """

    batch: int = 32
    shares: dict[str, float] = field(default_factory=lambda: {"scene": 0.35, "coco": 0.3, "ccp": 0.35})
    least_side: float = 12.0
    scenes: int = 96
    rough_scenes: int = 96
    crops_a_scene: int = 24
    ellipse: float = 0.25
    no_box: float = 0.15
    loose: float = 0.6
    grow: tuple[float, float] = (1.3, 2.1)
    real: float = 0.5
    near: tuple[float, float] = (1.45, 1.8)


class CropBatch(NamedTuple):
    """B crops.

    Attributes:
        planes: float32 (B, 7, S, S).
        targets: uint8 (B, S / 2, S / 2) coverage; valid: bool likewise, False beyond the picture.
        shown: bool (B,), False where the crop does not show what was asked for, so that no mask is right.
    """

    planes: Tensor
    targets: Tensor
    valid: Tensor
    shown: Tensor


_LEAST_TARGET = 8  # pixels of the answer
_SILENT = 0.05  # of the maps are kept back
_MEANT = 0.25  # of a connected piece must lie in a box that is meant for it

Crop = tuple[Float, UInt8, UInt8, bool]
"""Planes (7, S, S), target and validity uint8 (S / 2, S / 2), and whether what was asked for is there."""


class Crops:
    """Makes crops of things; see ``things.Things`` for how those are drawn."""

    def __init__(
        self, sources: Sources, config: CropConfig, network: RefinerConfig, roughs: Sequence[Rough] = ()
    ) -> None:
        self.sources, self.config, self.network = sources, config, network
        self.roughs: dict[str, list[Rough]] = defaultdict(list)
        for rough in roughs:
            self.roughs[rough.source].append(rough)
        self.things = Things(sources, config.scenes, config.crops_a_scene)
        self._numbered: dict[int, Sample] = {}

    @classmethod
    def load(
        cls, root: str | Path, config: CropConfig, network: RefinerConfig, split: str = "train", roughs: str = ""
    ) -> Crops:
        """Read the pictures under ``root``, and the masks that ``refiner_roughs`` kept in a file, if there is one."""
        kept = refiner_roughs.load(roughs) if roughs else []
        return cls(Sources.load(root, config.shares, 448, split), config, network, kept)

    def one(self, rng: np.random.Generator) -> Crop | None:
        """One crop; None where the draw was no use."""
        name = self.sources.draw_set(rng)
        if name in self.roughs and rng.random() < self.config.real:
            return self._real(self.roughs[name][int(rng.integers(len(self.roughs[name])))], rng)
        drawn = self.things.of(name, rng)
        return None if drawn is None else self.crop(drawn.image_rgb, drawn.thing, drawn.others, name, rng)

    def _real(self, rough: Rough, rng: np.random.Generator) -> Crop | None:
        """One crop of a mask that a pipeline made."""
        label = max(0, rough.label)  # for a mask of something else the picture alone counts
        if rough.source == "scene":
            sample = self._scene_of(rough.picture)
            image_rgb, thing = sample.image_rgb, sample.objects[label]
        else:
            image_rgb, thing = self.sources.photos[rough.source].one(rough.picture, label)
        if thing.mask is None:
            return None
        size_hw, size = (image_rgb.shape[0], image_rgb.shape[1]), self.network.side // 2
        known = closeup.Rough.whole(rough.logits.astype(np.float32), size_hw)
        has_box = not np.isnan(rough.box_xyxy).any()
        box = rough.box_xyxy if has_box else closeup.extent(known)
        window = self._window(box, rng, self.config.near)
        near = closeup.look(known, window, size)
        hint = None
        if rough.hint is not None and rng.random() > _SILENT:
            hint = closeup.look(closeup.Rough.whole(rough.hint.astype(np.float32), size_hw), window, size)
        given = box if has_box else None
        if rough.label < 0:
            return self._made(image_rgb, near, None, window, given, hint, rng)
        mask = thing.mask.astype(np.uint8) * 255
        target = sp.as_uint8(closeup.cut(meant(mask, box) if has_box else mask, window, size))
        if int((target > 127).sum()) < _LEAST_TARGET:
            return None
        return self._made(image_rgb, near, target, window, given, hint, rng)

    def _scene_of(self, number: int) -> Sample:
        if number not in self._numbered:
            if len(self._numbered) >= self.config.rough_scenes:
                self._numbered.pop(next(iter(self._numbered)))
            self._numbered[number] = refiner_roughs.scene(self.sources, number)
        return self._numbered[number]

    def crop(
        self,
        image_rgb: UInt8,
        thing: LabelledObject,
        others: list[LabelledObject],
        source: str,
        rng: np.random.Generator,
    ) -> Crop | None:
        """One crop of one thing."""
        found = one_piece(thing, source, self.config.least_side, rng)
        if found is None:
            return None
        mask, tight = found
        height, width = image_rgb.shape[:2]
        loose = rng.random() < self.config.loose
        box = (sp.loose_box if loose else sp.jitter_box)(tight, (width, height), rng)
        window = self._window(box, rng, self.config.grow)
        size = self.network.side // 2
        target = sp.as_uint8(closeup.cut(mask, window, size))
        if int((target > 127).sum()) < _LEAST_TARGET:
            return None
        other = None
        if others and rng.random() < 0.3:
            beside = others[int(rng.integers(len(others)))]
            if beside.mask is not None:
                other = sp.as_uint8(closeup.cut(beside.mask.astype(np.uint8) * 255, window, size))
        place = closeup.box_in(window, box, size)
        context = sp.RoughContext(target, other, place)
        if rng.random() < self.config.ellipse:
            rough = box_prior(place[None], (size, size), (size, size))[0]
        else:
            rough = sp.simulate_rough(context, rng)
        hint = sp.simulate_rough(context, rng) if loose else None  # a box without a map is the caller's, and exact
        given = None if rng.random() < self.config.no_box else box
        return self._made(image_rgb, rough, target, window, given, hint, rng)

    def _made(
        self,
        image_rgb: UInt8,
        rough: Float,
        target: UInt8 | None,
        window: Float,
        box: Float | None,
        hint: Float | None,
        rng: np.random.Generator,
    ) -> Crop:
        """What the network sees, and is to answer; mirrored half of the time."""
        planes = crop_planes((_light(image_rgb, window, rng),), rough, window, box, hint, self.network)
        valid = (planes[5, ::2, ::2] > 0.5).astype(np.uint8)
        shown = target is not None
        drawn = np.zeros_like(valid) if target is None else target
        if rng.random() < 0.5:
            planes, drawn, valid = planes[:, :, ::-1], drawn[:, ::-1], valid[:, ::-1]
        return np.ascontiguousarray(planes), np.ascontiguousarray(drawn), np.ascontiguousarray(valid), shown

    def _window(self, box: Float, rng: np.random.Generator, grow: tuple[float, float]) -> Float:
        """A crop somewhat off the one that the box would give."""
        factor = float(np.exp(rng.uniform(*np.log(grow))))
        return closeup.window_around(box, factor, self.network.least, rng.uniform(-0.08, 0.08, 2).tolist())


def meant(mask: UInt8, box_xyxy: Float) -> UInt8:
    """The connected pieces of an (H, W) 0/255 mask that a box is meant for: around one shoe, the other one is not.

    A box may be too small for its thing, so that pieces count as wholes. Where no piece lies in the box, all do.
    """
    count, regions = cv2.connectedComponents(mask, connectivity=8)
    if count <= 2:
        return mask
    x0, y0, x1, y1 = (max(0, round(float(v))) for v in box_xyxy)
    inside = np.bincount(regions[y0:y1, x0:x1].ravel(), minlength=count)
    pieces = inside >= _MEANT * np.maximum(1, np.bincount(regions.ravel(), minlength=count))
    pieces[0] = False
    return np.where(pieces[regions], mask, np.uint8(0)) if pieces.any() else mask


def _light(image_rgb: UInt8, window: Float, rng: np.random.Generator) -> UInt8:
    """The picture around a window, brighter, darker or flatter; what is outside stays as it is."""
    if rng.random() > 0.7:
        return image_rgb
    gain, shift = float(rng.uniform(0.7, 1.35)), float(rng.uniform(-30, 30))
    table = np.clip((np.arange(256) - 128) * gain + 128 + shift, 0, 255).astype(np.uint8)
    x0, y0 = (max(0, int(v)) for v in window[:2])
    x1, y1 = (max(0, int(v + window[2]) + 2) for v in window[:2])
    out = image_rgb.copy()
    out[y0:y1, x0:x1] = cv2.LUT(image_rgb[y0:y1, x0:x1], table)
    return out


class CropStream(IterableDataset[CropBatch]):
    """An endless stream of batches; every worker has its own seed."""

    def __init__(self, crops: Crops, seed: int) -> None:
        self.crops, self.seed = crops, seed

    def __iter__(self) -> Iterator[CropBatch]:
        rng = worker_generator(self.seed)
        while True:
            yield self.batch(rng)

    def batch(self, rng: np.random.Generator) -> CropBatch:
        """One batch."""
        made: list[Crop] = []
        while len(made) < self.crops.config.batch:
            one = self.crops.one(rng)
            if one is not None:
                made.append(one)
        planes, targets, valid, shown = (torch.from_numpy(np.stack(some)) for some in zip(*made, strict=True))
        return CropBatch(planes, targets, valid.bool(), shown)
