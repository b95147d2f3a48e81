"""Type words, get masks: text-prompted segmentation with CLIP, SAM and an open-vocabulary detector.

>>> import textseg
>>> seg = textseg.load()                       # doctest: +SKIP
>>> seg("street.jpg", "the red car").masks     # doctest: +SKIP

Importing this module is instant: torch and the models are imported by ``load``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textseg.build import load
    from textseg.errors import TextsegError
    from textseg.pipeline import OpenPicture, Pipeline
    from textseg.result import Result

__version__ = "0.1.0"

_HOMES = {
    "load": "textseg.build",
    "Pipeline": "textseg.pipeline",
    "OpenPicture": "textseg.pipeline",
    "Result": "textseg.result",
    "TextsegError": "textseg.errors",
}
__all__ = ["OpenPicture", "Pipeline", "Result", "TextsegError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'textseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
