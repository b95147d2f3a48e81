"""Mask refiners: the table of kinds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from textseg.closeup import Rough
from textseg.errors import ConfigError, nearest
from textseg.models.nano_refiner import NanoRefiner
from textseg.protocols import MaskRefiner
from textseg.types import Closeups, Float, Image


def _close_sam(model: str, **options: Any) -> MaskRefiner:
    from textseg.models.close_sam import CloseSam  # with transformers, which takes long to import

    return CloseSam.load(model, **options)


KINDS: dict[str, Callable[..., MaskRefiner]] = {"nano": NanoRefiner.load, "close_sam": _close_sam}
"""What builds the refiners of each kind."""


class Later:
    """A mask refiner that is loaded when it is first asked. Threads may share it.

    Args:
        load: returns it.
        model_id: how it is called.
    """

    def __init__(self, load: Callable[[], MaskRefiner], model_id: str) -> None:
        self.model_id = model_id
        self._load, self._lock = load, threading.Lock()
        self._loaded: MaskRefiner | None = None

    def ready(self) -> MaskRefiner:
        """Return it, loaded; errors as ``load`` says."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        """See ``MaskRefiner.refine``."""
        return self.ready().refine(image, roughs, boxes_xyxy, hints)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles load it for themselves."""
        return Later, (self._load, self.model_id)


def load(kind: str, model: str, **options: Any) -> MaskRefiner:
    """Return the mask refiner of a preset.

    Args:
        kind: a key of ``KINDS``.
        model: a folder.
        options: what else the kind's builder takes.

    Raises:
        ConfigError: an unknown kind, or an option out of range.
        WeightsError: a file is missing, damaged or does not fit.
    """
    _check(kind)
    return KINDS[kind](model, **options)


def later(kind: str, model: str, **options: Any) -> MaskRefiner:
    """Return what ``load`` does, but load it when it is first asked: for one that most questions do not need.

    Raises:
        ConfigError: an unknown kind; all else when it is loaded.
    """
    _check(kind)
    return Later(partial(load, kind, model, **options), f"{kind}:{model}")


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ConfigError(f"refiner: unknown family {kind!r}; {nearest(kind, KINDS)}")
