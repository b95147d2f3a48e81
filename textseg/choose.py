"""The choice among scored candidates: best first, without duplicates, "not there" below the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textseg import closeup, geometry
from textseg.matmul import matmul
from textseg.rank import RankConfig, Scored, log_odds
from textseg.types import Bool, Candidates, Float, Int, Query, Segments


@dataclass(frozen=True)
class Choice:
    """Which candidates won and which lost.

    Attributes:
        accepted: int64 (K,) indices into ``Scored``: in the order of the phrases, best first within each; what the
            caller points at in the order in which he does.
        rejected: int64 (R,) indices, best first; how many, says ``RankConfig.max_rejected``.
        reasons: M strings, why each candidate lost; "" for the winners.
    """

    accepted: Int
    rejected: Int
    reasons: tuple[str, ...]


def choose(scored: Scored, query: Query, config: RankConfig, thresholds: Float | None = None) -> Choice:
    """Judge the candidates best first; no model runs and no mask is upscaled.

    Args:
        scored: what ``score`` returned.
        query: the phrases.
        config: thresholds and overlaps.
        thresholds: float (phrases,), a threshold for each phrase; None uses ``config.threshold`` for all.
    """
    limits = np.full(len(query), config.threshold, np.float32) if thresholds is None else np.asarray(thresholds)
    order = np.argsort(-scored.scores, kind="stable")
    reasons = _reasons(scored, query, order, limits, config)
    accepted = [int(i) for i in order if not reasons[i]]
    pointed = all(source == "user" for source in scored.sources)  # some: a mask was mended, and ranks with the others
    # stable: best first stays within a phrase
    accepted.sort(key=lambda i: (int(scored.phrase_index[i]), int(scored.prompt_index[i]) if pointed else 0))
    lost = [int(i) for i in order if reasons[i]]
    closest = {int(scored.phrase_index[i]): i for i in reversed(lost)}  # each phrase's best that lost is always kept
    kept = {*lost[: config.max_rejected], *closest.values()}
    rejected = [i for i in lost if i in kept] if config.max_rejected else []
    return Choice(np.array(accepted, np.int64), np.array(rejected, np.int64), tuple(reasons))


def segments(scored: Scored, query: Query, index: Int, reasons: Sequence[str]) -> Segments:
    """Return the candidates ``index`` as masks at the original size, with all they carry."""
    masks = full_size(scored.candidates, scored.prompt_index[index], scored.mask_index[index])
    return Segments(
        masks,
        geometry.mask_boxes(masks),
        scored.scores[index],
        tuple(query.phrases[int(scored.phrase_index[i])].text for i in index),
        scored.phrase_index[index],
        {name: values[index] for name, values in scored.parts.items()},
        scored.proposal_index[index],
        scored.prompt_index[index],
        scored.mask_index[index],
        tuple(scored.sources[i] for i in index),
        tuple(reasons[i] for i in index),
    )


def full_size(candidates: Candidates, prompt_index: Int, mask_index: Int) -> Bool:
    """Return bool (K, H, W): masks at the original size, from their closeups where there are any."""
    logits = candidates.logits[prompt_index, mask_index]  # (K, h, w)
    numbers = candidates.closeup_index[prompt_index, mask_index]  # (K,)
    masks = np.empty((len(numbers), *candidates.frame.original_hw), np.bool_)
    masks[numbers < 0] = geometry.upscale_masks(logits[numbers < 0], candidates.frame)
    for k in np.flatnonzero(numbers >= 0):
        masks[k] = closeup.full_mask(candidates.closeups, int(numbers[k]), candidates.frame.original_hw)
    return masks


def select(
    scored: Scored, query: Query, config: RankConfig, thresholds: Float | None = None
) -> tuple[Segments, Segments]:
    """Return the accepted and the rejected segments of ``choose``, masks at the original size."""
    choice = choose(scored, query, config, thresholds)
    accepted = segments(scored, query, choice.accepted, choice.reasons)
    return accepted, segments(scored, query, choice.rejected, choice.reasons)


def _reasons(scored: Scored, query: Query, order: Int, limits: Float, config: RankConfig) -> list[str]:
    """Return why each candidate loses, "" for those that win; candidates are judged best first."""
    height, width = scored.candidates.frame.original_hw
    reasons = [""] * len(scored)
    winners: list[int] = []
    best: dict[int, int] = {}  # phrase → its first winner
    odds = log_odds(scored.scores)
    flat = _flat(scored.masks)
    sizes = flat.sum(axis=1)
    for i in order:
        phrase = int(scored.phrase_index[i])
        limit, first = limits[phrase], best.get(phrase, int(i))
        if sizes[i] == 0:
            reasons[i] = "empty mask"
        elif scored.areas[i] * height * width < config.min_area:
            reasons[i] = f"smaller than {config.min_area} pixels"
        elif scored.scores[i] < limit:
            reasons[i] = f"score {scored.scores[i]:.2f} below the threshold {limit:.2f}"
        elif odds[first] - odds[i] > config.reach(float(odds[first])) and scored.sources[i] != "user":
            reasons[i] = f"score {scored.scores[i]:.2f} far below the {scored.scores[first]:.2f} of the phrase's best"
        else:
            reasons[i] = _overlap_reason(scored, query, int(i), winners, flat, sizes, config)
        if not reasons[i]:
            winners.append(int(i))
            best.setdefault(phrase, int(i))
    return reasons


def _overlap_reason(
    scored: Scored, query: Query, i: int, winners: list[int], flat: Float, sizes: Float, config: RankConfig
) -> str:
    """Return the reason if candidate ``i`` repeats a better one that was already accepted."""
    if not winners:
        return ""
    shared = matmul(flat[winners], flat[i])
    iou = shared / (sizes[winners] + sizes[i] - shared)
    inside = shared / np.minimum(sizes[i], sizes[winners])
    for j, overlap, contained in zip(winners, iou, inside, strict=True):
        if scored.prompt_index[j] == scored.prompt_index[i]:
            return "another mask of the same prompt scored higher"
        if scored.phrase_index[j] == scored.phrase_index[i]:
            if scored.sources[i] == scored.sources[j] == "user":
                continue  # whoever points at two things gets two masks, though one may lie on the other
            if overlap >= config.duplicate_iou:
                return f"duplicate of a better mask (IoU {overlap:.2f})"
            if contained >= config.contained:
                return f"part of a better mask, or around it ({contained:.0%} shared)"
        elif overlap >= config.cross_phrase_iou:
            label = query.phrases[int(scored.phrase_index[j])].text
            return f"the same object scored higher as {label!r} (IoU {overlap:.2f})"
    return ""


def _flat(masks: Bool) -> Float:
    """Return float32 (M, h*w), ready for overlaps by matrix product."""
    return masks.reshape(len(masks), masks.shape[1] * masks.shape[2]).astype(np.float32)
