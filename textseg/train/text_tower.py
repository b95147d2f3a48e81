"""First stage of the nano CLIP: the text tower learns what phrases are made of, before any picture.

Trained on a few thousand crops alone, a text tower from nothing spends its few directions on colours
and lets nouns fall together. So it is first taught a composed code for every phrase: the codes of the
noun's tokens, drawn towards the thing that a synonym stands for, plus the code of the colour word. Nouns
then stay apart, synonyms together, "red car" lies between "red" and "car", and words never seen get
codes of their own from their tokens. The picture tower is trained against this frozen text tower
afterwards (as in Zhai et al., "LiT", CVPR 2022, with the towers' parts exchanged).
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from textseg.colors import COLOR_SYNONYMS
from textseg.language import COLORS, GENERIC_BACKGROUND
from textseg.models import onednn
from textseg.train import nouns
from textseg.train.clip_model import ClipModelConfig, build_nano_clip, encode_short_text
from textseg.train.loop import load_checkpoint, progress_bar, save_checkpoint
from textseg.train.phrases import phrase
from textseg.train.vocab import NanoTokenizer, all_nouns

logger = logging.getLogger(__name__)

MOST_MEANINGS = 4
"""A noun that stands for more kinds of things than this ("animal") has only its own code."""
COLOR_SHARE = 0.9
COLOR_PROBABILITY = 0.4


class ConceptCodes:
    """Target embeddings: unit vectors composed of token, meaning and colour codes.

    Args:
        tokenizer: cuts words into the text tower's tokens.
        root: the folder of training data, for its nouns and their synonyms.
        dim: width of the embeddings.
        seed: of the random token codes.
    """

    def __init__(self, tokenizer: NanoTokenizer, root: Path, dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._tokenizer = tokenizer
        self._tokens = rng.standard_normal((tokenizer.vocab_size, dim))
        self._colors = {color: _unit(rng.standard_normal(dim)) for color in COLORS}
        self._meanings = _meanings(root)
        self.nouns = sorted(all_nouns(root))
        self.words = sorted({*_caption_words(root), *GENERIC_BACKGROUND, "thing", "object"} - set(self.nouns))
        self._codes = {word: self._noun(word) for word in (*self.nouns, *self.words)}

    def __call__(self, noun: str, color: str | None) -> NDArray[np.float64]:
        """Return the unit vector (dim,) of "<color> <noun>"."""
        code = self._codes[noun]
        return code if color is None else _unit(code + COLOR_SHARE * self._colors[color])

    def _noun(self, noun: str) -> NDArray[np.float64]:
        literal = self._literal(noun)
        meanings = self._meanings.get(noun, ())
        if not 1 <= len(meanings) <= MOST_MEANINGS:
            return literal
        return _unit(0.6 * literal + 0.8 * _unit(np.sum([self._literal(name) for name in meanings], axis=0)))

    def _literal(self, noun: str) -> NDArray[np.float64]:
        ids = self._tokenizer(noun)[0]
        own = ids[(ids != 0) & (ids != ids.max())][1:]  # without start, end and padding
        return _unit(self._tokens[own.numpy()].sum(axis=0) if len(own) else self._tokens[0])

    def sample(self, rng: np.random.Generator, count: int) -> tuple[list[str], Tensor]:
        """Draw ``count`` phrases: their texts and targets, float32 (count, dim)."""
        texts, targets = [], []
        for _ in range(count):
            pool = self.nouns if rng.random() < 0.85 else self.words
            noun = pool[int(rng.integers(len(pool)))]
            color = COLORS[int(rng.integers(len(COLORS)))] if rng.random() < COLOR_PROBABILITY else None
            texts.append(phrase(noun, color, rng))
            targets.append(self(noun, color))
        return texts, torch.from_numpy(np.array(targets, np.float32))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def _meanings(root: Path) -> dict[str, tuple[str, ...]]:
    """Noun → the canonical names of the things that answer to it."""
    cutouts = nouns.cutout_names(root / "fluent" / "names.json")
    kinds = {name: names for name, (names, _) in cutouts.items()}
    for synonym in nouns.SYNONYMS:
        kinds.setdefault(synonym, nouns.names_of(synonym))
    found: dict[str, set[str]] = {}
    for name, names in kinds.items():
        for noun in names:
            found.setdefault(noun, set()).add(name)
    return {noun: tuple(sorted(names)) for noun, names in found.items()}


def _caption_words(root: Path, at_least: int = 2) -> list[str]:
    path = root / "coco" / "annotations.json"
    if not path.is_file():
        return []
    counts: Counter[str] = Counter()
    for image in json.loads(path.read_text(encoding="utf-8"))["images"]:
        for caption in image.get("captions", ()):
            counts.update(re.findall(r"[a-z]{3,}", caption.lower()))
    colors = {*COLORS, *COLOR_SYNONYMS}
    return [word for word, count in counts.items() if count >= at_least and word not in colors]


def train_text_tower(
    config: ClipModelConfig,
    tokenizer: NanoTokenizer,
    data: Path,
    checkpoint: Path,
    *,
    steps: int,
    batch: int = 384,
    seed: int = 0,
) -> float:
    """Teach a fresh text tower the composed codes; return the mean cosine that it reaches on fresh phrases.

    Args:
        config: the CLIP's shape.
        tokenizer: the vocabulary.
        data: the folder of training data.
        checkpoint: where the weights go, in the form that the CLIP training starts from. If it exists already,
            its picture tower is kept and only the text tower is replaced.
        steps, batch, seed: length and draws of the training.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = build_nano_clip(config.open_clip(tokenizer.vocab_size, tokenizer.context_length))
    codes = ConceptCodes(tokenizer, data, config.embed_dim, seed)
    tower = [p for name, p in model.named_parameters() if not name.startswith(("visual.", "logit_"))]
    optimizer = torch.optim.AdamW(tower, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    cosine = 0.0
    with progress_bar("nano text tower", steps, 0) as bar:
        for _ in range(steps):
            texts, targets = codes.sample(rng, batch)
            with onednn.autocast():
                embeddings = encode_short_text(model, tokenizer(texts))
            similarity = functional.cosine_similarity(embeddings, targets).mean()
            optimizer.zero_grad(set_to_none=True)
            (1.0 - similarity).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(tower, 1.0)
            optimizer.step()
            schedule.step()
            cosine = 0.95 * cosine + 0.05 * float(similarity.detach())
            bar.advance(f"cosine {cosine:.3f}")
            if schedule.last_epoch % 100 == 0:
                logger.info("text tower, step %d: cosine %.3f", schedule.last_epoch, cosine)
    weights = model.state_dict()
    if checkpoint.is_file():
        kept = load_checkpoint(checkpoint)["ema"]["shadow"]
        weights |= {name: value for name, value in kept.items() if name.startswith("visual.")}
    save_checkpoint(checkpoint, {"ema": {"shadow": weights}})
    return cosine
