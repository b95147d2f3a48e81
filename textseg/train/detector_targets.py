"""What the detector is trained on: a random view of a sample, and maps and boxes for its phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textseg.models.nano_network import BOX_STRIDE, PIXEL_STRIDE
from textseg.train.data import WHOLE_PICTURE, LabelledObject, Sample, mask_box
from textseg.train.detector_names import INSIDE, TOUCHED, NameTargets, NameVocabulary
from textseg.train.phrases import PhraseTarget

PAIRED = frozenset(
    [
        *("shoes", "boots", "heels", "pumps", "flats", "sandals", "wedges", "clogs", "loafers", "sneakers"),
        *("socks", "gloves", "earrings", "skin"),
    ]
)
"""Nouns whose one mask may hold several things, each with a box of its own."""

_PAD = 118
_CORE = 0.6
_LEAST_PIXELS = 12
_LEAST_SHARE = 0.15


@dataclass(frozen=True)
class ViewConfig:
    """How far a view may stray from the whole picture.

    Attributes:
        zoom: smallest and largest scale relative to the picture just fitting the square.
        stretch: largest relative change of the aspect.
        brightness, contrast: largest relative changes; hue stays, since colours are words.
        degrade: chance of a blur or of JPEG artefacts.
    """

    zoom: tuple[float, float] = (0.8, 1.8)
    stretch: float = 0.1
    brightness: float = 0.2
    contrast: float = 0.2
    degrade: float = 0.15


class PhraseMaps(NamedTuple):
    """One view with T phrases, as arrays. h, w are at stride 4; h', w' at stride 8; K boxes.

    Attributes:
        image_rgb: uint8 (S, S, 3).
        texts: T phrases.
        target: uint8 (T, h, w), share of the cell that the phrase covers, times 255.
        weight: uint8 (T, h, w), 1 where the phrase's truth is known.
        owner: int16 (T, h', w'), which box the place belongs to, -1 for none.
        boxes_xyxy: float32 (K, 4), pixels of the view.
        presence: int8 (T,): 1 present, 0 absent, -1 not known.
        names: what is known of the vocabulary's nouns; None where there is no vocabulary.
    """

    image_rgb: NDArray[np.uint8]
    texts: tuple[str, ...]
    target: NDArray[np.uint8]
    weight: NDArray[np.uint8]
    owner: NDArray[np.int16]
    boxes_xyxy: NDArray[np.float32]
    presence: NDArray[np.int8]
    names: NameTargets | None = None


class Batch(NamedTuple):
    """B views padded to the same number of phrases and boxes; the fields of `PhraseMaps` as tensors."""

    images_rgb: Tensor
    texts: tuple[tuple[str, ...], ...]
    target: Tensor
    weight: Tensor
    owner: Tensor
    boxes_xyxy: Tensor
    presence: Tensor
    names: NameTargets | None = None


def random_view(sample: Sample, size: int, rng: np.random.Generator, config: ViewConfig) -> Sample:
    """A flipped, scaled, shifted, slightly stretched and relit (size, size) view of a sample."""
    height, width = sample.image_rgb.shape[:2]
    zoom = float(np.exp(rng.uniform(*np.log(config.zoom))))
    fit = zoom * size / max(height, width)
    stretch = float(np.exp(rng.uniform(-config.stretch, config.stretch)))
    inner_wh = (max(8, round(width * fit * stretch)), max(8, round(height * fit / stretch)))
    offset = [_random_offset(inner, size, rng) for inner in inner_wh]
    view = place(sample, size, inner_wh, (offset[0], offset[1]), flip=bool(rng.random() < 0.5))
    return replace(view, image_rgb=_relight(view.image_rgb, rng, config))


def _random_offset(inner: int, size: int, rng: np.random.Generator) -> int:
    """Where the scaled picture starts in the square: anywhere inside it, or anywhere that covers it."""
    low, high = sorted((0, size - inner))
    return int(rng.integers(low, high + 1))


def letterbox(sample: Sample, size: int) -> Sample:
    """The whole picture in a (size, size) square, at the top left; for validation."""
    height, width = sample.image_rgb.shape[:2]
    fit = size / max(height, width)
    inner_wh = (max(1, round(width * fit)), max(1, round(height * fit)))
    return place(sample, size, inner_wh, (0, 0), flip=False)


def place(sample: Sample, size: int, inner_wh: tuple[int, int], offset_xy: tuple[int, int], *, flip: bool) -> Sample:
    """Scale a sample to `inner_wh` and put it at `offset_xy` of a padded square; split what comes in pairs."""
    height, width = sample.image_rgb.shape[:2]
    shrinks = inner_wh[0] < width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled = cv2.resize(sample.image_rgb, inner_wh, interpolation=method)
    image = np.full((size, size, 3), _PAD, np.uint8)
    inside = _paste(scaled, image, offset_xy)
    factor = np.array([inner_wh[0] / width, inner_wh[1] / height] * 2, np.float32)
    shift = np.array(offset_xy * 2, np.float32)
    objects = [
        part
        for thing in sample.objects
        for part in _place_object(thing, size, inner_wh, offset_xy, thing.box_xyxy * factor + shift, inside)
    ]
    if flip:
        image = np.ascontiguousarray(image[:, ::-1])
        objects = [_flipped(o, size) for o in objects]
    return replace(sample, image_rgb=image, objects=tuple(objects))


def _paste(source: NDArray[Any], canvas: NDArray[np.uint8], offset_xy: tuple[int, int]) -> tuple[int, int, int, int]:
    """Copy `source` into `canvas` where they overlap; return that window x0, y0, x1, y1."""
    (ox, oy), (sh, sw), (ch, cw) = offset_xy, source.shape[:2], canvas.shape[:2]
    x0, y0, x1, y1 = max(0, ox), max(0, oy), min(cw, ox + sw), min(ch, oy + sh)
    canvas[y0:y1, x0:x1] = source[y0 - oy : y1 - oy, x0 - ox : x1 - ox]
    return x0, y0, x1, y1


def _place_object(
    thing: LabelledObject,
    size: int,
    inner_wh: tuple[int, int],
    offset_xy: tuple[int, int],
    box_xyxy: NDArray[np.float32],
    inside: tuple[int, int, int, int],
) -> list[LabelledObject]:
    low, high = np.array(inside[:2] * 2, np.float32), np.array(inside[2:] * 2, np.float32)
    clipped = np.clip(box_xyxy, low, high)
    seen, whole = _area(clipped), max(1e-6, _area(box_xyxy))
    if seen < 4:
        return []
    if thing.mask is None:
        crowd = thing.crowd or seen < 2 * _LEAST_SHARE * whole
        return [replace(thing, box_xyxy=clipped, crowd=crowd)]
    canvas = np.zeros((size, size), np.uint8)
    scaled = cv2.resize(thing.mask.view(np.uint8), inner_wh, interpolation=cv2.INTER_NEAREST)
    _paste(scaled, canvas, offset_xy)
    pixels = int(np.count_nonzero(canvas))
    if pixels == 0:
        return []
    crowd = thing.crowd or pixels < _LEAST_PIXELS or pixels < _LEAST_SHARE * int(np.count_nonzero(scaled))
    placed = replace(thing, mask=canvas.view(np.bool_), box_xyxy=mask_box(canvas.view(np.bool_)), crowd=crowd)
    return split_pairs(placed) if thing.name in PAIRED and not crowd else [placed]


def split_pairs(thing: LabelledObject) -> list[LabelledObject]:
    """One object per connected region of the mask; specks stay with the largest but do not widen its box."""
    if thing.mask is None:
        return [thing]
    _, regions, stats, _ = cv2.connectedComponentsWithStats(thing.mask.view(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = [int(i) + 1 for i in np.flatnonzero(areas >= max(_LEAST_PIXELS, 0.12 * areas.sum()))]
    if not large:
        return [thing]
    rest = thing.mask & ~np.isin(regions, large)
    parts: list[LabelledObject] = []
    for region in sorted(large, key=lambda i: -int(areas[i - 1])):
        mask = regions == region
        parts.append(replace(thing, mask=mask if parts else mask | rest, box_xyxy=mask_box(mask)))
    return parts


def _flipped(thing: LabelledObject, size: int) -> LabelledObject:
    x0, y0, x1, y1 = thing.box_xyxy
    mask = None if thing.mask is None else np.ascontiguousarray(thing.mask[:, ::-1])
    return replace(thing, box_xyxy=np.array([size - x1, y0, size - x0, y1], np.float32), mask=mask)


def _area(box_xyxy: NDArray[np.float32]) -> float:
    return float(max(0.0, box_xyxy[2] - box_xyxy[0]) * max(0.0, box_xyxy[3] - box_xyxy[1]))


def _relight(image_rgb: NDArray[np.uint8], rng: np.random.Generator, config: ViewConfig) -> NDArray[np.uint8]:
    """Change brightness, contrast and gamma alike in all channels; sometimes blur or compress."""
    gain = 1.0 + rng.uniform(-config.contrast, config.contrast)
    lift = rng.uniform(-config.brightness, config.brightness)
    gamma = float(np.exp(rng.uniform(-0.2, 0.2)))
    ramp = np.linspace(0.0, 1.0, 256) ** gamma
    table = np.clip(((ramp - 0.5) * gain + 0.5 + 0.5 * lift) * 255.0, 0, 255).astype(np.uint8)
    image: NDArray[Any] | None = cv2.LUT(image_rgb, table)
    if rng.random() < config.degrade:
        image = cv2.GaussianBlur(np.asarray(image), (0, 0), float(rng.uniform(0.4, 1.2)))
    if rng.random() < config.degrade:
        _, data = cv2.imencode(".jpg", np.asarray(image), [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))])
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.asarray(image, np.uint8)


def phrase_maps(
    view: Sample,
    phrases: Sequence[PhraseTarget],
    vocabulary: NameVocabulary | None = None,
) -> PhraseMaps:
    """Draw the maps of T phrases for a square view whose side is a multiple of 32.

    With a vocabulary, every place says which of its nouns it is.
    """
    size = view.image_rgb.shape[0]
    cells, places, count = size // PIXEL_STRIDE, size // BOX_STRIDE, len(phrases)
    shares = [_share(o, cells) for o in view.objects]
    cores = np.stack([c for c, _ in shares]) if shares else np.zeros((0, cells, cells), np.uint8)
    unsure = np.stack([u for _, u in shares]) if shares else np.zeros((0, cells, cells), np.bool_)
    boxes = np.stack([o.box_xyxy for o in view.objects]) if shares else np.zeros((0, 4), np.float32)
    known = (cores > INSIDE).any(axis=0)
    maps = PhraseMaps(
        view.image_rgb,
        tuple(p.text for p in phrases),
        np.zeros((count, cells, cells), np.uint8),
        np.zeros((count, cells, cells), np.uint8),
        np.full((count, places, places), -1, np.int16),
        boxes.astype(np.float32),
        np.full(count, -1, np.int8),
        None if vocabulary is None else vocabulary.targets(view, cores, unsure),
    )
    for row, phrase in enumerate(phrases):
        positive, ignore = list(phrase.positive), list(phrase.ignore)
        if positive:
            maps.target[row] = cores[positive].max(axis=0)
        weight = np.ones((cells, cells), np.bool_) if phrase.background_negative else known.copy()
        doubtful = [*positive, *ignore]
        if doubtful:
            weight &= ~unsure[doubtful].any(axis=0)
        if ignore:
            weight &= ~(cores[ignore] > TOUCHED).any(axis=0)
        maps.weight[row] = weight | (maps.target[row] > INSIDE)
        maps.owner[row] = _owners(view, positive, cores, places)
        if positive:
            maps.presence[row] = 1
        elif phrase.background_negative and not ignore:
            maps.presence[row] = 0
    return maps


def _share(thing: LabelledObject, cells: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """How much of each cell the object surely covers (0..255), and where it is not known whether it does."""
    if thing.mask is not None:
        share = cv2.resize(thing.mask * np.uint8(255), (cells, cells), interpolation=cv2.INTER_AREA)
        return np.asarray(share, np.uint8), np.zeros((cells, cells), np.bool_)
    x0, y0, x1, y1 = thing.box_xyxy / PIXEL_STRIDE
    center = np.arange(cells, dtype=np.float32) + 0.5
    across = np.abs(center - (x0 + x1) / 2) / max(0.5, (x1 - x0) / 2)
    down = np.abs(center - (y0 + y1) / 2) / max(0.5, (y1 - y0) / 2)
    core = (across[None] ** 2 + down[:, None] ** 2) <= _CORE**2
    box = (across[None] <= 1) & (down[:, None] <= 1)
    return (core * 255).astype(np.uint8), box & ~core


def _owners(view: Sample, positive: list[int], cores: NDArray[np.uint8], places: int) -> NDArray[np.int16]:
    """Which positive object each place at stride 8 belongs to; the smaller one where two overlap."""
    owner = np.full((places, places), -1, np.int16)
    if not positive or BOX_STRIDE != 2 * PIXEL_STRIDE:
        return owner
    boxed = [i for i in positive if view.objects[i].mask is not None or view.source not in WHOLE_PICTURE]
    order = sorted((i for i in boxed if not view.objects[i].crowd), key=lambda i: -_area(view.objects[i].box_xyxy))
    for index in order:
        share = cores[index].reshape(places, 2, places, 2).mean(axis=(1, 3))
        inside = share > 110
        if not inside.any():
            inside = share >= max(1.0, float(share.max()))
        owner[inside] = index
    return owner


def collate(maps: Sequence[PhraseMaps], phrases: int) -> Batch:
    """Stack B views; missing phrases get weight 0, presence -1 and the empty text."""
    most = max(1, *(len(m.boxes_xyxy) for m in maps))
    boxes = np.zeros((len(maps), most, 4), np.float32)
    for row, item in zip(boxes, maps, strict=True):
        row[: len(item.boxes_xyxy)] = item.boxes_xyxy

    def stack(name: str, fill: int) -> Tensor:
        arrays = [getattr(m, name)[:phrases] for m in maps]
        padded = [np.pad(a, [(0, phrases - len(a))] + [(0, 0)] * (a.ndim - 1), constant_values=fill) for a in arrays]
        return torch.from_numpy(np.stack(padded))

    return Batch(
        torch.from_numpy(np.stack([m.image_rgb for m in maps])),
        tuple((*m.texts[:phrases], *[""] * (phrases - len(m.texts))) for m in maps),
        stack("target", 0),
        stack("weight", 0),
        stack("owner", -1),
        torch.from_numpy(boxes),
        stack("presence", -1),
        _joined([m.names for m in maps if m.names is not None]),
    )


def _joined(names: Sequence[NameTargets]) -> NameTargets | None:
    return NameTargets(*(torch.stack(field) for field in zip(*names, strict=True))) if names else None
