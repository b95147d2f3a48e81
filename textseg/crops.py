"""Crops of a picture with everything outside the mask blanked: what CLIP is asked to judge."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from textseg import geometry
from textseg.types import Bool, Float, UInt8

MEAN_RGB = (122, 117, 104)
"""The mean colour of CLIP's training pictures, which its preprocessing makes 0: the blank that says least."""


def masked_crops(
    rgb: UInt8,
    masks: Bool | Sequence[Bool],
    *,
    grow: float,
    fill: tuple[int, int, int] = MEAN_RGB,
    size: int = 224,
    covered_xyxy: Float | None = None,
) -> list[UInt8]:
    """Return one square crop a mask, pixels outside the mask set to ``fill``.

    Args:
        rgb: uint8 (H, W, 3).
        masks: N of them, bool (h, w) each, at any resolution.
        grow: the mask's box is grown by this factor around its centre and made square.
        fill: RGB, 0..255, outside the mask and outside the picture.
        size: longest side of a crop in pixels; smaller objects are not enlarged.
        covered_xyxy: float32 (N, 4), what part of the picture each mask is of, in pixels; it may reach beyond the
            picture. None: each is of the whole picture.

    Returns:
        N arrays uint8 (s, s, 3), s at most ``size``. An empty mask gives a crop of ``fill`` alone.
    """
    height, width = rgb.shape[:2]
    if covered_xyxy is None:
        covered_xyxy = np.tile(np.array([0, 0, width, height], np.float32), (len(masks), 1))
    if max(height, width) > 4 * size:  # a huge picture is shrunk once, not once a crop
        factor = 4 * size / max(height, width)
        new_wh = [max(1, round(side * factor)) for side in (width, height)]
        rgb = np.asarray(cv2.resize(rgb, new_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        covered_xyxy = covered_xyxy * np.array([new_wh[0] / width, new_wh[1] / height] * 2, np.float32)
    crops = []
    for mask, covered in zip(masks, covered_xyxy, strict=True):
        corner, scale = covered[:2], (covered[2:] - covered[:2]) / mask.shape[::-1]  # picture pixels a mask's pixel
        box = geometry.mask_boxes(mask[None])[0] * np.tile(scale, 2) + np.tile(corner, 2)
        side = max(float(box[2] - box[0]), float(box[3] - box[1]), 1.0) * grow
        left, top = (box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2
        s = int(np.clip(round(side), 8, size))
        # Maps crop pixel centres to picture pixel centres.
        to_picture = np.array([[side / s, 0, left], [0, side / s, top]], np.float64)
        to_picture[:, 2] += 0.5 * side / s - 0.5
        crop = _warp(rgb, to_picture, s, fill)
        to_mask = to_picture.copy()
        to_mask[:, 2] += 0.5 - corner
        to_mask /= scale[:, None]
        to_mask[:, 2] -= 0.5
        inside = _warp(mask.astype(np.uint8) * 255, to_mask, s, (0, 0, 0)) > 127
        crop[~inside] = fill
        crops.append(crop)
    return crops


def _warp(array: UInt8, to_source: np.ndarray, size: int, fill: tuple[int, int, int]) -> UInt8:
    # Area-like smoothing where the crop shrinks the picture, so that CLIP sees no aliasing.
    shrink = float(to_source[0, 0])
    if shrink > 2:
        array = np.asarray(cv2.blur(array, (int(shrink), int(shrink))), dtype=np.uint8)
    return np.asarray(
        cv2.warpAffine(
            array,
            to_source,
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        ),
        dtype=np.uint8,
    )
