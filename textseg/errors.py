"""Every error that textseg raises on purpose.

::

    TextsegError
    ├── ImageError          the picture cannot be read or is not a picture
    ├── QueryError          the phrase or the list of phrases is unusable
    ├── PromptError         a box, point, mask or token does not fit the picture or the model
    ├── ShapeError          an array has the wrong shape, dtype or range
    ├── ConfigError         a preset, YAML key or option value is unknown or out of range
    ├── DataError           a folder, annotation file or dataset is missing or malformed
    └── ModelError          a model cannot be built or loaded
        ├── WeightsError        a weights file is missing, damaged or does not fit the model
        ├── HubError            the model hub is out of reach or the model is gated
        └── UnsupportedError    this family of models cannot do what was asked

A message says what came, what was expected and how to mend it. Each class is also the
built-in exception that a caller would look for first (``ValueError``, ``OSError`` …).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TextsegError(Exception):
    """Base of the tree: ``except TextsegError`` catches everything below."""


class ImageError(TextsegError, ValueError):
    """The picture cannot be read or is not a picture."""


class QueryError(TextsegError, ValueError):
    """The phrase or the list of phrases is unusable."""


class PromptError(TextsegError, ValueError):
    """A box, point, mask or text token does not fit the picture or the model."""


class ShapeError(TextsegError, ValueError):
    """An array has the wrong shape, dtype or range."""


class ConfigError(TextsegError, ValueError):
    """A preset, YAML key or option value is unknown or out of range."""


class DataError(TextsegError, ValueError):
    """A folder, annotation file or dataset is missing or malformed."""


class ModelError(TextsegError, RuntimeError):
    """A model cannot be built or loaded."""


class WeightsError(ModelError):
    """A weights file is missing, damaged or does not fit the model."""


class HubError(ModelError):
    """The model hub is out of reach, or the model is gated."""


class UnsupportedError(ModelError):
    """This family of models cannot do what was asked of it."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a hint that lists the choices and names the nearest: ``"did you mean 'nano'? choices: …"``."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}choices: {', '.join(known)}"
