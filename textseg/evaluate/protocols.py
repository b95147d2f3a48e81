"""The table's rows over a whole `Pipeline`: one function a row.

Every phrase is asked in a call of its own on an opened picture (the embeddings are kept, so it costs
little): phrases of one call are contrasted with each other, and a row must not depend on what else
was asked. All figures come from validation pictures, see `pages`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from textseg import geometry
from textseg.evaluate import metrics, photo_pages, scene_pages
from textseg.evaluate.outcome import Figure, Outcome, Tally
from textseg.evaluate.pages import Ask, Material, Page
from textseg.pipeline import Pipeline
from textseg.result import Result
from textseg.types import Bool

IOU, RIGHT, AUROC = "mean IoU", "right object", "AUROC"
_Scores = tuple[list[float], list[float]]  # best scores of present and of absent phrases


def scenes_color(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """ "the red car" where things of the same noun have other colours: is the right one chosen?

    Chosen is the candidate of best score, accepted or not. Right means that of all labelled things it
    overlaps the one asked for most. The mean IoU is over all phrases, wrong choices included.
    """
    tally, pages = Tally(), 0
    for page, ask, result in _answers(pipeline, scene_pages.color_pages(material, limit)):
        pages = page.index + 1
        chosen = best_mask(result)
        iou = metrics.mask_iou(chosen, _truth(ask))
        right = right_object(chosen, ask)
        tally.add(RIGHT, ask.kind, right)
        tally.add(IOU, ask.kind, iou)
        if right:
            tally.add("mean IoU where right", ask.kind, iou)
        accepted = bool(len(result)) and right_object(result.union(ask.phrase), ask)
        tally.add("right and accepted", ask.kind, accepted)
    figures = (
        tally.figure(RIGHT, 0.90),
        tally.figure(IOU, 0.80),
        tally.figure(RIGHT, kind="car"),
        tally.figure(IOU, kind="car"),
        tally.figure("mean IoU where right"),
        tally.figure("right and accepted"),
    )
    what = "composed scenes, “the red car” with others of that noun in other colours; best candidate by score"
    return Outcome("scenes_color", what, pages, figures)


def scenes_nouns(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """Plain nouns in composed scenes: union of the accepted masks against all visible things of the noun."""
    tally, pages = _unions(pipeline, scene_pages.noun_pages(material, limit))
    nouns = len(tally.figure(IOU).by_kind)
    what = f"composed scenes, {nouns} plain nouns; union of accepted masks"
    return Outcome("scenes_nouns", what, pages, (tally.figure(IOU, 0.75), tally.figure("found at all")))


def ccp_garments(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """Garment names that are present: union of the accepted masks against the class mask.

    Skin and hair, which ccp labels too, are no garments; they are in the second figure.
    """
    tally, pages = _unions(pipeline, photo_pages.garment_pages(material, limit))
    figures = (
        tally.figure(f"{IOU} of garments", 0.60),
        tally.figure(IOU),
        tally.figure("found at all"),
    )
    return Outcome("ccp_garments", "street fashion, garments that are worn; union of accepted masks", pages, figures)


def ccp_color(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """ "the black boots" where that garment is plainly black by its pixels."""
    tally, pages = _unions(pipeline, photo_pages.garment_color_pages(material, limit))
    what = "street fashion, garments with their colour word; union of accepted masks"
    return Outcome("ccp_color", what, pages, (tally.figure(IOU, 0.55), tally.figure("found at all")))


def coco_classes(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """COCO class names that are present: union of the accepted masks against all instances, crowds ignored."""
    tally, pages = _unions(pipeline, photo_pages.class_pages(material, limit))
    what = "COCO photographs, class names that are present; union of accepted masks"
    return Outcome("coco_classes", what, pages, (tally.figure(IOU, 0.30), tally.figure("found at all")))


def objects(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """Photographs of one thing each: is it found by its noun, and is another noun "not there"?

    The outline is only known of those with a white border; their union of accepted masks is measured.
    """
    tally = Tally()
    there: list[float] = []
    gone: list[float] = []
    for _, ask, result in _answers(pipeline, photo_pages.object_pages(material, limit), present_only=False):
        (there if ask.present else gone).append(float(result.phrase_scores[0]))
        tally.add("found at all" if ask.present else "rightly empty", ask.kind, (len(result) > 0) is ask.present)
        if ask.masks:
            tally.add(IOU, ask.kind, metrics.mask_iou(result.union(ask.phrase), _truth(ask)))
    figures = (
        Figure(f"{AUROC}, present against absent", metrics.auroc(there, gone), len(there) + len(gone), 0.90),
        tally.figure("found at all"),
        tally.figure("rightly empty"),
        tally.figure(IOU),
    )
    what = "photographs of one thing each (Caltech-101), its noun and one that is not there; outlines of some"
    return Outcome("objects", what, len(there), figures)


def cars(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """Large cars on photographs ("car"), and the right one of several by its colour.

    A car is large from 15 % of the picture on. A large car is found if some accepted mask's box overlaps its
    own by IoU 0.5. With a colour, the best candidate's box must overlap the asked car's most of all cars.
    """
    tally, pages = Tally(), 0
    for page, ask, result in _answers(pipeline, photo_pages.car_pages(material, limit)):
        pages = page.index + 1
        for hit in metrics.box_hits(result.boxes_xyxy, ask.boxes_xyxy):
            tally.add("large cars found", ask.kind, float(hit))
    for _, ask, result in _answers(pipeline, photo_pages.car_color_pages(material, limit)):
        tally.add("right car by colour", ask.kind, right_object(best_mask(result), ask))
    figures = (
        tally.figure("large cars found", 0.85),
        tally.figure("right car by colour", 0.80, kind="photograph"),
        tally.figure("right car by colour", 0.80, kind="collage"),
    )
    what = (
        f"large cars (from {photo_pages.LARGE_CAR:.0%} of the picture) of the two car folders; colours also on "
        "pairs of photographs side by side, as few held-out ones show two plain cars"
    )
    return Outcome("cars", what, pages, figures)


def absent(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """Can "not there" be told from the best score? Present phrases against absent ones of the same vocabulary.

    Absent names that labellers mix up with one that is there ("boots" beside "shoes") are not asked. The
    right noun in a wrong colour is a figure of its own.
    """
    scores: dict[str, _Scores] = {}
    sources = {
        "ccp": photo_pages.garment_pages,
        "scenes": scene_pages.noun_pages,
        "wrong colour, scenes": scene_pages.color_pages,
        "wrong colour, ccp": photo_pages.garment_color_pages,
    }
    pages = 0
    for name, make in sources.items():
        scores[name], last = ([], []), 0
        for page, ask, result in _answers(pipeline, make(material, limit), present_only=False):
            scores[name][0 if ask.present else 1].append(float(result.phrase_scores[0]))
            last = page.index + 1
        pages += last
    scores = {"ccp and scenes": _joined(scores["ccp"], scores["scenes"]), **scores}
    figures = []
    for name, (there, gone) in scores.items():
        target = None if name.startswith("wrong") else 0.90
        figures.append(Figure(f"{AUROC} ({name})", metrics.auroc(there, gone), len(there) + len(gone), target))
    what = "best score of present against absent phrases of the same vocabulary"
    return Outcome("absent", what, pages, tuple(figures))


def best_mask(result: Result) -> Bool:
    """Return bool (H, W): the candidate of best score whether accepted or not; empty where there is none."""
    scored = result.scored
    solid = np.flatnonzero(scored.areas > 0)
    if not len(solid):
        return np.zeros(result.image.size_hw, np.bool_)
    best = solid[int(scored.scores[solid].argmax())]
    logits = scored.candidates.logits[scored.prompt_index[best], scored.mask_index[best]]  # (h, w)
    return np.asarray(geometry.upscale_masks(logits[None], scored.candidates.frame)[0], np.bool_)


def right_object(mask: Bool, ask: Ask) -> bool:
    """Whether a (H, W) mask overlaps a thing that was meant more than any other labelled thing.

    By the masks where they are known, else by the mask's box.
    """
    if ask.masks is not None and ask.other_masks is not None:
        meant = np.array([metrics.mask_iou(mask, m) for m in ask.masks], np.float32)
        other = np.array([metrics.mask_iou(mask, m) for m in ask.other_masks], np.float32)
    else:
        box = geometry.mask_boxes(mask[None])
        meant = geometry.box_iou(box, ask.boxes_xyxy)[0]
        other = geometry.box_iou(box, ask.others_xyxy)[0]
    return metrics.overlaps_most(meant, other)


def _answers(
    pipeline: Pipeline, pages: Iterator[Page], *, present_only: bool = True
) -> Iterator[tuple[Page, Ask, Result]]:
    """Yield every phrase with its answer, each asked alone; a picture is opened and encoded once."""
    for page in pages:
        picture = pipeline.open(page.image_rgb)
        for ask in page.asks:
            if ask.present or not present_only:
                yield page, ask, picture.segment(ask.phrase)


def _joined(one: _Scores, two: _Scores) -> _Scores:
    return one[0] + two[0], one[1] + two[1]


def _unions(pipeline: Pipeline, pages: Iterator[Page]) -> tuple[Tally, int]:
    """Return the IoU of each present phrase's accepted masks with all that it means, and the pictures seen."""
    tally, seen = Tally(), 0
    for page, ask, result in _answers(pipeline, pages):
        seen = page.index + 1
        iou = metrics.mask_iou(result.union(ask.phrase), _truth(ask), ask.ignore)
        tally.add(IOU, ask.kind, iou)
        tally.add("found at all", ask.kind, len(result) > 0)
        if ask.kind not in photo_pages.BODY:
            tally.add(f"{IOU} of garments", ask.kind, iou)
    return tally, seen


def _truth(ask: Ask) -> Bool:
    union = ask.union
    if union is None:
        raise ValueError(f"{ask.phrase!r} has no masks to compare with")
    return union
