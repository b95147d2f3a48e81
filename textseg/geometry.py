"""Boxes, masks and frames: pure functions on numpy arrays.

A box is ``xyxy`` in pixels with the origin at the picture's top left corner; its far edges are
exclusive, so that the one pixel at column 3, row 2 has the box ``(3, 2, 4, 3)``. Nothing here
imports torch, and no function changes its arguments.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from textseg.errors import PromptError, ShapeError
from textseg.matmul import matmul
from textseg.types import Bool, Float, Frame, Int

_PIXELS_PER_BLOCK = 1 << 18  # mask_iou casts at most so many pixels of each mask to float32 at once


# ---------------------------------------------------------------- boxes


def clip_boxes(boxes_xyxy: Float, size_hw: tuple[int, int]) -> Float:
    """Return float32 (N, 4) boxes moved inside a picture of ``size_hw`` (height, width) pixels."""
    h, w = size_hw
    limits = np.array([w, h, w, h], np.float32)
    return np.clip(np.asarray(boxes_xyxy, np.float32), 0, limits).astype(np.float32)


def mirrored_boxes(boxes_xyxy: Float, width: float) -> Float:
    """Return float32 (N, 4): boxes (N, 4) as they lie in the mirror image of a picture so many pixels wide."""
    x0, y0, x1, y1 = np.asarray(boxes_xyxy, np.float32).T
    return np.stack([width - x1, y0, width - x0, y1], axis=1).astype(np.float32)


def box_area(boxes_xyxy: Float) -> Float:
    """Return float32 (N,) areas of (N, 4) boxes in square pixels; an inverted box has none."""
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)  # (N, 2)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float32)


def box_iou(a_xyxy: Float, b_xyxy: Float) -> Float:
    """Return float32 (N, M): intersection over union of (N, 4) with (M, 4) boxes; 0 where both are empty."""
    a = np.asarray(a_xyxy, np.float32).reshape(-1, 4)
    b = np.asarray(b_xyxy, np.float32).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])  # (N, M, 2)
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])  # (N, M, 2)
    sides = np.clip(high - low, 0, None)
    shared = sides[..., 0] * sides[..., 1]  # (N, M)
    total = box_area(a)[:, None] + box_area(b)[None] - shared
    return _ratio(shared, total)


def nms(boxes_xyxy: Float, scores: Float, iou: float, groups: Int | None = None) -> Int:
    """Return int64 indices of the boxes that greedy non-maximum suppression keeps, best first.

    Args:
        boxes_xyxy: float32 (N, 4).
        scores: float32 (N,); among equal scores the earlier box wins.
        iou: a box that overlaps a better kept one by more than this is dropped.
        groups: int64 (N,), or None: boxes of different groups never drop each other.
    """
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        near = box_iou(boxes[best : best + 1], boxes[order])[0] > iou  # (left,)
        if groups is not None:
            near &= np.asarray(groups)[order] == groups[best]
        order = order[~near]
    return np.array(kept, np.int64)


def validate_boxes(boxes_xyxy: Any, size_hw: tuple[int, int]) -> Float:
    """Return a caller's boxes as float32 (N, 4), clipped to the picture.

    Args:
        boxes_xyxy: (4,) or (N, 4) numbers, pixels of the original picture.
        size_hw: the picture's height and width in pixels.

    Raises:
        PromptError: wrong shape, NaN, inverted, empty, or wholly outside the picture.
    """
    boxes = numbers("box", boxes_xyxy)
    boxes = boxes[None] if boxes.shape == (4,) else boxes
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise PromptError(f"boxes: got shape {boxes.shape}, expected (4,) or (N, 4): x0, y0, x1, y1 in pixels")
    h, w = size_hw
    for i, box in enumerate(boxes.tolist()):
        x0, y0, x1, y1 = box
        came = f"box {i} = ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if not all(math.isfinite(v) for v in box):
            raise PromptError(f"{came} has NaN or infinite values; expected finite pixels x0, y0, x1, y1")
        if x1 < x0 or y1 < y0:
            raise PromptError(f"{came} is inverted; expected x0 < x1 and y0 < y1 (corners, not x, y, width, height)")
        if x1 == x0 or y1 == y0:
            raise PromptError(f"{came} is empty; expected x0 < x1 and y0 < y1")
        if x1 <= 0 or y1 <= 0 or x0 >= w or y0 >= h:
            raise PromptError(f"{came} lies outside the picture, which is {w} wide and {h} high")
    return clip_boxes(boxes.astype(np.float32), size_hw)


def validate_points(points_xy: Any, labels: Any, size_hw: tuple[int, int]) -> tuple[Float, Int]:
    """Return a caller's points as float32 (Q, 2) and their labels as int64 (Q,).

    Args:
        points_xy: (2,) or (Q, 2) numbers, pixels of the original picture.
        labels: Q labels, 1 foreground or 0 background; None makes all foreground.
        size_hw: the picture's height and width in pixels.

    Raises:
        PromptError: wrong shape, NaN, a point outside the picture, another label or another number of labels.
    """
    points = numbers("point", points_xy)
    points = points[None] if points.shape == (2,) else points
    points = points.reshape(0, 2) if points.size == 0 else points
    if points.ndim != 2 or points.shape[1] != 2:
        raise PromptError(f"points: got shape {points.shape}, expected (2,) or (Q, 2): x, y in pixels")
    h, w = size_hw
    for i, (x, y) in enumerate(points.tolist()):
        if not (math.isfinite(x) and math.isfinite(y)):
            raise PromptError(f"point {i} = ({x:g}, {y:g}) has NaN or infinite values; expected finite pixels x, y")
        if not (0 <= x <= w and 0 <= y <= h):
            raise PromptError(f"point {i} = ({x:g}, {y:g}) lies outside the picture, which is {w} wide and {h} high")
    kinds = np.ones(len(points)) if labels is None else np.atleast_1d(numbers("point label", labels))
    if kinds.shape != (len(points),):
        raise PromptError(f"point labels: got shape {kinds.shape}, expected one for each of {len(points)} points")
    if not np.isin(kinds, (0, 1)).all():
        raise PromptError(f"point labels: got {kinds.tolist()}, expected 1 (foreground) or 0 (background)")
    return points.astype(np.float32), kinds.astype(np.int64)


def numbers(name: str, values: Any) -> npt.NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise PromptError(f"{name}: got {values!r}, expected numbers in equal rows") from error


# ---------------------------------------------------------------- frames


def longest_edge_frame(original_hw: tuple[int, int], longest_edge: int, pad: bool = True) -> Frame:
    """Return SAM's frame: the longer side becomes ``longest_edge`` pixels, the rest is padded to a square.

    Rounds as ``SamImageProcessor`` does (half up), and keeps at least one pixel a side.
    """
    h, w = original_hw
    scale = longest_edge * 1.0 / max(h, w)
    resized = max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5))
    return Frame((h, w), resized, (longest_edge, longest_edge) if pad else resized)


def stretch_frame(original_hw: tuple[int, int], input_hw: tuple[int, int]) -> Frame:
    """Return the frame of a model that resizes to ``input_hw`` whatever the aspect (SAM 2, OWLv2 …)."""
    return Frame(original_hw, input_hw, input_hw)


def to_input(coords: Float, frame: Frame) -> Float:
    """Map float32 (…, 2) points or (…, 4) boxes from original pixels to pixels of the model's input."""
    coords = np.asarray(coords, np.float32)
    return (coords * _scales(coords, frame)).astype(np.float32)


def to_original(coords: Float, frame: Frame) -> Float:
    """Map float32 (…, 2) points or (…, 4) boxes from the model's input back to original pixels."""
    coords = np.asarray(coords, np.float32)
    return (coords / _scales(coords, frame)).astype(np.float32)


def _scales(coords: Float, frame: Frame) -> npt.NDArray[np.float64]:
    if coords.shape[-1:] not in ((2,), (4,)):
        raise ShapeError(f"coordinates: got shape {coords.shape}, expected (…, 2) points or (…, 4) boxes")
    return np.tile(np.array(frame.scale_xy, np.float64), coords.shape[-1] // 2)


# ---------------------------------------------------------------- mask logits


def crop_padding(logits: Float, frame: Frame) -> Float:
    """Return the part of (…, h, w) low-resolution logits that shows the picture, without the padding (a view)."""
    h, w = logits.shape[-2:]
    (rh, rw), (ih, iw) = frame.resized_hw, frame.input_hw
    keep_h, keep_w = max(1, math.ceil(rh * h / ih)), max(1, math.ceil(rw * w / iw))
    return logits[..., :keep_h, :keep_w]


def upscale_logits(logits: Float, frame: Frame) -> Float:
    """Return mask logits at the original size, in the two bilinear steps of Meta's ``postprocess_masks``.

    Low resolution → model input, padding cut off → original size; half-pixel centres, no antialiasing.

    Args:
        logits: float32 (N, h, w) over the padded model input.
        frame: how that input relates to the picture.

    Returns:
        float32 (N, H, W).
    """
    out = np.empty((len(logits), *frame.original_hw), np.float32)
    for i, low in enumerate(logits):
        out[i] = _upscale_one(low, frame)
    return out


def upscale_masks(logits: Float, frame: Frame, threshold: float = 0.0) -> Bool:
    """Return bool (N, H, W) masks ``upscale_logits(…) > threshold``, one mask at a time to spare memory."""
    out = np.empty((len(logits), *frame.original_hw), np.bool_)
    for i, low in enumerate(logits):
        np.greater(_upscale_one(low, frame), threshold, out=out[i])
    return out


def resize_logits(logits: Float, size_hw: tuple[int, int]) -> Float:
    """Return float32 (N, H, W): logits (N, h, w) stretched to ``size_hw`` in one bilinear step."""
    out = np.empty((len(logits), *size_hw), np.float32)
    for i, plane in enumerate(logits):
        out[i] = _bilinear(np.ascontiguousarray(plane, np.float32), size_hw)
    return out


def _upscale_one(low: Float, frame: Frame) -> Float:
    rh, rw = frame.resized_hw
    full = _bilinear(np.ascontiguousarray(low, np.float32), frame.input_hw)
    return _bilinear(np.ascontiguousarray(full[:rh, :rw]), frame.original_hw)


def _bilinear(plane: Float, size_hw: tuple[int, int]) -> Float:
    """Resize float32 (h, w), half-pixel centres, edges repeated: torch's ``bilinear, align_corners=False``."""
    if plane.shape == tuple(size_hw):
        return plane
    # cv2 has no antialiasing in INTER_LINEAR; its result equals torch's to float32 rounding
    out = cv2.resize(plane, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(out, np.float32).reshape(size_hw)


def stability(logits: Float, frame: Frame, offset: float = 1.0, threshold: float = 0.0) -> Float:
    """Return SAM's stability score: IoU of the masks cut at ``threshold + offset`` and ``threshold - offset``.

    Counted on the low-resolution logits inside the unpadded area (segment-anything,
    ``calculate_stability_score``); 0 where even the wider mask is empty.

    Args:
        logits: float32 (…, h, w).

    Returns:
        float32 (…) in 0..1.
    """
    inside = crop_padding(np.asarray(logits, np.float32), frame)
    narrow = (inside > threshold + offset).sum(axis=(-2, -1))  # (…)
    wide = (inside > threshold - offset).sum(axis=(-2, -1))  # (…)
    return _ratio(narrow, wide)


# ---------------------------------------------------------------- masks


def mask_boxes(masks: Bool) -> Float:
    """Return float32 (K, 4), the tight ``xyxy`` box of each (K, H, W) mask; zeros for an empty mask."""
    out = np.zeros((len(masks), 4), np.float32)
    for k, mask in enumerate(masks):
        xs = np.flatnonzero(np.logical_or.reduce(mask, axis=0))  # (H, W) → columns that are touched
        ys = np.flatnonzero(np.logical_or.reduce(mask, axis=1))
        if len(xs):
            out[k] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    return out


def mask_iou(a: Bool, b: Bool) -> Float:
    """Return float32 (N, M): intersection over union of (N, h, w) with (M, h, w) masks; 0 where both are empty.

    Raises:
        ShapeError: the masks differ in size.
    """
    shared, area_a, area_b = _overlaps(a, b)
    return _ratio(shared, area_a[:, None] + area_b[None] - shared)


def mask_containment(a: Bool, b: Bool) -> Float:
    """Return float32 (N, M): the share of each mask of ``a`` (N, h, w) that lies inside each of ``b`` (M, h, w)."""
    shared, area_a, _ = _overlaps(a, b)
    return _ratio(shared, np.broadcast_to(area_a[:, None], shared.shape))


def _overlaps(a: Bool, b: Bool) -> tuple[npt.NDArray[np.float64], ...]:
    """Return float64 pixel counts: shared (N, M), of ``a`` (N,) and of ``b`` (M,), by matrix products."""
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:]:
        raise ShapeError(f"masks: got shapes {a.shape} and {b.shape}, expected (N, h, w) and (M, h, w)")
    pixels = a.shape[1] * a.shape[2]
    flat_a, flat_b = a.reshape(len(a), pixels), b.reshape(len(b), pixels)  # (N, h*w), (M, h*w)
    shared = np.zeros((len(a), len(b)))
    for start in range(0, pixels, _PIXELS_PER_BLOCK):
        block = slice(start, start + _PIXELS_PER_BLOCK)  # float32 counts are exact below 2**24
        shared += matmul(flat_a[:, block].astype(np.float32), flat_b[:, block].astype(np.float32).T)  # (N, M)
    return shared, np.count_nonzero(flat_a, axis=1).astype(float), np.count_nonzero(flat_b, axis=1).astype(float)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Float:
    safe = np.where(whole > 0, whole, 1)
    return np.asarray(np.where(whole > 0, part / safe, 0), np.float32)


def remove_small_regions(mask: Bool, area: float, mode: Literal["holes", "islands"]) -> Bool:
    """Return a bool (H, W) mask with small holes filled, or small islands taken away.

    Regions are 8-connected; one of fewer than ``area`` pixels is small. If every island is small the
    largest stays (segment-anything, ``remove_small_regions``).

    Raises:
        ShapeError: another ``mode``.
    """
    if mode not in ("holes", "islands"):
        raise ShapeError(f"mode: got {mode!r}, expected 'holes' or 'islands'")
    mask = np.asarray(mask, np.bool_)
    working = (mask if mode == "islands" else ~mask).astype(np.uint8)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(working, connectivity=8)
    sizes = stats[:, cv2.CC_STAT_AREA]  # region 0 is the background of ``working``
    small = sizes < area
    small[0] = False
    if mode == "holes":
        return np.asarray(mask | small[regions], np.bool_)
    if count > 1 and small[1:].all():
        small[1 + int(sizes[1:].argmax())] = False
    return np.asarray(mask & ~small[regions], np.bool_)


def square_crop(
    pixels: npt.NDArray[Any], box_xyxy: Float, grow: float = 1.0, fill: int | tuple[int, ...] = 0
) -> npt.NDArray[Any]:
    """Return the square around a box: side = the box's longer side times ``grow``, the box in its centre.

    Args:
        pixels: (H, W) or (H, W, 3) of any dtype: a picture or a mask.
        box_xyxy: (4,) in pixels of ``pixels``.
        grow: 1 is the tight square.
        fill: value (one, or one a channel) of what lies outside ``pixels``.

    Returns:
        (S, S) or (S, S, 3) of the same dtype, S ≥ 1; a copy.
    """
    x0, y0, x1, y1 = (float(v) for v in box_xyxy)
    side = max(1, math.ceil(max(x1 - x0, y1 - y0) * grow))
    left = math.floor((x0 + x1 - side) / 2 + 0.5)
    top = math.floor((y0 + y1 - side) / 2 + 0.5)
    h, w = pixels.shape[:2]
    out = np.empty((side, side, *pixels.shape[2:]), pixels.dtype)
    out[...] = fill
    from_x, from_y, to_x, to_y = max(0, left), max(0, top), min(w, left + side), min(h, top + side)
    if from_x < to_x and from_y < to_y:
        out[from_y - top : to_y - top, from_x - left : to_x - left] = pixels[from_y:to_y, from_x:to_x]
    return out


# ---------------------------------------------------------------- run-length encoding


def encode_rle(mask: Bool) -> dict[str, Any]:
    """Return COCO's compressed RLE of a bool (H, W) mask: ``{"size": [H, W], "counts": str}`` (JSON-ready).

    Raises:
        ShapeError: not two-dimensional.
    """
    from pycocotools import mask as coco

    if mask.ndim != 2:
        raise ShapeError(f"mask: got shape {mask.shape}, expected (H, W)")
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(s) for s in mask.shape], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: dict[str, Any]) -> Bool:
    """Return the bool (H, W) mask of a COCO RLE, compressed (str or bytes counts) or not (a list of counts).

    Raises:
        ShapeError: not an RLE, or its counts overrun its size.
    """
    from pycocotools import mask as coco

    try:
        h, w = (int(side) for side in rle["size"])
        compressed = coco.frPyObjects(rle, h, w) if isinstance(rle["counts"], list) else rle
        with warnings.catch_warnings():  # pycocotools 2.0.11 builds its array in numpy 1's way
            warnings.simplefilter("ignore", DeprecationWarning)
            mask = coco.decode({"size": [h, w], "counts": compressed["counts"]})
    except (KeyError, TypeError, ValueError) as error:
        raise ShapeError(f"RLE: expected {{'size': [H, W], 'counts': str}}; {type(error).__name__}: {error}") from error
    return np.asarray(mask, np.bool_)
