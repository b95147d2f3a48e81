"""Which of the basic colour words pixels have."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from textseg.language import COLORS

COLOR_SYNONYMS: dict[str, str] = {"grey": "gray", "silver": "gray", "violet": "purple"}
"""Other words a caller may type, each with the basic term it stands for."""

_INDEX = {name: i for i, name in enumerate(COLORS)}
_CHROMA_GRAY = 13.0  # Lab chroma below which a pixel has no hue
_MIN_PIXELS = 24
_MAX_PIXELS = 4096


def classify_pixels(rgb_pixels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The index into `COLORS` of each pixel: (N, 3) uint8 RGB to (N,) integers."""
    pixels = np.ascontiguousarray(rgb_pixels.reshape(-1, 1, 3))
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)[:, 0].astype(np.float32)
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255.0, cv2.COLOR_RGB2Lab)[:, 0]
    hue, saturation, value = hsv[:, 0], hsv[:, 1] / 255.0, hsv[:, 2] / 255.0
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    names = np.full(len(hue), _INDEX["red"], dtype=np.intp)
    for low, high, name in (
        (8, 19, "orange"),
        (19, 34, "yellow"),
        (34, 88, "green"),
        (88, 129, "blue"),
        (129, 157, "purple"),
        (157, 174, "pink"),
    ):
        names[(hue >= low) & (hue < high)] = _INDEX[name]
    warm = (hue < 24) | (hue >= 174)
    reddish = (hue < 9) | (hue >= 157)
    names[warm & (hue < 24) & (hue >= 4) & (value < 0.68)] = _INDEX["brown"]
    names[warm & (hue >= 8) & (saturation < 0.55) & (value < 0.85)] = _INDEX["brown"]
    names[reddish & (lightness > 58) & (saturation < 0.62)] = _INDEX["pink"]
    names[(hue >= 157) & (hue < 174) & (lightness < 35)] = _INDEX["purple"]
    grayish = (chroma < _CHROMA_GRAY) | ((lightness < 22) & (chroma < 18))
    names[grayish] = _INDEX["gray"]
    names[grayish & (lightness > 80)] = _INDEX["white"]
    names[(grayish & (lightness < 30)) | (lightness < 9)] = _INDEX["black"]
    return names


def color_shares(rgb_pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The share of each of `COLORS` among (N, 3) uint8 RGB pixels: (11,), summing to 1 (0 for N = 0)."""
    if len(rgb_pixels) == 0:
        return np.zeros(len(COLORS))
    if len(rgb_pixels) > _MAX_PIXELS:
        rgb_pixels = rgb_pixels[:: -(-len(rgb_pixels) // _MAX_PIXELS)]
    counts = np.bincount(classify_pixels(rgb_pixels), minlength=len(COLORS))
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def name_color(rgb_pixels: NDArray[np.uint8], *, least_share: float = 0.5, margin: float = 0.25) -> str | None:
    """The colour word of a plain surface, or None where no single word fits.

    `rgb_pixels` is (N, 3) uint8 RGB. Plain means that the first colour holds `least_share` of the
    pixels and leads the second by `margin`; fewer than 24 pixels are never plain.
    """
    if len(rgb_pixels) < _MIN_PIXELS:
        return None
    shares = color_shares(rgb_pixels)
    second, first = np.sort(shares)[-2:]
    if first < least_share or first - second < margin:
        return None
    return COLORS[int(shares.argmax())]
