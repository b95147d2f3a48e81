"""What is worth a mask, and of that what is worth a close look: as far as can be told without either.

Most of what a detector proposes is a second guess, and to draw it, to draw it again from a close look and to show it to
CLIP costs as much as what is meant. But the detector says more of a region than of a box (``NamesRegions``), and that
costs next to nothing. What lies far behind a phrase's likeliest is left at that: once by the rough masks, before the
segmenter is asked, and once by the masks that it drew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textseg import closeup
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
    keep[rows] = _near(odds, phrase_index, config)
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
    ahead = rows[_near(odds[rows], phrase_index[rows], config)]
    if config.glance_iou < 1.0:
        ahead = ahead[np.argsort(-odds[ahead], kind="stable")]  # of masks that are alike the likeliest stays
        ahead = ahead[closeup.distinct(best[ahead], phrase_index[ahead], config.glance_iou)[0]]
    goes_on = np.ones(p, np.bool_)
    goes_on[rows] = False
    goes_on[ahead] = True
    kept = np.flatnonzero(goes_on)
    return Glance(kept, likely[kept], region[kept])


def _near(odds: Float, phrase_index: Int, config: RankConfig) -> Bool:
    """Return bool (N,): whose log-odds, (N,), are within ``RankConfig.glance_reach`` of their phrase's best."""
    near = np.ones(len(odds), np.bool_)
    for phrase in np.unique(phrase_index).tolist():
        of = phrase_index == phrase
        best = float(odds[of].max())
        near[of] = odds[of] >= best - config.glance_reach(best)
    return near
