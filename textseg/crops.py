"""Crops of a picture with everything outside the mask blanked: what CLIP learns from and is asked to judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textseg import closeup, geometry
from textseg.types import Bool, Float, UInt8

MEAN_RGB = (122, 117, 104)
"""The mean colour of CLIP's training pictures, which its preprocessing makes 0: the blank that says least."""

_LEAST_PIXELS = 8


def masked_crop(
    levels: Sequence[UInt8],
    window: Float,
    size: int,
    mask: Bool | None = None,
    *,
    covered_xyxy: Float | None = None,
    fill: tuple[int, int, int] = MEAN_RGB,
) -> UInt8:
    """Return uint8 (size, size, 3): a square window of a picture, ``fill`` outside the mask and outside the picture.

    Args:
        levels: the picture, uint8 (H, W, 3), then smaller versions of it, where there are any (``Image.levels``).
        window: float32 (3,): left, top and side in pixels; may reach beyond the picture.
        size: pixels of the crop.
        mask: bool (h, w), at any resolution; None leaves all of the picture that the window shows.
        covered_xyxy: float32 (4,), what part of the picture the mask is of, in pixels; None: the whole.
        fill: RGB, 0..255.
    """
    height, width = levels[0].shape[:2]
    out: UInt8 = closeup.cut_level(levels, window, size)
    inside = closeup.shows(window, (height, width), size)
    if mask is not None:
        covered = np.array([0, 0, width, height], np.float32) if covered_xyxy is None else covered_xyxy
        per = np.array(mask.shape[::-1], np.float32) / (covered[2:] - covered[:2])  # the mask's pixels a picture pixel
        corner, step = (window[:2] - covered[:2]) * per, window[2] / size * per
        hit = closeup.resample(mask.astype(np.uint8) * 255, (corner[0], corner[1]), (step[0], step[1]), (size, size))
        inside &= hit > 127
    out[~inside] = fill
    return out


def masked_crops(
    levels: Sequence[UInt8],
    masks: Bool | Sequence[Bool],
    *,
    grow: float,
    fill: tuple[int, int, int] = MEAN_RGB,
    size: int = 224,
    covered_xyxy: Float | None = None,
) -> list[UInt8]:
    """Return one square crop a mask, pixels outside the mask set to ``fill``.

    Args:
        levels: as for ``masked_crop``.
        masks: N of them, bool (h, w) each, at any resolution.
        grow: the mask's box is grown by this factor around its centre and made square.
        fill: RGB, 0..255, outside the mask and outside the picture.
        size: longest side of a crop in pixels; smaller objects are not enlarged.
        covered_xyxy: float32 (N, 4), what part of the picture each mask is of, in pixels; it may reach beyond the
            picture. None: each is of the whole picture.

    Returns:
        N arrays uint8 (s, s, 3), s at most ``size``. An empty mask gives a crop of ``fill`` alone.
    """
    if covered_xyxy is None:
        height, width = levels[0].shape[:2]
        covered_xyxy = np.tile(np.array([0, 0, width, height], np.float32), (len(masks), 1))
    crops = []
    for mask, covered in zip(masks, covered_xyxy, strict=True):
        corner, scale = covered[:2], (covered[2:] - covered[:2]) / mask.shape[::-1]  # picture pixels a mask's pixel
        box = geometry.mask_boxes(mask[None])[0] * np.tile(scale, 2) + np.tile(corner, 2)
        (window,) = closeup.windows_around(box, grow, least=grow)
        pixels = int(np.clip(round(float(window[2])), _LEAST_PIXELS, size))
        crops.append(masked_crop(levels, window, pixels, mask, covered_xyxy=covered, fill=fill))
    return crops
