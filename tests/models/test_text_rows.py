"""What texts are mapped to is kept, and no more of it than was said."""

from __future__ import annotations

import numpy as np
import pytest

from textseg.models.text_rows import TextRows
from textseg.types import Float


class Lengths:
    """Maps a text to its length, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: list[str]) -> Float:
        self.asked.append(texts)
        return np.array([[len(text), 0] for text in texts], np.float32)


def test_only_new_texts_are_mapped_and_the_least_recently_used_goes_first() -> None:
    make = Lengths()
    rows = TextRows(make, 2, most=2)
    np.testing.assert_array_equal(rows(["a", "bb", "a"])[:, 0], [1, 2, 1])
    rows(["a"])
    rows(["ccc"])  # "bb" goes
    np.testing.assert_array_equal(rows(["a", "bb"])[:, 0], [1, 2])
    assert make.asked == [["a", "bb"], ["ccc"], ["bb"]]


def test_a_callers_change_does_not_reach_what_is_kept() -> None:
    rows = TextRows(Lengths(), 2, most=2)
    rows(["a"])[:] = 7
    assert rows(["a"])[0, 0] == 1


@pytest.mark.parametrize("most", [0, -1])
def test_nothing_need_be_kept(most: int) -> None:
    make = Lengths()
    rows = TextRows(make, 2, most)
    assert rows(["a", "bb"]).tolist() == rows(["a", "bb"]).tolist() == [[1, 0], [2, 0]]
    assert len(make.asked) == 2


def test_more_than_is_kept_can_be_asked_at_once() -> None:
    rows = TextRows(Lengths(), 2, most=2)
    assert rows([str(i) for i in range(10)]).shape == (10, 2)


def test_no_text_has_no_row() -> None:
    make = Lengths()
    empty = TextRows(make, 2, most=2)([])
    assert empty.shape == (0, 2) and empty.dtype == np.float32
    assert not make.asked
