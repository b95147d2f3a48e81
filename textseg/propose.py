"""First stage: where may each phrase be? Detector boxes, and one text-only proposal a phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textseg.errors import ConfigError
from textseg.protocols import Detector
from textseg.types import Bool, Float, Int, Proposals, Query

_TURN = 0.7
"""What a phrase's next proposal counts beside the one before it, where phrases share a budget."""


@dataclass(frozen=True)
class ProposeConfig:
    """How many proposals, and how sure.

    Attributes:
        detector_threshold: least detector score, 0..1. Low on purpose: the ranking decides.
        beside: least score of a box beside its phrase's best one, 0..1.
        beside_share: the same as a share of the best one's score, 0..1. A second guess that is much less likely than
            the first hardly ever wins, and each costs a mask, a close look and a glance of CLIP's.
        max_per_phrase: most detector boxes kept for one phrase.
        max_total: most proposals for one picture, however many phrases are asked, in ``fair_order``.
        text_only: whether each phrase also becomes a proposal without a box, carried by SAM's text token and the
            detector's rough mask, where it gives any. Needs a text prompt and a segmenter that takes text tokens.
        text_only_below: but not a phrase with a box that scores more, 0..1: where the detector is that sure, what
            the token finds by itself is the same or worse, and costs as much as another box.
    """

    detector_threshold: float = 0.1
    beside: float = 0.0
    beside_share: float = 0.0
    max_per_phrase: int = 20
    max_total: int = 200
    text_only: bool = True
    text_only_below: float = 1.0

    def __post_init__(self) -> None:
        for name in ("detector_threshold", "beside", "beside_share", "text_only_below"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected a number in 0..1")
        for name in ("max_per_phrase", "max_total"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least 1")


def propose(
    query: Query, detector: Detector | None, encoded: Any, size_hw: tuple[int, int], config: ProposeConfig
) -> Proposals:
    """Return the detector's boxes for every phrase, and a text-only proposal for each if wanted.

    Args:
        query: the phrases, all asked in one detector pass.
        detector: the open-vocabulary detector; None leaves the text-only proposals.
        encoded: what ``detector.encode`` returned for this picture.
        size_hw: size of the original picture in pixels.
        config: thresholds and limits.
    """
    found = Proposals.empty()
    if detector is not None:
        found = detector.detect(encoded, query.prompts, config.detector_threshold)
        found = found[_worth_drawing(found, config)]
    if config.text_only:
        spoken = _text_proposals(found, len(query), size_hw)
        found = concatenate([found, spoken[spoken.scores <= config.text_only_below]])
    best = fair_order(found.scores, place_in_phrase(found.scores, found.phrase_index))[: config.max_total]
    return found[np.sort(best)]


def _worth_drawing(found: Proposals, config: ProposeConfig) -> Bool:
    """Return bool (N,): each phrase's best box, and of the others the first few that are nearly as likely."""
    places = place_in_phrase(found.scores, found.phrase_index)
    best = np.zeros(found.phrase_index.max(initial=-1) + 1, np.float32)
    best[found.phrase_index[places == 0]] = found.scores[places == 0]
    least = np.maximum(config.beside, config.beside_share * best[found.phrase_index])
    likely = (places == 0) | (found.scores >= least)
    return np.asarray(likely & (places < config.max_per_phrase), np.bool_)


def _text_proposals(found: Proposals, phrases: int, size_hw: tuple[int, int]) -> Proposals:
    """Return one proposal a phrase without a box; its score is that of its best detection, or 0.

    It has the rough mask of that detection, if there is one: a box that is too small holds what is drawn in it back.
    """
    height, width = size_hw
    whole = np.tile(np.array([0, 0, width, height], np.float32), (phrases, 1))
    scores = np.zeros(phrases, np.float32)
    best = found[place_in_phrase(found.scores, found.phrase_index) == 0]  # of each phrase that was seen
    scores[best.phrase_index] = best.scores
    masks = None
    if best.mask_logits is not None:
        masks = np.zeros((phrases, *best.mask_logits.shape[1:]), np.float32)
        masks[best.phrase_index] = best.mask_logits
    return Proposals(whole, scores, np.arange(phrases), ("text",) * phrases, masks)


def user_proposals(boxes_xyxy: Float, phrase_index: Int) -> Proposals:
    """Return the caller's own boxes (N, 4) as proposals; each is certain, so its score is 1."""
    n = len(boxes_xyxy)
    return Proposals(boxes_xyxy, np.ones(n, np.float32), phrase_index, ("user",) * n)


def pointed_at(proposals: Proposals, proposal_index: Int) -> Bool:
    """Return bool (P,): of which of the prompts' proposals, int64 (P,), the caller pointed out the thing himself."""
    return np.array([proposals.sources[i] == "user" for i in proposal_index], np.bool_)


def concatenate(parts: Sequence[Proposals]) -> Proposals:
    """Join proposals in order; rough masks of different resolutions must not meet here."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Proposals.empty()
    masks = None
    shapes = {part.mask_logits.shape[1:] for part in parts if part.mask_logits is not None}
    if shapes:
        shape = max(shapes)
        masks = np.concatenate(
            [np.zeros((len(p), *shape), np.float32) if p.mask_logits is None else p.mask_logits for p in parts]
        )
    return Proposals(
        np.concatenate([p.boxes_xyxy for p in parts]),
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.phrase_index for p in parts]),
        tuple(source for p in parts for source in p.sources),
        masks,
    )


def place_in_phrase(scores: Float, phrase_index: Int) -> Int:
    """Return int64 (N,): 0 for each phrase's best score, 1 for its second best … (ties: the first comes first)."""
    if len(scores) < 2:
        return np.zeros(len(scores), np.int64)
    order = np.lexsort((-scores, phrase_index))  # by phrase, best first
    phrases, starts = np.unique(phrase_index[order], return_index=True)
    places = np.empty(len(scores), np.int64)
    places[order] = np.arange(len(scores)) - starts[np.searchsorted(phrases, phrase_index[order])]
    return places


def fair_order(scores: Float, places: Int) -> Int:
    """Return int64 (N,): in what order phrases that share a budget are served.

    Each phrase's best comes before any phrase's second. Those that follow go by their scores, for a phrase that is
    likely there has more use of them; but each counts less than the one before it, or one phrase would take all.

    Args:
        scores: float32 (N,).
        places: int64 (N,), from ``place_in_phrase``.
    """
    return np.lexsort((-scores * _TURN**places, places > 0))
