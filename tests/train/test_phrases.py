"""Phrases: what they mean, what they do not, and what nobody knows."""

from __future__ import annotations

import numpy as np

from textseg.train.data import LabelledObject, Sample
from textseg.train.phrases import PhraseSampler, PhraseTarget, phrase

BOX = np.array([0, 0, 8, 8], np.float32)


def thing(name: str, color: str | None = None, *more: str, crowd: bool = False) -> LabelledObject:
    return LabelledObject(name, frozenset({name, *more}), color, BOX, None, crowd)


def picture(*objects: LabelledObject, exhaustive: set[str], source: str = "scene") -> Sample:
    return Sample(np.zeros((8, 8, 3), np.uint8), objects, frozenset(exhaustive), source)


TWO_CARS = picture(
    thing("taxi", "yellow", "car"),
    thing("automobile", "red", "car"),
    thing("car", None),
    thing("person", None),
    exhaustive={"car", "zebra", "piano", "person"},
)


def test_a_noun_means_all_that_answer_to_it() -> None:
    target = PhraseSampler().target(TWO_CARS, "car", None, "the car")
    assert target == PhraseTarget("the car", (0, 1, 2), (), True)


def test_unknown_colours_are_ignored() -> None:
    target = PhraseSampler().target(TWO_CARS, "car", "red", "the red car")
    assert (target.positive, target.ignore, target.background_negative) == ((1,), (2,), True)


def test_nouns_that_are_not_exhaustive_leave_the_background_open() -> None:
    target = PhraseSampler().target(TWO_CARS, "taxi", None, "taxi")
    assert target.positive == (0,) and not target.background_negative


def test_crowds_are_ignored() -> None:
    sample = picture(thing("person", crowd=True), thing("person"), exhaustive={"person"})
    target = PhraseSampler().target(sample, "person", None, "person")
    assert (target.positive, target.ignore) == ((1,), (0,))


def test_negatives_are_sure() -> None:
    sampler, rng = PhraseSampler(), np.random.default_rng(0)
    for _ in range(200):
        target = sampler.negative(TWO_CARS, rng)
        if target is not None:
            assert target.positive == ()


def test_the_other_colour_is_one_that_none_has() -> None:
    sampler, rng = PhraseSampler(hard_probability=1.0), np.random.default_rng(0)
    seen = [sampler.negative(TWO_CARS, rng) for _ in range(50)]
    assert all(t is not None and t.positive == () for t in seen)
    assert not any("red car" in t.text or "yellow car" in t.text for t in seen if t is not None)


def test_sample_gives_as_many_as_asked_and_no_text_twice() -> None:
    found = PhraseSampler().sample(TWO_CARS, np.random.default_rng(1), positives=3, negatives=4)
    assert len({t.text for t in found}) == len(found) == 7
    assert sum(bool(t.positive) for t in found) == 3


def test_an_empty_picture_has_no_positives() -> None:
    sample = picture(exhaustive={"zebra"})
    found = PhraseSampler().sample(sample, np.random.default_rng(0), positives=3, negatives=1)
    assert [t.positive for t in found] == [()]
    assert PhraseSampler().sample(picture(exhaustive=set()), np.random.default_rng(0), 2, 2) == []


def test_box_sets_offer_their_classes_without_the_background() -> None:
    sample = picture(thing("motorcycle"), exhaustive=set(), source="vehicles")
    sampler, rng = PhraseSampler(hard_probability=0.0), np.random.default_rng(0)
    found = [t for t in (sampler.negative(sample, rng) for _ in range(30)) if t is not None]
    assert found and not any(t.background_negative for t in found)


def test_wording() -> None:
    texts = {phrase("apple", None, np.random.default_rng(i)) for i in range(60)}
    assert {"apple", "the apple", "an apple", "a photo of an apple"} <= texts
    grays = {phrase("car", "gray", np.random.default_rng(i)).split()[-2] for i in range(60)}
    assert grays == {"gray", "grey", "silver"}
