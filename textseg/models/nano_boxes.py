"""From the nano detector's answers at every place to few boxes: maxima of the scores, put right by their neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms, box_iou

from textseg import geometry
from textseg.models.nano_network import Answers
from textseg.propose import concatenate
from textseg.types import Proposals

LIKELY = -1.0
"""Logit of a place that is likely seen, for ``far_seen``."""


@dataclass(frozen=True)
class ProposalConfig:
    """How maps become boxes.

    Attributes:
        image_size: long side that a picture is scaled to, pixels, a multiple of 32.
        far_size: the same for a second look, from farther away, for what fills the picture; 0: none is taken.
        far_share: least share of the picture's area that a box of the second look takes, 0..1.
        far_seen: but only phrases whose map is likely in at least this share of the first look get a second, 0..1: what
            fills the picture is seen in parts at least.
        per_phrase: most proposals per phrase.
        nms_iou: boxes of one phrase that overlap more than this are one.
        vote_iou: a box is the mean of all places' boxes of its phrase that overlap it at least this much.
        grow: share of a box's sides by which its rough mask may reach beyond it.
        chunk: phrases matched at a time; bounds the memory.
    """

    image_size: int = 320
    far_size: int = 0
    far_share: float = 0.36
    far_seen: float = 0.0
    per_phrase: int = 20
    nms_iou: float = 0.5
    vote_iou: float = 0.5
    grow: float = 0.1
    chunk: int = 64


class Found(NamedTuple):
    """M boxes of one picture: float32 (M, 4) input pixels, (M,) scores and (M,) phrase numbers."""

    boxes_xyxy: Tensor
    scores: Tensor
    phrase_index: Tensor


def score_places(answers: Answers) -> Tensor:
    """Return (B, T, h', w') scores in 0..1 at stride 8: the geometric mean of map, quality and presence."""
    chance = functional.max_pool2d(answers.maps.sigmoid(), 2)
    presence = answers.presence.sigmoid()[..., None, None]
    return (chance * answers.quality.sigmoid() * presence).clamp_min(0).pow(1 / 3)


def find_boxes(answers: Answers, config: ProposalConfig, threshold: float) -> Found:
    """Boxes at the local maxima of the scores of one picture (B = 1) that reach `threshold`, best first.

    Places around a maximum see the same thing, each with an error of its own: the boxes are moved to the mean of what
    they say (box voting: Gidaris and Komodakis, ICCV 2015).
    """
    scores = score_places(answers)[0]  # (T, h', w')
    peaks = scores * (functional.max_pool2d(scores, 3, 1, 1) == scores)
    flat = peaks.flatten(1)
    top, where = flat.topk(min(4 * config.per_phrase, flat.shape[1]), dim=1)  # (T, k)
    phrase, rank = torch.nonzero((top >= threshold) & (top > 0), as_tuple=True)
    places = answers.boxes_xyxy[0].flatten(2)  # (T, 4, h'w')
    boxes = places[phrase, :, where[phrase, rank]]  # (M, 4)
    kept = batched_nms(boxes, top[phrase, rank], phrase, config.nms_iou)
    kept = kept[_first_of_each(phrase[kept], config.per_phrase)]
    found = Found(boxes[kept], top[phrase[kept], rank[kept]], phrase[kept])
    return found._replace(boxes_xyxy=_vote(found, places, scores.flatten(1), config.vote_iou))


def worth_a_second_look(maps: Tensor, config: ProposalConfig) -> Tensor:
    """Return int64 (S,), which phrases may mean what fills the picture, by the first look's maps, (T, h, w)."""
    seen = (maps > LIKELY).float().mean(dim=(1, 2))  # (T,)
    return torch.nonzero(seen >= config.far_seen)[:, 0]


def join_looks(near: Proposals, far: Proposals, size_hw: tuple[int, int], config: ProposalConfig) -> Proposals:
    """Return one look's boxes and those of another, from farther away, that are large; best first within a phrase.

    What fills the picture is larger than most things that the network learnt from, and comes apart when it is seen
    close. Of two boxes of a phrase that overlap the one of higher score stays; phrases without a large box keep theirs.

    Args:
        near, far: boxes in pixels of the picture, with rough masks of any two resolutions; near's is kept.
        size_hw: the picture's.
        config: ``far_share`` and ``nms_iou``.
    """
    sides = far.boxes_xyxy[:, 2:] - far.boxes_xyxy[:, :2]
    far = far[sides.prod(axis=1) >= config.far_share * size_hw[0] * size_hw[1]]
    if not len(near) or not len(far):
        return near if len(near) else far
    if near.mask_logits is not None and far.mask_logits is not None:
        far = replace(far, mask_logits=geometry.resize_logits(far.mask_logits, near.mask_logits.shape[1:]))
    apart = np.isin(near.phrase_index, far.phrase_index, invert=True)
    both = concatenate([near[~apart], far])
    boxes, scores, phrases = (torch.tensor(part) for part in (both.boxes_xyxy, both.scores, both.phrase_index))
    every = concatenate([near[apart], both[batched_nms(boxes, scores, phrases, config.nms_iou).numpy()]])
    return every[np.lexsort((-every.scores, every.phrase_index))]


def _vote(found: Found, places_xyxy: Tensor, scores: Tensor, least_iou: float) -> Tensor:
    """Return (M, 4): for each box the mean of its phrase's places that overlap it, by overlap and score.

    Places are (T, 4, P) with (T, P) scores, which are cube roots of products (``score_places``): the weights are the
    products.
    """
    voted = torch.empty_like(found.boxes_xyxy)
    for phrase in set(found.phrase_index.tolist()):
        of = found.phrase_index == phrase
        places = places_xyxy[phrase].T  # (P, 4)
        overlap = box_iou(found.boxes_xyxy[of], places)  # (m, P)
        shares = scores[phrase] / found.scores[of, None]  # against the best, so that none is too small for its cube
        weights = torch.where(overlap >= least_iou, overlap * shares.pow(3), 0)
        voted[of] = weights @ places / weights.sum(1, keepdim=True)
    return voted


def _first_of_each(phrase: Tensor, most: int) -> Tensor:
    """Return a bool (M,): whether an entry is among the first `most` with its phrase number."""
    seen: dict[int, int] = {}
    keep = torch.zeros(len(phrase), dtype=torch.bool)
    for i, number in enumerate(phrase.tolist()):
        seen[number] = seen.get(number, 0) + 1
        keep[i] = seen[number] <= most
    return keep
