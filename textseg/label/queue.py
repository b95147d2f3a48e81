"""What waits for a person: SAM's data engine, stage two. Confident masks are kept, uncertain pictures are queued.

Scores are calibrated, so a mask of score p is right with probability p. With ``confident`` = c, whatever lies strictly
between 1 - c and c is uncertain: a mask that was accepted with less than c, and a near miss, a class whose best
candidate was rejected with more than 1 - c. A person's verdict settles a mask; a picture that a person has looked at
as a whole (``mark``, or a correction) waits no longer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from textseg.errors import ConfigError
from textseg.label.records import MaskRow, PictureRow
from textseg.label.store import Store

CONFIDENT = 0.8
PERSON = "person"
"""The source of masks that a person drew or corrected."""


@dataclass(frozen=True)
class Waiting:
    """One picture in the queue.

    Attributes:
        key: the picture.
        uncertainty: 0..1; 1 is a score of one half.
        reason: what is uncertain.
    """

    key: str
    uncertainty: float
    reason: str


def uncertainty(score: float) -> float:
    """Return 1 for a score of one half, falling to 0 at 0 and at 1."""
    return 1.0 - abs(2.0 * min(max(score, 0.0), 1.0) - 1.0)


def judge(picture: PictureRow, rows: list[MaskRow], reviewed: bool = False) -> Waiting:
    """Return a picture's largest uncertainty and its reason; 0 and "" where nothing is left to decide."""
    best = Waiting(picture.key, 0.0, "")
    if reviewed:
        return best
    for row in rows:
        open_question = row.verdict is None and row.source != PERSON
        if open_question and uncertainty(row.score) > best.uncertainty:
            best = Waiting(picture.key, uncertainty(row.score), f"{row.label} {row.score:.2f}")
    found = {row.label for row in rows}
    for label, score in picture.best.items():
        if label not in found and uncertainty(score) > best.uncertainty:
            best = Waiting(picture.key, uncertainty(score), f"perhaps a {label} {score:.2f}")
    return best


def uncertain(store: Store, confident: float = CONFIDENT) -> Iterator[Waiting]:
    """Yield the pictures that wait for a person, in the order of their keys.

    Raises:
        ConfigError: ``confident`` is not in 0.5..1.
    """
    if not 0.5 <= confident <= 1:
        raise ConfigError(f"confident: got {confident}, expected a number in 0.5..1")
    limit = uncertainty(confident)
    seen = reviewed(store)
    for picture, rows in store.labelled():
        one = judge(picture, rows, picture.key in seen)
        if one.uncertainty > limit + 1e-9:
            yield one


def waiting(store: Store, confident: float = CONFIDENT) -> dict[str, str]:
    """Return key → reason of the pictures that wait, most uncertain first.

    Raises:
        ConfigError: as ``uncertain``.
    """
    found = sorted(uncertain(store, confident), key=lambda one: (-one.uncertainty, one.key))
    return {one.key: one.reason for one in found}


def reviewed(store: Store) -> dict[str, str]:
    """Return key → kind ("seen" or "corrected") of the pictures that a person has looked at as a whole."""
    if not list(store.rows("SELECT 1 FROM sqlite_master WHERE name = 'reviews'")):
        return {}  # a store of layout 1 that was not written to since
    return dict(store.rows("SELECT p.key, r.kind FROM reviews r JOIN pictures p ON p.id = r.picture"))


def mark(store: Store, kinds: dict[str, str], note: str = "") -> int:
    """Note that a person has looked at pictures as a whole; return how many are there.

    Args:
        store: opened with ``Store.write``, which keeps other writers out.
        kinds: key → "seen" or "corrected", or "" to take it back.
        note: kept with each.

    Raises:
        DataError: the store was opened to read, or cannot be written.
    """
    done = 0
    with store.writing() as writer:
        for key, kind in kinds.items():
            row = writer.execute("SELECT id FROM pictures WHERE key = ? AND status = 'done'", (key,)).fetchone()
            if row is None:
                continue
            writer.execute("DELETE FROM reviews WHERE picture = ?", row)
            if kind:
                values = (row[0], kind, note, time.time())
                writer.execute("INSERT INTO reviews (picture, kind, note, at) VALUES (?, ?, ?, ?)", values)
            done += 1
    return done
