"""Between masks and ranking: the best mask of the likeliest prompts is drawn again from a close look at the picture.

A segmenter that is small enough to be quick knows what is where, but draws edges loosely. A mask refiner looks at a
crop around each mask. It is asked before the ranking, so that every score part sees the mask that the caller gets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from textseg import closeup, geometry
from textseg.errors import ConfigError
from textseg.propose import place_in_phrase
from textseg.protocols import MaskRefiner
from textseg.types import Candidates, Image, Int, Prompts, Proposals

OUTSIDE = -8.0
"""Logit of what lies outside a closeup: it was drawn in full."""


@dataclass(frozen=True)
class RedrawConfig:
    """How many masks are drawn again, where the preset has a refiner.

    Attributes:
        per_phrase: most prompts of one phrase, those of the best proposals first.
        total: most prompts in one call, however many phrases: each phrase's best first. The caller's own boxes,
            points and masks are always drawn again.
    """

    per_phrase: int = 8
    total: int = 24

    def __post_init__(self) -> None:
        for name in ("per_phrase", "total"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected 0 or more")


def redraw(
    refiner: MaskRefiner,
    image: Image,
    proposals: Proposals,
    prompts: Prompts,
    candidates: Candidates,
    config: RedrawConfig,
) -> Candidates:
    """Return the candidates with the mask of best predicted IoU drawn again for the prompts that are chosen.

    The segmenter's predicted IoU stays, for it also says how well the prompt was answered; the refiner's comes beside
    it with the closeup. The prompts' other masks stay as they are.
    """
    rows = _chosen(proposals, prompts, config)
    if not len(rows):
        return candidates
    best = candidates.predicted_iou[rows].argmax(axis=1)
    logits = candidates.logits.copy()
    inside = geometry.crop_padding(logits, candidates.frame)  # (P, C, h, w), a view
    closeups = refiner.refine(image, np.ascontiguousarray(inside[rows, best]), prompts.boxes_xyxy[rows])
    for row, mask, near, window in zip(rows, best, closeups.logits, closeups.windows, strict=True):
        inside[row, mask] = closeup.paste(near, window, image.size_hw, inside.shape[-2:], OUTSIDE)
    index = np.full(candidates.predicted_iou.shape, -1, np.int64)
    index[rows, best] = np.arange(len(rows))
    return replace(candidates, logits=logits, closeups=closeups, closeup_index=index)


def _chosen(proposals: Proposals, prompts: Prompts, config: RedrawConfig) -> Int:
    """Return int64 indices of the prompts that are drawn again."""
    of = prompts.proposal_index
    scores = proposals.scores[of]
    places = place_in_phrase(scores, proposals.phrase_index[of])
    own = np.array([proposals.sources[i] == "user" for i in of], np.bool_)
    order = np.lexsort((-scores, places))
    order = order[(places[order] < config.per_phrase) & ~own[order]][: config.total]
    return np.sort(np.concatenate([np.flatnonzero(own), order])).astype(np.int64)
