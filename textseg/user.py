"""What the caller points at: boxes, clicks and rough masks, checked and brought to one shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from textseg import geometry
from textseg.errors import PromptError
from textseg.types import Float, Int

MASK_LOGIT = 6.0
"""Logit given to a boolean mask prompt: inside +, outside -."""


@dataclass(frozen=True)
class UserPrompt:
    """N pointed-at objects; every one may mix a box, points and a rough mask.

    Attributes:
        boxes_xyxy: float32 (N, 4) pixels; NaN rows where only points or a mask were given.
        points_xy: float32 (N, Q, 2) pixels; Q may be 0.
        point_labels: int64 (N, Q): 1 foreground, 0 background.
        mask_logits: float32 (N, h, w) or None.
        size_hw: the picture's size.
    """

    boxes_xyxy: Float
    points_xy: Float
    point_labels: Int
    mask_logits: Float | None
    size_hw: tuple[int, int]

    @classmethod
    def make(cls, size_hw: tuple[int, int], *, box: Any, points: Any, labels: Any, mask: Any) -> UserPrompt | None:
        """Check and stack the caller's prompts; None when there is none at all.

        Raises:
            PromptError: wrong shapes, counts that do not match, or places outside the picture.
        """
        if box is None and points is None and mask is None:
            if labels is not None:
                raise PromptError("labels came without points: give one point (x, y) for each label")
            return None
        boxes = None if box is None else geometry.validate_boxes(box, size_hw)
        xy, marks = _points(points, labels, size_hw)
        logits = None if mask is None else _mask_logits(mask)
        counts = {len(part) for part in (boxes, xy, logits) if part is not None}
        if len(counts) > 1 or counts == {0}:
            raise PromptError(
                f"box, points and mask must describe the same number of objects, at least one; got {sorted(counts)}"
            )
        n = counts.pop()
        return cls(
            np.full((n, 4), np.nan, np.float32) if boxes is None else boxes,
            np.zeros((n, 0, 2), np.float32) if xy is None else xy,
            np.zeros((n, 0), np.int64) if marks is None else marks,
            logits,
            size_hw,
        )

    @property
    def extents_xyxy(self) -> Float:
        """float32 (N, 4): each object's box, or the whole picture where it has none."""
        height, width = self.size_hw
        whole = np.array([0, 0, width, height], np.float32)
        return np.where(np.isnan(self.boxes_xyxy), whole, self.boxes_xyxy)

    @property
    def bounded(self) -> bool:
        """Whether the caller says how far the objects reach: by a box or a rough mask."""
        return not np.isnan(self.boxes_xyxy).any() or self.mask_logits is not None

    @property
    def clear(self) -> bool:
        """Whether one mask is meant: a box, a rough mask or several points, as SAM's authors advise."""
        return self.bounded or self.points_xy.shape[1] > 1


def _points(points: Any, labels: Any, size_hw: tuple[int, int]) -> tuple[Float | None, Int | None]:
    """Return (N, Q, 2) points and (N, Q) labels from one object's or N objects' worth."""
    if points is None:
        if labels is not None:
            raise PromptError("labels came without points: give one point (x, y) for each label")
        return None, None
    xy = geometry.numbers("points", points)
    if xy.ndim == 1 and xy.shape == (2,):
        xy = xy[None]  # one click
    marks = np.ones(xy.shape[:-1]) if labels is None else geometry.numbers("point labels", labels)
    if xy.ndim == 2:
        xy, marks = xy[None], np.atleast_1d(marks)[None]
    if xy.ndim != 3 or xy.shape[-1] != 2 or marks.shape != xy.shape[:2] or xy.shape[1] == 0:
        raise PromptError(
            f"points: got shape {np.shape(points)} with labels of shape {np.shape(labels)}; "
            "expected (Q, 2) points with (Q,) labels, or (N, Q, 2) with (N, Q)"
        )
    flat_xy, flat_marks = geometry.validate_points(xy.reshape(-1, 2), marks.reshape(-1), size_hw)
    return flat_xy.reshape(xy.shape), flat_marks.reshape(marks.shape)


def _mask_logits(mask: Any) -> Float:
    """Return float32 (N, h, w) logits from bool masks or float logits."""
    array = np.asarray(mask)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or 0 in array.shape:
        raise PromptError(f"mask: got shape {np.shape(mask)}, expected (h, w) or (N, h, w), stretched over the picture")
    if array.dtype == np.bool_:
        return np.where(array, MASK_LOGIT, -MASK_LOGIT).astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise PromptError(f"mask: got dtype {array.dtype}, expected bool, or finite float logits (> 0 is inside)")
    return array.astype(np.float32)
