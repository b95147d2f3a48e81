"""Low-resolution logits measured at the original size, without ever making the whole mask.

Bilinear interpolation only mixes neighbours, so where the logits around are all low the mask is empty: a mask costs
what its own box costs. Meta's two steps (low resolution → model input → original size, ``postprocess_masks``) are two
linear maps along each axis, here multiplied into one. The box is worked through in strips of columns, as COCO's
run-length encoding wants them, so memory stays small whatever the picture's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from textseg.matmul import matmul
from textseg.types import Float, Frame, Int

_TILE = 128  # pixels of the original picture


@dataclass(frozen=True)
class Outline:
    """One mask at the original size.

    Attributes:
        counts: int64 run lengths, column by column, starting with the outside (COCO's uncompressed RLE).
        area: pixels.
        box_xyxy: the tight box, far edges exclusive; all 0 for an empty mask.
        stability: IoU of the masks cut at threshold + offset and threshold - offset; NaN where both are empty.
        size_hw: of the picture.
    """

    counts: Int
    area: int
    box_xyxy: tuple[int, int, int, int]
    stability: float
    size_hw: tuple[int, int]

    def placed(self, offset_yx: tuple[int, int], size_hw: tuple[int, int]) -> Outline:
        """Return the mask of a crop as a mask of the picture of ``size_hw`` in which the crop lies at ``offset_yx``."""
        (top, left), (height, _) = offset_yx, self.size_hw
        if (offset_yx, size_hw) == ((0, 0), self.size_hw):
            return self
        starts, ends = np.cumsum(self.counts)[:-1:2], np.cumsum(self.counts)[1::2]
        if height != size_hw[0]:
            starts, ends = _split_at_columns(starts, ends, height)
        runs = np.stack([starts, ends - 1], axis=1)  # the last pixel lies in the same column, the end may not
        column, row = np.divmod(runs, height)
        moved = (column + left) * size_hw[0] + row + top + np.array([0, 1])
        x0, y0, x1, y1 = self.box_xyxy
        box = (x0 + left, y0 + top, x1 + left, y1 + top) if self.area else (0, 0, 0, 0)
        return replace(self, counts=_counts(_joined(moved.reshape(-1)), size_hw), box_xyxy=box, size_hw=size_hw)

    def rle(self) -> dict[str, Any]:
        """Return COCO's compressed RLE, ready for JSON."""
        from pycocotools import mask as coco

        height, width = self.size_hw
        packed = coco.frPyObjects({"size": [height, width], "counts": self.counts.tolist()}, height, width)
        return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


class Upscaler:
    """Measures the masks of one picture.

    Args:
        frame: how the logits' input relates to the picture.
        mask_hw: size of the whole low-resolution logits.
    """

    def __init__(self, frame: Frame, mask_hw: tuple[int, int]) -> None:
        self.size_hw = frame.original_hw
        self._rows, self._cols = (
            _Axis(frame.original_hw[i], frame.resized_hw[i], frame.input_hw[i], mask_hw[i]) for i in (0, 1)
        )

    def outline(
        self, logits: Float, threshold: float = 0.0, offset: float = 1.0, least_stability: float = -np.inf
    ) -> Outline | None:
        """Return the mask of float32 (h, w) logits, the whole or the top left part that covers the picture.

        Args:
            logits: one mask's.
            threshold: the mask is where the upscaled logits are greater.
            offset: how far the threshold moves for the stability score.
            least_stability: a mask below it gives None.
        """
        wide = logits > min(threshold, threshold - offset)
        ys = self._rows.touched(np.flatnonzero(wide.any(axis=1)))
        xs = self._cols.touched(np.flatnonzero(wide.any(axis=0)))
        if ys is None or xs is None:
            stability, runs = np.nan, np.zeros(0, np.int64)
            box = (0, 0, 0, 0)
        else:
            stability, runs, box = self._scan(logits, ys, xs, threshold, offset)
        if least_stability > -np.inf and not stability >= least_stability:
            return None
        counts = _counts(runs, self.size_hw)
        return Outline(counts, int(counts[1::2].sum()), box, stability, self.size_hw)

    def _scan(
        self, logits: Float, ys: slice, xs: slice, threshold: float, offset: float
    ) -> tuple[float, Int, tuple[int, int, int, int]]:
        """Return the stability, where the runs start and end, and the box of the part ``ys`` × ``xs``."""
        height, narrow, wide = self.size_hw[0], 0, 0
        rows = ys.stop - ys.start
        inside = np.zeros((_TILE, rows + 1), np.bool_)  # the last row stays False: it ends every column's run
        places, top, bottom = [], height, 0
        for columns in _tiles(xs):
            strip = self._strip(logits, columns, ys)  # (columns, rows)
            narrow += int(np.count_nonzero(strip > threshold + offset))
            wide += int(np.count_nonzero(strip > threshold - offset))
            part = inside[: len(strip)]
            np.greater(strip, threshold, out=part[:, :rows])
            flat = part.reshape(-1)
            changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1  # starts and ends by turns
            if flat[0]:
                changes = np.concatenate([[0], changes])
            column, row = np.divmod(changes, rows + 1)
            if len(row):
                top, bottom = min(top, int(row[::2].min())), max(bottom, int(row[1::2].max()))
            places.append((columns.start + column) * height + ys.start + row)
        runs = np.concatenate(places)  # a run to the lowest row touches one from the top of the next column
        stability = narrow / wide if wide else np.nan
        if not len(runs):
            return stability, runs, (0, 0, 0, 0)
        box = (int(runs[0] // height), ys.start + top, int((runs[-1] - 1) // height) + 1, ys.start + bottom)
        return stability, _joined(runs), box

    def _strip(self, logits: Float, xs: slice, ys: slice) -> Float:
        """Return the upscaled logits of some columns and rows, transposed: float32 (columns, rows)."""
        across, low_x = self._cols.matrix(xs)
        used = self._rows.sources(ys)
        half = matmul(across, logits[used, low_x].T)  # (columns, low rows)
        out = np.empty((len(across), ys.stop - ys.start), np.float32)
        for tile in _tiles(ys):
            down, low_y = self._rows.matrix(tile)
            part = half[:, low_y.start - used.start : low_y.stop - used.start]
            out[:, tile.start - ys.start : tile.stop - ys.start] = matmul(part, down.T)
        return out


class _Axis:
    """One axis of the two bilinear steps: ``low`` → ``whole`` pixels, cut to ``shown``, → ``full`` pixels."""

    def __init__(self, full: int, shown: int, whole: int, low: int) -> None:
        first, first_weight = _taps(low, whole)  # (whole, 2)
        second, second_weight = _taps(shown, full)  # (full, 2)
        self._index = first[second].reshape(full, 4)
        self._weight = (first_weight[second] * second_weight[..., None]).reshape(full, 4)
        self._tiles: dict[int, tuple[Float, slice]] = {}
        self._low, self._high = self._index.min(axis=1), self._index.max(axis=1)  # both ascend

    def touched(self, marked: Int) -> slice | None:
        """Return the full pixels that depend on any of some low pixels (ascending indices), or None."""
        if not len(marked):
            return None
        start = int(np.searchsorted(self._high, marked[0], side="left"))
        stop = int(np.searchsorted(self._low, marked[-1], side="right"))
        return slice(start, stop) if start < stop else None

    def sources(self, full: slice) -> slice:
        """Return the low pixels that some full pixels depend on."""
        return slice(int(self._low[full.start]), int(self._high[full.stop - 1]) + 1)

    def matrix(self, full: slice) -> tuple[Float, slice]:
        """Return the interpolation of some full pixels of one tile, float32 (n, m), and the m low pixels it mixes."""
        number = full.start // _TILE
        if number not in self._tiles:
            self._tiles[number] = self._make(slice(number * _TILE, min((number + 1) * _TILE, len(self._low))))
        whole, reach = self._tiles[number]
        used, start = self.sources(full), number * _TILE
        part = whole[full.start - start : full.stop - start, used.start - reach.start : used.stop - reach.start]
        return part, used

    def _make(self, full: slice) -> tuple[Float, slice]:
        used = self.sources(full)
        out = np.zeros((full.stop - full.start, used.stop - used.start), np.float32)
        for tap in range(4):
            np.add.at(out, (np.arange(len(out)), self._index[full, tap] - used.start), self._weight[full, tap])
        return out, used


def _tiles(span: slice) -> Iterator[slice]:
    """Yield the parts of a span of pixels, each within one tile."""
    start = span.start
    while start < span.stop:
        stop = min((start // _TILE + 1) * _TILE, span.stop)
        yield slice(start, stop)
        start = stop


def _taps(source: int, target: int) -> tuple[Int, Float]:
    """Return torch's ``bilinear, align_corners=False``: indices and weights (target, 2), in its float32 arithmetic."""
    if source == target:
        index = np.repeat(np.arange(target)[:, None], 2, axis=1)
        return index, np.tile(np.array([1, 0], np.float32), (target, 1))
    scale = np.float32(source) / np.float32(target)
    place = np.maximum((np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0))
    low = np.minimum(place.astype(np.int64), source - 1)
    high = np.minimum(low + 1, source - 1)
    part = np.clip(place - low.astype(np.float32), 0, 1).astype(np.float32)
    return np.stack([low, high], axis=1), np.stack([1 - part, part], axis=1).astype(np.float32)


def _counts(runs: Int, size_hw: tuple[int, int]) -> Int:
    """Return run lengths from the places where runs start and end by turns."""
    counts = np.diff(runs, prepend=0, append=size_hw[0] * size_hw[1])
    return counts[:-1] if len(counts) > 1 and not counts[-1] else counts  # the last run reaches the corner


def _split_at_columns(starts: Int, ends: Int, height: int) -> tuple[Int, Int]:
    """Return the runs (N,) cut where they go on from one column of ``height`` pixels to the next."""
    extra = (ends - 1) // height - starts // height  # how many column edges each crosses
    if not extra.any():
        return starts, ends
    run = np.repeat(np.arange(len(starts)), extra + 1)
    number = np.arange(len(run)) - np.repeat(np.cumsum(extra + 1) - extra - 1, extra + 1)
    edge = (starts[run] // height + number) * height
    return np.maximum(starts[run], edge), np.minimum(ends[run], edge + height)


def _joined(runs: Int) -> Int:
    """Return the places without those where one run ends and the next begins."""
    if len(runs) < 4:
        return runs
    touching = np.flatnonzero(runs[1:-1:2] == runs[2::2])
    if not len(touching):
        return runs
    return np.delete(runs, np.concatenate([2 * touching + 1, 2 * touching + 2]))
