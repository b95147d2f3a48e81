"""A CLIP's two towers, crops and texts to embeddings: as an open_clip model, or as graphs that were written of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from textseg.errors import WeightsError
from textseg.models import clip_load, graphs, onednn
from textseg.models.clip_text import encode_text, without_padding
from textseg.models.graphs import Graph

_IMAGE_SIZE = 224
"""open_clip's, where a configuration does not say."""


class Towers(Protocol):
    """What ``Clip`` asks.

    Attributes:
        logit_scale: factor that the model was trained to multiply cosines with.
        logit_bias: what it adds then; None: nothing.
        image_size: side, or height and width, of the crops that it takes, in pixels.
        device, dtype: of those.
    """

    logit_scale: float
    logit_bias: float | None
    image_size: int | Sequence[int]
    device: torch.device
    dtype: torch.dtype

    def embed_crops(self, pixels: Tensor) -> Tensor:
        """Map normalised (N, 3, h, w) crops, N at least 1, to (N, dim)."""
        ...

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Map int64 (N, L) tokens, N at least 1, to (N, dim)."""
        ...


class TorchTowers:
    """An open_clip model that is in evaluation mode on its device.

    Args:
        model: the model.
        rounded: crops go through the picture tower in bfloat16, weights stay as they are.
    """

    def __init__(self, model: Any, *, rounded: bool = False) -> None:
        scale, bias = model.logit_scale, getattr(model, "logit_bias", None)
        self.logit_scale = math.exp(float(scale.detach().reshape(-1)[0]))
        self.logit_bias = None if bias is None else float(bias.detach().reshape(-1)[0])
        self.image_size = model.visual.image_size
        self.device, self.dtype = scale.device, next(model.visual.parameters()).dtype
        self._model, self._rounded = model, rounded

    @classmethod
    def build(cls, source: clip_load.Source, device: str | torch.device, dtype: torch.dtype) -> TorchTowers:
        """Build the model of a source.

        Raises:
            WeightsError: the configuration or the weights do not fit.
        """
        network = clip_load.build_model(source).to(device=device, dtype=dtype).requires_grad_(False)
        rounded = False
        if "timm_model_name" in source.model_cfg["vision_cfg"]:
            from textseg.models.quick_convolutions import is_known, quicken

            if is_known(network.visual.trunk):
                # As nano's was trained; it takes half the time.
                rounded = str(device) == "cpu" and dtype is torch.float32 and onednn.has_bfloat16()
                quicken(network.visual.trunk, rounded=rounded)
            network.visual.to(memory_format=torch.channels_last)
        return cls(network, rounded=rounded)

    @torch.inference_mode()
    def embed_crops(self, pixels: Tensor) -> Tensor:
        """See ``Towers``."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._rounded):
            features: Tensor = self._model.encode_image(pixels)
        return features

    @torch.inference_mode()
    def embed_texts(self, ids: Tensor) -> Tensor:
        """See ``Towers``."""
        return encode_text(self._model, ids)


class GraphTowers:
    """Graphs of both towers, for the CPU; open_clip is not needed.

    Args:
        image, text: the graphs.
        image_size, logit_scale, logit_bias: see ``Towers``.
    """

    def __init__(
        self, image: Graph, text: Graph, image_size: int | Sequence[int], logit_scale: float, logit_bias: float | None
    ) -> None:
        self.image_size, self.logit_scale, self.logit_bias = image_size, logit_scale, logit_bias
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._image, self._text = image, text

    @classmethod
    def find(cls, source: clip_load.Source) -> GraphTowers | None:
        """Return the graphs in a source's folder; None where there are none.

        Raises:
            WeightsError: the weights are damaged.
        """
        if source.folder is None:
            return None
        image, text = (graphs.find(source.folder, name) for name in ("image", "text"))
        if image is None or text is None:
            return None
        try:
            with safe_open(source.weights, framework="pt") as file:
                named = set(file.keys())
                scale, bias = (
                    float(file.get_tensor(name).reshape(-1)[0]) if name in named else None
                    for name in ("logit_scale", "logit_bias")
                )
        except Exception as error:  # damaged beyond its header
            raise WeightsError(f"{source.weights} is damaged: {error}") from error
        size = source.model_cfg["vision_cfg"].get("image_size", _IMAGE_SIZE)
        return cls(image, text, size, math.exp(scale or 0.0), bias)

    def embed_crops(self, pixels: Tensor) -> Tensor:
        """See ``Towers``."""
        return torch.from_numpy(self._image.each(pixels.numpy())[0])

    def embed_texts(self, ids: Tensor) -> Tensor:
        """See ``Towers``."""
        return torch.from_numpy(self._text(without_padding(ids).numpy())[0])
