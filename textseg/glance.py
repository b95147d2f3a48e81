"""What is worth a mask, and of that what is worth a close look: as far as can be told without either.

Most of what a detector proposes is a second guess, and to draw it, to draw it again from a close look and to show it to
CLIP costs as much as what is meant. But the detector says more of a region than of a box (``NamesRegions``), and that
costs next to nothing. What lies far behind a phrase's likeliest is left at that: once by the rough masks, before the
segmenter is asked, and once by the masks that it drew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textseg import geometry
from textseg.color_part import color_part
from textseg.parts import PARTS, low_masks, plain_parts
from textseg.propose import pointed_at
from textseg.rank import RankConfig, RegionNamer, fuse, log_odds
from textseg.types import Bool, Candidates, Float, Image, Int, Prompts, Proposals, Query


class Glance(NamedTuple):
    """What is known of P prompts before any mask is drawn again.

    Attributes:
        kept: int64 (K,), the prompts that go on, in order: all but those that a likelier one of their phrase outdoes.
        likely: bool (K,), which of those are worth a close look.
        region: float32 (K,), the score part of that name for each one's mask of best predicted IoU; NaN where nobody
            was asked: of what the caller points at, and of prompts that are far from likely without it.
    """

    kept: Int
    likely: Bool
    region: Float


def worth_drawing(
    image: Image, query: Query, proposals: Proposals, config: RankConfig, name_regions: RegionNamer | None
) -> Proposals:
    """Return the proposals that are near their phrase's likeliest by their rough masks, and those that have none.

    Args:
        image, query, proposals: what the stages before worked on.
        config: the ranking's settings; its ``glance_margin`` says what is near.
        name_regions: as for ``glance``.
    """
    if proposals.mask_logits is None or name_regions is None or config.glance_margin is None:
        return proposals
    masks = proposals.mask_logits > 0
    rows = np.flatnonzero(masks.any(axis=(1, 2)))
    phrase_index = proposals.phrase_index[rows]
    if len(rows) == len(np.unique(phrase_index)):
        return proposals
    named = name_regions(masks[rows], query.prompts, phrase_index)
    if named is None:
        return proposals
    parts = dict.fromkeys(PARTS, np.full(len(rows), np.nan, np.float32))
    parts |= {"detector": proposals.scores[rows], "region": named}
    parts["color"] = color_part(image, query.prompts, masks[rows], phrase_index)
    odds = log_odds(fuse(parts, config))
    keep = np.ones(len(proposals), np.bool_)
    for phrase in np.unique(phrase_index).tolist():
        of = phrase_index == phrase
        best = float(odds[of].max())
        keep[rows[of]] = odds[of] >= best - config.glance_reach(best)
    return proposals[keep]


def glance(
    image: Image,
    query: Query,
    proposals: Proposals,
    prompts: Prompts,
    candidates: Candidates,
    config: RankConfig,
    name_regions: RegionNamer | None = None,
) -> Glance:
    """Return which prompts go on, and which are likely: see ``RankConfig.glance``, ``glance_margin``, ``glance_iou``.

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
        return Glance(np.arange(p), own, region)
    masks = low_masks(candidates)
    parts = plain_parts(image, query, proposals, prompts, candidates, masks)
    first = fuse(parts, config).reshape(p, c).max(axis=1)
    likely = own | (first >= min(config.glance, config.threshold))
    rows = np.flatnonzero(likely & ~own)
    best = masks[np.arange(p) * c + candidates.predicted_iou.argmax(axis=1)]  # (P, h, w), a copy
    phrase_index = proposals.phrase_index[prompts.proposal_index]
    if name_regions is not None and len(rows):
        named = name_regions(best[rows], query.prompts, phrase_index[rows])
        region[rows] = np.nan if named is None else named
    parts["region"] = np.repeat(region, c)
    odds = log_odds(fuse(parts, config).reshape(p, c).max(axis=1))
    goes_on = np.ones(p, np.bool_)
    for phrase in np.unique(phrase_index[rows]).tolist():
        of = rows[phrase_index[rows] == phrase]
        goes_on[of] = np.isin(of, _ahead(of, odds, best, config))
    kept = np.flatnonzero(goes_on)
    return Glance(kept, likely[kept], region[kept])


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
    kept = list(range(len(near)))
    if config.glance_iou < 1.0 and len(near) > 1:
        alike, kept = geometry.mask_iou(masks[near], masks[near]) >= config.glance_iou, []
        for i in range(len(near)):
            if not alike[i, kept].any():
                kept.append(i)
    return [int(row) for row in near[kept]]
