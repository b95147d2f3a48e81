"""An EdgeTAM on the CPU that knows phrases at once, and all other prompts once somebody has asked for them.

To import transformers and to build its model takes longer than all else between a command and its first mask; what a
phrase asks of the mask decoder is in the graphs, and a picture needs a trunk and a few convolutions.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from textseg.errors import ModelError
from textseg.models import edgetam_encode, graphs, nano_files, sam_prompts
from textseg.models.graphs import Graph
from textseg.models.sam import DTYPES, MOST_PROMPTS, SamSegmenter, default_chunk, family, full_id
from textseg.models.sam_decode import detail_of
from textseg.models.sam_input import InputSpec
from textseg.models.sam_load import load_network, version_of
from textseg.models.sam_networks import Features
from textseg.types import Candidates, Embedding, Float, Frame, Prompts

KIND = "edgetam"
_LATER = ("network", "chunk")


class _Neck(nn.Module):
    """The feature pyramid's convolutions, and which levels the coarser ones are added to."""

    def __init__(self, vision: dict[str, Any]) -> None:
        super().__init__()
        how = {name: vision[f"fpn_{name}"] for name in ("kernel_size", "stride", "padding")}
        inputs, width = vision["backbone_channel_list"], vision["fpn_hidden_size"]
        self.convs = nn.ModuleList(nn.Conv2d(channels, width, **how) for channels in inputs)
        self.fpn_top_down_levels: list[int] = list(vision["fpn_top_down_levels"])


class _Vision(nn.Module):
    """A timm trunk and the pyramid on it."""

    def __init__(self, vision: dict[str, Any]) -> None:
        super().__init__()
        trunk = vision["backbone_config"]
        self.backbone = nn.Module()
        self.backbone.timm_model = timm.create_model(trunk["architecture"], pretrained=False, **trunk["model_args"])
        self.neck = _Neck(vision)
        self.num_feature_levels = int(vision["num_feature_levels"])


class PictureSide(nn.Module):
    """What of an ``EdgeTamModel`` a picture goes through, under the same names; for ``edgetam_encode``.

    Args:
        config: the model's ``config.json``.

    Raises:
        KeyError, TypeError, RuntimeError: that is of another kind.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = int(config["vision_config"]["fpn_hidden_size"])
        self.vision_encoder, self.mask_decoder = _Vision(config["vision_config"]), nn.Module()
        self.mask_decoder.conv_s0 = nn.Conv2d(width, width // 8, 1)
        self.mask_decoder.conv_s1 = nn.Conv2d(width, width // 4, 1)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, width))

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any]) -> PictureSide:
        """Build it with a folder's weights, ready to be asked.

        Raises:
            OSError, SafetensorError: the weights are missing or damaged; else as the class.
        """
        side, tensors = nano_files.unfilled(lambda: cls(config)), load_file(folder / "model.safetensors")
        own = {name: tensors[name] for name in side.state_dict()}
        side.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in own.items()})
        side.eval().requires_grad_(False)
        edgetam_encode.prepare(side)
        return side


class PhraseSegmenter(SamSegmenter):
    """See the module's text. Threads may share it.

    Attributes:
        network, chunk: as of any segmenter; the model is built when one of these is first asked for.
    """

    def __init__(
        self,
        folder: Path,
        side: PictureSide,
        boxed: Graph,
        spoken: Graph,
        spec: InputSpec,
        dtype: str,
        chunk: int | None,
    ) -> None:
        self.family = family(KIND)
        self.spec, self.dtype, self.device = spec, DTYPES[dtype], torch.device("cpu")
        self.model_id = full_id(KIND, f"{folder.name}#{version_of(folder)}", dtype)
        self._folder, self._side, self._boxed, self._spoken, self._chunk = folder, side, boxed, spoken, chunk
        self._lock = threading.Lock()
        width, grid = side.no_memory_embedding.shape[-1], spec.input_hw[0] // 16
        self.text_width = int(width)
        self._mask_hw = (4 * grid, 4 * grid)
        self._shapes = {
            "image": (1, width, grid, grid),
            "high_0": (1, width // 8, 4 * grid, 4 * grid),
            "high_1": (1, width // 4, 2 * grid, 2 * grid),
        }

    @classmethod
    def find(cls, folder: str | Path, dtype: str, chunk: int | None) -> PhraseSegmenter | None:
        """Return the segmenter of a folder that has the graphs; None of any other, or one that is damaged."""
        folder = Path(folder).expanduser()
        boxed, spoken = (graphs.find(folder, name) for name in ("masks", "spoken"))
        if boxed is None or spoken is None:
            return None
        try:
            config, numbers = (
                json.loads((folder / name).read_text(encoding="utf-8"))
                for name in ("config.json", "preprocessor_config.json")
            )
            spec = InputSpec.from_processor(SimpleNamespace(**{"pad_size": None, **numbers}))
            side = PictureSide.load(folder, config)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, ModelError):
            return None  # what is wrong, the way by transformers says
        known = (
            config.get("model_type") == KIND and spec.input_hw == (config["prompt_encoder_config"]["image_size"],) * 2
        )
        return cls(folder, side, boxed, spoken, spec, dtype, chunk) if known else None

    def __getattr__(self, name: str) -> Any:
        """Build the model when ``network`` or ``chunk`` is first asked for."""
        if name not in _LATER:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with self._lock:
            if "network" not in vars(self):
                network = load_network(self.family, self._folder, "cpu")[0]
                self.chunk = default_chunk(network) if self._chunk is None else self._chunk
                self.network = network
        return vars(self)[name]

    def decode(self, embedding: Embedding, prompts: Prompts, *, raw_masks: bool = False) -> Candidates:
        """As ``SamSegmenter.decode``; by the graphs if all prompts are of the kinds that phrases have."""
        if raw_masks or not len(prompts) or not self._knows(prompts):
            return super().decode(embedding, prompts, raw_masks=raw_masks)
        features = self._features(embedding)
        self._check(prompts, embedding.frame.original_hw)
        logits = np.empty((len(prompts), 3, *self._mask_hw), np.float32)
        iou = np.empty((len(prompts), 3), np.float32)
        shared = self._shared(embedding, features)
        for index, one in sam_prompts.chunks(prompts, embedding.frame, self._mask_hw, MOST_PROMPTS, self.device):
            parts = [part.numpy() for part in (one.boxes, one.masks, one.text) if part is not None]
            graph = self._spoken if one.boxes is None else self._boxed
            logits[index], iou[index] = graph.each(*parts, shared=shared)
        return Candidates(logits, iou, Frame(embedding.frame.original_hw, self._mask_hw, self._mask_hw))

    def _knows(self, prompts: Prompts) -> bool:
        """Whether all prompts are boxes with rough masks and text, or text alone, for three masks."""
        tokens = prompts.text_tokens
        if tokens is None or tokens.shape[1] != self._boxed.shape("text")[1] or not prompts.multimask:
            return False
        pointed = (prompts.point_labels >= 0).any()
        return bool(not pointed and prompts.has_text.all() and (prompts.has_box == prompts.has_mask).all())

    def _shared(self, embedding: Embedding, features: Features) -> Sequence[Float]:
        """Return what all prompts on a picture share, as the graphs take it; worked out once."""
        if "graphs" not in embedding.kept:
            detail = detail_of(features["high_0"], features["high_1"])
            levels = (features["image"], detail.fine, detail.finest)
            embedding.kept["graphs"] = [level.contiguous().numpy() for level in levels]
        shared: Sequence[Float] = embedding.kept["graphs"]
        return shared

    def _encode(self, pixels: Tensor) -> Features:
        return edgetam_encode.encode(self._side, pixels)._asdict()
