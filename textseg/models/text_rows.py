"""What texts are mapped to, kept for the next time that they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from textseg.types import Float


class TextRows:
    """Maps texts to rows of a matrix. Threads may share it.

    Args:
        make: maps N texts to float32 (N, width).
        width: of the rows.
        most: how many are kept; the least recently used goes first.
    """

    def __init__(self, make: Callable[[list[str]], Float], width: int, most: int) -> None:
        self._make, self._width, self._most = make, width, max(0, most)
        self._kept: OrderedDict[str, Float] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Float:
        """Return float32 (N, width); only texts that are new are mapped."""
        with self._lock:
            known = {text: self._kept[text] for text in texts if text in self._kept}
            for text in known:
                self._kept.move_to_end(text)
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, self._make(new), strict=True))
            with self._lock:
                self._kept.update((text, known[text]) for text in new)
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return np.array([known[text] for text in texts], np.float32).reshape(len(texts), self._width)
