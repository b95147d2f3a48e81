"""Crops and phrases for nano CLIP: every crop of a batch against every phrase of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from textseg import closeup
from textseg.crops import MEAN_RGB, masked_crop
from textseg.language import COLORS
from textseg.train import pseudo_masks
from textseg.train import sam_prompts as sp
from textseg.train.data import COLORLESS, VEHICLE_SETS, LabelledObject, PhotoSet
from textseg.train.loop import worker_generator
from textseg.train.noun_table import ANY_THING, BACKGROUND, NounTable
from textseg.train.phrases import phrase
from textseg.train.recolor import recolor
from textseg.train.scenes import SceneComposer, SceneConfig, load_cutouts, photo_cutouts
from textseg.train.vocab import NanoTokenizer

_LEAST_SIDE = 8.0
_OUTLINED = ("coco", "ccp", "caltech")


@dataclass(frozen=True)
class Crop:
    """One square picture of one thing (or of background, where `names` is empty)."""

    image_rgb: NDArray[np.uint8]
    names: frozenset[str]
    name: str
    color: str | None


def cut_crop(
    image_rgb: NDArray[np.uint8],
    box_xyxy: NDArray[np.float32],
    mask: NDArray[np.bool_] | None,
    side: int,
    *,
    grow: float = 1.2,
    shift: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.uint8]:
    """A (side, side, 3) uint8 crop around a box, `grow` times its longer side, square.

    Where `mask` (H, W) bool is given, all outside of it becomes `MEAN_RGB`, as does what lies
    outside of the picture. `shift` moves the centre, in shares of the crop.
    """
    return masked_crop((image_rgb,), crop_window(box_xyxy, grow, shift), side, mask)


def crop_window(box_xyxy: NDArray[np.float32], grow: float, shift: tuple[float, float]) -> NDArray[np.float32]:
    """Return the (left, top, side) of `cut_crop`'s crop, pixels of the picture."""
    return closeup.window_around(box_xyxy, grow, _LEAST_SIDE, shift)


def crop_targets(
    table: NounTable, crops: Sequence[Crop], phrases: Sequence[tuple[str, str | None]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (N, M) targets in {0, 1} and (N, M) weights in {0, 1}: 0 where nobody knows."""
    columns = np.array([table.index[noun] for noun, _ in phrases])
    known = np.stack([table.row(crop.names) for crop in crops])[:, columns]  # (N, M)
    asked = np.array([-1 if c is None else COLORS.index(c) for _, c in phrases])[None]
    has = np.array([-1 if c.color is None else COLORS.index(c.color) for c in crops])[:, None]
    with_color = np.broadcast_to(asked >= 0, known.shape)
    other = with_color & (has >= 0) & (has != asked)
    doubtful = with_color & (has < 0) & (known == 1)
    known = np.where(other, 0, np.where(doubtful, -1, known))
    return (known == 1).astype(np.float32), (known >= 0).astype(np.float32)


@dataclass(frozen=True)
class CropConfig:
    """What a batch is made of. Shares are of the crops and need not sum to 1."""

    side: int = 112
    batch: int = 128
    extra_phrases: int = 24
    scene_size: int = 256
    scene_objects: tuple[int, int] = (2, 6)
    scene_scale: tuple[float, float] = (0.18, 0.6)
    shares: Mapping[str, float] = field(
        default_factory=lambda: {
            "scene": 0.45,
            "coco": 0.18,
            "ccp": 0.14,
            "caltech": 0.10,
            "boxes": 0.09,
            "background": 0.04,
        }
    )
    masked_probability: float = 0.55
    rough: float = 0.0
    """Share of the masked crops whose mask is off as a segmenter's is: that is what the ranking will show."""
    color_probability: float = 0.45
    pseudo_masks: str = ""
    """Masks of the photographs that come without, a file that `pseudo_masks` writes; "" for none."""
    painted: float = 0.0
    """Share of the vehicles with masks that are given another colour: most cars are gray or black."""
    warped: float = 0.0
    """Share of the crops that are turned and stretched a little."""
    covered: float = 0.0
    """Share of the crops of which a rectangle is hidden, as behind something else."""


class CropSource:
    """Draws crops from the training split of every set under `root`."""

    def __init__(self, root: Path, config: CropConfig) -> None:
        self.config = config
        self._backgrounds = PhotoSet.load(root, "background", "train")
        sets = pseudo_masks.load(config.pseudo_masks, root, (*_OUTLINED, *pseudo_masks.BOXED))
        self._sets = {name: sets[name] for name in _OUTLINED}
        self._boxes = boxes = [sets[name] for name in pseudo_masks.BOXED]
        self._box_places = {s.name: [(i, j) for i, j, _ in s.places(least_side=24)] for s in boxes}
        self._cutouts = load_cutouts(root / "fluent", max_side=160)
        outlined = [photos for photos in boxes if photos.name in VEHICLE_SETS]
        pasted = [c for photos in (self._sets["coco"], self._sets["ccp"], *outlined) for c in photo_cutouts(photos)]
        scene = SceneConfig(
            size_hw=(config.scene_size, config.scene_size),
            objects=config.scene_objects,
            photo_probability=0.08,
            scale=config.scene_scale,
        )
        self._composer = SceneComposer(self._cutouts, list(self._backgrounds), scene, pasted)
        self.table = NounTable.of(root)
        self.plain_nouns = self.table.nouns
        self._by_class = {n: _index_by_class(s) for n, s in self._sets.items()}

    def crops(self, rng: np.random.Generator) -> list[Crop]:
        """One batch of crops."""
        config = self.config
        total = sum(config.shares.values())
        found: list[Crop] = []
        for kind, share in config.shares.items():
            wanted = round(config.batch * share / total)
            found.extend(self._draw(kind, wanted, rng))
        while len(found) < config.batch:
            found.extend(self._draw("scene", 1, rng))
        return found[: config.batch]

    def _draw(self, kind: str, count: int, rng: np.random.Generator) -> list[Crop]:
        found: list[Crop] = []
        while len(found) < count:
            if kind == "scene":
                sample = self._composer.compose(rng)
                things = [t for t in sample.objects if not t.crowd and t.mask is not None]
                found.extend(self._crop(sample.image_rgb, t, rng) for t in things)
            elif kind == "background":
                found.append(self._background(rng))
            elif kind == "boxes":
                photos = self._boxes[int(rng.choice(4, p=(0.42, 0.28, 0.2, 0.1)))]
                places = self._box_places[photos.name]
                i, j = places[int(rng.integers(len(places)))]
                image, thing = photos.one(i, j)
                if photos.name in VEHICLE_SETS and rng.random() < self.config.painted:
                    image, thing = _painted(image, thing, rng)
                found.append(self._crop(image, thing, rng))
            else:
                found.append(self._photo(kind, rng))
        return found[:count]

    def _photo(self, kind: str, rng: np.random.Generator) -> Crop:
        """A thing of a photograph; rare classes come more often than their share."""
        classes = self._by_class[kind]
        weights = np.array([len(v) for v in classes.values()], dtype=float) ** 0.6
        chosen = int(rng.choice(len(classes), p=weights / weights.sum()))
        places = list(classes.values())[chosen]
        i, j = places[int(rng.integers(len(places)))]
        return self._crop(*self._sets[kind].one(i, j), rng)

    def _crop(self, image_rgb: NDArray[np.uint8], thing: LabelledObject, rng: np.random.Generator) -> Crop:
        config = self.config
        masked = thing.mask is not None and rng.random() < config.masked_probability
        grow = float(rng.uniform(1.0, 1.4) if masked or rng.random() < 0.5 else rng.uniform(1, 2))
        shift = (float(rng.normal(0, 0.03)), float(rng.normal(0, 0.03)))
        if thing.mask is None:
            grow = float(rng.uniform(0.9, 1.25))
        rough = masked and rng.random() < config.rough
        mask = thing.mask if masked and not rough else None
        image = cut_crop(image_rgb, thing.box_xyxy, mask, config.side, grow=grow, shift=shift)
        if rough and thing.mask is not None:
            window = crop_window(thing.box_xyxy, grow, shift)
            image[~rough_mask(thing.mask, window, config.side, rng)] = MEAN_RGB
        if rng.random() < config.warped:
            image = _warp(image, rng)
        if rng.random() < config.covered:
            image = _cover(image, rng)
        return Crop(_jitter(image, rng), thing.names, thing.name, thing.color)

    def _background(self, rng: np.random.Generator) -> Crop:
        sample = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
        height, width = sample.image_rgb.shape[:2]
        length = rng.uniform(0.2, 0.9) * min(height, width)
        x, y = rng.uniform(0, width - length), rng.uniform(0, height - length)
        box = np.array([x, y, x + length, y + length], dtype=np.float32)
        image = cut_crop(sample.image_rgb, box, None, self.config.side, grow=1.0)
        return Crop(_jitter(image, rng), frozenset(), BACKGROUND, None)

    def phrases(self, crops: Sequence[Crop], rng: np.random.Generator) -> list[tuple[str, str | None]]:
        """About two (noun, colour) pairs per crop, each once: what it is, and something it is not."""
        pairs: dict[tuple[str, str | None], None] = {(BACKGROUND, None): None}
        for crop in crops:
            if not crop.names:
                continue
            names = sorted(crop.names)
            noun = crop.name if rng.random() < 0.6 else names[int(rng.integers(len(names)))]
            if crop.color and rng.random() < 0.06:
                noun = ANY_THING[int(rng.integers(len(ANY_THING)))]
            color = crop.color if rng.random() < self.config.color_probability else None
            pairs[(noun, color)] = None
            if crop.color and rng.random() < 0.3:
                wrong = COLORS[int(rng.integers(len(COLORS)))]
                pairs[(noun, wrong)] = None
        for i in rng.integers(len(self.plain_nouns), size=self.config.extra_phrases):
            pairs[(self.plain_nouns[int(i)], None)] = None
        return list(pairs)


def rough_mask(
    mask: NDArray[np.bool_], window: NDArray[np.float32], side: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return bool (side, side): an (H, W) mask in a window (left, top, side), as a segmenter would draw it."""
    target = sp.as_uint8(closeup.cut(mask.view(np.uint8) * np.uint8(255), window, side))
    keep = sp.simulate_rough(sp.RoughContext(target, None, None), rng) > 0
    return keep if keep.any() else target > 127


def _index_by_class(photos: PhotoSet) -> dict[str, list[tuple[int, int]]]:
    """Class → (picture, label) places, without crowds and things under 14 pixels."""
    places: dict[str, list[tuple[int, int]]] = {}
    for i, j, name in photos.places(least_side=14):
        places.setdefault(name, []).append((i, j))
    return places


def _painted(
    image_rgb: NDArray[np.uint8], thing: LabelledObject, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], LabelledObject]:
    """Give a thing another colour, in a copy of its picture; not without a mask, nor where no colour is its own."""
    if thing.mask is None or thing.name in COLORLESS:
        return image_rgb, thing
    color = COLORS[int(rng.integers(len(COLORS)))]
    rgba = np.dstack([image_rgb, thing.mask.view(np.uint8) * np.uint8(255)])
    return recolor(rgba, color, rng)[..., :3], replace(thing, color=color)


def _warp(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn a crop by 15 degrees or so, stretch and lean it, about its middle."""
    side = len(image)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.normal(0, 12)), 1.0)
    stretch = np.diag(np.exp(rng.normal(0, 0.12, 2)))
    stretch[0, 1] = rng.normal(0, 0.08)
    matrix = stretch @ turn
    matrix[:, 2] += side / 2 - stretch @ np.full(2, side / 2)
    warped = cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=MEAN_RGB)
    return np.asarray(warped, np.uint8)


def _cover(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Hide a rectangle of 5 to 25 % of a crop."""
    side = len(image)
    area, ratio = rng.uniform(0.05, 0.25) * side**2, np.exp(rng.uniform(-0.8, 0.8))
    height, width = min(side, round((area * ratio) ** 0.5)), min(side, round((area / ratio) ** 0.5))
    y, x = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
    image = image.copy()
    image[y : y + height, x : x + width] = MEAN_RGB
    return image


def _jitter(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Flip, brightness, contrast and a little blur; hues stay, since phrases name colours."""
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.6:
        gain, bias = rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
        image = np.asarray(cv2.convertScaleAbs(np.ascontiguousarray(image), alpha=gain, beta=bias), np.uint8)
    if rng.random() < 0.15:
        image = np.asarray(cv2.GaussianBlur(np.ascontiguousarray(image), (3, 3), 0.8), np.uint8)
    return np.ascontiguousarray(image)


class CropBatch(NamedTuple):
    """N crops against M phrases, and against all V nouns.

    Attributes:
        images: uint8 (N, 3, S, S).
        ids: int64 (M, L), the phrases' tokens.
        targets, weights: float32 (N, M) in {0, 1}; weight 0 where nobody knows.
        nouns: int8 (N, V): 1 the crop shows it, 0 it surely does not, -1 not known; see `NounTable`.
    """

    images: Tensor
    ids: Tensor
    targets: Tensor
    weights: Tensor
    nouns: Tensor


class CropBatches(IterableDataset[CropBatch]):
    """Endless batches."""

    def __init__(self, root: str | Path, tokenizer_json: str | Path, config: CropConfig, seed: int) -> None:
        self._source = CropSource(Path(root), config)
        self._tokenizer_json = str(tokenizer_json)
        self._seed = seed

    def __iter__(self) -> Iterator[CropBatch]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        rng = worker_generator(self._seed)
        tokenizer = NanoTokenizer.load(self._tokenizer_json)
        while True:
            crops = self._source.crops(rng)
            pairs = self._source.phrases(crops, rng)
            targets, weights = crop_targets(self._source.table, crops, pairs)
            texts = [n if n == BACKGROUND else phrase(n, c, rng) for n, c in pairs]
            images = np.stack([c.image_rgb for c in crops]).transpose(0, 3, 1, 2)
            yield CropBatch(
                torch.from_numpy(np.ascontiguousarray(images)),
                tokenizer(texts),
                torch.from_numpy(targets),
                torch.from_numpy(weights),
                torch.from_numpy(self._source.table.rows(crop.names for crop in crops)),
            )
