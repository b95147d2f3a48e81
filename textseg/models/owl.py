"""OWL-ViT and OWLv2: the picture's features are kept, so a new phrase costs the text tower and a dot product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import elu
from torchvision.transforms.v2.functional import gaussian_blur
from transformers import (
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTForObjectDetection,
    OwlViTProcessor,
)

from textseg.models.detector import (
    DetectOptions,
    PhraseCache,
    best_rows,
    check_call,
    corners,
    join,
    prepare,
    to_proposals,
)
from textseg.models.hub import load_pretrained, load_processor
from textseg.types import Image, Proposals

_TEXT_BATCH = 64
_SCORE_BATCH = 128


@dataclass(frozen=True)
class OwlPicture:
    """A picture as the adapter keeps it: all that does not depend on a phrase. Q is the number of patches.

    Attributes:
        boxes_xyxy: float32 (Q, 4), pixels of the original picture, not yet clipped.
        class_embeds: (Q, D), ℓ2-normalised embeddings that phrases are compared with.
        logit_shift, logit_scale: (Q, 1), the class head's learned shift and (already positive) scale.
        size_hw: size of the original picture.
        model_id: the model that made it.
    """

    boxes_xyxy: Tensor = field(repr=False)
    class_embeds: Tensor = field(repr=False)
    logit_shift: Tensor = field(repr=False)
    logit_scale: Tensor = field(repr=False)
    size_hw: tuple[int, int]
    model_id: str


class OwlDetector:
    """A ``Detector`` over ``OwlViTForObjectDetection`` or ``Owlv2ForObjectDetection``.

    Phrases are scored by themselves: what else is asked does not change a phrase's boxes.

    Args:
        model: the transformers model, in evaluation mode.
        processor: its processor.
        model_id: its name in records and messages.
        square: whether boxes are shares of the picture padded to a square at the right and bottom (OWLv2),
            not of the picture itself (OWL-ViT, which stretches it).
        options: suppression and limits.
    """

    def __init__(
        self, model: Any, processor: Any, model_id: str, *, square: bool, options: DetectOptions | None = None
    ) -> None:
        self.model_id = model_id
        self._model = model
        self._tower = model.owlv2 if square else model.owlvit
        self._processor = processor
        self._square = square
        self._options = options or DetectOptions()
        self._texts: PhraseCache[Tensor] = PhraseCache()

    def encode(self, image: Image) -> OwlPicture:
        """Run the image tower, the box head and the picture's half of the class head."""
        pixels = prepare(self._processor.image_processor, image.rgb, self._model)["pixel_values"]
        height, width = image.size_hw
        if self._square:
            height = width = max(height, width)
        head = self._model.class_head
        with torch.inference_mode():
            feature_map = self._model.image_embedder(pixel_values=pixels)[0]  # (1, h, w, D)
            features = feature_map.flatten(1, 2)  # (1, h * w, D)
            boxes = self._model.box_predictor(features, feature_map)[0]  # (Q, 4)
            embeds = head.dense0(features)[0]
            shift = head.logit_shift(features)[0]
            scale = elu(head.logit_scale(features)[0]) + 1
        return OwlPicture(corners(boxes, width, height), _unit(embeds), shift, scale, image.size_hw, self.model_id)

    def detect(self, encoded: Any, prompts: Sequence[str], threshold: float) -> Proposals:
        """Return boxes scoring at least ``threshold`` for a phrase; a box may be proposed for several phrases.

        Raises:
            UnsupportedError: ``encoded`` is another model's. ConfigError: the threshold is outside 0..1.
        """
        picture = check_call(encoded, OwlPicture, self.model_id, threshold)
        found = []
        for start in range(0, len(prompts), _SCORE_BATCH):
            texts = self._texts.get(prompts[start : start + _SCORE_BATCH], self._embed)
            with torch.inference_mode():
                similarity = picture.class_embeds @ torch.stack(texts).t()  # (Q, P)
                scores = ((similarity + picture.logit_shift) * picture.logit_scale).float().sigmoid()
            row, phrase = best_rows(scores, threshold, self._options)
            rows = (picture.boxes_xyxy[row], scores[row, phrase], phrase + start)
            found.append(to_proposals(*rows, picture.size_hw, threshold, self._options))
        return join(found)

    def _embed(self, prompts: list[str]) -> list[Tensor]:
        """Return an ℓ2-normalised (D,) embedding a phrase; each is cut to the text tower's length by itself."""
        length = self._model.config.text_config.max_position_embeddings
        embeds: list[Tensor] = []
        for start in range(0, len(prompts), _TEXT_BATCH):
            tokens = self._processor.tokenizer(
                prompts[start : start + _TEXT_BATCH],
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            ).to(self._model.device)
            with torch.inference_mode():
                out = self._tower.get_text_features(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
            unit = out.pooler_output / out.pooler_output.norm(dim=-1, keepdim=True)  # as the model's forward does
            embeds += list(_unit(unit))
        return embeds


def _unit(vectors: Tensor) -> Tensor:
    """Normalise (N, D) as the class head does, with its epsilon."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / (length + 1e-6)


class SeparableOwlv2ImageProcessor(Owlv2ImageProcessor):  # type: ignore[misc]
    """OWLv2's own preprocessing, its anti-aliasing blur done as a row and a column pass.

    transformers convolves with the full square kernel: the same numbers, at k² instead of 2k operations a
    pixel (minutes for a very large or thin picture, which OWLv2 pads to a square first).
    """

    def resize(self, image: Tensor, size: Any, anti_aliasing: bool = True, **kwargs: Any) -> Tensor:
        """Blur (1, 3, S, S) as the parent does, then leave the sampling to it."""
        if anti_aliasing and kwargs.get("anti_aliasing_sigma") is None:
            shrink_y, shrink_x = image.shape[-2] / size.height, image.shape[-1] / size.width
            sigma_y, sigma_x = max(0.0, (shrink_y - 1) / 2), max(0.0, (shrink_x - 1) / 2)
            if sigma_y > 0 and sigma_x > 0:  # the parent, too, blurs along x by the shrinking of y: all is square
                image = gaussian_blur(image, [_kernel(sigma_y), 1], [sigma_y, sigma_y])
                image = gaussian_blur(image, [1, _kernel(sigma_x)], [sigma_x, sigma_x])
            anti_aliasing = False
        return cast(Tensor, super().resize(image, size, anti_aliasing=anti_aliasing, **kwargs))


def _kernel(sigma: float) -> int:
    return 2 * math.ceil(3 * sigma) + 1


def load_owlvit(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    options: DetectOptions | None = None,
) -> OwlDetector:
    """Load an OWL-ViT checkpoint (arXiv 2205.06230).

    Raises:
        HubError: the hub is out of reach. WeightsError: a file is missing or damaged.
    """
    network = load_pretrained(OwlViTForObjectDetection, model, device=device, dtype=dtype)
    return OwlDetector(network, load_processor(OwlViTProcessor, model), str(model), square=False, options=options)


def load_owlv2(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    options: DetectOptions | None = None,
) -> OwlDetector:
    """Load an OWLv2 checkpoint (arXiv 2306.09683).

    Raises:
        HubError: the hub is out of reach. WeightsError: a file is missing or damaged.
    """
    network = load_pretrained(Owlv2ForObjectDetection, model, device=device, dtype=dtype)
    processor = load_processor(Owlv2Processor, model)
    processor.image_processor = load_processor(SeparableOwlv2ImageProcessor, model)
    return OwlDetector(network, processor, str(model), square=True, options=options)
