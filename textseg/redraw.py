"""Between masks and ranking: the best mask of the likeliest prompts is drawn again from a close look at the picture.

A segmenter that is small enough to be quick knows what is where, but draws edges loosely. A mask refiner looks at a
crop around each mask. It is asked before the ranking, so that every score part sees the mask that the caller gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import NamedTuple

import numpy as np

from textseg import closeup, geometry
from textseg.closeup import Rough
from textseg.errors import ConfigError
from textseg.prior import box_rough
from textseg.propose import fair_order, place_in_phrase, pointed_at
from textseg.protocols import MaskRefiner
from textseg.types import Bool, Candidates, Closeups, Float, Image, Int, Prompts, Proposals


@dataclass(frozen=True)
class RedrawConfig:
    """How many masks are drawn again, where the preset has a refiner.

    Attributes:
        per_phrase: most prompts of one phrase, those of the best proposals first.
        total: most prompts in one call, however many phrases, in ``propose.fair_order``. The caller's own boxes,
            points and masks are always drawn again.
        own_both: where the preset has an ``own_refiner``, draw those by its ``refiner`` after that: see ``Both``.
        own_mirrored: draw those in the mirrored picture too, and take the mean of both drawings.
        own_ellipses: where the caller gave a box and nothing beside it, and wants a single mask, draw that from the
            box's ellipse in place of the segmenter's mask: a weak segmenter's leads astray more often than it helps.
        unboxed_looks: how often a mask is drawn whose prompt has no box: each time a closer look is taken around what
            was drawn before, for the segmenter's mask says only roughly where the thing is.
        specks: islands and holes of less than this share of what was drawn are taken away and filled; 0 leaves them.
    """

    per_phrase: int = 8
    total: int = 24
    own_both: bool = False
    own_mirrored: bool = False
    own_ellipses: bool = False
    unboxed_looks: int = 1
    specks: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("per_phrase", 0), ("total", 0), ("unboxed_looks", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected {least} or more")
        if not 0.0 <= self.specks < 1.0:
            raise ConfigError(f"specks: got {self.specks}, expected a share of at least 0 and less than 1")


class Both:
    """Draws masks by two refiners in turn, and takes the mean of both drawings, in the windows of the first.

    Two that were trained apart err in different places, and the second draws better from what the first drew than from
    what that one drew from.
    """

    def __init__(self, first: MaskRefiner, second: MaskRefiner) -> None:
        self.first, self.second = first, second
        self.model_id = f"{first.model_id} and {second.model_id}"

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        """Draw N masks of one picture; see ``MaskRefiner.refine``."""
        one = self.first.refine(image, roughs, boxes_xyxy, hints)
        two = self.second.refine(image, _drawn(one), boxes_xyxy, hints)
        half = np.float32(0.5)
        mean = half * one.logits
        for n, rough in enumerate(_drawn(two)):
            mean[n] += half * closeup.look(rough, one.windows[n], mean.shape[-1])
        return Closeups(one.windows, mean, half * (one.predicted_iou + two.predicted_iou))


def redraw(
    refiner: MaskRefiner,
    image: Image,
    proposals: Proposals,
    prompts: Prompts,
    candidates: Candidates,
    config: RedrawConfig,
    likely: Bool | None = None,
) -> Candidates:
    """Return the candidates with the masks of the chosen prompts drawn again; of phrases' only the ``likely`` (P,).

    Of a phrase's prompt the mask of best predicted IoU is, and the prompt's other masks give way to it: two ways to
    read one box rarely both answer a phrase. What the caller pointed at may be a thing or a part of it, so each of
    its masks is drawn for itself. The segmenter's predicted IoU stays, for it also says how well the prompt was
    answered; the refiner's comes beside it with the closeups.
    """
    own = pointed_at(proposals, prompts.proposal_index)
    index = np.full(candidates.predicted_iou.shape, -1, np.int64)
    best = candidates.predicted_iou.argmax(axis=1)
    looks: list[tuple[int, int]] = []
    wanted = ~own if likely is None else ~own & likely
    for p in _likeliest(proposals, prompts, wanted, config):
        index[p] = len(looks)
        looks.append((p, int(best[p])))
    for p, c in product(np.flatnonzero(own).tolist(), range(candidates.predicted_iou.shape[1])):
        index[p, c] = len(looks)
        looks.append((p, c))
    if not looks:
        return candidates
    table = np.array(looks, np.int64)
    prompt, mask = table[:, 0], table[:, 1]
    logits = candidates.logits.copy()
    inside = geometry.crop_padding(logits, candidates.frame)  # (P, C, h, w), a view
    masks = np.ascontiguousarray(inside[prompt, mask])
    apart = np.where(own, _same_prompt(prompts), -1)[prompt] if own.any() else None
    unlike, owner = closeup.distinct(masks > 0, apart)
    index = np.where(index >= 0, owner[index], -1)
    drawn = prompt[unlike]
    bare = own & _bare_boxes(prompts) & config.own_ellipses
    roughs = [
        box_rough(prompts.boxes_xyxy[p]) if bare[p] else Rough.whole(masks[n], image.size_hw)
        for n, p in zip(unlike, drawn, strict=True)
    ]
    twice = own[drawn] & config.own_mirrored
    asked = _Asked(roughs, prompts.boxes_xyxy[drawn], _hints(prompts, own, drawn), twice)
    mirror = _mirror_image(image) if twice.any() else None
    closeups = _draw(refiner, image, mirror, asked)
    for _ in range(config.unboxed_looks - 1):
        closeups = _look_again(refiner, image, mirror, asked, closeups)
    closeups = replace(closeups, logits=_without_specks(closeups.logits, config.specks))
    for n, rough in enumerate(_drawn(closeups)):
        inside[index == n] = closeup.coarse(rough, image.size_hw, inside.shape[-2:])
    return replace(candidates, logits=logits, closeups=closeups, closeup_index=index)


def _hints(prompts: Prompts, own: Bool, drawn: Int) -> Float | None:
    """Return where the detector saw what the prompts mean; the caller's own masks are no such map."""
    if prompts.mask_logits is None:
        return None
    return np.where(own[drawn, None, None], np.float32(0), prompts.mask_logits[drawn])


class _Asked(NamedTuple):
    """What a refiner is asked to draw, N masks.

    Attributes:
        roughs: of each what it is drawn from; boxes_xyxy: float32 (N, 4); hints: float32 (N, h', w') or None.
        twice: bool (N,), whether it is drawn in the mirror image, too.
    """

    roughs: list[Rough]
    boxes_xyxy: Float
    hints: Float | None
    twice: Bool

    def of(self, rows: Int) -> _Asked:
        hints = None if self.hints is None else self.hints[rows]
        return _Asked([self.roughs[row] for row in rows], self.boxes_xyxy[rows], hints, self.twice[rows])

    def mirrored(self, width: int) -> _Asked:
        """The same in the mirror image of a picture so many pixels wide."""
        boxes = geometry.mirrored_boxes(self.boxes_xyxy, width)
        hints = None if self.hints is None else _flipped(self.hints)
        return self._replace(roughs=[rough.mirrored(width) for rough in self.roughs], boxes_xyxy=boxes, hints=hints)


def _mirror_image(image: Image) -> Image:
    """Return the mirror image; its key is the picture's with a word more, for hashing it would cost as much again."""
    rgb = np.ascontiguousarray(image.rgb[:, ::-1])
    return replace(image, rgb=rgb, digest=f"{image.digest} mirrored")


def _flipped(maps: Float) -> Float:
    return np.ascontiguousarray(maps[:, :, ::-1])


def _draw(refiner: MaskRefiner, image: Image, mirror: Image | None, asked: _Asked) -> Closeups:
    """Return the closeups; those that are drawn twice are the mean of one and of one of the mirror image."""
    closeups = refiner.refine(image, asked.roughs, asked.boxes_xyxy, asked.hints)
    twice = np.flatnonzero(asked.twice)
    if mirror is None or not len(twice):
        return closeups
    seen = asked.of(twice).mirrored(image.size_hw[1])
    other = refiner.refine(mirror, seen.roughs, seen.boxes_xyxy, seen.hints)
    logits = np.asarray((closeups.logits[twice] + _flipped(other.logits)) / 2, np.float32)
    claims = np.asarray((closeups.predicted_iou[twice] + other.predicted_iou) / 2, np.float32)
    return _replaced(closeups, twice, Closeups(closeups.windows[twice], logits, claims))


def _same_prompt(prompts: Prompts) -> Int:
    """Return int64 (P,): a number for each box with its points; the prompts of one object and several phrases share it.

    What is beside NaN boxes, rough masks, is told apart by the masks that are drawn from.
    """
    p = len(prompts)
    told = np.concatenate([prompts.boxes_xyxy, prompts.points_xy.reshape(p, -1)], axis=1)
    return np.asarray(np.unique(np.nan_to_num(told, nan=-1.0), axis=0, return_inverse=True)[1], np.int64).reshape(p)


def _bare_boxes(prompts: Prompts) -> Bool:
    """Return bool (P,): which prompts are a box alone, for a single mask."""
    bare = prompts.has_box & ~(prompts.point_labels >= 0).any(axis=1)
    if prompts.mask_logits is not None:
        bare &= ~prompts.mask_logits.any(axis=(1, 2))
    return np.asarray(bare & (not prompts.multimask), np.bool_)


def _look_again(
    refiner: MaskRefiner, image: Image, mirror: Image | None, asked: _Asked, closeups: Closeups
) -> Closeups:
    """Return the closeups; those without a box, unless nothing was drawn, from a look around what was drawn."""
    rows = np.flatnonzero(np.isnan(asked.boxes_xyxy).any(axis=1) & (closeups.logits > 0).any(axis=(1, 2)))
    if not len(rows):
        return closeups
    drawn = _drawn(closeups)
    again = asked.of(rows)._replace(roughs=[drawn[row] for row in rows])
    return _replaced(closeups, rows, _draw(refiner, image, mirror, again))


def _drawn(closeups: Closeups) -> list[Rough]:
    """Return what was drawn as rough masks in their places."""
    return [Rough.near(near, window) for near, window in zip(closeups.logits, closeups.windows, strict=True)]


def _without_specks(logits: Float, share: float) -> Float:
    """Return (N, s, s) logits whose masks have no islands and holes smaller than a share of them."""
    if not share:
        return logits
    out = np.empty_like(logits)
    for near, tidy in zip(logits, out, strict=True):
        mask = near > 0
        least = share * int(mask.sum())
        kept = geometry.remove_small_regions(geometry.remove_small_regions(mask, least, "holes"), least, "islands")
        tidy[:] = np.where(kept == mask, near, -near)
    return out


def _replaced(closeups: Closeups, rows: Int, others: Closeups) -> Closeups:
    """Return the closeups with others in the place of some rows."""
    whole = {field.name: getattr(closeups, field.name).copy() for field in fields(Closeups)}
    for name, values in whole.items():
        values[rows] = getattr(others, name)
    return Closeups(**whole)


def _likeliest(proposals: Proposals, prompts: Prompts, wanted: Bool, config: RedrawConfig) -> list[int]:
    """Return which of the wanted prompts are drawn again."""
    of = prompts.proposal_index
    scores = proposals.scores[of]
    places = place_in_phrase(scores, proposals.phrase_index[of])
    order = fair_order(scores, places)
    kept: list[int] = order[(places[order] < config.per_phrase) & wanted[order]][: config.total].tolist()
    return kept
