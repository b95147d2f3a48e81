"""Object proposals: ranked boxes and masks of whatever might be an object, and how to judge them.

Kirillov et al., *Segment Anything*, 2023, section 7.3 and appendix D.3: everything in the picture by a 64 × 64 grid,
duplicates above 0.9 box IoU removed, ranked by the mean of predicted IoU and stability. Judged by average recall:
the share of true objects that the best N proposals hit, averaged over IoU 0.50, 0.55 … 0.95 (Hosang et al., 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from textseg import geometry
from textseg.errors import ConfigError, ShapeError
from textseg.everything import EverythingOptions, everything
from textseg.everything.records import Everything
from textseg.types import Bool, Float

if TYPE_CHECKING:
    from textseg.pipeline import Pipeline

PAPER = EverythingOptions(
    points_per_side=64, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=0.9, crop_nms_thresh=0.9
)
"""Everything, as the paper's proposals take it: nothing below a threshold is dropped, the ranking decides."""

IOUS = tuple(float(iou) for iou in np.arange(0.5, 0.96, 0.05).round(2))


@dataclass(frozen=True)
class ObjectProposals:
    """N proposals of one picture, best first.

    Attributes:
        found: their masks and boxes.
        scores: float32 (N,), mean of predicted IoU and stability.
    """

    found: Everything
    scores: Float

    def __len__(self) -> int:
        return len(self.found)

    @property
    def boxes_xyxy(self) -> Float:
        """float32 (N, 4)."""
        return self.found.boxes_xyxy


def propose_objects(
    pipeline: Pipeline,
    source: Any,
    limit: int = 1000,
    options: EverythingOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ObjectProposals:
    """Return at most ``limit`` ranked proposals.

    Args:
        pipeline: its segmenter is asked.
        source: what ``image.read`` takes.
        limit: most proposals.
        options: ``PAPER`` where None.
        progress: as for ``everything``.

    Raises:
        ConfigError: ``limit`` below 1.
    """
    if limit < 1:
        raise ConfigError(f"limit: got {limit}, expected at least 1 proposal")
    found = everything(pipeline, source, options or PAPER, progress=progress)
    scores = (found.predicted_iou + found.stability_score) / 2
    best = np.argsort(-scores, kind="stable")[:limit]
    return ObjectProposals(found[best], scores[best].astype(np.float32))


def average_recall(ious: Sequence[Float], limit: int = 1000, thresholds: Sequence[float] = IOUS) -> float:
    """Return AR@limit over some pictures, 0..1; NaN where there is no true object.

    Args:
        ious: one float (proposals, objects) array a picture, proposals best first: ``geometry.mask_iou`` or ``box_iou``
            of proposals with true objects.
        limit: how many proposals a picture count.
        thresholds: an object counts as found at each of these IoUs that a proposal of its own reaches.

    Raises:
        ShapeError: not two-dimensional arrays.
    """
    best = []
    for number, iou in enumerate(ious):
        if np.ndim(iou) != 2:
            raise ShapeError(f"ious[{number}]: got shape {np.shape(iou)}, expected (proposals, objects)")
        best.append(_matched(np.asarray(iou, np.float32)[:limit]))
    found = np.concatenate(best) if best else np.zeros(0, np.float32)
    if not len(found):
        return float("nan")
    return float(np.mean([(found >= threshold).mean() for threshold in thresholds]))


def _matched(iou: Float) -> Float:
    """Return the IoU of each object with the proposal it gets, one to one, best pairs first (COCO's matching)."""
    left = iou.copy()
    out = np.zeros(iou.shape[1], np.float32)
    for _ in range(min(iou.shape)):
        row, column = np.unravel_index(left.argmax(), left.shape)
        if left[row, column] <= 0:
            break
        out[column] = left[row, column]
        left[row], left[:, column] = 0, 0
    return out


def mask_ious(proposals: ObjectProposals, true_masks: Bool) -> Float:
    """Return float32 (proposals, objects) mask IoUs; one proposal is unpacked at a time."""
    rows = [geometry.mask_iou(proposals.found.mask(k)[None], true_masks)[0] for k in range(len(proposals))]
    return np.array(rows, np.float32).reshape(len(rows), len(true_masks))
