"""Names for the masks: the phrase of a vocabulary that CLIP finds nearest to each masked crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from textseg.crops import MEAN_RGB, masked_crops
from textseg.errors import ConfigError
from textseg.everything.records import Everything
from textseg.matmul import matmul
from textseg.protocols import ImageTextEncoder
from textseg.types import Float, Query

_CROPS = 32  # at a time


@dataclass(frozen=True)
class NamingOptions:
    """How masks are named.

    Attributes:
        backgrounds: texts that stand for "none of the vocabulary"; a mask nearest to one of them gets no name.
        min_score: least softmax share of the winning phrase; below it a mask gets no name.
        grow: a crop is the mask's box grown by this factor and made square.
        fill: RGB, 0..255, outside the mask.
    """

    backgrounds: tuple[str, ...] = ("background", "something else")
    min_score: float = 0.0
    grow: float = 1.2
    fill: tuple[int, int, int] = MEAN_RGB

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_score <= 1.0:
            raise ConfigError(f"min_score: got {self.min_score}, expected a number in 0..1")


def name_masks(found: Everything, query: Query, clip: ImageTextEncoder, options: NamingOptions) -> Everything:
    """Return the same masks with labels: exactly the caller's phrases, or None where none of them fits.

    The score is the phrase's share in the softmax over the vocabulary and the backgrounds. A phrase's negatives
    ("car, not: toy car") contend as backgrounds, too.

    Args:
        found: K masks; K may be 0.
        query: the vocabulary.
        clip: embeds texts and crops.
        options: see there.
    """
    others = [*options.backgrounds, *(text for phrase in query.phrases for text in phrase.negatives)]
    texts = clip.encode_text([*query.prompts, *others])  # (Q + B, D)
    share = np.zeros((len(found), len(query)), np.float32)
    named = np.zeros(len(found), np.bool_)
    for start in range(0, len(found), _CROPS):
        rows = np.arange(start, min(start + _CROPS, len(found)))
        pictures = clip.encode_images(_crops(found, rows, options))
        probability = _softmax(np.float32(clip.logit_scale) * matmul(pictures, texts.T))  # (n, Q + B)
        share[rows] = probability[:, : len(query)]
        named[rows] = probability.argmax(axis=1) < len(query)
    best = share.argmax(axis=1) if len(query) else np.zeros(0, np.int64)
    scores = share[np.arange(len(found)), best]
    named &= scores >= options.min_score
    labels = tuple(query.phrases[int(b)].text if ok else None for b, ok in zip(best, named, strict=True))
    return replace(found, labels=labels, label_scores=scores)


def _crops(found: Everything, rows: Sequence[int] | np.ndarray, options: NamingOptions) -> list[np.ndarray]:
    """Return one masked crop a mask; masks are unpacked one at a time, so a large picture needs no more memory."""
    out = []
    for row in rows:
        mask = found.mask(int(row))[None]
        out += masked_crops(found.image.levels, mask, grow=options.grow, fill=options.fill)
    return out


def _softmax(logits: np.ndarray) -> Float:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)
