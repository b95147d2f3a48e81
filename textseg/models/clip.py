"""CLIP through open_clip: phrases and picture crops as vectors of one space (the ``ImageTextEncoder``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from textseg.errors import ConfigError, nearest
from textseg.models import clip_load
from textseg.models.clip_input import ClipInput
from textseg.models.clip_towers import GraphTowers, TorchTowers, Towers
from textseg.models.hub import torch_dtype
from textseg.models.text_rows import TextRows
from textseg.types import Float, UInt8
from textseg.vocabulary import Vocabulary

DEFAULT_TEMPLATES: tuple[str, ...] = ("{}", "a photo of {}", "a picture of {}")
"""Ways to say a phrase; ``{}`` is the phrase. Their embeddings are averaged (Radford et al. 2021, §3.1.4)."""

TEXT_CACHE = 4096
"""Phrases whose embeddings are kept; the least recently used goes first."""

_TEXT_BATCH = 256  # texts (phrases times templates) through the text tower at once


class Clip:
    """An open_clip model as ``ImageTextEncoder``. Safe to call from several threads.

    Attributes:
        model_id: how the model was named.
        dim: length of the embeddings.
        logit_scale: factor that the model was trained to multiply cosines with.
        logit_bias: what it adds then (SigLIP's sigmoid loss); None for a model without one (softmax loss).
        templates: the prompt templates in use.
        vocabulary: the nouns that it was trained on, for the ranking; None if its folder has none.
    """

    def __init__(
        self,
        towers: Towers,
        tokenizer: clip_load.Tokenizer,
        inputs: ClipInput,
        *,
        model_id: str,
        dim: int,
        templates: Sequence[str] = DEFAULT_TEMPLATES,
        batch: int = 32,
        text_cache: int = TEXT_CACHE,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """Wrap the towers of a CLIP.

        Raises:
            ConfigError: a template without ``{}``, or a batch below 1.
        """
        self.model_id = model_id
        self.dim = dim
        self.templates = check_templates(templates)
        self.inputs = inputs
        self.vocabulary = vocabulary
        if batch < 1:
            raise ConfigError(f"batch: got {batch}, expected at least 1 crop")
        self.logit_scale, self.logit_bias = towers.logit_scale, towers.logit_bias
        self._towers = towers
        self._tokenizer = tokenizer
        self._batch = batch
        self._mean = 255 * torch.tensor(inputs.mean, device=towers.device).view(1, 3, 1, 1)
        self._std = 255 * torch.tensor(inputs.std, device=towers.device).view(1, 3, 1, 1)
        self._texts = TextRows(self._embed_texts, dim, text_cache)

    def encode_text(self, texts: Sequence[str]) -> Float:
        """Return ℓ2-normalised float32 (N, dim): templates applied, normalised, averaged, normalised again."""
        return self._texts(texts)

    def encode_images(self, crops_rgb: Sequence[UInt8]) -> Float:
        """Return ℓ2-normalised float32 (N, dim) embeddings of N uint8 (h, w, 3) crops of any size, in batches.

        Raises:
            ShapeError: a crop of another shape or dtype, or without pixels.
        """
        out = np.zeros((len(crops_rgb), self.dim), np.float32)
        for start in range(0, len(crops_rgb), self._batch):
            pixels = self.preprocess(crops_rgb[start : start + self._batch])
            out[start : start + len(pixels)] = _normalised(self._towers.embed_crops(pixels))
        return out

    def preprocess(self, crops_rgb: Sequence[UInt8]) -> torch.Tensor:
        """Return (N, 3, h, w) of the model's dtype on its device: what open_clip's own transform gives."""
        pixels = torch.from_numpy(self.inputs.pixels(crops_rgb)).to(self._towers.device)
        channels_first = pixels.permute(0, 3, 1, 2)  # (N, h, w, 3) → (N, 3, h, w), channels last in memory
        return ((channels_first.float() - self._mean) / self._std).to(self._towers.dtype)

    def _embed_texts(self, texts: list[str]) -> Float:
        """Return float32 (N, dim) of N texts, without the cache."""
        filled = [template.replace("{}", text) for text in texts for template in self.templates]
        parts = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(filled), _TEXT_BATCH):
            ids = self._tokenizer(filled[start : start + _TEXT_BATCH]).to(self._towers.device)
            parts.append(_normalised(self._towers.embed_texts(ids)))
        features = np.concatenate(parts).reshape(len(texts), len(self.templates), self.dim)  # (N, templates, dim)
        if len(self.templates) == 1:
            return features[:, 0]
        means = features.mean(axis=1)  # (N, dim)
        norms = np.linalg.norm(means, axis=-1, keepdims=True)
        return np.asarray(means / np.maximum(norms, 1e-12), np.float32)


def load(
    model: str | Path,
    *,
    kind: str = "open_clip",
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    templates: Sequence[str] | None = None,
    batch: int = 32,
    text_cache: int = TEXT_CACHE,
) -> Clip:
    """Build an open_clip model with its tokenizer and preprocessing.

    Args:
        model: a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``; ``hf-hub:org/name``
            or ``org/name``, either with ``@revision``; or one of open_clip's names with ``pretrained``.
        kind: "open_clip", the only family.
        pretrained: tag of open_clip's for the weights of a name such as "ViT-B-16".
        device: where the model goes.
        dtype: "float32", "bfloat16" or "float16"; the embeddings come back as float32 all the same. In "float32" the
            crops of a timm EfficientNet or RegNet still go in bfloat16 through a processor that multiplies it.
        templates: prompt templates with ``{}`` for the phrase; None takes the folder's own, else the default.
        batch: crops that go through the image tower at once.
        text_cache: phrases whose embeddings are kept.

    Raises:
        ConfigError: an unknown kind, name, tag or dtype, or a template without ``{}``.
        HubError: the hub is out of reach (the message names the model), or has no safetensors for it.
        WeightsError: a file is missing or damaged, or does not fit the model; the message names the file.
    """
    if kind != "open_clip":
        raise ConfigError(f"unknown kind of CLIP {kind!r}; {nearest(kind, ['open_clip'])}")
    precision = torch_dtype(dtype)
    source = clip_load.find(model, pretrained)
    chosen = check_templates(templates if templates is not None else source.templates or DEFAULT_TEMPLATES)
    quick = GraphTowers.find(source) if str(device) == "cpu" and precision is torch.float32 else None
    towers = quick or TorchTowers.build(source, device, precision)
    return Clip(
        towers,
        clip_load.build_tokenizer(source),
        ClipInput.read(source.preprocess_cfg, towers.image_size),
        model_id=source.model_id,
        dim=int(source.model_cfg["embed_dim"]),
        templates=chosen,
        batch=batch,
        text_cache=text_cache,
        vocabulary=None if source.folder is None else Vocabulary.load(source.folder),
    )


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Return the templates as a tuple.

    Raises:
        ConfigError: none, or one that is no string with ``{}`` in it.
    """
    if isinstance(templates, str):
        templates = (templates,)
    if not templates:
        raise ConfigError("templates: got none, expected at least one, such as '{}' or 'a photo of {}'")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ConfigError(f"template {template!r}: expected text with '{{}}' once, where the phrase goes")
    return tuple(templates)


def _normalised(features: torch.Tensor) -> Float:
    unit: Float = functional.normalize(features.float(), dim=-1).cpu().numpy()
    return unit
