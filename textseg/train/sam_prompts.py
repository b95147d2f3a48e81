"""Simulated prompts for SAM: what a user, a detector or SAM itself would give for a known mask.

All coordinates are input pixels of the window that is trained on; masks are uint8 coverage
(0..255) or float32 logits on the low-resolution grid of SAM's own masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from textseg.types import Float, UInt8

KINDS: dict[str, float] = {
    "box": 0.20,
    "box+mask": 0.11,
    "box+text": 0.07,
    "box+text+mask": 0.17,
    "text": 0.22,
    "point": 0.07,
    "point+text": 0.05,
    "mask": 0.05,
    "box+point": 0.03,
    "points": 0.03,
    "absent": 0.03,
}
"""Shares of the kinds of prompt; each name says what the prompt is made of."""

WITHOUT_TEXT: dict[str, str] = {
    "box+text": "box",
    "box+text+mask": "box+mask",
    "text": "box",
    "point+text": "point",
    "absent": "mask",
}
"""What takes a kind's place while there is no CLIP to embed phrases."""

MAX_POINTS = 3
PRIOR_SHARE = 0.75
"""Of the boxes without a rough mask, those that get the one they imply (`textseg.prior.box_prior`)."""
_FLOOR = 4.0


@dataclass(frozen=True)
class RoughContext:
    """What a source of rough masks may know: the object, the picture and the phrase.

    Attributes:
        target: uint8 (m, m) coverage of the object; other: the same of another object, or None.
        box_xyxy: float32 (4,) in mask pixels, or None for the whole window.
        image_rgb: uint8 (S, S, 3) the window; text: the phrase, or None.
    """

    target: UInt8
    other: UInt8 | None
    box_xyxy: Float | None
    image_rgb: UInt8 | None = None
    text: str | None = None


class RoughMask(Protocol):
    """Where rough masks come from: `simulate_rough`, or a real detector's phrase maps."""

    def __call__(self, context: RoughContext, rng: np.random.Generator) -> Float:
        """Return float32 (m, m) logits over the window."""
        ...


def as_uint8(array: NDArray[Any]) -> UInt8:
    """What OpenCV gives for 8-bit arrays, with its type."""
    return np.asarray(array, np.uint8)


def as_float(array: NDArray[Any]) -> Float:
    """What OpenCV gives for float32 arrays, with its type."""
    return np.asarray(array, np.float32)


def draw_kind(rng: np.random.Generator, text: bool, shares: Mapping[str, float] | None = None) -> str:
    """One kind of prompt; those with text are replaced where `text` is False."""
    table = shares or KINDS
    names = list(table)
    weights = np.array([table[name] for name in names])
    kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    return kind if text else WITHOUT_TEXT.get(kind, kind)


def tight_box(mask: NDArray[Any]) -> Float | None:
    """Tight xyxy box float32 (4,) of the non-zero part of an (H, W) mask; None where there is none."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def jitter_box(box_xyxy: Float, limit_wh: tuple[float, float], rng: np.random.Generator, tight: float = 0.4) -> Float:
    """A box as a detector gives it: tight with probability `tight`, else each edge moved by up to 10 % of the side."""
    if rng.random() < tight:
        return box_xyxy.copy()
    return _moved(box_xyxy, rng.uniform(-0.1, 0.1, 4), limit_wh)


def loose_box(box_xyxy: Float, limit_wh: tuple[float, float], rng: np.random.Generator, most: float = 0.3) -> Float:
    """A box as a weak detector gives it: of this place, shifted and scaled by up to about ``most`` of the sides.

    Its IoU with the true one is hardly ever below 0.3; what it is meant for still fills most of it.
    """
    spread = float(rng.uniform(0.0, most)) / 2
    return _moved(box_xyxy, np.clip(rng.normal(0.0, spread, 4), -most, most), limit_wh)


def _moved(box_xyxy: Float, shares: NDArray[np.float64], limit_wh: tuple[float, float]) -> Float:
    """A box whose four edges are moved by shares of its sides, kept inside the picture."""
    side = np.maximum(box_xyxy[2:] - box_xyxy[:2], 2.0)
    moved = box_xyxy + shares * np.concatenate([side, side])
    moved[[0, 2]] = np.clip(moved[[0, 2]], 0, limit_wh[0])
    moved[[1, 3]] = np.clip(moved[[1, 3]], 0, limit_wh[1])
    return as_float(moved)


def center_point(mask: NDArray[Any]) -> Float:
    """The point (2,) xy float32 deepest inside a non-empty (H, W) mask (Sofiiuk et al., RITM)."""
    padded = cv2.copyMakeBorder((mask > 0).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return np.array([x, y], np.float32)


def random_point(mask: NDArray[Any], rng: np.random.Generator) -> Float | None:
    """A point (2,) xy float32 anywhere in an (H, W) mask; None where the mask is empty."""
    places = np.flatnonzero(mask)
    if len(places) == 0:
        return None
    y, x = divmod(int(places[rng.integers(len(places))]), mask.shape[1])
    return np.array([x, y], np.float32)


def first_point(mask: NDArray[Any], rng: np.random.Generator) -> Float:
    """The point a user clicks first: the deepest one half of the time, else any, of a non-empty mask."""
    point = random_point(mask, rng) if rng.random() < 0.5 else None
    return center_point(mask) if point is None else point


def several_points(mask: NDArray[Any], rng: np.random.Generator) -> tuple[Float, NDArray[np.int64]]:
    """Two or three points (Q, 2) on and beside a non-empty mask, with labels (Q,): 1 on it, 0 beside it."""
    points, labels = [first_point(mask, rng)], [1]
    around = _around(mask)
    for _ in range(int(rng.integers(1, MAX_POINTS))):
        inside = rng.random() < 0.5
        point = random_point(mask if inside else around, rng)
        if point is not None:
            points.append(point)
            labels.append(int(inside))
    return np.stack(points), np.array(labels, np.int64)


def _around(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """What is within a box half as large again as the mask's, but not in the mask."""
    box = tight_box(mask)
    out = np.zeros(mask.shape, np.bool_)
    if box is None:
        return out
    grow = 0.25 * (box[2:] - box[:2]) + 3
    x0, y0 = np.maximum(box[:2] - grow, 0).astype(int)
    x1, y1 = (box[2:] + grow).astype(int)
    out[y0:y1, x0:x1] = mask[y0:y1, x0:x1] == 0
    return out


def simulate_rough(context: RoughContext, rng: np.random.Generator) -> Float:
    """Rough logits (m, m) as a detector's soft map: blurred, grown or shrunk, blobby, limited to the box.

    The true mask is brought to a coarse grid and blurred; smooth noise of a random grain adds and
    removes blobs, an offset grows or shrinks, sometimes another object shows through; the result is
    scaled to about ±4. Outside the box it is all negative.
    """
    size = context.target.shape[0]
    soft = context.target.astype(np.float32) / 255.0
    if context.other is not None:
        leak = context.other.astype(np.float32) / 255.0
        soft = np.maximum(soft, leak * np.float32(rng.uniform(0.3, 1.0)))
    if rng.random() < 0.06:
        soft = _ellipse(context.target)
    coarse = int(rng.integers(max(4, size // 6), size + 1))
    small = cv2.resize(soft, (coarse, coarse), interpolation=cv2.INTER_AREA)
    soft = as_float(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR))
    spread = float(rng.uniform(0.01, 0.12)) * float(np.sqrt(max(context.target.mean() / 255.0, 1e-4))) * size
    soft = as_float(cv2.GaussianBlur(soft, (0, 0), max(0.3, spread)))
    scale = float(rng.uniform(2.0, 6.0))
    logits = (soft * 2.0 - 1.0 + rng.normal(0.0, 0.2)) * scale
    if rng.random() < 0.8:
        logits += smooth_noise(size, rng) * scale * float(rng.uniform(0.1, 0.7))
    logits = _limit(logits.astype(np.float32), context.box_xyxy, rng)
    return np.clip(logits, -8.0, 8.0)


def smooth_noise(size: int, rng: np.random.Generator) -> Float:
    """Noise (size, size) float32 of unit deviation whose blobs are between a 24th and a third of the side wide."""
    cells = int(rng.integers(3, 25))
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return as_float(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))


def _ellipse(target: UInt8) -> Float:
    """The ellipse that fills the target's box, as float32 coverage: a detector that knows no more than its box."""
    out = np.zeros(target.shape, np.uint8)
    box = tight_box(target > 127)
    if box is None:
        return out.astype(np.float32)
    center = (int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2))
    axes = (int((box[2] - box[0]) / 2), int((box[3] - box[1]) / 2))
    cv2.ellipse(out, center, axes, 0, 0, 360, 1, -1)
    return out.astype(np.float32)


def _limit(logits: Float, box_xyxy: Float | None, rng: np.random.Generator) -> Float:
    """Make everything outside the box clearly negative, most of the time."""
    if box_xyxy is None or rng.random() < 0.25:
        return logits
    x0, y0 = np.floor(box_xyxy[:2]).astype(int)
    x1, y1 = np.ceil(box_xyxy[2:]).astype(int)
    out = np.full_like(logits, -_FLOOR)
    out[max(y0, 0) : y1, max(x0, 0) : x1] = logits[max(y0, 0) : y1, max(x0, 0) : x1]
    return out


def some_piece(mask: UInt8, rng: np.random.Generator) -> UInt8:
    """An (H, W) 0/255 mask, or half of the time one of its `components`, where it has several."""
    if rng.random() < 0.5:
        pieces = components(mask)
        if len(pieces) > 1:
            return pieces[int(rng.integers(len(pieces)))]
    return mask


def components(mask: UInt8, least_share: float = 0.08) -> list[UInt8]:
    """The connected parts of an (H, W) 0/255 mask that hold at least `least_share` of it, largest first."""
    count, regions, stats, _ = cv2.connectedComponentsWithStats((mask > 127).astype(np.uint8), connectivity=8)
    total = max(1, int(stats[1:, cv2.CC_STAT_AREA].sum()))
    areas = [(int(stats[i, cv2.CC_STAT_AREA]), i) for i in range(1, count)]
    kept = [i for area, i in sorted(areas, reverse=True) if area >= least_share * total]
    return [np.where(regions == i, mask, 0).astype(np.uint8) for i in kept]


def masked_crop(image_rgb: UInt8, mask: NDArray[np.bool_], rng: np.random.Generator, side: int = 112) -> UInt8 | None:
    """A square crop (s, s, 3) uint8 around a mask for CLIP, s ≤ `side`; None where the mask is empty.

    As the SAM paper: the mask's box grown by 1× to 2×, squared, and with even odds the pixels outside
    the mask set to zero (arXiv 2304.02643, D.5).
    """
    box = tight_box(mask)
    if box is None:
        return None
    half = max(float((box[2:] - box[:2]).max()) * float(rng.uniform(1.0, 2.0)) / 2, 4.0)
    center = (box[:2] + box[2:]) / 2
    x0, y0 = np.floor(center - half).astype(int)
    x1, y1 = np.ceil(center + half).astype(int)
    pixels = image_rgb * mask[..., None] if rng.random() < 0.5 else image_rgb
    crop = pixels[max(y0, 0) : y1, max(x0, 0) : x1]
    top, left = max(-y0, 0), max(-x0, 0)
    below, right = max(y1 - image_rgb.shape[0], 0), max(x1 - image_rgb.shape[1], 0)
    crop = as_uint8(cv2.copyMakeBorder(crop, top, below, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0)))
    if max(crop.shape[:2]) > side:
        crop = as_uint8(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(crop, dtype=np.uint8)
