"""The files of the networks that are our own: ``config.json`` and float16 ``model.safetensors`` in one folder.

Each file is replaced in one move, so that a run that is killed leaves no half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from textseg.config import fill
from textseg.errors import WeightsError

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

_UNSAVED = "num_batches_tracked"

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


def save(folder: str | Path, network: nn.Module, config: Any, exact: Collection[str] = ()) -> None:
    """Write a network's config and weights into ``folder`` (made if missing).

    Args:
        folder: where to.
        network: its floating-point tensors are written as float16, but for the ``exact`` ones, named as in its state.
        config: the dataclass that ``read_config`` is to make the network from.
        exact: names of the tensors that stay as they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.half() if value.is_floating_point() and name not in exact else value).detach().contiguous()
        for name, value in network.state_dict().items()
        if not name.endswith(_UNSAVED)
    }
    write_whole(folder / WEIGHTS_FILE, to_bytes(tensors))
    write_whole(folder / CONFIG_FILE, (json.dumps(asdict(config), indent=2) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, replacing the old one in one move."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def read_config(folder: str | Path, what: str, kind: type[C], make: Callable[[C], T]) -> T:
    """Return what ``make`` makes of a folder's config, the dataclass ``kind``.

    Raises:
        WeightsError: naming the file, which is missing, damaged or not that of ``what``, such as "a text prompt".
    """
    path = Path(folder) / CONFIG_FILE
    try:
        return make(fill(kind, json.loads(path.read_text(encoding="utf-8")), CONFIG_FILE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is missing or malformed: expected the config of {what} ({error}); install the weights again"
        ) from error


def unfilled(make: Callable[[], M]) -> M:
    """Return a module for weights to be loaded into: its own are not drawn first, which takes longer than to load."""
    with torch.device("meta"):
        module = make()
    module = module.to_empty(device="cpu")
    for name, counts in module.named_buffers():
        if name.endswith(_UNSAVED):
            counts.zero_()
    return module


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
