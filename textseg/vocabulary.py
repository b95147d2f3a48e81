"""The nouns that a CLIP was trained on, as rivals for a phrase: "a trumpet" must beat "a saxophone", not only nothing.

A CLIP folder may hold ``vocabulary.safetensors``: the nouns' embeddings, so that they cost no text tower at run time,
their other names, and which of them may be the same thing. What a phrase may itself mean is never its rival.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from textseg.errors import WeightsError
from textseg.matmul import matmul
from textseg.types import Float, Int

FILE = "vocabulary.safetensors"
SYNONYM_SIMILARITY = 0.9
"""Texts whose embeddings are closer than this cosine may mean the same."""

_MOST_WORDS = 5
_WORD = re.compile(r"[^\W_]+(?:[-’'][^\W_]+)*")


@dataclass(frozen=True)
class Vocabulary:
    """V nouns that exclude each other, but for their kin.

    Attributes:
        names: for each noun all its names, the usual one first.
        kin: int64 (K, 2), pairs of nouns that the same thing may be called: "pants" and "jeans".
        embeddings: float32 (V, D), ℓ2-normalised, of the usual names.
    """

    names: tuple[tuple[str, ...], ...]
    kin: Int
    embeddings: Float
    _named: dict[str, list[int]] = field(init=False, repr=False, compare=False)
    _kin_of: dict[int, list[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named: dict[str, list[int]] = {}
        for i, names in enumerate(self.names):
            for name in names:
                named.setdefault(" ".join(_words(name)), []).append(i)
        kin_of: dict[int, list[int]] = {}
        for i, j in self.kin.tolist():
            kin_of.setdefault(i, []).append(j)
            kin_of.setdefault(j, []).append(i)
        object.__setattr__(self, "_named", named)
        object.__setattr__(self, "_kin_of", kin_of)

    def __len__(self) -> int:
        return len(self.names)

    def rivals(self, phrase: str, embedding: Float, similarity: float = SYNONYM_SIMILARITY) -> Int:
        """Return the int64 indices of the nouns that a thing called ``phrase`` surely is not.

        Args:
            phrase: its own nouns, and their kin, are no rivals.
            embedding: float32 (D,), of the phrase, ℓ2-normalised.
            similarity: nouns whose cosine with it is not below this are no rivals either.
        """
        words, meant = _words(phrase), set[int]()
        for start in range(len(words)):
            for stop in range(start + 1, min(len(words), start + _MOST_WORDS) + 1):
                for i in self._named.get(" ".join(words[start:stop]), ()):
                    meant |= {i, *self._kin_of.get(i, ())}
        unlike = matmul(self.embeddings, embedding) < similarity
        unlike[list(meant)] = False
        return np.flatnonzero(unlike)

    def save(self, folder: str | Path) -> None:
        """Write the vocabulary into a CLIP's folder, embeddings as float16."""
        tensors = {"embeddings": self.embeddings.astype(np.float16), "kin": self.kin.astype(np.int32).reshape(-1, 2)}
        # As they lie in memory is how they are written, and ``np.argwhere`` gives pairs by columns.
        tensors = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        (Path(folder) / FILE).write_bytes(save(tensors, metadata={"names": json.dumps(self.names)}))

    @classmethod
    def load(cls, folder: str | Path) -> Vocabulary | None:
        """Read a CLIP folder's vocabulary; None where it has none.

        Raises:
            WeightsError: the file is damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                names = tuple(tuple(entry) for entry in json.loads((file.metadata() or {})["names"]))
                embeddings = file.get_tensor("embeddings").astype(np.float32)
                kin = file.get_tensor("kin").astype(np.int64)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"vocabulary file damaged: {path} ({error}). Delete it and fetch it again") from error
        if embeddings.ndim != 2 or len(embeddings) != len(names):
            raise WeightsError(f"{path}: {len(names)} nouns, but embeddings of shape {embeddings.shape}")
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return cls(names, kin, embeddings / np.maximum(lengths, 1e-12))


def _words(text: str) -> list[str]:
    return [_singular(word) for word in _WORD.findall(text.lower())]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
