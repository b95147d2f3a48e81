"""File names for exported pictures: flat, unique, and safe on every file system."""

from __future__ import annotations

import hashlib
import re

_UNSAFE = re.compile(r"[^\w .,+=@()-]+")
_MAX_BYTES = 150


def stem(key: str) -> str:
    """Return a picture's key as a file name without suffix: letters of any script stay, folders become ``__``."""
    parts = [_UNSAFE.sub("_", part).strip(" .") for part in key.split("/")]
    *folders, last = [part for part in parts if part] or ["picture"]
    plain = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", last) or last
    joined = "__".join([*folders, plain]).lstrip("_. -") or "picture"
    while len(joined.encode()) > _MAX_BYTES:
        joined = joined[:-1]
    return joined.rstrip(" .")


class Names:
    """Hands out a stem to each key. Two keys never share one, not even on a file system that ignores case.

    The first key keeps the plain stem; those that would collide get eight digits of their own hash behind it.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __call__(self, key: str) -> str:
        """Return the stem of a key that was not asked for before."""
        plain = stem(key)
        if plain.casefold() in self._taken:
            plain = f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        self._taken.add(plain.casefold())
        return plain
