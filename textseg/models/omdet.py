"""OmDet-Turbo: class names beside a task sentence ("Detect cat, remote."), language embeddings kept."""

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
    corners,
    join,
    pack,
    prepare,
    to_proposals,
)
from textseg.models.hub import load_pretrained, load_processor
from textseg.types import Image, Proposals

_TEXT_BATCH = 64
_TASK_OVERHEAD = 4  # start and end of text, "detect", and the final stop


@dataclass(frozen=True)
class OmDetPicture:
    """A picture as the adapter keeps it.

    Attributes:
        features: the hybrid encoder's maps, (1, D, h, w) a level.
        size_hw: size of the original picture.
        model_id: the model that made it.
    """

    features: tuple[Tensor, ...] = field(repr=False)
    size_hw: tuple[int, int]
    model_id: str


class OmDetDetector:
    """A ``Detector`` over ``OmDetTurboForObjectDetection``.

    The task sentence names all the phrases of a pass; a list too long for it is asked in several passes, each
    with as many phrases as its sentence holds. Phrases are scored by themselves, but which places the decoder
    looks at, and the sentence it reads, depend on the phrases asked with them.

    Args:
        model: the transformers model, in evaluation mode.
        processor: its ``OmDetTurboProcessor``.
        model_id: its name in records and messages.
        options: suppression and limits.
    """

    def __init__(self, model: Any, processor: Any, model_id: str, options: DetectOptions | None = None) -> None:
        self.model_id = model_id
        self._model = model
        self._processor = processor
        self._options = options or DetectOptions()
        self._length = min(77, model.config.text_config.max_position_embeddings)
        self._classes: PhraseCache[Tensor] = PhraseCache()
        self._tasks: PhraseCache[tuple[Tensor, Tensor]] = PhraseCache(256)

    def encode(self, image: Image) -> OmDetPicture:
        """Run the vision backbone and the hybrid encoder."""
        pixels = prepare(self._processor.image_processor, image.rgb, self._model)["pixel_values"]
        with torch.inference_mode():
            out = self._model.encoder(self._model.vision_backbone(pixels), return_dict=True)
        return OmDetPicture(tuple(out.extracted_states), image.size_hw, self.model_id)

    def detect(self, encoded: Any, prompts: Sequence[str], threshold: float) -> Proposals:
        """Return boxes scoring at least ``threshold`` for a phrase; a box may be proposed for several phrases.

        Raises:
            UnsupportedError: ``encoded`` is another model's. ConfigError: the threshold is outside 0..1.
        """
        picture = check_call(encoded, OmDetPicture, self.model_id, threshold)
        found = []
        for run in pack(self._lengths(prompts), self._length - _TASK_OVERHEAD):
            boxes, scores = self._ask(picture, [prompts[i] for i in run])
            row, phrase = best_rows(scores, threshold, self._options)
            index = torch.tensor(run, device=phrase.device)[phrase]
            rows = (boxes[row], scores[row, phrase], index)
            found.append(to_proposals(*rows, picture.size_hw, threshold, self._options))
        return join(found)

    def _lengths(self, prompts: Sequence[str]) -> list[int]:
        """Return how many tokens each phrase takes in the task sentence, its comma included."""
        if not prompts:
            return []
        limit = self._length
        tokens = self._processor.tokenizer(list(prompts), add_special_tokens=False, truncation=True, max_length=limit)
        return [len(ids) + 1 for ids in tokens["input_ids"]]

    def _ask(self, picture: OmDetPicture, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Return float32 (Q, 4) boxes in pixels of the original picture, and (Q, P) scores, of one pass."""
        sentence = f"Detect {', '.join(prompts)}."
        ((task, mask),) = self._tasks.get([sentence], self._embed_tasks)
        classes = torch.stack(self._classes.get(prompts, self._embed_classes)).unsqueeze(1)  # (P, 1, D)
        with torch.inference_mode():
            out = self._model.decoder(picture.features, classes, task, mask, return_dict=True)
        height, width = picture.size_hw
        boxes = corners(out.decoder_coords[-1][0], width, height)
        return boxes, out.decoder_classes[-1][0].float().sigmoid()  # (Q, 4), (Q, P)

    def _embed_classes(self, prompts: list[str]) -> list[Tensor]:
        """Return a (D,) embedding a phrase; each is cut to the text tower's length by itself."""
        embeds: list[Tensor] = []
        for start in range(0, len(prompts), _TEXT_BATCH):
            ids, _ = self._tokenize(prompts[start : start + _TEXT_BATCH])
            with torch.inference_mode():
                embeds += list(self._model.language_backbone(ids, encode_type="class"))
        return embeds

    def _embed_tasks(self, sentences: list[str]) -> list[tuple[Tensor, Tensor]]:
        """Return (T, 1, D) token embeddings and their (1, T) mask, a sentence."""
        embeds = []
        for sentence in sentences:
            ids, mask = self._tokenize([sentence])
            with torch.inference_mode():
                embeds.append(self._model.language_backbone(ids, mask=mask, encode_type="task"))
        return embeds

    def _tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens = self._processor.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self._model.device)
        return tokens["input_ids"], tokens["attention_mask"]


def load(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    options: DetectOptions | None = None,
) -> OmDetDetector:
    """Load an OmDet-Turbo checkpoint (arXiv 2403.06892).

    Raises:
        HubError: the hub is out of reach. WeightsError: a file is missing or damaged.
    """
    from transformers import OmDetTurboForObjectDetection, OmDetTurboProcessor

    network = load_pretrained(OmDetTurboForObjectDetection, model, device=device, dtype=dtype)
    return OmDetDetector(network, load_processor(OmDetTurboProcessor, model), str(model), options)
