"""Which nouns are rivals of a phrase, and the file that they come in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from textseg.build import resolve
from textseg.errors import WeightsError
from textseg.vocabulary import FILE, Vocabulary

NAMES = (("car", "automobile", "vehicle"), ("bus", "vehicle"), ("dog", "animal"), ("hot dog",), ("ski boots",))


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(NAMES, np.array([[0, 1], [2, 3]]), np.eye(5, dtype=np.float32))


@pytest.mark.parametrize(
    ("phrase", "rivals"),
    [
        ("a trumpet", [0, 1, 2, 3, 4]),
        ("the red car", [2, 3, 4]),  # the bus is its kin
        ("Automobiles", [2, 3, 4]),
        ("any vehicle", [2, 3, 4]),
        ("an animal", [0, 1, 4]),  # the dog, and its kin
        ("a SKI-BOOT", [0, 1, 2, 3, 4]),
        ("red ski boot", [0, 1, 2, 3]),
        ("carpet", [0, 1, 2, 3, 4]),
        ("", [0, 1, 2, 3, 4]),
    ],
)
def test_what_a_phrase_may_mean_is_no_rival(vocabulary: Vocabulary, phrase: str, rivals: list[int]) -> None:
    assert vocabulary.rivals(phrase, np.zeros(5, np.float32)).tolist() == rivals


def test_what_sounds_like_the_phrase_is_no_rival(vocabulary: Vocabulary) -> None:
    sedan = np.array([0.95, 0.3, 0.0, 0.0, 0.0], np.float32)
    assert vocabulary.rivals("a sedan", sedan).tolist() == [1, 2, 3, 4]
    assert vocabulary.rivals("a sedan", sedan, similarity=0.99).tolist() == [0, 1, 2, 3, 4]
    assert vocabulary.rivals("a sedan", sedan, similarity=0.2).tolist() == [2, 3, 4]


def test_a_vocabulary_survives_saving(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path)
    back = Vocabulary.load(tmp_path)
    assert back is not None
    assert back.names == NAMES
    assert back.kin.tolist() == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(back.embeddings, vocabulary.embeddings)
    assert Vocabulary.load(tmp_path / "elsewhere") is None


def test_pairs_that_lie_by_columns_stay_pairs(vocabulary: Vocabulary, tmp_path: Path) -> None:
    replace(vocabulary, kin=np.asfortranarray(vocabulary.kin)).save(tmp_path)
    back = Vocabulary.load(tmp_path)
    assert back is not None
    assert back.kin.tolist() == [[0, 1], [2, 3]]


def test_nano_knows_what_else_a_cat_may_be() -> None:
    shipped = Vocabulary.load(resolve("package:nano/clip"))
    assert shipped is not None
    (cat,) = [i for i, names in enumerate(shipped.names) if names[0] == "cat"]
    kin = {shipped.names[j if i == cat else i][0] for i, j in shipped.kin.tolist() if cat in (i, j)}
    assert {"cat face", "wild cat", "cougar"} <= kin
    assert not {"dog", "car", "cup"} & kin


def test_damage_names_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match=FILE):
        Vocabulary.load(tmp_path)


def test_lengths_must_agree(tmp_path: Path) -> None:
    Vocabulary(NAMES, np.zeros((0, 2), np.int64), np.eye(3, dtype=np.float32)).save(tmp_path)
    with pytest.raises(WeightsError, match="5 nouns, but embeddings of shape"):
        Vocabulary.load(tmp_path)
