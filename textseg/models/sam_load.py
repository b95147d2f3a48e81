"""Loading a SAM: a folder or hub model becomes a network, its preprocessing and an id for caches."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from textseg.errors import ModelError
from textseg.models import hub
from textseg.models.sam_input import InputSpec
from textseg.models.sam_networks import SamNetwork

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


@dataclass(frozen=True)
class Family:
    """One kind of SAM in transformers.

    Attributes:
        title: its name in messages.
        model_class, processor_class: names of transformers classes.
        model_types: the ``model_type`` of configurations that the class can load.
        network: wraps the model.
    """

    title: str
    model_class: str
    processor_class: str
    model_types: tuple[str, ...]
    network: Callable[[Any], SamNetwork]


def load_network(family: Family, model: str | Path, device: str) -> tuple[SamNetwork, InputSpec, str]:
    """Load a family's network in float32, its preprocessing, and an id that changes with the weights.

    Args:
        family: which classes to use.
        model: a folder, ``org/name[@revision]``, or one of Meta's ``.pth`` checkpoints of SAM.
        device: where the weights go.

    Raises:
        HubError: the hub is out of reach, or the model is gated.
        WeightsError: a file is missing or damaged, or the weights do not fill the model.
        ModelError: the folder holds a model of another family, or its preprocessing does not fit it.
    """
    import transformers

    if str(model).endswith(".pth"):
        return _load_pth(family, Path(model).expanduser(), device)
    folder = hub.fetch(model)
    _check_type(family, folder)
    network = family.network(hub.load_pretrained(getattr(transformers, family.model_class), folder, device=device))
    spec = _load_spec(getattr(transformers, family.processor_class), folder, network)
    name = folder.name if Path(model).expanduser().is_dir() else str(model)
    return network, spec, f"{name}#{version_of(folder)}"


def _load_pth(family: Family, path: Path, device: str) -> tuple[SamNetwork, InputSpec, str]:
    """Load one of Meta's checkpoints; pictures are then resized as Meta does, too."""
    import transformers

    from textseg.models import sam_checkpoint

    if family.model_class != "SamModel":
        raise ModelError(f"{path} is a .pth file, which only SAM loads; {family.title} takes a folder or a hub name")
    network = family.network(sam_checkpoint.load_pth(path).to(device))
    side = network.input_hw[0]
    square = {"height": side, "width": side}
    processor = transformers.SamImageProcessor(size={"longest_edge": side}, pad_size=square)
    spec = replace(InputSpec.from_processor(processor), resampler="pil")
    return network, spec, f"{path.stem}#{weights_hash([path])}"


def _check_type(family: Family, folder: Path) -> None:
    """Refuse a configuration of another family, which transformers would fill with random weights."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return  # hub.load_pretrained says what is wrong with the file
    if found is not None and found not in family.model_types:
        raise ModelError(
            f"{folder} holds a model of type {found!r}, but {family.title} was asked for, "
            f"which loads {' or '.join(map(repr, family.model_types))}"
        )


def _load_spec(processor_class: Any, folder: Path, network: SamNetwork) -> InputSpec:
    """Return the folder's own preprocessing, or the class's at the model's size where the folder has none."""
    if any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        processor = hub.load_processor(processor_class, folder)
    else:
        height, width = network.input_hw
        logger.warning("%s has no preprocessor_config.json: using %s's own numbers", folder, processor_class.__name__)
        square = {"height": height, "width": width}
        padded = processor_class.do_pad
        sizes = {"size": {"longest_edge": max(height, width)}, "pad_size": square} if padded else {"size": square}
        processor = processor_class(**sizes)
    spec = InputSpec.from_processor(processor)
    check_spec(spec, network)
    return spec


def check_spec(spec: InputSpec, network: SamNetwork) -> None:
    """Raise a ModelError if the preprocessing makes inputs of another size than the network takes."""
    if spec.input_hw != network.input_hw or (spec.longest_edge or 0) > min(spec.input_hw):
        raise ModelError(
            f"preprocessing makes inputs of {spec.input_hw} pixels (longest edge {spec.longest_edge}), but the model "
            f"takes {network.input_hw}: mend preprocessor_config.json"
        )


def version_of(folder: Path) -> str:
    """Return the hub's commit of a cached snapshot, or else a short hash sampled from the weights files."""
    if _COMMIT.fullmatch(folder.name):
        return folder.name[:12]
    return weights_hash(sorted(folder.glob("*.safetensors")))


def weights_hash(paths: list[Path]) -> str:
    """Return a short hash sampled from some files."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for number in range(_SAMPLES):
                file.seek(size * number // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a name such as "cpu", "cuda" or "cuda:1".

    Raises:
        ModelError: no such device here.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device {device!r} cannot be used here ({error}); 'cpu' always can") from error
    return found
