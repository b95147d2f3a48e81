"""Phrases: from a caller's words to a ``Query``. The label of a mask is exactly the caller's string.

In the API one string is one phrase, commas and all ("a man in a red, checked shirt"). Lists typed
into one line are split by ``split_list``, which the command line and the demo use.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from textseg.errors import QueryError
from textseg.types import Phrase, Query

MAX_CHARACTERS = 1000
"""Longest phrase. Text models see some 77 tokens at most; more is a paste by mistake."""

MAX_PHRASES = 10_000
"""Most phrases in one query."""

GENERIC_BACKGROUND: tuple[str, ...] = (
    "background",
    "something else",
    "an object",
    "a texture",
    "a pattern",
    "a blurry photo",
    "the ground",
    "a wall",
    "the sky",
)
"""Phrases that fit almost any crop: the ranking contrasts a phrase with them to tell "not there"."""

COLORS: tuple[str, ...] = (
    "black", "white", "gray", "red", "green", "blue", "yellow", "orange", "brown", "pink", "purple",
)  # fmt: skip
"""The eleven basic colour terms of English (Berlin and Kay, 1969): every value that a colour may take here."""

_ARTICLES = {"a", "an", "the", "this", "that", "these", "those", "any", "some", "my", "your", "his", "her", "its"}
_LOOKS = {
    *COLORS, "grey", "dark", "light", "bright", "pale", "colored", "coloured", "big", "large", "small", "little",
    "tiny", "huge", "tall", "short", "long", "old", "new", "young", "left", "right", "upper", "lower", "top", "bottom",
    "nearest", "farthest", "first", "second", "third", "last", "other", "left-hand", "right-hand",
}  # fmt: skip
_NEGATIVE = re.compile(r"[,;]?\s*\bnot:", re.IGNORECASE)


def phrase(text: str, negatives: Sequence[str] = ()) -> Phrase:
    """Return one phrase; ``text`` stays as it is, as the label.

    Args:
        text: what is wanted, at most ``MAX_CHARACTERS`` characters, in any script.
        negatives: what it is not: ``phrase("car", ["toy car"])``.

    Raises:
        QueryError: not a string, blank, too long, or wanted and unwanted at once.
    """
    if isinstance(negatives, str):
        negatives = (negatives,)
    prompt = _fold(text, "phrase")
    against = tuple(_fold(negative, f"negative of phrase {text!r}") for negative in negatives)
    if prompt.casefold() in {negative.casefold() for negative in against}:
        raise QueryError(f"phrase {text!r} is also among its own negatives; expected something else there")
    return Phrase(text, prompt, against)


def parse_phrase(text: str) -> Phrase:
    """Return the phrase of a line such as ``"car, not: toy car; not: model car"``.

    The label is the part before the first ``not:`` ("car"), the others are its negatives. A line
    without ``not:`` is one plain phrase.

    Raises:
        QueryError: as ``phrase``.
    """
    whole = phrase(text)
    wanted, *negatives = _NEGATIVE.split(text)
    if not negatives:
        return whole
    return phrase(wanted.strip(" \t\r\n,;"), [negative.strip(" \t\r\n,;") for negative in negatives])


def query(phrases: str | Phrase | Query | Iterable[str | Phrase]) -> Query:
    """Return the query for one phrase or several, in their order.

    Args:
        phrases: one string or ``Phrase`` (never split at commas), or up to ``MAX_PHRASES`` of them. Two that
            differ only in case or white space are refused rather than merged: no mask could be given to one
            of them rightly.

    Raises:
        QueryError: none given, one that is no string, blank or too long, twice the same, or too many.
    """
    if isinstance(phrases, Query):
        return phrases
    if isinstance(phrases, str | Phrase):
        phrases = (phrases,)
    if isinstance(phrases, bytes | dict) or not isinstance(phrases, Iterable):
        raise QueryError(f"phrases: got {type(phrases).__name__}, expected a string or a list of strings")
    made: list[Phrase] = []
    seen: dict[str, int] = {}
    for i, item in enumerate(phrases):
        if i >= MAX_PHRASES:
            raise QueryError(f"phrases: more than {MAX_PHRASES}; ask in several calls")
        made.append(_one(item, i))
        first = seen.setdefault(made[-1].prompt.casefold(), i)
        if first != i:
            raise QueryError(
                f"phrase {first} ({made[first].text!r}) and phrase {i} ({made[i].text!r}) are the same; ask for it once"
            )
    return Query(tuple(made))


def split_list(text: str) -> list[str]:
    """Return the parts of a typed list: split at commas and line ends, trimmed, blank ones dropped.

    For the command line and the demo: ``"car, person\\nred bus"`` → ``["car", "person", "red bus"]``.
    """
    return [part.strip() for part in re.split(r"[,\n\r]+", text) if part.strip()]


def without_article(prompt: str) -> str:
    """Return the prompt without leading articles and the like: ``"the red car"`` → ``"red car"``."""
    words = prompt.split()
    return " ".join(_drop_leading(words, _ARTICLES))


def noun_only(prompt: str) -> str:
    """Return the prompt without leading articles and words of looks: ``"the small red car"`` → ``"car"``.

    A word list, not a parser: "red car on the left" keeps its tail. At least one word stays, so the
    colour of "orange" (the fruit) does too.
    """
    return " ".join(_drop_leading(prompt.split(), _ARTICLES | _LOOKS))


def bare_noun(prompt: str) -> str | None:
    """Return the noun of a phrase that also says how its thing looks, None for a plain one such as "a car"."""
    noun = noun_only(prompt)
    return None if noun == without_article(prompt) else noun


def said_color(prompt: str) -> str | None:
    """Return the basic colour that is said of something, None where none is: "orange" alone is the fruit."""
    found = _color_place(prompt)
    return None if found is None else found[1]


def other_colors(prompt: str) -> tuple[str, ...]:
    """Return the prompt with each other colour in place of its own: what "the red car" is not.

    There are none where no colour is said of something.
    """
    found = _color_place(prompt)
    if found is None:
        return ()
    words, (i, own) = prompt.split(), found
    others = [color for color in COLORS if color != own]
    return tuple(" ".join([*words[:i], color, *words[i + 1 :]]) for color in others)


def _color_place(prompt: str) -> tuple[int, str] | None:
    """Return which word of a prompt is a colour that something has, and which basic colour it is."""
    for i, word in enumerate(prompt.split()[:-1]):
        own = word.casefold().replace("grey", "gray")
        if own in COLORS:
            return i, own
    return None


def _drop_leading(words: list[str], unwanted: set[str]) -> list[str]:
    while len(words) > 1 and words[0].casefold().strip(",") in unwanted:
        words = words[1:]
    return words


def _one(item: object, index: int) -> Phrase:
    if isinstance(item, Phrase):
        return item
    if not isinstance(item, str):
        raise QueryError(f"phrase {index}: got {type(item).__name__} ({str(item)[:60]}), expected a string")
    try:
        return phrase(item)
    except QueryError as error:
        raise QueryError(f"phrase {index}: {str(error).removeprefix('phrase: ')}") from error


def _fold(text: str, name: str) -> str:
    """Return the text for the models: NFC, control characters and white space folded to single spaces."""
    if not isinstance(text, str):
        raise QueryError(f"{name}: got {type(text).__name__}, expected a string such as 'the red car'")
    if len(text) > MAX_CHARACTERS:
        raise QueryError(f"{name}: {len(text)} characters ({text[:40]!r}…), expected {MAX_CHARACTERS} at most")
    kinds = [unicodedata.category(character) for character in text]
    if "Cs" in kinds:
        raise QueryError(f"{name}: {text!r} has broken characters (lone surrogates); decode it as UTF-8 first")
    if all(kind[0] in "CZ" for kind in kinds):
        raise QueryError(f"{name}: {text!r} is blank, expected words such as 'the red car'")
    spaced = "".join(" " if kind == "Cc" else c for c, kind in zip(text, kinds, strict=True))
    return unicodedata.normalize("NFC", " ".join(spaced.split()))
