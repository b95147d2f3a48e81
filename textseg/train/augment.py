"""Pictures seen otherwise: turned, squeezed, lit anew, in another hue."""

from __future__ import annotations

import cv2
import numpy as np

from textseg.train import sam_prompts as sp
from textseg.types import UInt8

_GRAY_SHARE = 0.05


def light(image_rgb: UInt8, rng: np.random.Generator) -> UInt8:
    """Return an (h, w, 3) picture with another brightness and contrast, now and then blurred; never another hue."""
    if rng.random() < 0.7:
        gain, shift = float(rng.uniform(0.75, 1.3)), float(rng.uniform(-25, 25))
        table = np.clip((np.arange(256) - 128) * gain + 128 + shift, 0, 255).astype(np.uint8)
        image_rgb = np.ascontiguousarray(table[image_rgb])
    if rng.random() < 0.1:
        image_rgb = sp.as_uint8(cv2.GaussianBlur(image_rgb, (0, 0), float(rng.uniform(0.4, 1.0))))
    return image_rgb


def tint(image_rgb: UInt8, rng: np.random.Generator) -> UInt8:
    """Return an (h, w, 3) picture in another hue and saturation, now and then gray: where no phrase names a colour."""
    hsv = sp.as_uint8(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2HSV))
    hue = int(rng.integers(-12, 13))  # of 180
    saturation = 0.0 if rng.random() < _GRAY_SHARE else float(rng.uniform(0.5, 1.4))
    steps = np.arange(256)
    tables = ((steps + hue) % 180, np.clip(steps * saturation, 0, 255), steps)
    return sp.as_uint8(cv2.cvtColor(cv2.LUT(hsv, np.stack(tables, 1)[None].astype(np.uint8)), cv2.COLOR_HSV2RGB))


def turn(
    image_rgb: UInt8,
    mask: UInt8,
    rng: np.random.Generator,
    *,
    degrees: float,
    squeeze: float,
    fill_rgb: tuple[int, ...],
) -> tuple[UInt8, UInt8]:
    """Return a picture (h, w, 3) and a 0/255 mask of it, turned and squeezed alike, the frame as large as need be.

    Args:
        image_rgb: (H, W, 3).
        mask: (H, W), 0 or 255.
        rng: draws the angle and the factor.
        degrees: most that they are turned, either way.
        squeeze: most that they are made wider, or higher.
        fill_rgb: what shows where the picture does not reach; the mask is 0 there.
    """
    height, width = mask.shape
    angle, wider = np.radians(rng.uniform(-degrees, degrees)), float(np.exp(rng.uniform(-1, 1) * np.log(squeeze)))
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    # squeezed in the turned frame: people's pictures are upright, whatever their shape
    linear = np.array([[cos * wider, -sin * wider], [sin, cos]])
    corners = linear @ np.array([[0, width, 0, width], [0, 0, height, height]], np.float64)
    low, high = corners.min(axis=1), corners.max(axis=1)
    matrix = np.concatenate([linear, -low[:, None]], axis=1)
    size_wh = tuple(int(v) for v in np.ceil(high - low))
    turned = cv2.warpAffine(image_rgb, matrix, size_wh, flags=cv2.INTER_LINEAR, borderValue=fill_rgb)
    shape = cv2.warpAffine(mask, matrix, size_wh, flags=cv2.INTER_LINEAR)
    return sp.as_uint8(turned), np.where(shape > 127, 255, 0).astype(np.uint8)
