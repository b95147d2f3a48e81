"""Masks as outlines, for formats that know only polygons: exact where the reader allows it.

Two conventions are in use, and a polygon is read back exactly only in its own:

- *edges*: vertices at pixel corners, as COCO has it (``pycocotools`` fills what lies between). ``edge_polygons``
  follows the pixel edges, one polygon per 4-connected part, and read back by pycocotools it is the mask itself.
- *centres*: vertices at pixel centres, the border included, as OpenCV and Pillow fill it (YOLO, LabelMe).
  ``centre_polygons`` follows the border pixels, one polygon per 8-connected part.

A hole is joined to its outline by a seam that runs there and back through the mask, so one closed line holds both.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from textseg.types import Bool

Points = npt.NDArray[np.int64]
"""(V, 2): x, y."""


def edge_polygons(mask: Bool) -> list[Points]:
    """Return the outlines of a bool (H, W) mask along its pixels' edges, int64 (V, 2) x, y each, V ≥ 4.

    Coordinates run from 0 to W and to H. Filled by ``pycocotools`` and united, they give the mask back exactly.
    """
    x0, y0, cropped = _crop(mask)
    if not cropped.size:
        return []
    _, parts = cv2.connectedComponents(cropped.astype(np.uint8), connectivity=4)
    outers: dict[int, Points] = {}
    holes: list[tuple[int, Points]] = []
    for cycle in _cycles(cropped):
        x, y = _first(cycle)
        if cropped[y, x]:
            outers[int(parts[y, x])] = cycle
        else:
            holes.append((int(parts[y - 1, x]), cycle))
    for part, hole in sorted(holes, key=lambda one: int(one[1][:, 1].min())):
        outers[part] = _join_edge_hole(cropped, outers[part], hole)
    return [outers[part] + np.array([x0, y0]) for part in sorted(outers)]


def _crop(mask: Bool) -> tuple[int, int, Bool]:
    """Return the left and top of the mask's tight box, and the mask inside it; (0, 0) pixels of an empty mask."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return 0, 0, np.zeros((0, 0), np.bool_)
    return int(xs[0]), int(ys[0]), mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]


def _cycles(mask: Bool) -> list[Points]:
    """Return every closed line of pixel edges, as its corners.

    In each row of corners, taken in order, every second one ends a horizontal edge; the same holds for columns. A
    corner where two pixels touch diagonally is there twice: once for each pixel.
    """
    padded = np.pad(mask, 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]  # around corner (y, x)
    single = np.argwhere(a ^ b ^ c ^ d)
    falling, rising = np.argwhere(a & d & ~b & ~c), np.argwhere(b & c & ~a & ~d)
    corners = np.concatenate([single, falling, falling, rising, rising])  # (V, 2) y, x
    lengths = [len(single), len(falling), len(falling), len(rising), len(rising)]
    right = np.repeat([0, 0, 1, 1, 0], lengths)  # which side the corner's horizontal edge lies on
    down = np.repeat([0, 0, 1, 0, 1], lengths)
    across = _partners(np.lexsort((right, corners[:, 1], corners[:, 0])))
    along = _partners(np.lexsort((down, corners[:, 0], corners[:, 1])))
    seen = bytearray(len(corners))
    out: list[Points] = []
    for start in range(len(corners)):
        if seen[start]:
            continue
        line, at = [], start
        while not seen[at]:
            other = across[at]
            seen[at] = seen[other] = 1
            line += [at, other]
            at = along[other]
        out.append(corners[line][:, ::-1].astype(np.int64))  # x, y
    return out


def _partners(order: npt.NDArray[Any]) -> list[int]:
    out = np.empty(len(order), np.int64)
    out[order[0::2]], out[order[1::2]] = order[1::2], order[0::2]
    partners: list[int] = out.tolist()
    return partners


def _first(line: Points) -> tuple[int, int]:
    """Return x, y of the topmost point, the leftmost among several."""
    x, y = line[np.lexsort((line[:, 0], line[:, 1]))[0]]
    return int(x), int(y)


def _from(line: Points, x: int, y: int) -> Points:
    """Return the closed line beginning and ending at one of its points."""
    at = int(np.flatnonzero((line == (x, y)).all(axis=1))[0])
    return np.concatenate([line[at:], line[: at + 1]])


def _join_edge_hole(mask: Bool, outer: Points, hole: Points) -> Points:
    """Return one line: from the hole's top corner straight up to the first edge of the outline."""
    x, y = _first(hole)
    top = y - 1
    while top > 0 and mask[top - 1, x]:
        top -= 1
    ends = np.roll(outer, -1, axis=0)
    low, high = np.minimum(outer[:, 0], ends[:, 0]), np.maximum(outer[:, 0], ends[:, 0])
    level = (outer[:, 1] == top) & (ends[:, 1] == top)
    at = int(np.flatnonzero(level & (low <= x) & (high > x))[0])
    door = np.array([[x, top]])
    return np.concatenate([outer[: at + 1], door, _from(hole, x, y), door, outer[at + 1 :]])


# ---------------------------------------------------------------- pixel centres


def centre_polygons(mask: Bool) -> list[Points]:
    """Return the outlines of a bool (H, W) mask through its border pixels, int64 (V, 2) x, y each, V ≥ 3.

    The largest part comes first. A part of one or two pixels repeats a point, so that every polygon has three.
    """
    x0, y0, cropped = _crop(mask)
    if not cropped.size:
        return []
    padded = np.pad(cropped, 1)  # OpenCV leaves a border of the picture out
    found, tree = cv2.findContours(padded.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = [np.asarray(line, np.int64).reshape(-1, 2) for line in found]
    parents = np.asarray(tree).reshape(-1, 4)[:, 3].tolist()
    outers = {i: line for i, line in enumerate(lines) if parents[i] < 0}
    holes = [(parent, lines[i]) for i, parent in enumerate(parents) if parent >= 0]
    for parent, hole in sorted(holes, key=lambda one: int(one[1][:, 1].min())):
        outers[parent] = _join_centre_hole(padded, outers[parent], hole)
    parts = [_corners(line) + np.array([x0 - 1, y0 - 1]) for line in outers.values()]
    return sorted(parts, key=lambda line: -_extent(line))


def _join_centre_hole(mask: Bool, outer: Points, hole: Points) -> Points:
    x, y = _first(hole)
    top = y
    while mask[top - 1, x]:
        top -= 1
    distance = np.abs(outer - (x, top)).sum(axis=1)
    at = int(distance.argmin())
    return np.concatenate([outer[: at + 1], _from(hole, x, y), outer[at:]])


def _corners(line: Points) -> Points:
    """Return the closed line without points in the middle of a straight stretch; at least three points."""
    before, after = line - np.roll(line, 1, axis=0), np.roll(line, -1, axis=0) - line
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    straight = (cross == 0) & ((before * after).sum(axis=1) > 0)
    kept = line[~straight]
    return kept if len(kept) >= 3 else np.concatenate([kept, np.repeat(kept[-1:], 3 - len(kept), axis=0)])


def _extent(line: Points) -> int:
    return int(np.prod(np.ptp(line, axis=0) + 1))


def joined(parts: list[Points]) -> Points:
    """Return several polygons as one line, each part joined to those before it by the shortest bridge between corners.

    A filled bridge adds a line of pixels between the parts: what a format with one polygon an object costs.
    """
    line = parts[0]
    for part in parts[1:]:
        i, j = _nearest(line, part)
        round_trip = np.concatenate([part[j:], part[: j + 1]])
        line = np.concatenate([line[: i + 1], round_trip, line[i:]])
    return line


def _nearest(a: Points, b: Points) -> tuple[int, int]:
    """Return the indices of the nearest pair of points, comparing at most some million pairs at once."""
    best: tuple[int, int, int] | None = None
    step = max(1, (1 << 21) // len(b))
    for low, high in pairwise([*range(0, len(a), step), len(a)]):
        gaps = ((a[low:high, None] - b[None]) ** 2).sum(axis=2)
        i, j = divmod(int(gaps.argmin()), len(b))
        if best is None or gaps[i, j] < best[0]:
            best = int(gaps[i, j]), low + i, j
    assert best is not None  # neither is empty
    return best[1], best[2]


def fill_centres(polygons: list[Points], size_hw: tuple[int, int]) -> Bool:
    """Return bool (H, W): the polygons as OpenCV fills them, united."""
    out = np.zeros(size_hw, np.uint8)
    for line in polygons:
        cv2.fillPoly(out, [line.astype(np.int32).reshape(-1, 1, 2)], 1)
    return out.astype(np.bool_)


def fill_edges(polygons: list[Points], size_hw: tuple[int, int]) -> Bool:
    """Return bool (H, W): the polygons as pycocotools fills them, united."""
    from pycocotools import mask as coco

    from textseg import geometry

    if not polygons:
        return np.zeros(size_hw, np.bool_)
    h, w = size_hw
    flat = [line.astype(float).ravel().tolist() for line in polygons]
    return geometry.decode_rle(coco.merge(coco.frPyObjects(flat, h, w)))


def iou(a: Bool, b: Bool) -> float:
    """Return the intersection over union of two bool (H, W) masks; 1 where both are empty."""
    union = int(np.count_nonzero(a | b))
    return 1.0 if not union else int(np.count_nonzero(a & b)) / union
