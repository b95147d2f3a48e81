"""Zoom-in refinement: a crop around each mask is segmented again, at a finer scale, and pasted back.

SAM's masks have a quarter of its input's resolution: on a large picture, fine structures and crisp edges of small
objects are gone. Around one object the same network sees more: the crop is encoded by itself and asked with the
object's box and its mask. What comes back replaces the mask only if it is still the same object. The cost is one
encoding and one prompt a mask; what fills the picture anyway cannot gain and is left as it is.

The idea of asking again on a crop is CascadePSP's (Cheng et al., 2020), with SAM as its own refiner. Afterwards the
edge is moved to where the picture's colours change (``textseg.snap``), which costs no encoding.

Measured with nano on validation photographs of 448 pixels (``benchmarks/hard_cases.py``): snapping by 6 pixels raises
boundary IoU from 0.42 to 0.46 and mask IoU from 0.59 to 0.61; the zoom alone changes neither by more than 0.002, since
what limits nano is not its resolution. Where a better segmenter leaves edges coarse on large pictures, it is for that.
nano's mask refiner, asked in SAM's place, raises them to 0.49 and 0.66 at 6 ms a mask; snapping after it does harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from textseg import closeup, geometry
from textseg import image as images
from textseg.closeup import Rough
from textseg.errors import ConfigError, ShapeError
from textseg.everything.records import Everything
from textseg.prompt import user_prompts
from textseg.protocols import MaskRefiner, Segmenter
from textseg.snap import snap
from textseg.types import Bool, Float, Image, Int, Segments

if TYPE_CHECKING:
    from textseg.pipeline import Pipeline

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Is called with (masks done, masks in all)."""

MASK_LOGIT = 6.0
"""Logit of the mask prompt far from the edge."""

_PROMPT_SIDE = 256  # pixels of the mask prompt; the segmenter resizes it to its own


@dataclass(frozen=True)
class RefineOptions:
    """Which masks are refined, and when the new mask is taken.

    Attributes:
        grow: the crop is the mask's box grown by this factor.
        min_zoom: a mask is refined only if its crop is seen larger than the picture was, by this factor.
        agree_iou: the new mask must overlap the old one by this IoU, or the old one stays.
        min_side: crops are at least so many pixels a side: a tiny object needs its surroundings.
        use_mask: hand the old mask to the segmenter beside its box.
        rounds: how often; each round starts from the last one's mask; 0 asks nothing and only snaps.
        snap: afterwards edges move to where the colours change, by at most so many pixels; 0 leaves them.
        min_region_area: holes and islands of fewer pixels are removed at the end; 0 leaves them.

    Raises:
        ConfigError: a value out of range.
    """

    grow: float = 1.6
    min_zoom: float = 1.3
    agree_iou: float = 0.7
    min_side: int = 48
    use_mask: bool = True
    rounds: int = 1
    snap: int = 6
    min_region_area: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("grow", 1.0),
            ("min_zoom", 1.0),
            ("min_side", 1),
            ("rounds", 0),
            ("snap", 0),
            ("min_region_area", 0),
        ):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected {least} or more")
        if not 0.0 <= self.agree_iou <= 1.0:
            raise ConfigError(f"agree_iou: got {self.agree_iou}, expected a number in 0..1")


@dataclass(frozen=True)
class Refined:
    """Masks after refinement.

    Attributes:
        masks: bool (K, H, W).
        changed: bool (K,), which masks are new.
        zoom: float32 (K,), how much larger each was seen; 1 where it was not refined.
        encodings: how many crops were encoded.
    """

    masks: Bool
    changed: Bool
    zoom: Float
    encodings: int


def refine(
    segmenter: Segmenter | MaskRefiner,
    image: Image,
    masks: Bool,
    options: RefineOptions | None = None,
    progress: Progress | None = None,
) -> Refined:
    """Return the masks with crisper edges.

    Args:
        segmenter: any that takes boxes and masks; or a mask refiner, which looks at every mask however large.
        image: the picture.
        masks: bool (K, H, W) at the picture's size; K may be 0.
        options: see there.
        progress: is told after every mask.

    Raises:
        ShapeError: the masks do not have the picture's size.
    """
    options = options or RefineOptions()
    if masks.ndim != 3 or masks.shape[1:] != image.size_hw:
        raise ShapeError(f"masks: got shape {masks.shape}, expected (K, {image.size_hw[0]}, {image.size_hw[1]})")
    out = masks.copy()
    changed, zoom = np.zeros(len(masks), np.bool_), np.ones(len(masks), np.float32)
    encodings = 0
    for k in range(len(masks)):
        for _ in range(options.rounds):
            new, factor = refine_one(segmenter, image, out[k], options)
            zoom[k] = max(float(zoom[k]), factor)
            encodings += factor > 1.0
            if new is None or (new == out[k]).all():
                break
            out[k], changed[k] = new, True
        for new in _by_rule(image, out[k], options):
            changed[k] |= bool((new != out[k]).any())
            out[k] = new
        if progress is not None:
            progress(k + 1, len(masks))
    logger.info("refined %d of %d masks with %d crops", changed.sum(), len(masks), encodings)
    return Refined(out, changed, zoom, encodings)


def refine_one(
    segmenter: Segmenter | MaskRefiner, image: Image, mask: Bool, options: RefineOptions
) -> tuple[Bool | None, float]:
    """Return the new mask, bool (H, W), or None if the old one stays; and the zoom, 1 if nothing was asked."""
    if not mask.any():
        return None, 1.0
    if isinstance(segmenter, MaskRefiner):
        return _drawn_again(segmenter, image, mask, options)
    box = geometry.mask_boxes(mask[None])[0]
    x0, y0, x1, y1 = crop_box(box, image.size_hw, options)
    zoom = max(image.size_hw) / max(y1 - y0, x1 - x0)
    if zoom < options.min_zoom:
        return None, 1.0
    view = replace(images.read(image.rgb[y0:y1, x0:x1]), source=f"{image.source} at {(x0, y0, x1, y1)}")
    inside = mask[y0:y1, x0:x1]
    prompts = user_prompts(
        np.zeros(1, np.int64),
        boxes_xyxy=(box - np.array([x0, y0, x0, y0], np.float32))[None],
        mask_logits=mask_prompt(inside)[None] if options.use_mask else None,
        multimask=False,
    )
    answer = segmenter.decode(segmenter.encode(view), prompts)
    new = geometry.upscale_masks(answer.logits[0, :1], answer.frame)[0]
    if float(geometry.mask_iou(new[None], inside[None])[0, 0]) < options.agree_iou:
        return None, zoom
    out = np.zeros_like(mask)
    out[y0:y1, x0:x1] = new
    return out, zoom


def _drawn_again(refiner: MaskRefiner, image: Image, mask: Bool, options: RefineOptions) -> tuple[Bool | None, float]:
    boxes = geometry.mask_boxes(mask[None])
    x0, y0, x1, y1 = crop_box(boxes[0], image.size_hw, options)
    near = refiner.refine(image, [Rough(mask_prompt(mask[y0:y1, x0:x1]), (x0, y0, x1, y1))], boxes)
    new = closeup.full_mask(near, 0, image.size_hw)
    zoom = max(image.size_hw) / float(near.windows[0, 2])
    agrees = float(geometry.mask_iou(new[None], mask[None])[0, 0]) >= options.agree_iou
    return (new if agrees else None), max(zoom, 1.0)


def _by_rule(image: Image, mask: Bool, options: RefineOptions) -> Iterator[Bool]:
    """Yield the mask snapped to the picture's colours, then without small regions, as far as wanted."""
    if options.snap and mask.any():
        x0, y0, x1, y1 = crop_box(geometry.mask_boxes(mask[None])[0], image.size_hw, options)
        inside = mask[y0:y1, x0:x1]
        new = snap(image.rgb[y0:y1, x0:x1], inside, options.snap)
        if float(geometry.mask_iou(new[None], inside[None])[0, 0]) >= options.agree_iou:
            mask = mask.copy()
            mask[y0:y1, x0:x1] = new
        yield mask
    if options.min_region_area:
        yield _tidy(mask, options.min_region_area)


def crop_box(box_xyxy: Float, size_hw: tuple[int, int], options: RefineOptions) -> tuple[int, int, int, int]:
    """Return the crop around a box: grown, square where the picture allows it, inside the picture."""
    height, width = size_hw
    x0, y0, x1, y1 = (float(v) for v in box_xyxy)
    side = max((x1 - x0) * options.grow, (y1 - y0) * options.grow, options.min_side)
    spans = []
    for low, high, limit in ((x0, x1, width), (y0, y1, height)):
        length = min(limit, round(side))
        start = min(max(0, round((low + high - length) / 2)), limit - length)
        spans.append((start, start + length))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def mask_prompt(mask: Bool) -> Float:
    """Return a mask as logits, float32 (h, w) of at most 256 pixels a side: soft at the edge, certain away from it."""
    height, width = mask.shape
    scale = min(1.0, _PROMPT_SIDE / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(mask.astype(np.float32), size_wh, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), 1.0)
    return np.asarray((2 * soft - 1) * MASK_LOGIT, np.float32).reshape(size_wh[::-1])


def refine_everything(
    pipeline: Pipeline, found: Everything, options: RefineOptions | None = None, progress: Progress | None = None
) -> Everything:
    """Return everything in a picture with refined masks; one mask is unpacked at a time.

    The refiner that draws the caller's own masks again is asked where there is one, else the segmenter. What a refiner
    drew is not snapped unless the options say so.
    """
    refiner = pipeline.refiner_for(bounded=True)
    options = options or (RefineOptions() if refiner is None else RefineOptions(snap=0))
    rles, areas, boxes = list(found.rles), found.areas.copy(), found.boxes_xyxy.copy()
    for k in range(len(found)):
        one = refine(refiner or pipeline.segmenter, found.image, found.mask(k)[None], options)
        if one.changed[0]:
            rles[k] = geometry.encode_rle(one.masks[0])
            areas[k], boxes[k] = int(one.masks[0].sum()), geometry.mask_boxes(one.masks)[0]
        if progress is not None:
            progress(k + 1, len(found))
    return replace(found, rles=tuple(rles), areas=areas, boxes_xyxy=boxes)


def refine_segments(
    segmenter: Segmenter,
    image: Image,
    segments: Segments,
    options: RefineOptions | None = None,
    progress: Progress | None = None,
) -> Segments:
    """Return a result's accepted segments (``result.accepted``) with refined masks; scores and labels stay."""
    refined = refine(segmenter, image, segments.masks, options, progress)
    return replace(segments, masks=refined.masks, boxes_xyxy=geometry.mask_boxes(refined.masks))


def cost(image: Image, masks: Bool, options: RefineOptions | None = None) -> int:
    """Return how many crops refining would encode, at most."""
    options = options or RefineOptions()
    boxes, worth = geometry.mask_boxes(masks), 0
    for box, mask in zip(boxes, masks, strict=True):
        x0, y0, x1, y1 = crop_box(box, image.size_hw, options)
        worth += bool(mask.any()) and max(image.size_hw) / max(y1 - y0, x1 - x0) >= options.min_zoom
    return worth * options.rounds


def boundary_iou(a: Bool, b: Bool, dilation: float = 0.02) -> float:
    """Return Boundary IoU (Cheng et al., 2021) of two bool (H, W) masks: IoU of the bands inside their outlines.

    Args:
        a, b: of one size.
        dilation: width of the band as a share of the picture's diagonal (the paper's 0.02), at least a pixel.
    """
    width = max(1, round(dilation * float(np.hypot(*a.shape))))
    first, second = _band(a, width), _band(b, width)
    either = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / either if either else 1.0


def _band(mask: Bool, width: int) -> Bool:
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return np.asarray(mask & (inner == 0), np.bool_)


def _tidy(mask: Bool, area: int) -> Bool:
    return geometry.remove_small_regions(geometry.remove_small_regions(mask, area, "holes"), area, "islands")


def small_objects(masks: Bool, side: int = 32) -> Int:
    """Return int64 indices of the masks of fewer than ``side``² pixels (COCO's "small")."""
    return np.flatnonzero((masks.sum(axis=(1, 2)) < side * side) & masks.any(axis=(1, 2))).astype(np.int64)
