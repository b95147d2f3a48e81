"""Masks as they come: a segmenter's answers in small batches, so that thousands of prompts fit in memory.

``decode`` returns every candidate of every prompt at once, which suits a few dozen prompts. A segmenter that can do
better offers ``stream``: it draws only the masks whose predicted IoU is worth it, only where the picture is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from textseg import geometry
from textseg.protocols import Segmenter
from textseg.types import Embedding, Float, Frame, Int, Prompts


@dataclass(frozen=True)
class MaskBatch:
    """Some masks of some prompts.

    Attributes:
        prompt_index: int64 (n,), which prompt, ascending within a batch.
        mask_index: int64 (n,), which of the prompt's masks.
        logits: float32 (n, h, w), the top left part of the low-resolution logits, which covers the picture.
        predicted_iou: float32 (n,), the segmenter's own estimate, not clipped: it may pass 1.
        frame: as in ``Candidates``.
        mask_hw: size of the whole logits, which cover the model's padded input.
    """

    prompt_index: Int
    mask_index: Int
    logits: Float
    predicted_iou: Float
    frame: Frame
    mask_hw: tuple[int, int]


@runtime_checkable
class StreamingSegmenter(Protocol):
    """A segmenter that can draw only the masks worth it."""

    def stream(self, embedding: Embedding, prompts: Prompts, min_iou: float) -> Iterator[MaskBatch]:
        """Yield the masks whose predicted IoU is greater than ``min_iou``; no prompts yield nothing."""
        ...


def stream(
    segmenter: Segmenter, embedding: Embedding, prompts: Prompts, min_iou: float = -np.inf
) -> Iterator[MaskBatch]:
    """Yield the masks whose predicted IoU is greater than ``min_iou``, by the segmenter's best way.

    Args:
        segmenter: any; one without ``stream`` decodes all the prompts in one call, so give it few at a time.
        embedding: the picture's.
        prompts: P prompts; P may be 0.
        min_iou: masks at or below it are left out.
    """
    if isinstance(segmenter, StreamingSegmenter):
        yield from segmenter.stream(embedding, prompts, min_iou)
        return
    if not len(prompts):
        return
    candidates = segmenter.decode(embedding, prompts)
    keep_p, keep_c = np.nonzero(candidates.predicted_iou > min_iou)
    if len(keep_p):
        shown = geometry_part(candidates.frame, candidates.logits.shape[-2:])
        logits = candidates.logits[keep_p, keep_c, : shown[0], : shown[1]]
        iou = candidates.predicted_iou[keep_p, keep_c]
        yield MaskBatch(keep_p, keep_c, logits, iou, candidates.frame, _pair(candidates.logits.shape[-2:]))


def geometry_part(frame: Frame, mask_hw: Any) -> tuple[int, int]:
    """Return how many rows and columns of logits of ``mask_hw`` the masks at the original size depend on.

    One more than the picture covers, where there is padding: interpolation looks one pixel over the edge.
    """
    shown = geometry.crop_padding(np.empty((*mask_hw, 0), np.float32).transpose(2, 0, 1), frame).shape[-2:]
    return min(shown[0] + 1, int(mask_hw[0])), min(shown[1] + 1, int(mask_hw[1]))


def _pair(shape: Any) -> tuple[int, int]:
    return int(shape[0]), int(shape[1])
