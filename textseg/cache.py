"""Embeddings of pictures, kept by what the picture shows and who embedded it.

The key is the picture's digest and the model's id (which holds its revision or the hash of its weights), so that
the API, the demo and the labeller can share one cache, in one process or on disk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from textseg.errors import ConfigError
from textseg.types import Image


class Encoder(Protocol):
    """What the cache asks on a miss: the ``encode`` of a detector or a segmenter."""

    model_id: str

    def encode(self, image: Image) -> Any:
        """Return the picture's embedding."""
        ...


class EmbeddingCache:
    """The last few pictures' embeddings, in memory; safe to share between threads.

    Args:
        pictures: how many embeddings are kept, least recently used out first; 0 keeps none.
    """

    def __init__(self, pictures: int = 8) -> None:
        if pictures < 0:
            raise ConfigError(f"cache: got {pictures} pictures, expected 0 or more")
        self.pictures = pictures
        self._kept: OrderedDict[tuple[str, str, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, image: Image, encoder: Encoder) -> Any:
        """Return the encoder's embedding of the picture, made now if it is not kept."""
        key = (image.digest, type(encoder).__name__, encoder.model_id)
        return self._get(key, lambda: encoder.encode(image))

    def _get(self, key: tuple[str, str, str], make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > 2 * self.pictures:  # a picture has two: the detector's and the segmenter's
                self._kept.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
