"""Text embeddings for training: from the frozen text tower, each distinct text computed once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textseg.language import COLORS
from textseg.models.nano_network import TextProjection

logger = logging.getLogger(__name__)

TextSource = Callable[[Sequence[str]], NDArray[np.float32]]
"""N texts → float32 (N, dim), ℓ2-normalised."""

_SAMPLE_NOUNS = ("car", "person", "dog", "cat", "shoe", "dress", "hair", "skin", "tree", "house", "chair", "bottle")
_MOST = 200_000


class TextBank:
    """Looks texts up, embedding those never seen before in one go; starts anew when it has grown too large."""

    def __init__(self, source: TextSource) -> None:
        self._source = source
        self._rows: dict[str, int] = {}
        self._table = torch.zeros(0, 0)
        self._used = 0

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return float32 (N, dim)."""
        if self._used > _MOST:
            self._rows, self._used = {}, 0
        fresh = [t for t in dict.fromkeys(texts) if t not in self._rows]
        if fresh:
            self._add(fresh)
        return self._table[[self._rows[t] for t in texts]]

    def _add(self, fresh: list[str]) -> None:
        values = torch.from_numpy(np.array(self._source(fresh), np.float32))
        if self._used + len(fresh) > len(self._table):
            larger = torch.zeros(max(4096, 2 * (self._used + len(fresh))), values.shape[1])
            if self._used:
                larger[: self._used] = self._table[: self._used]
            self._table = larger
        self._table[self._used : self._used + len(fresh)] = values
        for text in fresh:
            self._rows[text] = self._used
            self._used += 1

    def known(self, most: int = 4000) -> tuple[list[str], Tensor]:
        """The latest texts asked for and their embeddings, float32 (N, dim)."""
        first = max(0, self._used - most)
        return list(self._rows)[first:], self._table[first : self._used]

    def sample(self, nouns: Sequence[str] = ()) -> Tensor:
        """Embeddings of nouns (common ones unless given), bare, in a sentence and with a colour: (N, dim)."""
        chosen = list(nouns) or list(_SAMPLE_NOUNS)
        colored = [f"{COLORS[i % len(COLORS)]} {noun}" for i, noun in enumerate(chosen)]
        return self([*chosen, *(f"a photo of a {noun}" for noun in chosen), *colored])


def refit(projection: TextProjection, old: Tensor, new: Tensor, steps: int = 1500, batch: int = 256) -> float:
    """Teach a projection trained on one text tower's embeddings to give the same codes for another's.

    ``old`` and ``new`` are the two towers' embeddings of the same N texts, (N, dim). What the picture
    side has learned stays of use when the text tower is trained further. Returns the share of the
    codes' variance that is left unexplained.
    """
    with torch.no_grad():
        wanted = projection.flat(old)  # (N, codes)
    spread = wanted.std(0).clamp_min(1e-3)
    projection.standardise(new)
    projection.hidden.reset_parameters()
    optimizer = torch.optim.AdamW(projection.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    recent = 1.0
    for _ in range(steps):
        rows = torch.randint(len(new), (batch,))
        loss = ((projection.flat(new[rows]) - wanted[rows]) / spread).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        recent = 0.98 * recent + 0.02 * float(loss.detach())
    return recent


def open_text_source(folder: str | Path) -> TextSource:
    """The frozen text tower of an exported image–text model; words as random directions where there is none."""
    from textseg.train import clip_model

    if not clip_model.is_exported(folder):
        logger.warning("%s holds no text tower; words become random directions", folder)
        return hashed_text()
    model, tokenizer, _ = clip_model.load_exported(folder)

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        parts = [clip_model.encode_short_text(model, ids) for ids in torch.split(tokenizer(list(texts)), 256)]
        return np.asarray(torch.cat(parts).float().numpy(), np.float32)

    return embed


def hashed_text(dim: int = 256) -> TextSource:
    """A stand-in without any model: words as fixed random directions, summed and normalised."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [sum((_direction(w, dim) for w in text.split()), np.full(dim, 1e-3)) for text in texts]
        table = np.stack(rows).astype(np.float32)
        normed: NDArray[np.float32] = table / np.linalg.norm(table, axis=1, keepdims=True)
        return normed

    return embed


def _direction(word: str, dim: int) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim)
