"""Mending a mask by hand: clicks or a box on one mask of a result, merged back into that result.

>>> picture = seg.open("street.jpg")                                             # doctest: +SKIP
>>> result = picture.segment("the red car")                                      # doctest: +SKIP
>>> result = mend(picture, result, 0, points=[(120, 80)], labels=[0])            # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from textseg import closeup, draw, geometry
from textseg.choose import Choice
from textseg.closeup import Rough
from textseg.errors import ConfigError, PromptError
from textseg.parts import areas_of, low_masks
from textseg.pipeline import OpenPicture
from textseg.rank import Scored
from textseg.result import Result
from textseg.types import Bool, Candidates, Closeups, Float, Query

MENDED = "mended by hand"
"""Why the mask that was mended is among the rejected afterwards."""

_JOINED_SIDE = 224
"""Pixels of the square that two masks are joined in."""

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
    best, obeyed = _best(pointed.scored, xy, wanted)
    rough = _finest(pointed.scored, best)
    if not obeyed.all():
        rough = _corrected(picture, rough, xy[~obeyed], wanted[~obeyed])
    return _merged(result, index, phrase, pointed, best, rough)


def _best(scored: Scored, xy: Float, wanted: Bool) -> tuple[int, Bool]:
    """Return the candidate that obeys most of the clicks (of those, the one of the best score), and which it obeys."""
    solid = np.flatnonzero(scored.areas > 0)
    if not len(solid):
        raise PromptError("no mask at that place: take the last point back, or point at another place")
    obeyed = _inside(scored, xy) == wanted  # (M, Q)
    best = int(max(solid, key=lambda m: (obeyed[m].sum(), scored.scores[m])))
    return best, obeyed[best]


def _corrected(picture: OpenPicture, rough: Rough, xy: Float, wanted: Bool) -> Rough:
    """Return the mask with what each click alone points at added, or taken off it."""
    alone = picture.segment(points=xy[:, None], multimask=True).scored
    inside = _inside(alone, xy)
    for click in range(len(xy)):
        mine = np.flatnonzero((alone.proposal_index == click) & inside[:, click])
        if not len(mine):
            continue
        part = _finest(alone, int(mine[np.argmin(alone.areas[mine])]))  # the smallest: a click means what is near
        rough = union(rough, part) if wanted[click] else without(rough, part)
    return rough


def union(rough: Rough, part: Rough) -> Rough:
    """Return what is in either of two masks."""
    some = [_bounds(one) for one in (rough, part) if (one.logits > 0).any()]
    if not some:
        return rough
    window = _window(np.concatenate([np.min(some, axis=0)[:2], np.max(some, axis=0)[2:]]))
    both = [closeup.look(one, window, _JOINED_SIDE) for one in (rough, part)]
    return Rough.near(np.maximum(*both), window)


def without(rough: Rough, part: Rough) -> Rough:
    """Return what is in the first of two masks and not in the second."""
    window = _window(_bounds(rough))
    kept, taken = (closeup.look(one, window, _JOINED_SIDE) for one in (rough, part))
    return Rough.near(np.minimum(kept, -taken), window)


def _bounds(rough: Rough) -> Float:
    """Return float32 (4,): the tight box of a mask in the picture, islands and all."""
    (height, width), (x0, y0, x1, y1) = rough.logits.shape, rough.over_xyxy
    scale = np.array([(x1 - x0) / width, (y1 - y0) / height] * 2, np.float32)
    box = geometry.mask_boxes((rough.logits > 0)[None])[0]
    return np.asarray(box * scale + np.array([x0, y0, x0, y0], np.float32), np.float32)


def _window(box_xyxy: Float) -> Float:
    return closeup.window_around(box_xyxy, 1.25, 8.0, (0.0, 0.0))


def _finest(scored: Scored, row: int) -> Rough:
    return closeup.finest(scored.candidates, int(scored.prompt_index[row]), int(scored.mask_index[row]))


def _inside(scored: Scored, xy: Float) -> Bool:
    """Return bool (M, Q): whether each mask, as fine as it is known, holds each point (Q, 2)."""
    held = [_holds(_finest(scored, row), xy) for row in range(len(scored))]
    return np.reshape(held, (len(scored), len(xy))).astype(np.bool_)


def _holds(rough: Rough, xy: Float) -> Bool:
    """Return bool (Q,): whether a mask holds each point."""
    (height, width), (x0, y0, x1, y1) = rough.logits.shape, rough.over_xyxy
    columns = np.floor((xy[:, 0] - x0) * width / (x1 - x0)).astype(int)
    rows = np.floor((xy[:, 1] - y0) * height / (y1 - y0)).astype(int)
    covered = (xy[:, 0] >= x0) & (xy[:, 0] <= x1) & (xy[:, 1] >= y0) & (xy[:, 1] <= y1)
    logits = rough.logits[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return np.asarray(covered & (logits > 0), np.bool_)


def _merged(result: Result, index: int | None, phrase: int, pointed: Result, best: int, rough: Rough) -> Result:
    """Return the result with the new mask in place of an accepted one, or beside them; ``best`` supplies its parts."""
    number = len(result.scored)
    scored = _with_candidate(result.scored, pointed.scored, best, phrase, rough)
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


def _with_closeup(
    closeups: Closeups, rough: Rough, iou: float, grid_hw: tuple[int, ...], size_hw: tuple[int, int]
) -> Closeups:
    """Return the closeups with one more, the last, where that is finer than the masks' own grid."""
    x0, y0, x1, _ = rough.over_xyxy
    window = np.array([x0, y0, x1 - x0], np.float32)
    size = closeups.logits.shape[-1] if len(closeups) else len(rough.logits)
    whole = rough.over_xyxy == Rough.whole(rough.logits, size_hw).over_xyxy
    if whole or window[2] / size > max(size_hw[0] / grid_hw[0], size_hw[1] / grid_hw[1]):
        return closeups
    near = closeup.look(rough, window, size)
    kept = (closeups.windows, closeups.logits, closeups.predicted_iou) if len(closeups) else ()
    new = (window[None], near[None], np.array([iou], np.float32).clip(0, 1))
    return Closeups(*(np.concatenate(pair) for pair in zip(kept, new, strict=True))) if kept else Closeups(*new)


def _with_candidate(scored: Scored, pointed: Scored, row: int, phrase: int, rough: Rough) -> Scored:
    """Return the candidates with one more, the last, as the single mask of a prompt of its own."""
    mine = scored.candidates
    p, c = mine.predicted_iou.shape
    prompt, mask = int(pointed.prompt_index[row]), int(pointed.mask_index[row])
    logits = np.full((1, c, *mine.logits.shape[2:]), _OUTSIDE, np.float32)
    inside = geometry.crop_padding(logits, mine.frame)[0, 0]  # (h, w), a view
    inside[:] = closeup.coarse(rough, mine.frame.original_hw, inside.shape)
    iou = np.zeros((1, c), np.float32)
    iou[0, 0] = pointed.candidates.predicted_iou[prompt, mask]
    closeups = _with_closeup(mine.closeups, rough, float(iou[0, 0]), inside.shape, mine.frame.original_hw)
    number = np.full((1, c), -1, np.int64)
    number[0, 0] = len(mine.closeups) if len(closeups) > len(mine.closeups) else -1
    candidates = Candidates(
        np.concatenate([mine.logits, logits]),
        np.concatenate([mine.predicted_iou, iou]),
        mine.frame,
        closeups,
        np.concatenate([mine.closeup_index, number]),
    )
    last = [row]
    new = Candidates(logits[:, :1], iou[:, :1], mine.frame, closeups, number[:, :1])
    masks = low_masks(new)  # (1, h, w)
    return Scored(
        candidates,
        np.concatenate([scored.masks, masks]),
        np.concatenate([scored.areas, areas_of(masks, new, mine.frame.original_hw)]),
        {name: np.concatenate([values, pointed.parts[name][last]]) for name, values in scored.parts.items()},
        np.concatenate([scored.scores, pointed.scores[last]]),
        np.append(scored.phrase_index, phrase),
        np.append(scored.proposal_index, scored.proposal_index.max(initial=-1) + 1),
        np.append(scored.prompt_index, p),
        np.append(scored.mask_index, 0),
        (*scored.sources, "user"),
    )
