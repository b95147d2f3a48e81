"""Masks found in overlapping tiles become the masks of the picture: parts joined, duplicates dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from textseg import geometry
from textseg.everything.options import Crop
from textseg.types import Bool

EDGE = 2
"""A mask that comes within so many pixels of its tile's inner edge is taken to go on beyond it."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Piece:
    """One mask found in one tile, kept as the pixels of its box.

    Attributes:
        pixels: bool (h, w), the mask within its box.
        box_xyxy: pixels of the picture, far edges exclusive; tight.
        score: the higher, the better.
        label: masks of different labels never meet.
        tile: where it was found.
        is_cut: whether it goes on beyond the tile's edge.
        values: predicted IoU and stability.
        point_xy: where it was asked for, pixels of the picture; None: not by a point.
    """

    pixels: Bool
    box_xyxy: Box
    score: float
    label: str | None
    tile: Crop
    is_cut: bool = False
    values: tuple[float, float] = (np.nan, np.nan)
    point_xy: tuple[float, float] | None = None

    @classmethod
    def of(cls, mask: Bool, score: float, label: str | None, tile: Crop, size_hw: tuple[int, int]) -> Piece:
        """Return the piece of a tile's mask, bool (h, w) of the tile's size, in a picture of ``size_hw``."""
        left, top, right, bottom = (int(v) for v in geometry.mask_boxes(mask[None])[0])
        x0, y0, x1, y1 = tile.box_xyxy
        box = (left + x0, top + y0, right + x0, bottom + y0)
        height, width = size_hw
        beyond = (x0 > 0 and left < EDGE) or (y0 > 0 and top < EDGE)
        beyond |= (x1 < width and box[2] > x1 - EDGE) or (y1 < height and box[3] > y1 - EDGE)
        return cls(mask[top:bottom, left:right].copy(), box, score, label, tile, beyond and right > left)

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.pixels))

    def within(self, box: Box) -> Bool:
        """Return the part in a box, bool of the box's size."""
        out = np.zeros((max(0, box[3] - box[1]), max(0, box[2] - box[0])), np.bool_)
        shared = _shared(self.box_xyxy, box)
        if shared is not None:
            out[_slices(shared, box)] = self.pixels[_slices(shared, self.box_xyxy)]
        return out

    def whole(self, size_hw: tuple[int, int]) -> Bool:
        """Return the mask of the picture, bool (H, W)."""
        return self.within((0, 0, size_hw[1], size_hw[0]))


def merge(pieces: Sequence[Piece], agree_iou: float, duplicate_iou: float, contained: float) -> list[Piece]:
    """Return the picture's masks, best first.

    Args:
        pieces: of all tiles.
        agree_iou: parts are of one object if they agree by this IoU where their tiles overlap.
        duplicate_iou: two masks of one label that overlap by this IoU are one; the finer tile's pixels are taken.
        contained: a mask of which this share lies in a better one of its label is dropped; above 1: never.
    """
    pieces = [piece for piece in pieces if piece.pixels.size]
    complete = [piece for piece in pieces if not piece.is_cut]
    parts = [piece for piece in pieces if piece.is_cut and not _shown_whole(piece, complete, agree_iou)]
    return _distinct([*complete, *_joined(parts, agree_iou)], duplicate_iou, contained)


def _shown_whole(part: Piece, complete: list[Piece], agree_iou: float) -> bool:
    """Whether a complete mask looks like the part where the part's tile is."""
    return any(
        one.label == part.label
        and _shared(one.box_xyxy, part.box_xyxy) is not None
        and _agreement(one, part, part.tile.box_xyxy) >= agree_iou
        for one in complete
    )


def _joined(parts: list[Piece], agree_iou: float) -> list[Piece]:
    """Return the parts with those of one object made one."""
    owner = list(range(len(parts)))

    def root(i: int) -> int:
        while owner[i] != i:
            i = owner[i]
        return i

    for i, one in enumerate(parts):
        for j in range(i):
            other = parts[j]
            region = _shared(one.tile.box_xyxy, other.tile.box_xyxy)
            if one.tile == other.tile or one.label != other.label or region is None or root(i) == root(j):
                continue
            if _agreement(one, other, region) >= agree_iou:
                owner[root(i)] = root(j)
    groups: dict[int, list[Piece]] = {}
    for i, one in enumerate(parts):
        groups.setdefault(root(i), []).append(one)
    return [_union(group) for group in groups.values()]


def _union(group: list[Piece]) -> Piece:
    """Return the parts of one object as one mask; its score is the best of theirs."""
    if len(group) == 1:
        return group[0]
    boxes = np.array([piece.box_xyxy for piece in group])
    x0, y0 = (int(v) for v in boxes[:, :2].min(axis=0))
    x1, y1 = (int(v) for v in boxes[:, 2:].max(axis=0))
    pixels = np.zeros((y1 - y0, x1 - x0), np.bool_)
    for piece in group:
        pixels |= piece.within((x0, y0, x1, y1))
    best = max(group, key=lambda piece: piece.score)
    return replace(best, pixels=pixels, box_xyxy=(x0, y0, x1, y1), is_cut=False)


def _distinct(pieces: list[Piece], duplicate_iou: float, contained: float) -> list[Piece]:
    """Return the pieces without duplicates: complete ones first, then the better ones win.

    The whole picture shows small things coarsely, so less overlap is enough between it and a tile.
    """
    kept: list[Piece] = []
    areas: list[int] = []
    for piece in sorted(pieces, key=lambda p: (p.is_cut, -p.score)):
        area, lost = piece.area, False
        for k, rival in enumerate(kept):
            if rival.label != piece.label or not (shared := _overlap(rival, piece)):
                continue
            finer = piece.tile.layer != rival.tile.layer and piece.label is not None
            if shared / (area + areas[k] - shared) >= (duplicate_iou / 2 if finer else duplicate_iou):
                lost = True
                if piece.tile.layer > rival.tile.layer and not piece.is_cut:
                    kept[k], areas[k] = replace(piece, score=rival.score), area
            elif shared / min(area, areas[k]) >= contained:
                lost = True
            if lost:
                break
        if not lost:
            kept.append(piece)
            areas.append(area)
    return sorted(kept, key=lambda p: -p.score)


def _overlap(a: Piece, b: Piece) -> int:
    """Return how many pixels two pieces share."""
    shared = _shared(a.box_xyxy, b.box_xyxy)
    if shared is None:
        return 0
    return int(np.count_nonzero(a.pixels[_slices(shared, a.box_xyxy)] & b.pixels[_slices(shared, b.box_xyxy)]))


def _agreement(a: Piece, b: Piece, region: Box) -> float:
    """Return the IoU of two pieces within a region; 0 where either has nothing there."""
    first, second = a.within(region), b.within(region)
    either = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / either if either else 0.0


def _shared(a: Box, b: Box) -> Box | None:
    box = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return box if box[0] < box[2] and box[1] < box[3] else None


def _slices(box: Box, within: Box) -> tuple[slice, slice]:
    return slice(box[1] - within[1], box[3] - within[1]), slice(box[0] - within[0], box[2] - within[0])
