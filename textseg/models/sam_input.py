"""How a picture becomes the input of a SAM: the numbers of its image processor, applied in plain torch.

SAM and SAM-HQ scale the longest edge and pad at the right and bottom; SAM 2, EdgeTAM and SAM 3 stretch to a
square. The pixels equal those of the transformers image processors or, with ``resampler`` "pil", those of Meta's
segment-anything, which differ by one grey level here and there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF

from textseg import geometry
from textseg.errors import ConfigError, ModelError, nearest
from textseg.types import Frame, Image, UInt8

_INTERPOLATIONS = {
    0: InterpolationMode.NEAREST_EXACT,
    2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC,
}
"""PIL's resampling codes, as image processors store them."""

_PIL_CODES = {
    InterpolationMode.BILINEAR: PIL.Image.Resampling.BILINEAR,
    InterpolationMode.BICUBIC: PIL.Image.Resampling.BICUBIC,
}

RESAMPLERS = ("pil", "torch")
"""Who resizes: Pillow, as Meta's segment-anything does, or torchvision, as transformers does."""


@dataclass(frozen=True)
class InputSpec:
    """The preprocessing of one model.

    Attributes:
        input_hw: size of the model's input in pixels.
        longest_edge: length that the longest edge is scaled to before padding; None: stretch to ``input_hw``.
        mean, std: per RGB channel, in 8-bit units (0..255).
        interpolation: how the picture is resized (always with antialiasing).
        resampler: one of ``RESAMPLERS``.

    Raises:
        ConfigError: unknown ``resampler``.
    """

    input_hw: tuple[int, int]
    longest_edge: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: InterpolationMode
    resampler: str = "torch"

    def __post_init__(self) -> None:
        if self.resampler not in RESAMPLERS:
            raise ConfigError(f"resampler {self.resampler!r} is unknown: {nearest(self.resampler, RESAMPLERS)}")

    @classmethod
    def from_processor(cls, processor: Any) -> InputSpec:
        """Read the numbers of a transformers image processor (``SamImageProcessor``, ``Sam2ImageProcessor`` …).

        Raises:
            ModelError: the processor's sizes are not of a kind that the SAM family uses.
        """
        size, pad = _mapping(processor.size), _mapping(processor.pad_size)
        longest = size.get("longest_edge")
        square = pad if longest else size
        if not square.get("height") or not square.get("width"):
            raise ModelError(
                f"preprocessor: got size {size} and pad_size {pad}; expected 'longest_edge' with a pad_size, "
                "or 'height' and 'width'"
            )
        unit = 1.0 / processor.rescale_factor if processor.do_rescale else 1.0
        normal = bool(processor.do_normalize)
        mean = tuple(float(m) * unit for m in processor.image_mean) if normal else (0.0, 0.0, 0.0)
        std = tuple(float(s) * unit for s in processor.image_std) if normal else (unit, unit, unit)
        code = int(processor.resample) if processor.resample is not None else 2
        if code not in _INTERPOLATIONS:
            raise ModelError(f"preprocessor: resample {code} is not supported; expected one of {list(_INTERPOLATIONS)}")
        input_hw = (int(square["height"]), int(square["width"]))
        return cls(input_hw, int(longest) if longest else None, mean, std, _INTERPOLATIONS[code])

    def frame(self, size_hw: tuple[int, int]) -> Frame:
        """Return how a picture of ``size_hw`` pixels lies in the input. Every side keeps at least one pixel."""
        if self.longest_edge is None:
            return geometry.stretch_frame(size_hw, self.input_hw)
        resized = geometry.longest_edge_frame(size_hw, self.longest_edge, pad=False)
        return Frame(size_hw, resized.resized_hw, self.input_hw)

    def pixels(self, image_rgb: UInt8, frame: Frame) -> torch.Tensor:
        """Return the float32 (1, 3, H, W) input of a uint8 (h, w, 3) picture: resized, normalised, padded with 0."""
        resized = self._resize(image_rgb, frame.resized_hw)  # (1, 3, h, w)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        normal = (resized.to(torch.float32) - mean) / std
        (height, width), (input_h, input_w) = frame.resized_hw, frame.input_hw
        return F.pad(normal, (0, input_w - width, 0, input_h - height))

    def _resize(self, image_rgb: UInt8, size_hw: tuple[int, int]) -> torch.Tensor:
        """Return a uint8 (h, w, 3) picture as uint8 (1, 3, *size_hw)."""
        if self.resampler == "pil" and self.interpolation in _PIL_CODES:
            picture = PIL.Image.fromarray(image_rgb).resize(size_hw[::-1], _PIL_CODES[self.interpolation])
            return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        raw = torch.from_numpy(np.ascontiguousarray(image_rgb.transpose(2, 0, 1))[None].copy())  # (1, 3, h, w)
        resized: torch.Tensor = tvF.resize(raw, list(size_hw), interpolation=self.interpolation, antialias=True)
        return resized

    def prepare(self, image: Image) -> tuple[torch.Tensor, Frame]:
        """Return the model's input, float32 (1, 3, H, W), and the frame that maps it to the picture."""
        frame = self.frame(image.size_hw)
        return self.pixels(image.rgb, frame), frame


def _mapping(size: Any) -> dict[str, Any]:
    """Return a processor's size (a dict, a ``SizeDict`` or None) as a plain dict."""
    return {} if size is None else dict(size)
