"""Windows for SAM's training: random square parts of pictures, stretched and lit anew, with their masks.

A window is a square part of the model's input frame, to which pictures are stretched. Training may take windows
smaller than the frame (cheaper; the position codes are cut alike), so nothing about the model changes when the window
grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from textseg.train import sam_prompts as sp
from textseg.train.augment import light
from textseg.train.data import Sample
from textseg.train.sam_model import PIXEL_MEAN
from textseg.types import Float, UInt8

FILL_RGB = tuple(round(255 * m) for m in PIXEL_MEAN)
"""What lies beside a picture in a window: zero after normalising."""

FOCUS_SHARE = (0.3, 0.7)
"""How much of a focused window's side its object's longer side takes."""

_LEAST_FOCUS = 20.0
"""Pixels of the frame: smaller objects are not magnified further."""

_SQUEEZE = (0.8, 1.25)
"""How much wider a picture is made than stretching makes it: people's pictures have other shapes than these."""


@dataclass(frozen=True)
class WindowConfig:
    """How pictures become windows.

    Attributes:
        side: pixels of the window; frame: pixels of the model's input; stride: input pixels of a mask pixel.
        scale: range of the factor on "stretched to the frame", drawn log-uniformly.
        focus: share of the windows that look at one object closely, as a zoom-in refinement does: it is in the
            window whole and as large as `FOCUS_SHARE` says.
        prompts: prompts a picture; least_cells: mask pixels an object must cover to be prompted for.
    """

    side: int
    frame: int
    stride: int
    scale: tuple[float, float] = (0.6, 1.8)
    prompts: int = 4
    least_cells: float = 8.0
    focus: float = 0.0


class Window:
    """A random square part of a picture, its masks brought along when asked for."""

    def __init__(self, sample: Sample, config: WindowConfig, rng: np.random.Generator) -> None:
        self.sample = sample
        self.config = config
        height, width = sample.image_rgb.shape[:2]
        box = _some_box(sample, rng)
        whole = config.frame / np.array([width, height], np.float64)  # stretched to the frame, as at inference
        places = (0.2, 0.8)
        if config.focus and rng.random() < config.focus:
            places = (0.4, 0.6)
            longest = max(_LEAST_FOCUS, *((box[2:] - box[:2]) * whole))
            zoom = config.side / longest * float(np.exp(rng.uniform(*np.log(FOCUS_SHARE))))
        else:
            zoom = float(np.exp(rng.uniform(*np.log(config.scale))))
        fit_x, fit_y = (whole * zoom * (float(rng.uniform(*_SQUEEZE)), 1.0)).tolist()
        crop_w, crop_h = min(width, round(config.side / fit_x)), min(height, round(config.side / fit_y))
        center = (box[:2] + box[2:]) / 2
        self.x = int(np.clip(center[0] - rng.uniform(*places) * crop_w, 0, width - crop_w))
        self.y = int(np.clip(center[1] - rng.uniform(*places) * crop_h, 0, height - crop_h))
        self.crop_wh = (max(1, crop_w), max(1, crop_h))
        self.size_wh = (
            int(np.clip(round(crop_w * fit_x), 1, config.side)),
            int(np.clip(round(crop_h * fit_y), 1, config.side)),
        )
        self.flip = bool(rng.random() < 0.5)
        self._masks: dict[int, UInt8] = {}
        self.image_rgb = light(self._cut(sample.image_rgb, FILL_RGB), rng)
        self.image_rgb[self.size_wh[1] :] = FILL_RGB
        self.image_rgb[:, self.size_wh[0] :] = FILL_RGB

    @property
    def cells(self) -> int:
        """Mask pixels along a side of the window."""
        return self.config.side // self.config.stride

    def valid(self) -> NDArray[np.bool_]:
        """bool (m, m): which mask pixels lie on the picture, not on padding."""
        width, height = (-(-side // self.config.stride) for side in self.size_wh)
        out = np.zeros((self.cells, self.cells), np.bool_)
        out[:height, :width] = True
        return out

    def mask(self, index: int) -> UInt8:
        """Coverage (S, S) uint8 of the sample's object `index`, in window pixels."""
        if index not in self._masks:
            mask = self.sample.objects[index].mask
            whole = np.zeros(self.sample.image_rgb.shape[:2], np.uint8) if mask is None else mask.astype(np.uint8) * 255
            self._masks[index] = self._cut(whole, 0)
        return self._masks[index]

    def low(self, mask: UInt8) -> UInt8:
        """Bring (S, S) coverage to the mask grid (m, m)."""
        return sp.as_uint8(cv2.resize(mask, (self.cells, self.cells), interpolation=cv2.INTER_AREA))

    def _cut(self, array: UInt8, fill: int | tuple[int, ...]) -> UInt8:
        part = array[self.y : self.y + self.crop_wh[1], self.x : self.x + self.crop_wh[0]]
        kind = cv2.INTER_AREA if self.size_wh[0] < self.crop_wh[0] else cv2.INTER_LINEAR
        part = sp.as_uint8(cv2.resize(part, self.size_wh, interpolation=kind))
        part = part[:, ::-1] if self.flip else part
        side = self.config.side
        out = np.empty((side, side, *array.shape[2:]), np.uint8)
        out[...] = fill
        out[: self.size_wh[1], : self.size_wh[0]] = part
        return out


def _some_box(sample: Sample, rng: np.random.Generator) -> Float:
    """Return the box of a random object, or of no extent at a random place where there is none."""
    if sample.objects:
        return sample.objects[int(rng.integers(len(sample.objects)))].box_xyxy
    height, width = sample.image_rgb.shape[:2]
    return np.tile(rng.random(2) * (width, height), 2).astype(np.float32)
