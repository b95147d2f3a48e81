"""Close looks at a picture: square windows around boxes, what is cut out of them, and back again.

A window is (left, top, side) in pixels of the picture, float32; it may reach beyond the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from textseg import geometry
from textseg.types import Bool, Candidates, Closeups, Float, Int

ALIKE_IOU = 0.9

LIMIT = 8.0
"""Logits of close looks are kept within ± this, and are the least where they do not show the picture."""

_SPECKS = 0.02


class Rough(NamedTuple):
    """A rough mask over a rectangle of the picture: over all of it, or over a window, where it can be finer.

    Attributes:
        logits: float32 (h, w), ``-LIMIT`` or about that where nothing is; so is what lies outside.
        over_xyxy: the rectangle in pixels of the picture; may reach beyond it.
    """

    logits: Float
    over_xyxy: tuple[float, float, float, float]

    @classmethod
    def whole(cls, logits: Float, size_hw: tuple[int, int]) -> Rough:
        """Of (h, w) logits over a whole picture of ``size_hw`` pixels, without padding."""
        return cls(logits, (0.0, 0.0, float(size_hw[1]), float(size_hw[0])))

    @classmethod
    def near(cls, logits: Float, window: Float) -> Rough:
        """Of (s, s) logits over a window."""
        x, y, side = (float(v) for v in window)
        return cls(logits, (x, y, x + side, y + side))

    def mirrored(self, width: int) -> Rough:
        """The same in the mirror image of a picture so many pixels wide."""
        x0, y0, x1, y1 = self.over_xyxy
        return Rough(np.ascontiguousarray(self.logits[:, ::-1]), (width - x1, y0, width - x0, y1))


def windows_around(boxes_xyxy: Float, grow: float, least: float) -> Float:
    """Return float32 (N, 3): square windows about N boxes, their longer side times ``grow``, at least ``least``."""
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    side = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) * grow, least)
    corner = (boxes[:, :2] + boxes[:, 2:] - side[:, None]) / 2
    return np.concatenate([corner, side[:, None]], axis=1).astype(np.float32)


def windows_of(boxes_xyxy: Float, roughs: Sequence[Rough], grow: float, least: float) -> Float:
    """Return float32 (N, 3): the windows around N boxes (N, 4); where a row is NaN, around its rough mask's extent."""
    shown = np.reshape([extent(rough) for rough in roughs], (-1, 4))
    return windows_around(np.where(np.isnan(boxes_xyxy), shown, boxes_xyxy), grow, least)


def box_in(window: Float, box_xyxy: Float, size: int) -> Float:
    """Return float32 (4,): a box in pixels of a window's crop of ``size``; NaN stays NaN."""
    x, y, side = (float(v) for v in window)
    return ((np.asarray(box_xyxy, np.float32) - np.array([x, y, x, y], np.float32)) * (size / side)).astype(np.float32)


def window_around(box_xyxy: Float, grow: float, least: float, shift_xy: Sequence[float]) -> Float:
    """Return float32 (3,): the window about one box (4,), moved by shares of its side."""
    x, y, side = windows_around(box_xyxy, grow, least)[0]
    return np.array([x + shift_xy[0] * side, y + shift_xy[1] * side, side], np.float32)


def extent(rough: Rough) -> Float:
    """Return float32 (4,): about what box of the picture a rough mask fills.

    Stray specks, less than a fiftieth of the mask at each side, do not count. An empty mask has the box of no size.
    """
    mask, (x0, y0, x1, y1) = rough.logits > 0, rough.over_xyxy
    sides = []
    for axis, start, size in ((0, x0, x1 - x0), (1, y0, y1 - y0)):
        share = np.cumsum(mask.sum(axis=axis, dtype=np.float64))
        if not share[-1]:
            return np.zeros(4, np.float32)
        low, high = np.searchsorted(share / share[-1], (_SPECKS, 1 - _SPECKS))
        sides.append((start + low * size / len(share), start + (high + 1) * size / len(share)))
    return np.array([sides[0][0], sides[1][0], sides[0][1], sides[1][1]], np.float32)


def cut(array: Any, window: Float, size: int) -> Any:
    """Cut a square window (left, top, side) out of an (h, w) or (h, w, 3) array, resampled to ``size``; 0 outside."""
    return cut_level((array,), window, size)


def cut_level(levels: Sequence[Any], window: Float, size: int) -> Any:
    """Cut a square window out of a picture of which smaller versions are at hand (``Image.levels``).

    Args:
        levels: (h, w) or (h, w, 3) each, all of the whole picture, the first at its own size, each next one half as
            large.
        window: float32 (3,): left, top and side in pixels of the first.
        size: pixels of the square crop; 0 outside the picture.
    """
    x, y, side = (float(v) for v in window)
    # two to four pixels of the level to one of the crop's: what is averaged in one step is sharper than in two
    level = levels[min(max(0, int(math.log2(max(side / size, 1.0))) - 1), len(levels) - 1)]
    per_y, per_x = (part / whole for part, whole in zip(level.shape[:2], levels[0].shape[:2], strict=True))
    step = (side * per_x / size, side * per_y / size)
    return resample(level, (x * per_x, y * per_y), step, (size, size))


def resample(
    array: Any,
    corner_xy: tuple[float, float],
    step_xy: tuple[float, float],
    out_hw: tuple[int, int],
    outside: float = 0,
) -> Any:
    """Sample an (h, w) or (h, w, 3) array on another grid.

    Args:
        array: uint8 or float32.
        corner_xy: where the grid's first pixel begins, in pixels of the array; may lie outside.
        step_xy: pixels of the array from one of the grid's to the next; where that is many, they are averaged.
        out_hw: the grid's size.
        outside: value of what lies outside the array.
    """
    (x, y), (step_x, step_y), (rows, columns) = corner_xy, step_xy, out_hw
    left, top = max(0, math.floor(x) - 1), max(0, math.floor(y) - 1)
    part = array[
        top : max(top, math.ceil(y + rows * step_y) + 1), left : max(left, math.ceil(x + columns * step_x) + 1)
    ]
    if not part.size:
        return np.full((rows, columns, *array.shape[2:]), outside, array.dtype)
    x, y = x - left, y - top
    if max(step_x, step_y) > 1.33:  # average before sampling, or fine texture turns to noise
        height, width = part.shape[:2]
        small_wh = max(1, round(width / max(step_x, 1.0))), max(1, round(height / max(step_y, 1.0)))
        part = cv2.resize(part, small_wh, interpolation=cv2.INTER_AREA)
        x, step_x = x * small_wh[0] / width, step_x * small_wh[0] / width
        y, step_y = y * small_wh[1] / height, step_y * small_wh[1] / height
    # from a pixel of the grid to the array's: centres lie half a pixel in
    matrix = np.array([[step_x, 0, x + (step_x - 1) / 2], [0, step_y, y + (step_y - 1) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = (outside,) * 4
    return cv2.warpAffine(
        part, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )


def cover(window: Float, box_xyxy: Float, size: int) -> Float:
    """Return float32 (size, size): the share of each pixel of a crop that the box covers."""
    x, y, side = (float(v) for v in window)
    lines = []
    for low, high, start in ((box_xyxy[1], box_xyxy[3], y), (box_xyxy[0], box_xyxy[2], x)):
        place = np.arange(size, dtype=np.float32)
        first, last = (float(low) - start) * size / side, (float(high) - start) * size / side
        lines.append(np.clip(np.minimum(place + 1, last) - np.maximum(place, first), 0, 1))
    return np.asarray(lines[0][:, None] * lines[1][None], np.float32)


def shows(window: Float, size_hw: tuple[int, int], size: int) -> Bool:
    """Return bool (size, size): which pixels of a crop lie, for the most part, on a picture of ``size_hw`` pixels."""
    return cover(window, np.array([0, 0, size_hw[1], size_hw[0]], np.float32), size) > 0.5


def distinct(masks: Bool, groups: Int | None = None, alike_iou: float = ALIKE_IOU) -> tuple[Int, Int]:
    """Return which masks (S, h, w) need a look of their own, (U,), and which of those each of the S is like, (S,).

    SAM's three masks of a clear prompt, or one thing found for two phrases, are nearly the same crop. Those of
    different ``groups`` (S,) are never alike: of small things the masks may not tell. Of masks that overlap by
    ``alike_iou`` the first is the one that is looked at.
    """
    if len(masks) < 2:
        return np.arange(len(masks)), np.arange(len(masks))
    iou = geometry.mask_iou(masks, masks)  # (S, S)
    groups = np.zeros(len(masks), np.int64) if groups is None else groups
    unlike: list[int] = []
    owner = np.zeros(len(masks), np.int64)
    for i in range(len(masks)):
        like = [k for k, j in enumerate(unlike) if iou[i, j] >= alike_iou and groups[i] == groups[j]]
        owner[i] = like[0] if like else len(unlike)
        if not like:
            unlike.append(i)
    return np.array(unlike, np.int64), owner


def each_hint(hints: Float | None, count: int) -> list[Float | None]:
    """Return the hint of each of ``count`` masks, (h', w'), None where there is none; see ``MaskRefiner.refine``."""
    return [None] * count if hints is None else [hint if hint.any() else None for hint in hints]


def look(rough: Rough, window: Float, size: int) -> Float:
    """Return float32 (size, size): what a rough mask's logits are in a window."""
    x, y, side = (float(v) for v in window)
    (height, width), (x0, y0, x1, y1) = rough.logits.shape, rough.over_xyxy
    per_x, per_y = width / (x1 - x0), height / (y1 - y0)
    corner, step = ((x - x0) * per_x, (y - y0) * per_y), (side * per_x / size, side * per_y / size)
    return np.asarray(resample(rough.logits, corner, step, (size, size), -LIMIT), np.float32)


def paste(rough: Rough, size_hw: tuple[int, int], out_hw: tuple[int, int], outside: float = -LIMIT) -> Float:
    """Return float32 (h, w): what a rough mask's logits are over a whole picture of ``size_hw`` pixels."""
    (height, width), (x0, y0, x1, y1) = rough.logits.shape, rough.over_xyxy
    per_x, per_y = width / (x1 - x0), height / (y1 - y0)
    step = (size_hw[1] / out_hw[1] * per_x, size_hw[0] / out_hw[0] * per_y)
    return np.asarray(resample(rough.logits, (-x0 * per_x, -y0 * per_y), step, out_hw, outside), np.float32)


def coarse(rough: Rough, size_hw: tuple[int, int], out_hw: tuple[int, int]) -> Float:
    """Return what ``paste`` does, but a thing that is smaller than a pixel of the output does not get lost in it."""
    out = paste(rough, size_hw, out_hw)
    if (rough.logits > 0).any() and not (out > 0).any():
        x0, y0, x1, y1 = extent(rough)
        row, column = (y0 + y1) / 2 * out_hw[0] / size_hw[0], (x0 + x1) / 2 * out_hw[1] / size_hw[1]
        out[min(max(0, int(row)), out_hw[0] - 1), min(max(0, int(column)), out_hw[1] - 1)] = rough.logits.max()
    return out


def finest(candidates: Candidates, prompt: int, mask: int) -> Rough:
    """Return a candidate's mask as fine as it is known: its closeup's, unless that is empty or there is none."""
    number, near = int(candidates.closeup_index[prompt, mask]), candidates.closeups
    if number >= 0 and (near.logits[number] > 0).any():
        return Rough.near(near.logits[number], near.windows[number])
    inside = geometry.crop_padding(candidates.logits[prompt, mask], candidates.frame)
    return Rough.whole(np.asarray(inside, np.float32), candidates.frame.original_hw)


def full_mask(closeups: Closeups, number: int, size_hw: tuple[int, int]) -> Bool:
    """Return bool (H, W): the mask of one closeup, in the whole picture of ``size_hw`` pixels."""
    logits = paste(Rough.near(closeups.logits[number], closeups.windows[number]), size_hw, size_hw, -1.0)
    return np.asarray(logits > 0, np.bool_)
