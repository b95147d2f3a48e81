"""Third stage: the segmenter decodes every prompt; all of its masks survive until ranking."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from textseg import geometry
from textseg.errors import ConfigError, ModelError
from textseg.prior import box_prior
from textseg.protocols import Segmenter
from textseg.types import Candidates, Embedding, Float, Image, Prompts

ROUGH_LIMIT = 8.0
"""Rough mask logits are kept within this before they are added to the segmenter's."""

PRIOR_SIDE = 96
"""Side of a box's ellipse where no other rough mask sets the size."""


@runtime_checkable
class FeedingBack(Protocol):
    """A segmenter that takes its own logits back as they are, padding and all, as SAM was trained to."""

    def feed_back(self, embedding: Embedding, prompts: Prompts, logits: Float) -> Candidates:
        """Decode the prompts again, each with the float32 (P, h, w) low-resolution logits of an earlier answer."""
        ...


@dataclass(frozen=True)
class SegmentConfig:
    """How prompts are decoded.

    Attributes:
        multimask: ask for all of the segmenter's ambiguity masks (three) instead of one.
        refine_rounds: how often the best low-resolution logits are fed back in as a mask prompt.
        box_prior: give a box that has no rough mask the ellipse that it implies. For segmenters trained with it
            (nano); the hub models need none.
        rough_weight: how much of a prompt's rough mask logits is added to the segmenter's own. 0 trusts the
            segmenter alone; a small one gains where its detector's map knows the thing better.
    """

    multimask: bool = True
    refine_rounds: int = 0
    box_prior: bool = False
    rough_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.rough_weight < 0:
            raise ConfigError(f"rough_weight: got {self.rough_weight}, expected 0 or more")
        if self.refine_rounds < 0:
            raise ConfigError(f"refine_rounds: got {self.refine_rounds}, expected 0 or more")


def segment(
    segmenter: Segmenter, embedding: Embedding, image: Image, prompts: Prompts, config: SegmentConfig
) -> Candidates:
    """Decode all prompts against one picture's embedding.

    Raises:
        ModelError: the embedding belongs to another picture or another segmenter.
    """
    if embedding.digest != image.digest:
        raise ModelError(f"the embedding belongs to another picture than {image.source}: encode this one")
    if embedding.model_id != segmenter.model_id:
        raise ModelError(f"the embedding was made by {embedding.model_id}, not by {segmenter.model_id}: encode again")
    asked = _with_box_prior(prompts, image.size_hw) if config.box_prior else prompts
    candidates = segmenter.decode(embedding, asked)
    for _ in range(config.refine_rounds if len(prompts) else 0):
        candidates = _again(segmenter, embedding, prompts, candidates)
    return _blend(candidates, prompts, config.rough_weight)


def _with_box_prior(prompts: Prompts, size_hw: tuple[int, int]) -> Prompts:
    """Return the prompts with a rough mask wherever there is a box and none."""
    rows = prompts.has_box & ~prompts.has_mask
    if not rows.any():
        return prompts
    if prompts.mask_logits is None:
        masks = np.zeros((len(prompts), PRIOR_SIDE, PRIOR_SIDE), np.float32)
    else:
        masks = prompts.mask_logits.copy()
    h, w = masks.shape[1:]
    masks[rows] = box_prior(prompts.boxes_xyxy[rows], size_hw, (h, w))
    return replace(prompts, mask_logits=masks)


def _blend(candidates: Candidates, prompts: Prompts, weight: float) -> Candidates:
    """Return the candidates with ``weight`` times the prompts' rough mask logits added inside the picture."""
    rows = prompts.has_mask
    if not weight or prompts.mask_logits is None or not rows.any():
        return candidates
    logits = candidates.logits.copy()
    inside = geometry.crop_padding(logits, candidates.frame)  # (P, C, h, w), a view
    rough = np.clip(geometry.resize_logits(prompts.mask_logits[rows], inside.shape[-2:]), -ROUGH_LIMIT, ROUGH_LIMIT)
    inside[rows] += weight * rough[:, None]
    return replace(candidates, logits=logits)


def _again(segmenter: Segmenter, embedding: Embedding, prompts: Prompts, candidates: Candidates) -> Candidates:
    """Ask once more with each prompt's mask of best predicted IoU beside it."""
    best = candidates.predicted_iou.argmax(axis=1)
    logits = candidates.logits[np.arange(len(best)), best]  # (P, h, w)
    if isinstance(segmenter, FeedingBack):
        return segmenter.feed_back(embedding, prompts, logits)
    return segmenter.decode(embedding, replace(prompts, mask_logits=geometry.crop_padding(logits, candidates.frame)))
