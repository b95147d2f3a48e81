"""Batches for SAM: windows of pictures (`sam_window`) with simulated prompts and their true masks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from textseg.prior import box_prior
from textseg.train import sam_prompts as sp
from textseg.train.data import PhotoSet, Sample
from textseg.train.loop import worker_generator
from textseg.train.phrases import PhraseSampler, PhraseTarget
from textseg.train.sam_model import TOKEN
from textseg.train.sam_window import Window, WindowConfig
from textseg.train.scenes import SceneComposer, SceneConfig, at_size, load_cutouts, photo_cutouts
from textseg.types import Float, UInt8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """B windows and N prompts; coordinates in input pixels of the full frame, masks on the window's mask grid.

    Attributes:
        image: uint8 (B, S, S, 3); valid: bool (B, m, m), False on padding; offset_yx: the window's first token.
        image_index, boxes, points, labels, mask_rows, mask_logits, text_rows: as in `PromptTensors`.
        texts, crops: one a text row; the crop (h, w, 3) is None where the phrase itself is to be embedded.
        targets: uint8 (N, m, m) coverage; ignore: bool (N, m, m); kinds: N names from `sam_prompts.KINDS`.
    """

    image: Tensor
    valid: Tensor
    offset_yx: tuple[int, int]
    image_index: Tensor
    boxes: Tensor
    points: Tensor
    labels: Tensor
    mask_rows: Tensor
    mask_logits: Tensor
    text_rows: Tensor
    texts: list[str]
    crops: list[UInt8 | None]
    targets: Tensor
    ignore: Tensor
    kinds: list[str]


@dataclass
class Draw:
    """One simulated prompt in window coordinates; NaN box and None fields mean "not given"."""

    kind: str
    target: UInt8
    ignore: NDArray[np.bool_]
    box: Float = field(default_factory=lambda: np.full(4, np.nan, np.float32))
    points: Float = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    rough: Float | None = None
    text: str | None = None
    crop: UInt8 | None = None


class PromptMaker:
    """Draws prompts for a window; `rough` may be replaced by a real detector's maps."""

    def __init__(self, *, text: bool, image_share: float = 0.4, rough: sp.RoughMask = sp.simulate_rough) -> None:
        self.text = text
        self.image_share = image_share
        self.rough = rough
        self.phrases = PhraseSampler()

    def draw(self, window: Window, rng: np.random.Generator) -> list[Draw]:
        """Up to ``config.prompts`` prompts; none where the window shows no labelled thing."""
        objects = window.sample.objects
        usable, weights = [], []
        for i, thing in enumerate(objects):
            known = thing.mask is not None and not thing.crowd
            cells = float(window.mask(i).sum()) / 255.0 / window.config.stride**2 if known else 0.0
            if cells >= window.config.least_cells:
                usable.append(i)
                weights.append(cells**0.25)
        if not usable:
            return []
        count, share = window.config.prompts, np.array(weights) / sum(weights)
        chosen = rng.choice(usable, size=count, p=share, replace=len(usable) < count)
        draws = [self.one(window, int(i), sp.draw_kind(rng, self.text), rng) for i in chosen]
        return [draw for draw in draws if draw is not None]

    def one(self, window: Window, index: int, kind: str, rng: np.random.Generator) -> Draw | None:
        """One prompt of `kind` for the sample's object `index`; None where it cannot be made."""
        if kind == "absent":
            return self._absent(window, rng)
        parts = kind.split("+")
        if kind == "text":
            draw = self._text_alone(window, index, rng)
            if draw is not None:
                return draw
            parts, kind = ["box"], "box"
        mask = self._instance(window, index, rng)
        draw = Draw(kind, window.low(mask), np.zeros((window.cells, window.cells), np.bool_))
        box = sp.tight_box(mask > 127)
        if box is None or int((draw.target > 127).sum()) < 2:
            return None
        given = sp.jitter_box(box, window.size_wh, rng)
        if "box" in parts:
            draw.box = given
        if "point" in parts:
            draw.points, draw.labels = sp.first_point(mask > 127, rng)[None], np.ones(1, np.int64)
        if "points" in parts:
            draw.points, draw.labels = sp.several_points(mask > 127, rng)
        if "text" in parts:
            self._name(draw, window, index, self.phrases.positive(window.sample, index, rng), rng)
        if "mask" in parts:
            draw.rough = self._rough(draw, window, index, given, rng)
        elif "box" in parts and rng.random() < sp.PRIOR_SHARE:
            side = (window.config.side, window.config.side)
            draw.rough = box_prior(given[None], side, (window.cells, window.cells))[0]
        return draw

    def _instance(self, window: Window, index: int, rng: np.random.Generator) -> UInt8:
        """The object's mask; for a garment class in several pieces, often one piece of it."""
        mask = window.mask(index)
        garment = window.sample.source == "ccp" and window.sample.objects[index].name != "person"
        return sp.some_piece(mask, rng) if garment else mask

    def _rough(self, draw: Draw, window: Window, index: int, box: Float, rng: np.random.Generator) -> Float:
        beside, other = int(rng.integers(len(window.sample.objects))), None
        if beside != index and rng.random() < 0.18:
            other = window.low(window.mask(beside))
        place = (box / window.config.stride).astype(np.float32)
        context = sp.RoughContext(draw.target, other, place, window.image_rgb, draw.text)
        rough = self.rough(context, rng)
        rough[~window.valid()] = min(float(rough.min()), -1.0)  # as the adapter pads a rough mask
        return rough

    def _text_alone(self, window: Window, index: int, rng: np.random.Generator) -> Draw | None:
        """A phrase by itself: the target is all that it means in the window."""
        meant = self.phrases.positive(window.sample, index, rng)
        objects = window.sample.objects
        if not meant.positive or any(objects[i].mask is None for i in meant.positive):
            return None
        if not meant.background_negative and window.sample.source != "caltech" and rng.random() < 0.7:
            return None
        target = np.maximum.reduce([window.mask(i) for i in meant.positive])
        draw = Draw("text", window.low(target), self._ignored(window, meant))
        self._name(draw, window, index, meant, rng)
        return draw

    def _absent(self, window: Window, rng: np.random.Generator) -> Draw | None:
        """A phrase for what is not there: the target is empty."""
        for _ in range(3):
            meant = self.phrases.negative(window.sample, rng)
            if meant is not None and meant.background_negative and not meant.positive:
                empty = np.zeros((window.cells, window.cells), np.uint8)
                draw = Draw("absent", empty, self._ignored(window, meant))
                draw.text = meant.text
                return draw
        return None

    def _ignored(self, window: Window, meant: PhraseTarget) -> NDArray[np.bool_]:
        out = np.zeros((window.cells, window.cells), np.bool_)
        for i in meant.ignore:
            out |= window.low(window.mask(i)) > 64
        for i in meant.positive:
            out &= window.low(window.mask(i)) <= 64
        return out

    def _name(self, draw: Draw, window: Window, index: int, meant: PhraseTarget, rng: np.random.Generator) -> None:
        """Give the prompt its words, or a crop of the object where only this object is meant."""
        draw.text = meant.text
        alone = draw.kind != "text" or len(meant.positive) == 1
        mask = window.sample.objects[index].mask
        if alone and mask is not None and rng.random() < self.image_share:
            draw.crop = sp.masked_crop(window.sample.image_rgb, mask, rng)


def collate(
    windows: Sequence[Window], draws: Sequence[Sequence[Draw]], config: WindowConfig, offset_yx: tuple[int, int]
) -> Batch:
    """Flatten the prompts of several windows into one batch; `offset_yx` in tokens of the frame."""
    flat = [(i, draw) for i, some in enumerate(draws) for draw in some]
    n, cells, patch = len(flat), config.side // config.stride, TOKEN
    shift = np.array([offset_yx[1] * patch, offset_yx[0] * patch], np.float32)
    points = np.zeros((n, sp.MAX_POINTS, 2), np.float32)
    labels = np.full((n, sp.MAX_POINTS), -1, np.int64)
    for row, (_, draw) in enumerate(flat):
        points[row, : len(draw.points)] = draw.points + shift
        labels[row, : len(draw.labels)] = draw.labels
    rough = [(row, draw.rough) for row, (_, draw) in enumerate(flat) if draw.rough is not None]
    named = [(row, draw) for row, (_, draw) in enumerate(flat) if draw.text is not None]
    boxes = np.stack([draw.box + np.tile(shift, 2) for _, draw in flat]) if flat else np.zeros((0, 4), np.float32)
    maps = np.stack([m for _, m in rough]) if rough else np.zeros((0, cells, cells), np.float32)
    return Batch(
        image=torch.from_numpy(np.stack([w.image_rgb for w in windows])),
        valid=torch.from_numpy(np.stack([w.valid() for w in windows])),
        offset_yx=offset_yx,
        image_index=torch.tensor([i for i, _ in flat], dtype=torch.int64),
        boxes=torch.from_numpy(boxes),
        points=torch.from_numpy(points),
        labels=torch.from_numpy(labels),
        mask_rows=torch.tensor([row for row, _ in rough], dtype=torch.int64),
        mask_logits=torch.from_numpy(maps.astype(np.float32)),
        text_rows=torch.tensor([row for row, _ in named], dtype=torch.int64),
        texts=[draw.text or "" for _, draw in named],
        crops=[draw.crop for _, draw in named],
        targets=torch.from_numpy(np.stack([draw.target for _, draw in flat])),
        ignore=torch.from_numpy(np.stack([draw.ignore for _, draw in flat])),
        kinds=[draw.kind for _, draw in flat],
    )


@dataclass
class Sources:
    """What training pictures are drawn from."""

    composers: Sequence[SceneComposer]
    photos: dict[str, PhotoSet]
    shares: dict[str, float]

    @classmethod
    def load(cls, root: str | Path, shares: dict[str, float], scene_side: int, split: str = "train") -> Sources:
        """Read every set that `shares` names ("scene" and sets of `data.FOLDERS`) under `root`."""
        photos = {name: PhotoSet.load(root, name, split) for name in shares if name != "scene"}
        if "caltech" in photos:
            photos["caltech"] = with_masks(photos["caltech"])
        plain: list[Sample] = list(PhotoSet.load(root, "background", split))
        cut: list[Sample] = [s for name in ("coco", "ccp") if name in photos for s in photos[name]]
        backgrounds = [*plain, *(s for s in cut if s.source == "coco")]
        cutouts, pasted = load_cutouts(Path(root) / "fluent"), photo_cutouts(cut)
        many, single = at_size(SceneConfig(), scene_side), at_size(SceneConfig(objects=(1, 1)), scene_side)
        composers = [SceneComposer(cutouts, backgrounds, many, pasted), SceneComposer(cutouts, plain, single, pasted)]
        return cls(composers, photos, dict(shares))

    def draw_set(self, rng: np.random.Generator) -> str:
        """The name of a set, as often as `shares` says."""
        weights = np.array(list(self.shares.values()))
        return list(self.shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]

    def compose(self, rng: np.random.Generator) -> Sample:
        """One scene, of several things or of one."""
        return self.composers[int(rng.random() < 0.35)].compose(rng)

    def draw(self, rng: np.random.Generator) -> Sample:
        """One picture."""
        name = self.draw_set(rng)
        if name == "scene":
            return self.compose(rng)
        return self.photos[name][int(rng.integers(len(self.photos[name])))]


def with_masks(photos: PhotoSet) -> PhotoSet:
    """The photographs of a set that have at least one mask."""
    return PhotoSet(photos.name, [p for p in photos._photos if any(label.rle is not None for label in p.labels)])


class SamBatches(IterableDataset[Batch]):
    """An endless stream of batches; every worker has its own seed.

    `stage` (int64 (1,), in shared memory) says which of the windows is in use: setting it reaches
    workers that already run, so they are forked once, before their parent has threads.
    """

    def __init__(
        self, sources: Sources, maker: PromptMaker, windows: Sequence[WindowConfig], batch: int, seed: int
    ) -> None:
        self.sources, self.maker, self.windows = sources, maker, list(windows)
        self.batch, self.seed = batch, seed
        self.stage = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __iter__(self) -> Iterator[Batch]:
        rng = worker_generator(self.seed)
        while True:
            yield self.make(rng)

    def make(self, rng: np.random.Generator) -> Batch:
        """One batch."""
        config = self.windows[int(self.stage[0])]
        windows: list[Window] = []
        draws: list[list[Draw]] = []
        while len(windows) < self.batch:
            window = Window(self.sources.draw(rng), config, rng)
            some = self.maker.draw(window, rng)
            if some:
                windows.append(window)
                draws.append(some)
        spare = (config.frame - config.side) // TOKEN
        offset = (int(rng.integers(spare + 1)), int(rng.integers(spare + 1)))
        return collate(windows, draws, config, offset)
