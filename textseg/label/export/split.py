"""Train, val and test: seeded, stratified by class, the same whatever else is exported.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011) in one pass: pictures are taken rarest class first,
in an order that only the seed and the keys decide, and each goes where its rarest class is missing most. Pictures
without objects are a class of their own.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from textseg.errors import ConfigError

PARTS = ("train", "val", "test")
_NOTHING = -1


def parse(text: str) -> tuple[float, ...]:
    """Return the shares of ``"0.8,0.1,0.1"`` (or ``"80,10,10"``), adding up to 1.

    Raises:
        ConfigError: not one to three numbers, one is negative, or there is nothing for training.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"split: got {text!r}, expected numbers such as 0.8,0.1,0.1") from error
    return check(shares)


def check(shares: Sequence[float]) -> tuple[float, ...]:
    """Return one to three shares, scaled to add up to 1.

    Raises:
        ConfigError: as ``parse``.
    """
    total = sum(shares)
    fine = 1 <= len(shares) <= len(PARTS) and all(math.isfinite(s) and s >= 0 for s in shares)
    if not fine or shares[0] <= 0 or not (math.isclose(total, 1, abs_tol=1e-6) or math.isclose(total, 100)):
        raise ConfigError(f"split: got {list(shares)}, expected shares of train, val, test that add up to 1 (or 100)")
    return tuple(share / total for share in shares)


def assign(pictures: Iterable[tuple[str, frozenset[int]]], shares: Sequence[float], seed: int) -> dict[str, str]:
    """Return key → "train", "val" or "test".

    Args:
        pictures: key and class ids of each.
        shares: of train, val and test; adding up to 1.
        seed: decides the order among pictures of the same rarest class.
    """
    rows = [(key, classes or frozenset({_NOTHING})) for key, classes in pictures]
    counts: Counter[int] = Counter(c for _, classes in rows for c in classes)
    rarest = {classes: min(classes, key=lambda c: (counts[c], c)) for _, classes in rows}
    left = {c: [share * count for share in shares] for c, count in counts.items()}
    room = [share * len(rows) for share in shares]
    out: dict[str, str] = {}
    for key, classes in sorted(rows, key=lambda row: (counts[rarest[row[1]]], rarest[row[1]], _place(row[0], seed))):
        wanted = left[rarest[classes]]
        part = max(range(len(shares)), key=lambda i: (round(wanted[i], 9), round(room[i], 9), shares[i]))
        out[key] = PARTS[part]
        room[part] -= 1
        for c in classes:
            left[c][part] -= 1
    return out


def _place(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8]
