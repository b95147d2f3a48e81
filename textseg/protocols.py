"""What the pipeline asks of its models: one protocol each, with one or two methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from textseg.closeup import Rough
from textseg.types import Bool, Candidates, Closeups, Embedding, Float, Image, Int, Prompts, Proposals, UInt8
from textseg.vocabulary import Vocabulary

ROLES = ("detector", "segmenter", "clip", "text_prompt", "refiner", "own_refiner")
"""The models of a pipeline, as its arguments and a preset's keys name them."""


@runtime_checkable
class ImageTextEncoder(Protocol):
    """A CLIP: pictures and texts in one space."""

    model_id: str
    dim: int
    logit_scale: float
    """Factor that turns a cosine into a logit (the model's own, learned)."""

    def encode_text(self, texts: Sequence[str]) -> Float:
        """Return ℓ2-normalised float32 (N, dim) embeddings of N texts (templates applied and averaged)."""
        ...

    def encode_images(self, crops_rgb: Sequence[UInt8]) -> Float:
        """Return ℓ2-normalised float32 (N, dim) embeddings of N uint8 (h, w, 3) crops of any size."""
        ...


@runtime_checkable
class KnowsNouns(Protocol):
    """A CLIP that brings the nouns it was trained on; `None` if its folder has none."""

    vocabulary: Vocabulary | None


@runtime_checkable
class Detector(Protocol):
    """An open-vocabulary detector. ``encode`` once, ``detect`` for any phrases."""

    model_id: str

    def encode(self, image: Image) -> Any:
        """Return whatever of the picture can be kept for the next phrase (features, or prepared pixels)."""
        ...

    def detect(self, encoded: Any, prompts: Sequence[str], threshold: float) -> Proposals:
        """Return boxes scoring at least ``threshold``; ``phrase_index`` points into ``prompts``."""
        ...


@runtime_checkable
class NamesRegions(Detector, Protocol):
    """A detector that can also say what a region of a picture is."""

    def name_regions(self, encoded: Any, masks: Bool, prompts: Sequence[str], phrase_index: Int) -> Float | None:
        """Say of M regions how likely each is what its phrase names, rather than nothing or anything else.

        Args:
            encoded: what ``encode`` returned.
            masks: bool (M, h, w) over the whole picture, without padding.
            prompts: the phrases.
            phrase_index: int64 (M,), into ``prompts``.

        Returns:
            float32 (M,) in 0..1; None where it knows no nouns to choose among.
        """
        ...


@runtime_checkable
class Segmenter(Protocol):
    """A promptable segmenter (the SAM family)."""

    model_id: str
    text_width: int | None
    """Width of the text tokens it takes, or None when the family cannot take any."""

    def encode(self, image: Image) -> Embedding:
        """Return the picture's embedding: the costly part, done once."""
        ...

    def decode(self, embedding: Embedding, prompts: Prompts) -> Candidates:
        """Return the masks of all prompts, in order."""
        ...


@runtime_checkable
class MaskRefiner(Protocol):
    """Draws masks again from a close look at the picture."""

    model_id: str

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        """Draw N masks of one picture again.

        Args:
            image: the picture.
            roughs: the N masks as they are so far; N may be 0.
            boxes_xyxy: float32 (N, 4), the prompts' boxes in pixels of the picture; NaN rows: none.
            hints: float32 (N, h', w') logits over the whole picture, where a detector sees the phrase; rows of
                zeros, and None: none.
        """
        ...


class TextPrompt(Protocol):
    """Turns CLIP embeddings into sparse tokens for a segmenter's prompt encoder."""

    def tokens(self, embeddings: Float) -> Float:
        """Map (N, dim) CLIP embeddings to float32 (N, T, text_width) tokens."""
        ...
