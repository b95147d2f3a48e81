"""Between masks and close looks: which prompts are worth being drawn again and shown to CLIP, as far as can be told.

Most of what a detector proposes is a second guess, and a close look at it costs as much as one at what is meant. The
masks as the segmenter drew them already have most of their score parts, and what the detector says of them
(``NamesRegions``) costs next to nothing: what is far behind by these is left at that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textseg import geometry
from textseg.parts import low_masks, plain_parts
from textseg.propose import pointed_at
from textseg.rank import RankConfig, RegionNamer, fuse, log_odds
from textseg.types import Bool, Candidates, Float, Image, Int, Prompts, Proposals, Query


class Glance(NamedTuple):
    """What is known of P prompts before any mask is drawn again.

    Attributes:
        likely: bool (P,), which are worth a close look.
        region: float32 (P,), the score part of that name for each prompt's mask of best predicted IoU; NaN where
            nobody was asked: of what the caller points at, and of prompts that are far from likely without it.
    """

    likely: Bool
    region: Float


def glance(
    image: Image,
    query: Query,
    proposals: Proposals,
    prompts: Prompts,
    candidates: Candidates,
    config: RankConfig,
    name_regions: RegionNamer | None = None,
) -> Glance:
    """Return which prompts are likely: see ``RankConfig.glance``, ``glance_margin`` and ``glance_iou``.

    Args:
        image, query, proposals, prompts: what the stages before worked on.
        candidates: the segmenter's, none drawn again yet.
        config: the ranking's settings.
        name_regions: ``NamesRegions.name_regions`` of this picture; None, and where it returns None: not known.
    """
    p, c = candidates.predicted_iou.shape
    own = pointed_at(proposals, prompts.proposal_index)
    region = np.full(p, np.nan, np.float32)
    if own.all():
        return Glance(own, region)
    masks = low_masks(candidates)
    parts = plain_parts(image, query, proposals, prompts, candidates, masks)
    first = fuse(parts, config).reshape(p, c).max(axis=1)
    rows = np.flatnonzero(~own & (first >= min(config.glance, config.threshold)))
    best = masks[np.arange(p) * c + candidates.predicted_iou.argmax(axis=1)]  # (P, h, w), a copy
    phrase_index = proposals.phrase_index[prompts.proposal_index]
    named = (
        None if name_regions is None or not len(rows) else name_regions(best[rows], query.prompts, phrase_index[rows])
    )
    if named is not None:
        region[rows] = named
        parts["region"] = np.repeat(region, c)
    odds = log_odds(fuse(parts, config).reshape(p, c).max(axis=1))
    likely = own.copy()
    for phrase in np.unique(phrase_index[rows]).tolist():
        likely[_ahead(rows[phrase_index[rows] == phrase], odds, best, config)] = True
    return Glance(likely, region)


def _ahead(rows: Int, odds: Float, masks: Bool, config: RankConfig) -> list[int]:
    """Return which of one phrase's prompts, ``rows``, are near its likeliest, and not nearly the same as a likelier.

    Args:
        rows: int64, indices into the P prompts.
        odds: float32 (P,), log-odds of their scores.
        masks: bool (P, h, w).
        config: margins.
    """
    rows = rows[np.argsort(-odds[rows], kind="stable")]
    near = rows[odds[rows] >= odds[rows[0]] - config.glance_reach(float(odds[rows[0]]))]
    if config.glance_iou >= 1.0 or len(near) < 2:
        return near.tolist()
    alike = geometry.mask_iou(masks[near], masks[near]) >= config.glance_iou
    kept: list[int] = []
    for i in range(len(near)):
        if not alike[i, kept].any():
            kept.append(i)
    return near[kept].tolist()
