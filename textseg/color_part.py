"""The score part ``color``: what is said of a thing's colour, measured on the pixels of its mask.

A detector and a CLIP know colours by what they were shown; which of two cars is the red one, the pixels say.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from textseg.colors import classify_pixels
from textseg.language import COLORS, said_color
from textseg.types import Bool, Float, Image, Int

_LEAST_PIXELS = 8
"""Of the mask as the segmenter drew it: of fewer nothing is said."""

_FLOOR = 0.02
"""Added to either share, so that neither is ever nothing beside the other."""


def color_part(image: Image, prompts: Sequence[str], masks: Bool, phrase_index: Int) -> Float:
    """Return float32 (M,): the asked colour's share of a mask against that of the colour that most else of it has.

    Windows and wheels of a red car are black and gray: what counts is that nothing but these competes with the red.
    NaN where the phrase names no colour, and for masks of a few pixels.

    Args:
        image: the picture.
        prompts: the phrases.
        masks: bool (M, h, w), over the whole picture.
        phrase_index: int64 (M,), the phrase of each.
    """
    out = np.full(len(masks), np.nan, np.float32)
    asked = [said_color(prompt) for prompt in prompts]
    named = np.array([color is not None for color in asked], np.bool_)
    rows = np.flatnonzero(named[phrase_index])
    if not len(rows):
        return out
    h, w = masks.shape[1:]
    names = _names(image, h, w)
    counts = [np.bincount(names[mask.reshape(-1)], minlength=len(COLORS)) for mask in masks[rows]]
    table = np.stack(counts).astype(np.float32)  # (rows, colours)
    pixels = table.sum(axis=1)
    shares = table / np.maximum(pixels, 1)[:, None]
    place = np.arange(len(rows)), np.array([COLORS.index(asked[i]) for i in phrase_index[rows].tolist()])
    own = shares[place]
    shares[place] = 0
    against = shares.max(axis=1)
    out[rows] = np.where(pixels < _LEAST_PIXELS, np.nan, (own + _FLOOR) / (own + against + 2 * _FLOOR))
    return out


def _names(image: Image, h: int, w: int) -> Int:
    """Return (h w,), which of ``COLORS`` the picture's pixels have on a grid; worked out once a picture."""
    key = ("color names", h, w)
    if key not in image.kept:
        enough = [level for level in image.levels if level.shape[0] >= h and level.shape[1] >= w]
        small = cv2.resize(enough[-1] if enough else image.rgb, (w, h), interpolation=cv2.INTER_AREA)
        image.kept[key] = classify_pixels(np.asarray(small, np.uint8).reshape(-1, 3))
    names: Int = image.kept[key]
    return names
