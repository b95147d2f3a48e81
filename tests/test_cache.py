"""Embeddings are made once, kept by picture and model, and let go in order."""

from __future__ import annotations

import numpy as np
import pytest

from textseg.cache import EmbeddingCache
from textseg.errors import ConfigError
from textseg.types import Image


class Counter:
    def __init__(self, model_id: str = "a") -> None:
        self.model_id, self.calls = model_id, 0

    def encode(self, image: Image) -> str:
        self.calls += 1
        return f"{self.model_id}:{image.digest}"


def picture(digest: str) -> Image:
    return Image(np.zeros((1, 1, 3), np.uint8), "test", digest)


def test_the_second_asking_is_free() -> None:
    cache, encoder = EmbeddingCache(), Counter()
    assert cache.get(picture("x"), encoder) == cache.get(picture("x"), encoder) == "a:x"
    assert encoder.calls == 1


def test_models_do_not_share_embeddings() -> None:
    cache = EmbeddingCache()
    assert cache.get(picture("x"), Counter("a")) == "a:x"
    assert cache.get(picture("x"), Counter("b")) == "b:x"


def test_the_least_recently_used_goes_first() -> None:
    cache, encoder = EmbeddingCache(pictures=1), Counter()  # room for two embeddings
    for digest in ("x", "y", "x", "z", "x"):
        cache.get(picture(digest), encoder)
    assert encoder.calls == 3
    cache.get(picture("y"), encoder)
    assert encoder.calls == 4


def test_no_room_keeps_nothing_and_clear_forgets() -> None:
    none, some, encoder = EmbeddingCache(0), EmbeddingCache(2), Counter()
    none.get(picture("x"), encoder)
    none.get(picture("x"), encoder)
    assert encoder.calls == 2
    some.get(picture("x"), encoder)
    some.clear()
    some.get(picture("x"), encoder)
    assert encoder.calls == 4


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="got -1"):
        EmbeddingCache(-1)
