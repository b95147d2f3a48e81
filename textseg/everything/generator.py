"""Everything in a picture: Meta's automatic mask generator, with the same masks, streamed.

Kirillov et al., *Segment Anything*, 2023, section 5 and appendix B; the semantics are those of
``SamAutomaticMaskGenerator`` of segment-anything 1.0. A grid of points is asked about; what the segmenter believes
in (predicted IoU), what is stable under a shift of the cut, and what does not end at a crop's edge stays, without
duplicates. Unlike Meta's, masks below the predicted IoU are never drawn, the others are measured only where their
box is, and only run lengths are kept. Masks without a pixel are never returned.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from textseg import geometry
from textseg import image as images
from textseg.cache import EmbeddingCache
from textseg.everything.options import Crop, EverythingOptions, check_cost, crops
from textseg.everything.records import Everything, Rle
from textseg.prompt import user_prompts
from textseg.protocols import Segmenter
from textseg.stream import stream
from textseg.types import Embedding, Float, Image
from textseg.upscale import Outline, Upscaler

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Is called with (prompts done, prompts in all)."""

EDGE = 20.0
"""A mask whose box comes within so many pixels of its crop's edge is cut off there (``is_box_near_crop_edge``)."""


@dataclass(frozen=True)
class Found:
    """One mask on its way: what ``Everything`` holds, before the choice.

    Attributes:
        rle: COCO's compressed RLE at the size of the picture.
        area: pixels.
        box_xyxy: tight, far edges exclusive, pixels of the picture.
        iou: predicted IoU, not clipped.
        stability: 0..1.
        point_xy: pixels of the picture.
        crop: where it was found.
    """

    rle: Rle
    area: int
    box_xyxy: tuple[int, int, int, int]
    iou: float
    stability: float
    point_xy: tuple[float, float]
    crop: Crop


def generate(
    segmenter: Segmenter,
    image: Image,
    options: EverythingOptions | None = None,
    *,
    cache: EmbeddingCache | None = None,
    progress: Progress | None = None,
) -> Everything:
    """Return everything in a picture, unnamed.

    Args:
        segmenter: any that takes points.
        image: the picture.
        options: the grid and the thresholds.
        cache: embeddings of whole pictures; those of crops are not kept.
        progress: is told after every batch.

    Raises:
        ConfigError: the options mean more prompts than ``max_prompts``.
    """
    options = options or EverythingOptions()
    logger.info("everything in %s: %s", image.source, check_cost(options))
    parts = crops(image.size_hw, options)
    total = sum(options.prompts_in(crop.layer) for crop in parts)
    clock = {"encode": 0.0, "search": 0.0}
    found: list[Found] = []
    done = 0
    for crop in parts:
        start = time.perf_counter()
        view, embedding = _encode(segmenter, image, crop, cache)
        clock["encode"] += time.perf_counter() - start
        tell = None if progress is None else _shifted(progress, done, total)
        found += search(segmenter, view, embedding, crop, image.size_hw, options, tell)
        done += options.prompts_in(crop.layer)
        clock["search"] += time.perf_counter() - start
    clock["search"] -= clock["encode"]
    if len(parts) > 1:
        sizes = np.array([1 / float(np.prod(one.crop.size_hw)) for one in found], np.float32)
        found = _without_duplicates(found, sizes, options.crop_nms_thresh)
    if options.min_mask_region_area:
        found = _tidied(found, options.min_mask_region_area, max(options.box_nms_thresh, options.crop_nms_thresh))
    return assemble(image, found, done, clock)


def search(
    segmenter: Segmenter,
    view: Image,
    embedding: Embedding,
    crop: Crop,
    size_hw: tuple[int, int],
    options: EverythingOptions,
    progress: Progress | None = None,
) -> list[Found]:
    """Return what is found in one crop, duplicates removed, best first.

    Args:
        segmenter: as for ``generate``.
        view: the crop as a picture.
        embedding: the crop's.
        crop: where it lies.
        size_hw: size of the whole picture.
        options: the grid and the thresholds.
        progress: is told the crop's own prompts.
    """
    height, width = crop.size_hw
    grid = options.grid(crop.layer) * (width, height)  # float64 (N, 2), pixels of the crop
    least = options.pred_iou_thresh if options.pred_iou_thresh > 0 else -np.inf
    upscaler: Upscaler | None = None
    found: list[Found] = []
    for start in range(0, len(grid), options.points_per_batch):
        points = grid[start : start + options.points_per_batch]
        prompts = user_prompts(np.arange(len(points)), points_xy=points[:, None].astype(np.float32))
        for batch in stream(segmenter, embedding, prompts, least):
            upscaler = upscaler or Upscaler(batch.frame, batch.mask_hw)
            for row, logits in enumerate(batch.logits):
                outline = _outline(upscaler, logits, options)
                if outline is not None and not _cut_off(outline, crop, size_hw):
                    iou, point = float(batch.predicted_iou[row]), points[batch.prompt_index[row]]
                    found.append(_found(outline, iou, point, crop, size_hw))
        if progress is not None:
            progress(min(start + len(points), len(grid)), len(grid))
    scores = np.array([one.iou for one in found], np.float32)
    return _without_duplicates(found, scores, options.box_nms_thresh)


def assemble(image: Image, found: list[Found], prompts: int, seconds: dict[str, float]) -> Everything:
    """Return the value of a list of masks."""
    k = len(found)
    return Everything(
        image,
        tuple(one.rle for one in found),
        np.array([one.area for one in found], np.int64),
        np.array([one.box_xyxy for one in found], np.float32).reshape(k, 4),
        np.array([one.iou for one in found], np.float32),
        np.array([one.stability for one in found], np.float32),
        np.array([one.point_xy for one in found], np.float32).reshape(k, 2),
        np.array([one.crop.box_xyxy for one in found], np.int64).reshape(k, 4),
        prompts=prompts,
        seconds=seconds,
    )


def _encode(segmenter: Segmenter, image: Image, crop: Crop, cache: EmbeddingCache | None) -> tuple[Image, Embedding]:
    x0, y0, x1, y1 = crop.box_xyxy
    if (y1 - y0, x1 - x0) == image.size_hw:
        return image, cache.get(image, segmenter) if cache is not None else segmenter.encode(image)
    view = replace(images.read(image.rgb[y0:y1, x0:x1]), source=f"{image.source} at {crop.box_xyxy}")
    return view, segmenter.encode(view)


def _outline(upscaler: Upscaler, logits: Float, options: EverythingOptions) -> Outline | None:
    """Return the mask if it is stable and has a pixel."""
    least = options.stability_score_thresh if options.stability_score_thresh > 0 else -np.inf
    outline = upscaler.outline(logits, 0.0, options.stability_score_offset, least)
    return None if outline is None or not outline.area else outline


def _cut_off(outline: Outline, crop: Crop, size_hw: tuple[int, int]) -> bool:
    """Whether a mask comes near an edge of its crop that is not the picture's own; Meta counts to the last pixel."""
    x0, y0, _, _ = crop.box_xyxy
    left, top, right, bottom = outline.box_xyxy
    box = np.array([left + x0, top + y0, right - 1 + x0, bottom - 1 + y0], np.float32)
    near_crop = np.abs(box - np.array(crop.box_xyxy)) <= EDGE
    near_picture = np.abs(box - np.array([0, 0, size_hw[1], size_hw[0]])) <= EDGE
    return bool((near_crop & ~near_picture).any())


def _found(outline: Outline, iou: float, point: Any, crop: Crop, size_hw: tuple[int, int]) -> Found:
    x0, y0, _, _ = crop.box_xyxy
    left, top, right, bottom = outline.box_xyxy
    return Found(
        outline.placed((y0, x0), size_hw).rle(),
        outline.area,
        (left + x0, top + y0, right + x0, bottom + y0),
        iou,
        outline.stability,
        (float(point[0]) + x0, float(point[1]) + y0),
        crop,
    )


def _without_duplicates(found: list[Found], scores: Float, iou: float) -> list[Found]:
    """Return what box NMS keeps, best first; boxes reach to the last pixel, as Meta's do."""
    boxes = np.array([one.box_xyxy for one in found], np.float32).reshape(-1, 4) - np.array([0, 0, 1, 1], np.float32)
    return [found[i] for i in geometry.nms(boxes, scores, iou)]


def _tidied(found: list[Found], area: int, iou: float) -> list[Found]:
    """Return the masks without small holes and islands, duplicates that this makes removed; untouched ones first."""
    out, scores = [], []
    for one in found:
        mask = geometry.decode_rle(one.rle)
        new = geometry.remove_small_regions(mask, area, "holes")
        new = geometry.remove_small_regions(new, area, "islands")
        same = bool((new == mask).all())
        scores.append(float(same))
        if not same:
            x0, y0, x1, y1 = (int(v) for v in geometry.mask_boxes(new[None])[0])
            one = replace(one, rle=geometry.encode_rle(new), area=int(new.sum()), box_xyxy=(x0, y0, x1, y1))
        out.append(one)
    return _without_duplicates(out, np.array(scores, np.float32), iou)


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)
