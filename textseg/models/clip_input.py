"""What open_clip's ``image_transform`` does to one picture, done to a batch of crops.

The resizing is Pillow's, on 8-bit pixels, as open_clip's: another library's bicubic filter differs by
a grey level here and there. Scaling and normalisation happen once for the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from textseg.errors import ShapeError, WeightsError
from textseg.types import UInt8

_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_MAX_GROWTH = 16  # a resized crop of more than so many times the input's pixels is cut before resizing


@dataclass(frozen=True)
class ClipInput:
    """How crops become a CLIP's input.

    Attributes:
        size_hw: height and width of the input in pixels.
        mean, std: of the three channels, for values in 0..1.
        interpolation: "bicubic" or "bilinear".
        resize_mode: "shortest" (then a centre crop), "longest" (then padding) or "squash" (aspect ignored).
        fill_color: grey level 0..255 of the padding.
    """

    size_hw: tuple[int, int]
    mean: tuple[float, ...] = _OPENAI_MEAN
    std: tuple[float, ...] = _OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    @classmethod
    def read(cls, preprocess_cfg: Mapping[str, Any], image_size: int | Sequence[int]) -> ClipInput:
        """Return the input of a model from its ``preprocess_cfg`` and its tower's image size.

        Raises:
            WeightsError: a value that open_clip does not know either.
        """
        h, w = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        mode = preprocess_cfg.get("resize_mode") or "shortest"
        interpolation = preprocess_cfg.get("interpolation") or "bicubic"
        if mode not in ("shortest", "longest", "squash") or interpolation not in ("bicubic", "bilinear", "random"):
            raise WeightsError(f"preprocess_cfg: unknown resize_mode {mode!r} or interpolation {interpolation!r}")
        mean = _three(preprocess_cfg.get("mean") or _OPENAI_MEAN)
        std = _three(preprocess_cfg.get("std") or _OPENAI_STD)
        fill = int(preprocess_cfg.get("fill_color") or 0)
        return cls((int(h), int(w)), mean, std, "bilinear" if interpolation == "bilinear" else "bicubic", mode, fill)

    def pixels(self, crops_rgb: Sequence[UInt8]) -> UInt8:
        """Return uint8 (N, h, w, 3): the crops, uint8 (h, w, 3) of any size, brought to the input's size.

        Raises:
            ShapeError: a crop of another shape or dtype, or without pixels.
        """
        out = np.full((len(crops_rgb), *self.size_hw, 3), self.fill_color, np.uint8)
        for i, crop in enumerate(crops_rgb):
            if crop.ndim != 3 or crop.shape[2] != 3 or crop.dtype != np.uint8 or crop.size == 0:
                raise ShapeError(f"crop {i}: got {crop.dtype} {crop.shape}, expected uint8 (h, w, 3)")
            _place(self._resize(crop), out[i])
        return out

    def _resize(self, crop: UInt8) -> UInt8:
        new_h, new_w = self._resized_hw(crop.shape[0], crop.shape[1])
        if (new_h, new_w) == crop.shape[:2]:
            return crop
        h, w = self.size_hw
        if new_h * new_w > _MAX_GROWTH * h * w:  # a sliver: only its middle survives the centre crop
            crop = _middle(crop, (new_h, new_w), self.size_hw)
            new_h, new_w = self._resized_hw(crop.shape[0], crop.shape[1])
        method = PIL.Image.Resampling.BICUBIC if self.interpolation == "bicubic" else PIL.Image.Resampling.BILINEAR
        return np.asarray(PIL.Image.fromarray(crop).resize((new_w, new_h), method))

    def _resized_hw(self, h: int, w: int) -> tuple[int, int]:
        """Return the size after resizing, with open_clip's and torchvision's own rounding."""
        th, tw = self.size_hw
        if self.resize_mode == "squash":
            return th, tw
        if self.resize_mode == "shortest" and th == tw:
            long = int(th * max(h, w) / min(h, w))
            return (th, long) if h <= w else (long, tw)
        ratios = h / th, w / tw
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(h / ratio)), max(1, round(w / ratio))


def _middle(crop: UInt8, resized_hw: tuple[int, int], size_hw: tuple[int, int]) -> UInt8:
    """Return the middle of a sliver: what the input shows of it, and once as much on both sides."""
    slices = []
    for side, resized, size in zip(crop.shape[:2], resized_hw, size_hw, strict=True):
        keep = min(side, max(1, round(3 * size * side / resized)))
        slices.append(slice((side - keep) // 2, (side - keep) // 2 + keep))
    return crop[slices[0], slices[1]]


def _place(resized: UInt8, out: UInt8) -> None:
    """Put (rh, rw, 3) into the middle of ``out`` (h, w, 3), cutting or padding as torchvision's centre crop."""
    cuts, places = [], []
    for have, want in zip(resized.shape[:2], out.shape[:2], strict=True):
        cut = round((have - want) / 2.0) if have > want else 0
        place = (want - have) // 2 if want > have else 0
        cuts.append(slice(cut, cut + min(have, want)))
        places.append(slice(place, place + min(have, want)))
    out[places[0], places[1]] = resized[cuts[0], cuts[1]]


def _three(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, int | float) else tuple(float(v) for v in values)
