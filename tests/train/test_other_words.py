"""Everyday words are read as the labels' words, and the labels themselves as they are."""

from __future__ import annotations

import numpy as np
import pytest

from textseg.build import resolve
from textseg.models.clip import Clip, load
from textseg.train.other_words import KEPT, SAID_AS, also_called
from textseg.train.vocab import NanoTokenizer, normalizer
from textseg.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def shipped() -> Clip:
    return load(resolve("package:nano/clip"))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("A Woman", "a person"),
        ("two women", "two person"),
        ("Boys!", "person!"),
        ("the red sedan", "the red car"),
        ("motor bikes", "motorcycle"),
        ("the woman’s boot", "the woman’s boot"),
        ("woman's hat", "woman's hat"),
        ("a man-made lake", "a man-made lake"),
        ("snowman and kidney", "snowman and kidney"),
        ("a baby and a baby bottle", "a person and a baby bottle"),
        ("the pickup", "the truck"),
        ("the pickup truck", "the pickup truck"),
    ],
)
def test_words_are_read_as_labels(text: str, read: str) -> None:
    assert normalizer().normalize_str(text) == read


def test_no_label_is_read_as_another(shipped: Clip) -> None:
    assert shipped.vocabulary is not None
    said = {word for words in SAID_AS.values() for word in words}
    labels = {name.lower() for names in shipped.vocabulary.names for name in names} - said
    assert len(labels) > 1000 and set(SAID_AS) <= labels
    for label in (*labels, *KEPT):
        assert normalizer().normalize_str(label) == label


def test_no_word_is_said_twice() -> None:
    words = [word for words in SAID_AS.values() for word in words]
    assert len(set(words)) == len(words) and not set(words) & set(SAID_AS)


def test_the_shipped_tokenizer_knows_them(shipped: Clip) -> None:
    tokenizer = NanoTokenizer.load(resolve("package:nano/clip") + "/tokenizer.json")
    for label, words in SAID_AS.items():
        assert (tokenizer([f"the {word}" for word in words]) == tokenizer(f"the {label}")).all(), label
    woman, person = shipped.encode_text(["a woman", "a person"])
    np.testing.assert_allclose(woman, person, atol=1e-6)


def test_the_shipped_vocabulary_knows_them(shipped: Clip) -> None:
    vocabulary = shipped.vocabulary
    assert isinstance(vocabulary, Vocabulary)
    of = {names[0]: i for i, names in enumerate(vocabulary.names)}
    texts = shipped.encode_text(["the woman", "the person"])
    rivals = [
        set(vocabulary.rivals(text, code).tolist())
        for text, code in zip(("the woman", "the person"), texts, strict=True)
    ]
    assert rivals[0] == rivals[1] and {of["person"], of["face"]}.isdisjoint(rivals[0]) and of["car"] in rivals[0]


def test_names_are_kept_in_front() -> None:
    assert also_called(("cow", "calf", "animal")) == ("cow", "calf", "animal", "calves")
    assert also_called(("trumpet",)) == ("trumpet",)
