"""The files of the networks that are our own: ``config.json`` and float16 ``model.safetensors`` in one folder.

Each file is replaced in one move, so that a run that is killed leaves no half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from textseg.errors import WeightsError

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

_UNSAVED = "num_batches_tracked"
_READABLE = 0o644

T = TypeVar("T")


def save(folder: str | Path, network: nn.Module, config: Mapping[str, Any], exact: Collection[str] = ()) -> None:
    """Write a network's config and weights into ``folder`` (made if missing).

    Args:
        folder: where to.
        network: its floating-point tensors are written as float16, but for the ``exact`` ones, named as in its state.
        config: what ``read_config`` is to make the network from.
        exact: names of the tensors that stay as they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.half() if value.is_floating_point() and name not in exact else value).detach().contiguous()
        for name, value in network.state_dict().items()
        if not name.endswith(_UNSAVED)
    }
    text = json.dumps(config, indent=2) + "\n"
    _replace(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path))
    _replace(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.chmod(_READABLE)
    os.replace(partial, path)


def read_config(folder: str | Path, what: str, make: Callable[[dict[str, Any]], T]) -> T:
    """Return what ``make`` makes of a folder's config.

    Raises:
        WeightsError: naming the file, which is missing, damaged or not that of ``what``, such as "a text prompt".
    """
    path = Path(folder) / CONFIG_FILE
    try:
        return make(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is missing or malformed: expected the config of {what} ({error}); install the weights again"
        ) from error


def known(values: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the values of a dataclass, lists as tuples.

    Raises:
        KeyError: naming those that it has no field for.
    """
    names = {field.name for field in fields(kind)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise KeyError(f"unknown entries {unknown}; known: {sorted(names)}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def load_weights(folder: str | Path, network: nn.Module) -> None:
    """Put a folder's weights into a network, as float32.

    Raises:
        WeightsError: naming the file that is missing, damaged or does not fit the network.
    """
    path = Path(folder) / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is missing or damaged ({error}); install the weights again") from error
    state = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {CONFIG_FILE} ({error})") from error
    lost = [*unexpected, *(name for name in missing if not name.endswith(_UNSAVED))]
    if lost:
        raise WeightsError(f"{path} does not fit {CONFIG_FILE}: {len(lost)} tensors, such as {lost[0]!r}")
