"""Giving a cut-out one of the eleven basic colours."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# target (hue in OpenCV's 0..180, saturation 0..1, value 0..1) of a recoloured surface
_TARGETS: dict[str, tuple[float, float, float]] = {
    "black": (0, 0.05, 0.10),
    "white": (0, 0.02, 0.96),
    "gray": (0, 0.03, 0.55),
    "red": (0, 0.88, 0.80),
    "green": (60, 0.75, 0.62),
    "blue": (110, 0.80, 0.78),
    "yellow": (26, 0.85, 0.95),
    "orange": (12, 0.92, 0.96),
    "brown": (10, 0.62, 0.42),
    "pink": (168, 0.42, 0.96),
    "purple": (140, 0.62, 0.65),
}


def recolor(rgba: NDArray[np.uint8], color: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Give the main surface of an (H, W, 4) uint8 RGBA cut-out the colour `color`; shading stays.

    The main surface is the largest group of alike pixels (one hue, or no hue) where it covers at
    least 40 % of the cut-out, else everything. Raises KeyError for a word that is not in `COLORS`.
    """
    hue, saturation, value = _TARGETS[color]
    hsv = cv2.cvtColor(rgba[..., :3], cv2.COLOR_RGB2HSV).astype(np.float32)
    surface = _main_surface(hsv, rgba[..., 3] > 96)
    if not surface.any():
        return rgba.copy()
    shade = hsv[..., 2][surface] / 255.0
    relative = shade / max(0.05, float(np.median(shade)))
    new_value = value * rng.uniform(0.9, 1.08) * relative ** rng.uniform(0.6, 0.9)
    own = hsv[..., 1][surface] / 255.0
    spread = np.clip(own / max(0.08, float(np.median(own))), 0.75, 1.25)
    hsv[..., 0][surface] = (hue + rng.uniform(-2.5, 2.5)) % 180
    hsv[..., 1][surface] = 255 * np.clip(saturation * rng.uniform(0.9, 1.1) * spread, 0, 1)
    hsv[..., 2][surface] = 255 * np.clip(new_value, 0, 1)
    out = rgba.copy()
    out[..., :3][surface] = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)[surface]
    return out


def _main_surface(hsv: NDArray[np.float32], opaque: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The (H, W) bool pixels that `recolor` changes."""
    total = int(opaque.sum())
    colored = opaque & (hsv[..., 1] > 64) & (hsv[..., 2] > 40)
    pale = opaque & (hsv[..., 1] <= 64) & (hsv[..., 2] > 60)
    best = pale
    if colored.any():
        counts = np.bincount(hsv[..., 0][colored].astype(np.intp) // 6, minlength=31)[:30]
        center = float(np.argmax(counts + np.roll(counts, 1) + np.roll(counts, -1))) * 6 + 3
        distance = np.abs((hsv[..., 0] - center + 90) % 180 - 90)
        one_hue = colored & (distance < 16)
        if one_hue.sum() >= pale.sum():
            best = one_hue
    if best.sum() >= 0.4 * total:
        return best
    return opaque
