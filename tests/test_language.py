"""language: the label contract, folding, limits."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textseg import language
from textseg.errors import QueryError
from textseg.types import Phrase, Query


def test_one_string_is_one_phrase() -> None:
    asked = language.query("a man, in a red shirt")
    assert asked.phrases == (Phrase("a man, in a red shirt", "a man, in a red shirt"),)


def test_labels_are_exactly_the_callers_strings() -> None:
    words = ["  The Red\tCar ", "Zürich", "собака", "红色的汽车", "🐕", "cafe\u0301", "no. 5?"]
    asked = language.query(words)
    assert [phrase.text for phrase in asked.phrases] == words
    assert asked.prompts[0] == "The Red Car"
    assert asked.prompts[5] == "caf\u00e9"


@given(st.text(max_size=60))
def test_text_is_kept_and_prompt_is_folded(text: str) -> None:
    try:
        made = language.phrase(text)
    except QueryError:
        return
    assert made.text == text
    assert made.prompt
    assert made.prompt == made.prompt.strip()
    assert "  " not in made.prompt
    assert unicodedata.is_normalized("NFC", made.prompt)


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u200b", "\u3000", "\x00", "\u202e"])
def test_blank_phrases(blank: str) -> None:
    with pytest.raises(QueryError, match="blank"):
        language.query(blank)
    with pytest.raises(QueryError, match=r"phrase 1: .*blank"):
        language.query(["car", blank])


def test_long_phrases() -> None:
    assert len(language.query("x" * 1000)) == 1
    with pytest.raises(QueryError, match=r"10000 characters .* expected 1000 at most"):
        language.query("x" * 10_000)


def test_broken_unicode() -> None:
    with pytest.raises(QueryError, match="surrogates"):
        language.query("car \ud800")


@pytest.mark.parametrize("bad", [None, 5, b"car", {"car": 1}, 1.5])
def test_not_phrases(bad: Any) -> None:
    with pytest.raises(QueryError, match="expected a string"):
        language.query(bad)


@pytest.mark.parametrize("bad", [None, 5, b"car", ["car"]])
def test_not_phrases_in_a_list(bad: Any) -> None:
    with pytest.raises(QueryError, match=f"phrase 1: got {type(bad).__name__}"):
        language.query(["dog", bad])


def test_none_asked() -> None:
    with pytest.raises(QueryError, match="no phrase given"):
        language.query([])


def test_many() -> None:
    assert len(language.query(f"thing {i}" for i in range(2000))) == 2000
    assert len(language.query([str(i) for i in range(10_000)])) == 10_000
    with pytest.raises(QueryError, match="more than 10000"):
        language.query(str(i) for i in range(10_001))


def test_duplicates_are_named_not_merged() -> None:
    with pytest.raises(QueryError, match=r"phrase 0 \('Car'\) and phrase 2 \(' car '\) are the same"):
        language.query(["Car", "dog", " car "])


def test_query_and_phrase_pass_through() -> None:
    asked = language.query(language.phrase("car", ["toy car"]))
    assert asked.phrases[0].negatives == ("toy car",)
    assert language.query(asked) is asked
    assert isinstance(asked, Query)


def test_negatives() -> None:
    assert language.phrase("car", " toy  car ") == Phrase("car", "car", ("toy car",))
    with pytest.raises(QueryError, match="its own negatives"):
        language.phrase("car", ["Car"])
    with pytest.raises(QueryError, match=r"negative of phrase 'car'.*blank"):
        language.phrase("car", [" "])


@pytest.mark.parametrize(
    ("line", "text", "negatives"),
    [
        ("car, not: toy car; not: model car", "car", ("toy car", "model car")),
        ("car not: toy car", "car", ("toy car",)),
        ("car, NOT:toy car", "car", ("toy car",)),
        ("a knot: tied", "a knot: tied", ()),
        ("car that is not red", "car that is not red", ()),
    ],
)
def test_parse_phrase(line: str, text: str, negatives: tuple[str, ...]) -> None:
    made = language.parse_phrase(line)
    assert (made.text, made.negatives) == (text, negatives)


@pytest.mark.parametrize("line", ["not: toy car", "car, not:", ""])
def test_parse_phrase_blank(line: str) -> None:
    with pytest.raises(QueryError, match="blank"):
        language.parse_phrase(line)


def test_split_list() -> None:
    assert language.split_list("car, person\nred bus,,\r\n \n") == ["car", "person", "red bus"]
    assert language.split_list(" , ") == []


@pytest.mark.parametrize(
    ("prompt", "bare", "noun"),
    [
        ("the red car", "red car", "car"),
        ("a small dark-haired dog", "small dark-haired dog", "dark-haired dog"),
        ("orange", "orange", "orange"),
        ("the orange", "orange", "orange"),
        ("car", "car", "car"),
        ("the", "the", "the"),
    ],
)
def test_nouns(prompt: str, bare: str, noun: str) -> None:
    assert language.without_article(prompt) == bare
    assert language.noun_only(prompt) == noun
    assert language.bare_noun(prompt) == (None if bare == noun else noun)


def test_a_thing_of_one_colour_is_of_no_other() -> None:
    others = language.other_colors("the Red car")
    assert len(others) == 10
    assert "the blue car" in others
    assert "the red car" not in others
    assert language.other_colors("a grey cat") == language.other_colors("a gray cat")
    assert "a gray cat" not in language.other_colors("a grey cat")
    assert "a red orange" in language.other_colors("a green orange")
    assert language.said_color("the Red car") == "red" and language.said_color("a grey cat") == "gray"


@pytest.mark.parametrize("prompt", ["a car", "orange", "the orange", "redwood tree"])
def test_where_no_colour_is_said_there_is_no_other(prompt: str) -> None:
    assert language.other_colors(prompt) == ()
    assert language.said_color(prompt) is None


def test_contrast_phrases_are_valid() -> None:
    assert len(language.query(language.GENERIC_BACKGROUND)) == len(language.GENERIC_BACKGROUND)
