"""Phrases for a labelled picture: what is there, what is not, and what nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textseg.colors import COLOR_SYNONYMS
from textseg.language import COLORS
from textseg.train import nouns
from textseg.train.data import BOX_CLASSES, Sample

TEMPLATES: tuple[str, ...] = (
    "{}",
    "{}",
    "the {}",
    "a {}",
    "a photo of a {}",
    "a picture of the {}",
    "this {}",
    "one {}",
)
"""Ways to ask for a thing; `{}` is the noun, with its colour word where one is asked for."""

_COLOR_WORDS: dict[str, tuple[str, ...]] = {
    color: (color, *(word for word, basic in COLOR_SYNONYMS.items() if basic == color)) for color in COLORS
}


@dataclass(frozen=True)
class PhraseTarget:
    """A phrase with the objects it means, by their index in the sample."""

    text: str
    positive: tuple[int, ...]
    ignore: tuple[int, ...]
    """Objects of which nobody knows whether the phrase means them."""
    background_negative: bool
    """Whether all that is no positive and no ignored object is surely not meant."""


def phrase(noun: str, color: str | None, rng: np.random.Generator) -> str:
    """`noun`, with a word for `color` where given, in a random template."""
    if color is not None:
        words = _COLOR_WORDS[color]
        word = words[0] if rng.random() < 0.75 else words[int(rng.integers(len(words)))]
        noun = f"{word} {noun}"
    text = TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(noun)
    if text.startswith("a ") and text[2] in "aeiou":
        text = "an " + text[2:]
    return text.replace(" of a a", " of an a").replace(" of a o", " of an o")


class PhraseSampler:
    """Draws phrases for samples. `color_probability` is the share of phrases with a colour word."""

    def __init__(self, *, color_probability: float = 0.4, hard_probability: float = 0.4) -> None:
        self.color_probability = color_probability
        self.hard_probability = hard_probability
        self._sorted: dict[frozenset[str], tuple[str, ...]] = {}

    def sample(self, sample: Sample, rng: np.random.Generator, positives: int, negatives: int) -> list[PhraseTarget]:
        """Up to `positives` phrases that mean something in the picture and `negatives` that mean nothing.

        Fewer come back where the picture offers no more; no text comes twice.
        """
        found: dict[str, PhraseTarget] = {}
        usable = [i for i, thing in enumerate(sample.objects) if not thing.crowd]
        for i in rng.permutation(usable)[: positives * 2] if usable else ():
            if len(found) >= positives:
                break
            target = self.positive(sample, int(i), rng)
            found.setdefault(target.text, target)
        wanted = len(found) + negatives
        for _ in range(negatives * 3):
            if len(found) >= wanted:
                break
            negative = self.negative(sample, rng)
            if negative is not None:
                found.setdefault(negative.text, negative)
        return list(found.values())

    def positive(self, sample: Sample, index: int, rng: np.random.Generator) -> PhraseTarget:
        """A phrase that means object `index`, and whatever else it means."""
        thing = sample.objects[index]
        noun = thing.name
        if len(thing.names) > 1 and rng.random() < 0.5:
            synonyms = self._in_order(thing.names)
            noun = synonyms[int(rng.integers(len(synonyms)))]
        color = thing.color if rng.random() < self.color_probability else None
        return self.target(sample, noun, color, phrase(noun, color, rng))

    def negative(self, sample: Sample, rng: np.random.Generator) -> PhraseTarget | None:
        """A phrase that means nothing in the picture; None where the draw gave no sure one."""
        if rng.random() < self.hard_probability:
            hard = self._other_color(sample, rng)
            if hard is not None:
                return hard
        present = [thing.names for thing in sample.objects]
        pool = self._in_order(sample.exhaustive)
        classes = BOX_CLASSES.get(sample.source, ())
        if classes and (not pool or rng.random() < 0.5):
            pool = classes
        if not pool:
            return None
        noun = pool[int(rng.integers(len(pool)))]
        if any(nouns.may_be(noun, names) for names in present):
            return None
        color = COLORS[int(rng.integers(len(COLORS)))] if rng.random() < 0.25 else None
        return self.target(sample, noun, color, phrase(noun, color, rng))

    def _other_color(self, sample: Sample, rng: np.random.Generator) -> PhraseTarget | None:
        """A noun that is there, in a colour that none of them has."""
        plain = [i for i, thing in enumerate(sample.objects) if thing.color and not thing.crowd]
        if not plain:
            return None
        thing = sample.objects[plain[int(rng.integers(len(plain)))]]
        noun = thing.name
        if rng.random() < 0.3:
            synonyms = self._in_order(thing.names)
            noun = synonyms[int(rng.integers(len(synonyms)))]
        taken = {o.color for o in sample.objects if noun in o.names}
        free = [c for c in COLORS if c not in taken]
        if not free:
            return None
        color = free[int(rng.integers(len(free)))]
        return self.target(sample, noun, color, phrase(noun, color, rng))

    def target(self, sample: Sample, noun: str, color: str | None, text: str) -> PhraseTarget:
        """What "`color` `noun`" means in the picture, shown as `text`."""
        positive, ignore = [], []
        for i, thing in enumerate(sample.objects):
            if noun not in thing.names:
                if nouns.may_be(noun, thing.names):
                    ignore.append(i)
            elif thing.crowd or (color is not None and thing.color is None):
                ignore.append(i)
            elif color is None or thing.color == color:
                positive.append(i)
        return PhraseTarget(text, tuple(positive), tuple(ignore), noun in sample.exhaustive)

    def _in_order(self, names: frozenset[str]) -> Sequence[str]:
        if names not in self._sorted:
            if len(self._sorted) > 20000:
                self._sorted.clear()
            self._sorted[names] = tuple(sorted(names))
        return self._sorted[names]
