"""Grounding DINO and MM-Grounding-DINO: several phrases in one pass, told apart by their token spans.

The caption "a cat. a remote." is put together from token ids, phrase by phrase, so the span of each phrase
is known exactly and no string is ever matched back. Full stops, question marks and special tokens inside a
phrase are left out: the model would take them for the end of the phrase.

The score of a phrase is the maximum over its tokens, as in the authors' and transformers' post-processing:
articles and prepositions score low in the trained models, and a mean would punish long phrases for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from textseg.models.detector import (
    DetectOptions,
    best_rows,
    check_call,
    corners,
    join,
    pack,
    prepare,
    to_proposals,
)
from textseg.models.hub import load_pretrained, load_processor
from textseg.types import Image, Proposals, UInt8

MAX_ASPECT = 32
"""Thinner pictures are padded at the right or bottom to this aspect: else they have fewer places than queries."""
_FEATURES = "textseg_features"


@dataclass(frozen=True)
class GroundingDinoPicture:
    """A picture as the adapter keeps it.

    Attributes:
        pixels: (1, 3, h, w) prepared pixels; they carry the backbone's features.
        pixel_mask: int64 (1, h, w), 1 inside the picture.
        canvas_hw: size of the picture, padding of a thin one included, in original pixels; boxes are shares of it.
        size_hw: size of the original picture.
        model_id: the model that made it.
    """

    pixels: Tensor = field(repr=False)
    pixel_mask: Tensor = field(repr=False)
    canvas_hw: tuple[int, int]
    size_hw: tuple[int, int]
    model_id: str


class GroundingDinoDetector:
    """A ``Detector`` over ``GroundingDinoForObjectDetection`` or ``MMGroundingDinoForObjectDetection``.

    ``encode`` runs the image backbone, which every caption shares. Long lists of phrases are asked in several
    captions of at most ``max_text_len`` tokens, one after the other, so memory stays bounded.

    Args:
        model: the transformers model, in evaluation mode; its backbone is wrapped in place.
        processor: its ``GroundingDinoProcessor``.
        model_id: its name in records and messages.
        options: suppression and limits.
    """

    def __init__(self, model: Any, processor: Any, model_id: str, options: DetectOptions | None = None) -> None:
        self.model_id = model_id
        self._model = model
        self._processor = processor
        self._options = options or DetectOptions()
        if not isinstance(model.model.backbone, _ReusableBackbone):
            model.model.backbone = _ReusableBackbone(model.model.backbone)
        tokenizer = processor.tokenizer
        self._cls, self._sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self._stop = tokenizer.convert_tokens_to_ids(".")
        self._delimiters = {*model.model.special_tokens.tolist(), *tokenizer.all_special_ids, self._stop}
        self._delimiters.discard(tokenizer.unk_token_id)
        self._max_tokens = min(model.config.max_text_len, model.config.text_config.max_position_embeddings)

    def encode(self, image: Image) -> GroundingDinoPicture:
        """Return the prepared pixels with the features of the image backbone."""
        canvas_rgb = widen(image.rgb)
        batch = prepare(self._processor.image_processor, canvas_rgb, self._model)
        pixels, mask = batch["pixel_values"], batch["pixel_mask"]
        with torch.inference_mode():
            setattr(pixels, _FEATURES, self._model.model.backbone(pixels, mask))
        height, width = canvas_rgb.shape[:2]
        return GroundingDinoPicture(pixels, mask, (height, width), image.size_hw, self.model_id)

    def detect(self, encoded: Any, prompts: Sequence[str], threshold: float) -> Proposals:
        """Return boxes whose best token in a phrase scores at least ``threshold``.

        With ``exclusive`` (the default) a box goes to its best phrase within the caption, the first one on a
        tie; phrases of different captions do not compete. Phrases with the same tokens share their boxes. A
        phrase without any token of its own (such as "...") finds nothing.

        Raises:
            UnsupportedError: ``encoded`` is another model's. ConfigError: the threshold is outside 0..1.
        """
        picture = check_call(encoded, GroundingDinoPicture, self.model_id, threshold)
        owners: dict[tuple[int, ...], list[int]] = {}
        for index, ids in enumerate(self._phrase_ids(prompts)):
            if ids:
                owners.setdefault(ids, []).append(index)
        phrases = list(owners)
        found = []
        for run in pack([len(ids) + 1 for ids in phrases], self._max_tokens - 2):
            boxes, scores = self._ask(picture, [phrases[i] for i in run])
            if self._options.exclusive:
                best = scores.argmax(dim=1, keepdim=True)  # (Q, 1)
                scores = torch.full_like(scores, -1).scatter(1, best, scores.gather(1, best))
            row, phrase = best_rows(scores, threshold, self._options)
            for slot, i in enumerate(run):
                mine = row[phrase == slot]
                for index in owners[phrases[i]]:
                    owner = torch.full((len(mine),), index)
                    rows = (boxes[mine], scores[mine, slot], owner)
                    found.append(to_proposals(*rows, picture.size_hw, threshold, self._options))
        return join(found)

    def _phrase_ids(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each phrase's own token ids: no delimiters, cut to what one caption holds."""
        if not prompts:
            return []
        limit = self._max_tokens - 3  # [CLS] phrase . [SEP]
        texts = [prompt.lower() for prompt in prompts]
        tokens = self._processor.tokenizer(texts, add_special_tokens=False, truncation=True, max_length=limit)
        return [tuple(i for i in ids if i not in self._delimiters) for ids in tokens["input_ids"]]

    def _ask(self, picture: GroundingDinoPicture, phrases: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Return float32 (Q, 4) boxes in pixels of the original picture, and (Q, P) scores, of one caption."""
        ids, spans = caption([list(phrase) for phrase in phrases], self._cls, self._sep, self._stop)
        input_ids = torch.tensor([ids], device=picture.pixels.device)  # (1, T)
        with torch.inference_mode():
            out = self._model(
                pixel_values=picture.pixels,
                pixel_mask=picture.pixel_mask,
                input_ids=input_ids,
                token_type_ids=torch.zeros_like(input_ids),
                attention_mask=torch.ones_like(input_ids),
            )
        token_scores = out.logits[0].float().sigmoid()  # (Q, max_text_len)
        scores = torch.stack([token_scores[:, start:end].amax(dim=1) for start, end in spans], dim=1)  # (Q, P)
        height, width = picture.canvas_hw
        return corners(out.pred_boxes[0], width, height), scores


class _ReusableBackbone(nn.Module):
    """An image backbone that hands back the features a picture carries instead of computing them again."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[list[Any], list[Tensor]]:
        """Return per level (feature map, mask) and position embedding, in lists that the caller may extend."""
        maps, positions = getattr(pixel_values, _FEATURES, None) or self.inner(pixel_values, pixel_mask)
        return list(maps), list(positions)

    @property
    def position_embedding(self) -> Any:
        """The inner backbone's position embedding, which the model uses for its coarsest levels."""
        return self.inner.position_embedding


def caption(phrases: Sequence[list[int]], cls: int, sep: int, stop: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Return ``[CLS] phrase . phrase . [SEP]`` as ids, and the half-open token span of each phrase."""
    ids, spans = [cls], []
    for phrase in phrases:
        spans.append((len(ids), len(ids) + len(phrase)))
        ids += [*phrase, stop]
    return [*ids, sep], spans


def widen(image_rgb: UInt8) -> UInt8:
    """Pad a picture thinner than ``MAX_ASPECT`` with black at the right or bottom; others come back as they are."""
    height, width = image_rgb.shape[:2]
    down = max(0, -(-width // MAX_ASPECT) - height)
    right = max(0, -(-height // MAX_ASPECT) - width)
    return np.pad(image_rgb, ((0, down), (0, right), (0, 0))) if down or right else image_rgb


def load(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    options: DetectOptions | None = None,
) -> GroundingDinoDetector:
    """Load a Grounding DINO checkpoint (arXiv 2303.05499).

    Raises:
        HubError: the hub is out of reach. WeightsError: a file is missing or damaged.
    """
    from transformers import GroundingDinoForObjectDetection

    return _load(GroundingDinoForObjectDetection, model, device, dtype, options)


def load_mm(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    options: DetectOptions | None = None,
) -> GroundingDinoDetector:
    """Load an MM-Grounding-DINO checkpoint (arXiv 2401.02361).

    Raises:
        HubError: the hub is out of reach. WeightsError: a file is missing or damaged.
    """
    from transformers import MMGroundingDinoForObjectDetection

    return _load(MMGroundingDinoForObjectDetection, model, device, dtype, options)


def _load(
    cls: Any, model: str | Path, device: str | torch.device, dtype: str | torch.dtype, options: DetectOptions | None
) -> GroundingDinoDetector:
    from transformers import GroundingDinoProcessor

    network = load_pretrained(cls, model, device=device, dtype=dtype)
    return GroundingDinoDetector(network, load_processor(GroundingDinoProcessor, model), str(model), options)
