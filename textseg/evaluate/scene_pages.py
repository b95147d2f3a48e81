"""Composed scenes to ask of: one of several colours, plain nouns, single objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from textseg.evaluate.pages import SEED, Ask, Material, Page, ask
from textseg.language import COLORS
from textseg.train import nouns
from textseg.train.data import Sample
from textseg.train.scenes import SceneConfig

COLOR_SCENES = 200
NOUN_SCENES = 300
SINGLE_SCENES = 200
"""How many scenes each protocol composes without a limit; 300 scenes ask for more than 400 nouns."""

_SEVERAL = SceneConfig(objects=(2, 4), same_noun_probability=1.0, scale=(0.18, 0.65))
_MIXED = SceneConfig()
_SINGLE = SceneConfig(objects=(1, 1), same_noun_probability=0.0, scale=(0.2, 0.65))


def color_pages(material: Material, limit: int | None = None) -> Iterator[Page]:
    """Scenes with several things of one noun in different colours, each asked for by its colour.

    The phrase is "the red car"; exactly one thing has that colour, and another of the noun has another. A
    colour that none of them has is asked too (kind "other colour", absent). About a third show cars.
    """
    composer = material.composer(_SEVERAL)
    rng = np.random.default_rng([SEED, 1])
    for index in range(COLOR_SCENES if limit is None else limit):
        sample = composer.compose(rng)
        noun = _shared_noun(sample, composer.nouns)
        asks = [] if noun is None else _color_asks(sample, noun, rng)
        yield Page("scenes_color", index, sample.image_rgb, tuple(asks))


def noun_pages(material: Material, limit: int | None = None) -> Iterator[Page]:
    """Scenes of one to six things; every pasted thing's noun is asked, and as many that are not there."""
    composer = material.composer(_MIXED)
    vocabulary = sorted({cutout.name for cutout in material.cutouts})
    rng = np.random.default_rng([SEED, 2])
    for index in range(NOUN_SCENES if limit is None else limit):
        sample = composer.compose(rng)
        present = sorted({o.name for o in sample.objects if not o.crowd})
        asks = [a for noun in present if (a := ask(sample, noun, None, noun, noun, lenient=True)).present]
        asks += [Ask(noun, "absent") for noun in absent_nouns(sample, vocabulary, len(asks), rng)]
        yield Page("scenes_nouns", index, sample.image_rgb, tuple(asks))


def single_pages(material: Material, limit: int | None = None) -> Iterator[Page]:
    """Scenes of one thing over a background without labels, asked for by its plain noun."""
    composer = material.composer(_SINGLE, with_photos=False)
    rng = np.random.default_rng([SEED, 3])
    index = 0
    while index < (SINGLE_SCENES if limit is None else limit):
        sample = composer.compose(rng)
        if len(sample.objects) != 1 or sample.objects[0].crowd:
            continue
        noun = sample.objects[0].name
        yield Page("scenes_single", index, sample.image_rgb, (ask(sample, noun, None, noun, noun),))
        index += 1


def absent_nouns(sample: Sample, vocabulary: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Return up to ``count`` nouns of the vocabulary that surely name nothing in the picture, in drawn order."""
    found: list[str] = []
    for i in rng.permutation(len(vocabulary)):
        if len(found) >= count:
            break
        noun = vocabulary[int(i)]
        sure = noun in sample.exhaustive and not any(nouns.may_be(noun, o.names) for o in sample.objects)
        if sure:
            found.append(noun)
    return found


def _shared_noun(sample: Sample, known: frozenset[str]) -> str | None:
    """Return the noun that most pasted things answer to, two at least; "car" and own names first."""
    pasted = [o for o in sample.objects if not o.crowd]
    counts = Counter(n for o in pasted for n in o.names if n in known and n not in nouns.GENERIC)
    own = {o.name for o in pasted}
    best = sorted(counts, key=lambda n: (-counts[n], n != "car", n not in own, n))
    return best[0] if best and counts[best[0]] >= 2 else None


def _color_asks(sample: Sample, noun: str, rng: np.random.Generator) -> list[Ask]:
    """Ask for each thing of the noun whose colour is its alone, and for one colour that none has."""
    kind = "car" if noun == "car" else "other nouns"
    family = [o for o in sample.objects if noun in o.names]
    if any(o.crowd or o.color is None for o in family):
        return []
    counts = Counter(o.color for o in family)
    asks = [
        ask(sample, noun, color, f"the {color} {noun}", kind)
        for color in COLORS
        if counts[color] == 1 and len(counts) >= 2
    ]
    free = [color for color in COLORS if not counts[color]]
    if asks:
        asks.append(Ask(f"the {free[int(rng.integers(len(free)))]} {noun}", "other colour"))
    return asks
