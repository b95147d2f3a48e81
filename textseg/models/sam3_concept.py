"""SAM 3's concept prompts as proposals: every instance of a phrase, with its box, score and mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textseg.models.detector import (
    DetectOptions,
    PhraseCache,
    best_rows,
    check_call,
    join,
    prepare,
    to_proposals,
)
from textseg.models.hub import load_pretrained, load_processor
from textseg.types import Image, Proposals

_TEXT_BATCH = 64


@dataclass(frozen=True)
class Sam3Picture:
    """A picture as the adapter keeps it.

    Attributes:
        maps: the feature pyramid, (1, D, h, w) a level.
        positions: its position encodings, shaped alike.
        size_hw: size of the original picture.
        model_id: the model that made it.
    """

    maps: tuple[Tensor, ...] = field(repr=False)
    positions: tuple[Tensor, ...] = field(repr=False)
    size_hw: tuple[int, int]
    model_id: str


class Sam3ConceptDetector:
    """A ``Detector`` over ``Sam3Model``: one pass a phrase, the image features and text embeddings kept.

    A score is the instance's own times the model's "is it in the picture at all". The masks are handed on as
    ``Proposals.mask_logits``: SAM 3 stretches the picture to a square, so its masks are stretched over the
    whole picture as they come.

    Args:
        model: the transformers model, in evaluation mode.
        processor: its ``Sam3Processor``.
        model_id: its name in records and messages.
        options: suppression and limits.
    """

    def __init__(self, model: Any, processor: Any, model_id: str, options: DetectOptions | None = None) -> None:
        self.model_id = model_id
        self._model = model
        self._processor = processor
        self._options = options or DetectOptions()
        self._length = model.config.text_config.max_position_embeddings
        self._texts: PhraseCache[tuple[Tensor, Tensor]] = PhraseCache(1024)

    def encode(self, image: Image) -> Sam3Picture:
        """Run the vision encoder."""
        pixels = prepare(self._processor.image_processor, image.rgb, self._model)["pixel_values"]
        with torch.inference_mode():
            out = self._model.get_vision_features(pixel_values=pixels)
        maps, positions = tuple(out.fpn_hidden_states), tuple(out.fpn_position_encoding)
        return Sam3Picture(maps, positions, image.size_hw, self.model_id)

    def detect(self, encoded: Any, prompts: Sequence[str], threshold: float) -> Proposals:
        """Return the instances scoring at least ``threshold``, with their rough masks.

        Raises:
            UnsupportedError: ``encoded`` is another model's. ConfigError: the threshold is outside 0..1.
        """
        picture = check_call(encoded, Sam3Picture, self.model_id, threshold)
        found = []
        for index, (text, mask) in enumerate(self._texts.get(prompts, self._embed)):
            boxes, scores, masks = self._ask(picture, text, mask)
            row, _ = best_rows(scores.unsqueeze(1), threshold, self._options)
            rows = (boxes[row], scores[row], torch.full_like(row, index))
            found.append(to_proposals(*rows, picture.size_hw, threshold, self._options, masks[row]))
        return join(found)

    def _ask(self, picture: Sam3Picture, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (Q, 4) boxes in pixels of the original picture, (Q,) scores and (Q, h, w) mask logits."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling
        from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

        vision = Sam3VisionEncoderOutput(fpn_hidden_states=picture.maps, fpn_position_encoding=picture.positions)
        with torch.inference_mode():
            out = self._model(
                vision_embeds=vision,
                text_embeds=BaseModelOutputWithPooling(pooler_output=text.unsqueeze(0)),
                attention_mask=mask.unsqueeze(0),
            )
        scores = out.pred_logits[0].float().sigmoid()  # (Q,)
        if out.presence_logits is not None:
            scores = scores * out.presence_logits[0].float().sigmoid()  # (Q,) × (1,)
        height, width = picture.size_hw
        boxes = out.pred_boxes[0].float()  # (Q, 4), already xyxy in 0..1
        return boxes * boxes.new_tensor([width, height, width, height]), scores, out.pred_masks[0]

    def _embed(self, prompts: list[str]) -> list[tuple[Tensor, Tensor]]:
        """Return (T, D) token embeddings and their (T,) mask, a phrase; each is cut to T tokens by itself."""
        embeds: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(prompts), _TEXT_BATCH):
            tokens = self._processor.tokenizer(
                prompts[start : start + _TEXT_BATCH],
                padding="max_length",
                truncation=True,
                max_length=self._length,
                return_tensors="pt",
            ).to(self._model.device)
            ids, mask = tokens["input_ids"], tokens["attention_mask"]
            with torch.inference_mode():
                out = self._model.get_text_features(input_ids=ids, attention_mask=mask)
            embeds += zip(out.pooler_output, mask, strict=True)
        return embeds


def load(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    options: DetectOptions | None = None,
) -> Sam3ConceptDetector:
    """Load a SAM 3 checkpoint (arXiv 2511.16719); ``facebook/sam3`` is gated.

    Raises:
        HubError: the hub is out of reach, or the model is gated. WeightsError: a file is missing or damaged.
    """
    from transformers import Sam3Model, Sam3Processor

    network = load_pretrained(Sam3Model, model, device=device, dtype=dtype)
    return Sam3ConceptDetector(network, load_processor(Sam3Processor, model), str(model), options)
