"""Edges moved to the picture's own colours: GrabCut in a narrow band around a mask's edge.

Rother, Kolmogorov and Blake, *GrabCut*, 2004, by OpenCV. Only pixels near the edge may change sides: what lies deeper
inside or farther outside is taken for certain and teaches the colours.
"""

from __future__ import annotations

import cv2
import numpy as np

from textseg.types import Bool, UInt8

_ITERATIONS = 2
_LEAST = 16  # pixels that must be certain on either side, for a model of their colours


def snap(image_rgb: UInt8, mask: Bool, band: int) -> Bool:
    """Return the mask, bool (H, W), with its edge where the colours change.

    A mask too thin or too large for a certain inside and outside stays as it is.

    Args:
        image_rgb: uint8 (H, W, 3); a crop around the mask is enough, and faster than the whole picture.
        mask: bool (H, W).
        band: how far the edge may move, pixels; 0 leaves it.
    """
    if band < 1:
        return mask
    kernel, one = np.ones((3, 3), np.uint8), mask.astype(np.uint8)
    inside = cv2.erode(one, kernel, iterations=band, borderValue=1) > 0  # the picture's border is no edge
    outside = cv2.dilate(one, kernel, iterations=band) == 0
    if min(np.count_nonzero(inside), np.count_nonzero(outside)) < _LEAST:
        return mask
    trimap = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    trimap[inside], trimap[outside] = cv2.GC_FGD, cv2.GC_BGD
    colours = np.zeros((2, 1, 65))
    bgr = np.ascontiguousarray(image_rgb[..., ::-1])
    cv2.setRNGSeed(0)  # its clustering draws lots; the same mask each time
    cv2.grabCut(bgr, trimap, (0, 0, 0, 0), colours[0], colours[1], _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return np.asarray((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD), np.bool_)
