"""CLIP embeddings for SAM's text prompt in training: of phrases, and of the objects' own pixels.

The SAM paper trains on the CLIP image embedding of the masked object and puts the text embedding in
its place at inference. A small CLIP's two kinds of embedding lie apart, so here both are trained on:
most prompts carry the phrase's own embedding, the others the crop's, moved by the difference of the
two kinds' running means.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from textseg.models import onednn
from textseg.models.clip_load import WEIGHTS_FILE
from textseg.train import clip_model as nano_clip
from textseg.types import UInt8

logger = logging.getLogger(__name__)

COMMON_NOUNS = tuple("car person dog cat shoe dress hair skin tree house chair bottle apple bird fish boat".split())
_MOST_TEXTS = 100_000


class PhraseEmbedder:
    """A frozen CLIP: phrases (each embedded once) and crops → ℓ2-normalised float32 embeddings."""

    def __init__(
        self, model: Any, tokenizer: Any, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self._file: Path | None = None
        self._written = 0.0
        self._known: dict[str, Tensor] = {}
        self._text_mean: Tensor | None = None
        self._crop_mean: Tensor | None = None

    @classmethod
    def load(cls, folder: str | Path) -> PhraseEmbedder | None:
        """Read an exported nano CLIP; None where `folder` holds none yet."""
        folder = Path(folder)
        if not nano_clip.is_exported(folder):
            return None
        model, tokenizer, look = nano_clip.load_exported(folder)
        found = cls(model, tokenizer, int(model.visual.image_size[0]), look["mean"], look["std"])
        found._file, found._written = folder / WEIGHTS_FILE, (folder / WEIGHTS_FILE).stat().st_mtime
        return found

    def outdated(self) -> bool:
        """Whether the file that this was read from has been replaced, half a minute ago or more."""
        if self._file is None or not self._file.is_file():
            return False
        written = self._file.stat().st_mtime
        return written != self._written and time.time() - written > 30

    @torch.no_grad()
    def texts(self, phrases: Sequence[str]) -> Tensor:
        """Embed N phrases: (N, dim)."""
        fresh = [text for text in dict.fromkeys(phrases) if text not in self._known]
        if fresh:
            if len(self._known) > _MOST_TEXTS:
                self._known.clear()
                fresh = list(dict.fromkeys(phrases))
            ids = self.tokenizer(fresh)
            rows = F.normalize(torch.cat([nano_clip.encode_short_text(self.model, part) for part in ids.split(256)]))
            self._known.update(zip(fresh, rows.float(), strict=True))
        return torch.stack([self._known[text] for text in phrases])

    @torch.no_grad()
    def crops(self, crops_rgb: Sequence[UInt8]) -> Tensor:
        """Embed N crops (h, w, 3), squashed to the tower's square: (N, dim)."""
        size = (self.image_size, self.image_size)
        stack = np.stack([cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC) for crop in crops_rgb])
        pixels = (torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std  # (N, 3, s, s)
        with onednn.autocast():
            out: Tensor = self.model.encode_image(pixels.contiguous(memory_format=torch.channels_last), normalize=True)
        return out.float()

    def __call__(self, phrases: Sequence[str], crops_rgb: Sequence[UInt8 | None]) -> Tensor:
        """Embed K prompts (K, dim): the crop where there is one, else the phrase."""
        out = self.texts(phrases).clone()
        self._text_mean = _running(self._text_mean, out.mean(dim=0))
        rows = [i for i, crop in enumerate(crops_rgb) if crop is not None]
        if rows:
            seen = self.crops([crop for crop in crops_rgb if crop is not None])
            self._crop_mean = _running(self._crop_mean, seen.mean(dim=0))
            out[rows] = F.normalize(seen - self._crop_mean + self._text_mean, dim=1)
        return out

    def center(self) -> Tensor:
        """The mean embedding (dim,) of common nouns."""
        return self.texts([*COMMON_NOUNS, *(f"the {noun}" for noun in COMMON_NOUNS)]).mean(dim=0)


def _running(mean: Tensor | None, fresh: Tensor) -> Tensor:
    return fresh if mean is None else mean.lerp(fresh, 0.02)
