"""What a thing that answers to some names is and is not, over a fixed vocabulary of nouns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textseg.train import nouns
from textseg.train.vocab import all_nouns, photo_classes
from textseg.types import Int

ANY_THING = ("thing", "object")
BACKGROUND = "background"
"""Pictures that show no labelled thing are positives of this word and negatives of all others."""


class NounTable:
    """For sets of names: which nouns of a fixed vocabulary are meant (1), not meant (0), unknown (-1).

    Args:
        nouns: the nouns; the words that fit anything and the one for nothing come after them.
        certain: sets of names whose broad words ("animal") are complete: the cut-outs'.
    """

    def __init__(self, nouns: Sequence[str], certain: frozenset[frozenset[str]] = frozenset()) -> None:
        self.vocabulary = (*nouns, *ANY_THING, BACKGROUND)
        self.index = {noun: i for i, noun in enumerate(self.vocabulary)}
        self._certain = certain
        self._rows: dict[frozenset[str], NDArray[np.int8]] = {}

    @classmethod
    def of(cls, root: str | Path) -> NounTable:
        """Return the table of every noun that something under ``root`` answers to; no picture is read."""
        listed = nouns.cutout_names(Path(root) / "fluent" / "names.json")
        return cls(sorted(all_nouns(root)), frozenset(names for names, _ in listed.values()))

    @property
    def nouns(self) -> tuple[str, ...]:
        """The nouns alone; they come first in the vocabulary."""
        return self.vocabulary[: -len(ANY_THING) - 1]

    def row(self, names: frozenset[str]) -> NDArray[np.int8]:
        """Return int8 (V,) over the vocabulary."""
        if names not in self._rows:
            self._rows[names] = self._make(names)
        return self._rows[names]

    def rows(self, things: Iterable[frozenset[str]]) -> NDArray[np.int8]:
        """Return int8 (N, V) for N sets of names; the words that fit anything are left open."""
        rows = np.stack([self.row(names) for names in things])
        rows[:, [self.index[word] for word in ANY_THING]] = -1
        return rows

    def _make(self, names: frozenset[str]) -> NDArray[np.int8]:
        row = np.zeros(len(self.vocabulary), dtype=np.int8)
        if not names:
            row[self.index[BACKGROUND]] = 1
            return row
        certain = names in self._certain
        for noun, i in self.index.items():
            if noun in names or noun in ANY_THING:
                row[i] = 1
            elif nouns.may_be(noun, names) or (noun in nouns.GENERIC and not certain):
                row[i] = -1
        row[self.index[BACKGROUND]] = 0
        return row


def exclusive_nouns(root: str | Path) -> tuple[list[tuple[str, ...]], Int]:
    """Return the usual nouns of all that is labelled under ``root``, each with its other names, and their kin.

    Broad words ("animal") are names of theirs and no nouns of their own. Kin, int64 (K, 2), are pairs that the same
    thing may be called, each once.
    """
    listed = nouns.cutout_names(Path(root) / "fluent" / "names.json")
    things = {name: names for name, (names, _) in listed.items()}
    certain = frozenset(things.values())
    for name in photo_classes(root):
        things.setdefault(name, nouns.photo_names(name, listed))
    usual = sorted(name for name in things if name not in nouns.GENERIC)
    table = NounTable(usual, certain)
    related = np.stack([table.row(things[name])[: len(usual)] for name in usual]) != 0  # (V, V)
    kin = np.argwhere(np.triu(related | related.T, 1))
    return [(name, *sorted(things[name] - {name})) for name in usual], kin
