"""Mending a mask by hand: clicks or a box on one mask of a result, merged back into that result.

>>> picture = seg.open("street.jpg")                                             # doctest: +SKIP
>>> result = picture.segment("the red car")                                      # doctest: +SKIP
>>> result = mend(picture, result, 0, points=[(120, 80)], labels=[0])            # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from textseg import draw, geometry
from textseg.choose import Choice
from textseg.errors import ConfigError, PromptError
from textseg.pipeline import OpenPicture
from textseg.rank import Scored
from textseg.result import Result
from textseg.types import Bool, Candidates, Float, Query

MENDED = "mended by hand"
"""Why the mask that was mended is among the rejected afterwards."""

_OUTSIDE = -32.0  # logit of the places for masks that a single mended mask leaves empty


def mend(
    picture: OpenPicture,
    result: Result,
    index: int | None,
    *,
    points: Sequence[Sequence[float]] | None = None,
    labels: Sequence[int] | None = None,
    box: Sequence[float] | None = None,
    phrase_index: int | None = None,
    words: bool = True,
) -> Result:
    """Return the result with one mask pointed out anew; the picture's embedding is used again.

    The segmenter is asked with the clicks and the old mask together, as SAM's authors do. A click that its best
    answer does not obey (small segmenters often hold on to the old mask) is then asked about alone: what it points
    at is added to the mask, or taken off it. The score stays that of the segmenter's answer.

    Args:
        picture: the picture of the result.
        result: the masks so far.
        index: the accepted mask that is mended: it goes along as a rough mask; None adds a new mask.
        points: (Q, 2) xy, pixels of the original picture.
        labels: (Q,): 1 on it (the default), 0 not on it.
        box: (4,) xyxy, pixels of the original picture; with a box the old mask does not go along.
        phrase_index: the phrase of a new mask; by default the first.
        words: whether the phrase goes along with what is pointed at.

    Raises:
        PromptError: nothing is pointed at, it lies outside the picture, or there is no mask.
        ConfigError: there is no mask or no phrase of that index, or the result is of another picture.
    """
    if points is None and box is None:
        raise PromptError("mend: nothing is pointed at; give points with labels, or a box")
    if picture.image.digest != result.image.digest:
        raise ConfigError(f"mend: the result is of {result.image.source}, the picture is {picture.image.source}")
    if index is not None:
        draw.check_index(result, index)
        phrase_index = int(result.phrase_index[index])
    phrase = 0 if phrase_index is None else phrase_index
    if not 0 <= phrase < len(result.query):
        raise ConfigError(f"phrase_index: got {phrase}, expected 0..{len(result.query) - 1}")
    spoken = words and result.query.phrases[phrase].prompt
    query = Query((result.query.phrases[phrase],)) if spoken else None
    rough = None if index is None or box is not None else result.masks[index]
    pointed = picture.segment(query, points=points, labels=labels, box=box, mask=rough, multimask=True)
    xy = np.asarray([] if points is None else points, np.float32).reshape(-1, 2)
    wanted = np.ones(len(xy), bool) if labels is None else np.asarray(labels).reshape(-1) == 1
    best, obeyed = _best(pointed.scored, xy, wanted, picture.image.size_hw)
    logits = _logits(pointed.scored, best)
    if not obeyed.all():
        logits = _corrected(picture, logits, xy[~obeyed], wanted[~obeyed])
    return _merged(result, index, phrase, pointed, best, logits)


def _best(scored: Scored, xy: Float, wanted: Bool, size_hw: tuple[int, int]) -> tuple[int, Bool]:
    """Return the candidate that obeys most of the clicks (of those, the one of the best score), and which it obeys."""
    solid = np.flatnonzero(scored.areas > 0)
    if not len(solid):
        raise PromptError("no mask at that place: take the last point back, or point at another place")
    obeyed = _inside(scored, xy, size_hw) == wanted  # (M, Q)
    best = int(max(solid, key=lambda m: (obeyed[m].sum(), scored.scores[m])))
    return best, obeyed[best]


def _corrected(picture: OpenPicture, logits: Float, xy: Float, wanted: Bool) -> Float:
    """Return the mask with what each click alone points at added, or taken off it."""
    alone = picture.segment(points=xy[:, None], multimask=True).scored
    inside = _inside(alone, xy, picture.image.size_hw)
    for click in range(len(xy)):
        mine = np.flatnonzero((alone.proposal_index == click) & inside[:, click])
        if not len(mine):
            continue
        part = _logits(alone, int(mine[np.argmin(alone.areas[mine])]))  # the smallest: a click means what is near
        logits = np.maximum(logits, part) if wanted[click] else np.minimum(logits, -part)
    return logits


def _logits(scored: Scored, row: int) -> Float:
    """Return float32 (h, w): one candidate's logits, padding included."""
    return np.asarray(scored.candidates.logits[scored.prompt_index[row], scored.mask_index[row]], np.float32)


def _inside(scored: Scored, xy: Float, size_hw: tuple[int, int]) -> Bool:
    """Return bool (M, Q): whether each mask holds each point (Q, 2)."""
    height, width = scored.masks.shape[1:]
    columns = np.clip((xy[:, 0] * width / size_hw[1]).astype(int), 0, width - 1)
    rows = np.clip((xy[:, 1] * height / size_hw[0]).astype(int), 0, height - 1)
    return np.asarray(scored.masks[:, rows, columns], np.bool_)


def _merged(result: Result, index: int | None, phrase: int, pointed: Result, best: int, new_logits: Float) -> Result:
    """Return the result with the new mask in place of an accepted one, or beside them; ``best`` supplies its parts."""
    number = len(result.scored)
    scored = _with_candidate(result.scored, pointed.scored, best, phrase, new_logits)
    accepted = result.choice.accepted.tolist()
    rejected = result.choice.rejected.tolist()
    reasons = [*result.choice.reasons, ""]
    if index is None:
        accepted.append(number)
        accepted.sort(key=lambda i: int(scored.phrase_index[i]))  # stable: the order within a phrase stays
    else:
        reasons[accepted[index]] = MENDED
        rejected.insert(0, accepted[index])
        accepted[index] = number
    choice = Choice(np.array(accepted, np.int64), np.array(rejected, np.int64), tuple(reasons))
    return replace(result, scored=scored, choice=choice, seconds=pointed.seconds)


def _with_candidate(scored: Scored, pointed: Scored, row: int, phrase: int, new_logits: Float) -> Scored:
    """Return the candidates with one more, the last, as the single mask of a prompt of its own."""
    mine = scored.candidates
    p, c = mine.predicted_iou.shape
    prompt, mask = int(pointed.prompt_index[row]), int(pointed.mask_index[row])
    logits = np.full((1, c, *new_logits.shape), _OUTSIDE, np.float32)
    logits[0, 0] = new_logits
    iou = np.zeros((1, c), np.float32)
    iou[0, 0] = pointed.candidates.predicted_iou[prompt, mask]
    candidates = Candidates(
        np.concatenate([mine.logits, logits]), np.concatenate([mine.predicted_iou, iou]), mine.frame
    )
    last = [row]
    masks = geometry.crop_padding(candidates.logits[p:, :1], mine.frame)[:, 0] > 0  # (1, h, w)
    return Scored(
        candidates,
        np.concatenate([scored.masks, masks]),
        np.concatenate([scored.areas, masks.mean(axis=(1, 2), dtype=np.float32)]),
        {name: np.concatenate([values, pointed.parts[name][last]]) for name, values in scored.parts.items()},
        np.concatenate([scored.scores, pointed.scores[last]]),
        np.append(scored.phrase_index, phrase),
        np.append(scored.proposal_index, scored.proposal_index.max(initial=-1) + 1),
        np.append(scored.prompt_index, p),
        np.append(scored.mask_index, 0),
        (*scored.sources, "user"),
    )
