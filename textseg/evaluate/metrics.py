"""Measures, pure numpy: overlap of masks and boxes, shares, and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textseg import geometry
from textseg.errors import ShapeError
from textseg.types import Bool, Float


def mask_iou(found: Bool, truth: Bool, ignore: Bool | None = None) -> float:
    """Return the intersection over union of two (H, W) bool masks, 0..1.

    Args:
        found: the mask that was answered.
        truth: the mask that was meant. Two empty masks agree: 1.
        ignore: (H, W) pixels that count neither way, except where ``truth`` holds.

    Raises:
        ShapeError: the masks differ in size.
    """
    if found.shape != truth.shape or (ignore is not None and ignore.shape != truth.shape):
        raise ShapeError(f"masks: got shapes {found.shape} and {truth.shape}, expected the same size for all")
    if ignore is not None:
        found = found & (truth | ~ignore)
    union = np.count_nonzero(found | truth)
    return 1.0 if union == 0 else float(np.count_nonzero(found & truth) / union)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def overlaps_most(overlaps_meant: Float, overlaps_other: Float) -> bool:
    """Whether the best overlap with a thing that was meant beats that with every other thing.

    Args:
        overlaps_meant: (A,) IoU with each thing that was meant; overlaps_other: (B,) with each other thing.
            Touching nothing is never right, and a tie is wrong.
    """
    meant = float(np.max(overlaps_meant, initial=0.0))
    return meant > 0.0 and meant > float(np.max(overlaps_other, initial=0.0))


def auroc(present: Sequence[float], absent: Sequence[float]) -> float:
    """Return the chance that a random ``present`` score exceeds a random ``absent`` one; ties count half.

    The rank-sum form of the area under the ROC curve (Hanley and McNeil, 1982); NaN where either is empty.
    """
    p, a = np.asarray(present, np.float64), np.asarray(absent, np.float64)
    if not len(p) or not len(a):
        return float("nan")
    _, inverse, counts = np.unique(np.concatenate([p, a]), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # 1-based, ties share their mean rank
    return float((ranks[: len(p)].sum() - len(p) * (len(p) + 1) / 2) / (len(p) * len(a)))


def box_hits(found_xyxy: Float, truth_xyxy: Float, iou: float = 0.5) -> Bool:
    """Return bool (M,): whether some of the (N, 4) found boxes overlaps each of the (M, 4) true ones by ``iou``."""
    if not len(found_xyxy):
        return np.zeros(len(truth_xyxy), np.bool_)
    return np.asarray(geometry.box_iou(found_xyxy, truth_xyxy).max(axis=0) >= iou, np.bool_)


def box_recall(found_xyxy: Float, truth_xyxy: Float, iou: float = 0.5) -> float:
    """Return the share of the (M, 4) true boxes that some found box overlaps by ``iou``; NaN for M = 0."""
    return mean(box_hits(found_xyxy, truth_xyxy, iou).astype(float).tolist())


def ellipse_mask(box_xyxy: Float, size_hw: tuple[int, int]) -> Bool:
    """Return bool (H, W): the ellipse that fills a box, the least that a segmenter given the box must beat."""
    x0, y0, x1, y1 = (float(v) for v in box_xyxy)
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    half_w, half_h = max((x1 - x0) / 2, 1e-6), max((y1 - y0) / 2, 1e-6)
    distance = ((columns - (x0 + x1) / 2) / half_w) ** 2 + ((rows - (y0 + y1) / 2) / half_h) ** 2
    return np.asarray(distance <= 1.0, np.bool_)


def calibration_error(scores: Float, labels: Float, bins: int = 10) -> float:
    """Return the expected calibration error: mean |score - label| of equal-width bins, weighted by size.

    Args:
        scores: (N,) in 0..1; labels: (N,) in 0..1. NaN for N = 0 (Guo et al., ICML 2017).
    """
    if not len(scores):
        return float("nan")
    bin_of = np.minimum((np.asarray(scores) * bins).astype(int), bins - 1)
    total = 0.0
    for b in np.unique(bin_of):
        inside = bin_of == b
        total += float(inside.mean()) * abs(float(np.mean(scores[inside])) - float(np.mean(labels[inside])))
    return total
