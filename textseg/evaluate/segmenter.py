"""The table's rows over the segmenter alone: given the true box, given the text token only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from textseg import geometry
from textseg.choose import full_size
from textseg.errors import UnsupportedError
from textseg.evaluate import metrics, scene_pages
from textseg.evaluate.outcome import Figure, Outcome, Tally
from textseg.evaluate.pages import Material, boxes
from textseg.evaluate.photo_pages import limited_samples
from textseg.pipeline import NO_PHRASE, Pipeline, PipelineConfig
from textseg.prompt import text_tokens, user_prompts
from textseg.propose import user_proposals
from textseg.protocols import MaskRefiner
from textseg.rank import score
from textseg.redraw import redraw
from textseg.segment import segment
from textseg.types import Bool, Candidates, Image, Prompts

BEST, SINGLE, ORACLE = "mean IoU", "mean IoU, single mask", "mean IoU, best of three (oracle)"
REDRAWN = "mean IoU, drawn again"
CLOSE = "mean IoU, close-ups alone"
ELLIPSE = "mean IoU of the box's ellipse"


def sam_true_box(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """The segmenter given the true box of every labelled thing of coco and ccp.

    Of the three masks the one of best predicted IoU counts. Beside it: the single-mask answer, the best of
    the three chosen by the truth, and the ellipse that fills the box, which is the least to beat. Crowds and
    ccp's "person" (a union made by us) are left out. The preset's ``segment`` settings apply: nano is handed the
    box's ellipse as a rough mask, which holds nothing that the box does not. Where the preset has a mask refiner,
    what the pipeline answers is told beside it: for a box the single mask, drawn again. Where it has an
    ``own_refiner``, as nano has a SAM that is shown close-ups, so is what that one draws by itself.
    """
    tally, pictures = Tally(), 0
    for name in ("coco", "ccp"):
        for sample in limited_samples(material, name, limit):
            pictures += 1
            things = [o for o in sample.objects if o.mask is not None and not o.crowd]
            things = [o for o in things if not (name == "ccp" and o.name == "person")]
            if not things:
                continue
            image = pipeline.open(sample.image_rgb).image
            given = geometry.clip_boxes(boxes(things), image.size_hw)
            truths = [o.mask for o in things if o.mask is not None]
            _compare(pipeline, image, user_prompts(np.arange(len(given)), boxes_xyxy=given), truths, tally, name)
            for box, truth in zip(given, truths, strict=True):
                tally.add(ELLIPSE, name, metrics.mask_iou(metrics.ellipse_mask(box, image.size_hw), truth))
    figures: list[Figure] = [tally.figure(BEST, 0.75)]
    figures += [tally.figure(BEST, 0.75, kind=name) for name in ("coco", "ccp")]
    drawn: tuple[str, ...] = () if pipeline.refiner is None else (REDRAWN,)
    drawn += () if pipeline.own_refiner is None else (CLOSE,)
    figures += [tally.figure(m, 0.75) for m in drawn]
    figures += [tally.figure(m, kind=name) for m in (*drawn, SINGLE, ORACLE, ELLIPSE) for name in ("coco", "ccp")]
    return Outcome("sam_true_box", "the segmenter given the true box, coco and ccp", pictures, tuple(figures))


def sam_text_alone(pipeline: Pipeline, material: Material, limit: int | None = None) -> Outcome:
    """The segmenter given nothing but the text token of the noun, in scenes of a single thing.

    Where the preset has a mask refiner, what comes of it is told beside it: each of the three masks drawn again, as
    for a prompt of the caller's, and the best by the ranking's score, without the parts that know the phrase.

    Raises:
        UnsupportedError: the pipeline has no text prompt.
    """
    if pipeline.clip is None or pipeline.text_prompt is None:
        raise UnsupportedError("sam_text_alone needs a preset with 'clip' and 'text_prompt'")
    tally, pages = Tally(), 0
    for page in scene_pages.single_pages(material, limit):
        pages += 1
        image = pipeline.open(page.image_rgb).image
        for ask in page.asks:
            embeddings = pipeline.clip.encode_text([ask.phrase])
            tokens = text_tokens(pipeline.text_prompt, pipeline.segmenter, embeddings)
            prompts = user_prompts(np.arange(1), text_tokens=tokens)
            _compare(pipeline, image, prompts, list(ask.masks or ()), tally, ask.kind)
    drawn = () if pipeline.refiner is None else (tally.figure(REDRAWN, 0.60),)
    figures = (tally.figure(BEST, 0.60), *drawn, tally.figure(SINGLE), tally.figure(ORACLE))
    return Outcome("sam_text_alone", "the segmenter given the text token alone, one thing a scene", pages, figures)


def _compare(pipeline: Pipeline, image: Image, prompts: Prompts, truths: list[Bool], tally: Tally, kind: str) -> None:
    """Tally the three masks' and the single mask's IoU with the truth, one prompt for each truth."""
    embedding = pipeline.cache.get(image, pipeline.segmenter)
    config = pipeline.config.segment
    three = segment(pipeline.segmenter, embedding, image, prompts, config)
    alone = replace(prompts, multimask=False)
    single = segment(pipeline.segmenter, embedding, image, alone, config)
    rows = np.arange(len(truths))
    for row, iou in enumerate(_overlaps(three, truths)):
        tally.add(BEST, kind, iou[three.predicted_iou[row].argmax()])
        tally.add(ORACLE, kind, iou.max())
    pointed = bool(prompts.has_box.all())
    drawers = {REDRAWN: pipeline.refiner_for(bounded=pointed), CLOSE: pipeline.own_refiner if pointed else None}
    asked, answered = (alone, single) if pointed else (prompts, three)  # see ``UserPrompt.clear``
    for name, refiner in drawers.items():
        if refiner is not None:
            drawn = _drawn_again(refiner, image, asked, answered, pipeline.config)
            for mask, truth in zip(drawn, truths, strict=True):
                tally.add(name, kind, metrics.mask_iou(mask, truth))
    for iou in _overlaps(single, truths)[rows, single.predicted_iou.argmax(axis=1)]:
        tally.add(SINGLE, kind, iou)


def _drawn_again(
    refiner: MaskRefiner, image: Image, prompts: Prompts, candidates: Candidates, config: PipelineConfig
) -> Bool:
    """Return bool (P, H, W): of each prompt the mask that ranks first when all are drawn again."""
    rows = np.arange(len(prompts))
    given = user_proposals(np.zeros((len(rows), 4), np.float32), np.zeros(len(rows), np.int64))
    drawn = redraw(refiner, image, given, prompts, candidates, config.redraw)
    scored = score(image, NO_PHRASE, given, prompts, drawn, None, config.rank)
    return full_size(drawn, rows, scored.scores.reshape(drawn.predicted_iou.shape).argmax(axis=1))


def _overlaps(candidates: Candidates, truths: list[Bool]) -> npt.NDArray[np.float64]:
    """Return float64 (P, C), the IoU of every mask with its prompt's truth, at the picture's own size."""
    out = np.zeros(candidates.predicted_iou.shape)
    for p, truth in enumerate(truths):
        masks = geometry.upscale_masks(candidates.logits[p], candidates.frame)  # (C, H, W)
        out[p] = [metrics.mask_iou(mask, truth) for mask in masks]
    return out
