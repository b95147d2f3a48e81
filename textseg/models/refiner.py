"""Mask refiners: the table of kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textseg.errors import ConfigError, nearest
from textseg.models.close_sam import CloseSam
from textseg.models.nano_refiner import NanoRefiner
from textseg.protocols import MaskRefiner

KINDS: dict[str, Callable[..., MaskRefiner]] = {"nano": NanoRefiner.load, "close_sam": CloseSam.load}
"""What builds the refiners of each kind."""


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
    if kind not in KINDS:
        raise ConfigError(f"refiner: unknown family {kind!r}; {nearest(kind, KINDS)}")
    return KINDS[kind](model, **options)
