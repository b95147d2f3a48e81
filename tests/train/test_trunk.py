"""Where a trunk starts, and what is kept of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from textseg.errors import ConfigError, DataError
from textseg.models.nano_network import NanoNetwork, NetworkConfig
from textseg.train import trunk
from textseg.train.trunk import (
    IMAGENET,
    PACKAGES,
    Pixels,
    depthwise_in_float32,
    drop_paths,
    freeze,
    rest_norms,
    start_trunk,
    trunk_weights,
)

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
    assert start_trunk(network.backbone, IMAGENET, LITE) == len(own)
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
    with pytest.raises(DataError, match=r"no_such_package_here, which is not installed; pip .* 'textseg\[train\]'"):
        trunk_weights(IMAGENET, LITE)


@pytest.mark.parametrize("architecture", sorted(PACKAGES))
def test_the_real_packages_fit(architecture: str) -> None:
    if importlib.util.find_spec(PACKAGES[architecture]) is None:
        pytest.skip(f"{PACKAGES[architecture]} is not installed; it is part of textseg[train]")
    network = NanoNetwork(NetworkConfig(backbone=architecture))
    assert start_trunk(network.backbone, IMAGENET, architecture) == len(network.backbone.state_dict())


def test_a_towers_trunk_is_read_from_its_folder(tmp_path: Path) -> None:
    assert trunk_weights(tmp_path, "regnetx_004") == {}
    kept = {"visual.trunk.stem.conv.weight": torch.ones(3)}
    save_file({**kept, "text.weight": torch.zeros(2)}, tmp_path / "open_clip_model.safetensors")
    assert trunk_weights(tmp_path, "regnetx_004").keys() == kept.keys()


def test_a_trunk_that_is_shown_other_pixels_sees_the_same(package: Path) -> None:
    pixels = Pixels((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    plain, other = (timm.create_model(LITE, pretrained=False, num_classes=0).eval() for _ in range(2))
    start_trunk(plain, IMAGENET, LITE)
    assert start_trunk(other, IMAGENET, LITE, pixels) == len(other.state_dict())
    picture = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in pixels)
    with torch.no_grad():
        learnt = plain.bn1(plain.conv_stem((picture - 0.5) / 0.5))
        shown = other.bn1(other.conv_stem((picture - mean) / std))
    torch.testing.assert_close(shown[:, :, 1:-1, 1:-1], learnt[:, :, 1:-1, 1:-1], rtol=1e-3, atol=1e-4)


def test_a_towers_trunk_is_taken_over_and_another_architectures_is_refused(tmp_path: Path) -> None:
    tower, other = timm.create_model("regnetx_002", num_classes=0), timm.create_model(LITE, num_classes=0)
    stored = {f"visual.trunk.{name}": torch.full_like(value, 0.5) for name, value in tower.state_dict().items()}
    save_file({**stored, "visual.head.proj.weight": torch.zeros(2)}, tmp_path / "open_clip_model.safetensors")
    assert start_trunk(tower, tmp_path, "regnetx_002") == len(stored)
    assert float(tower.stem.conv.weight.detach().mean()) == 0.5
    with pytest.raises(ConfigError, match=r"nothing in .* fits a tf_efficientnet_lite0; expected 'imagenet' or"):
        start_trunk(other, tmp_path, LITE)
    assert start_trunk(other, tmp_path, LITE, required=False) == 0


def test_what_is_frozen_keeps_its_weights_and_its_norms_averages() -> None:
    network = timm.create_model(LITE, num_classes=0).train()
    names = ("conv_stem", "bn1", "blocks.0.")
    freeze(network, names)
    rest_norms(network, names)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    for name, value in network.state_dict().items():
        if name.startswith(names):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(network.blocks[1][0].bn1.running_mean, before["blocks.1.0.bn1.running_mean"])
    assert not torch.equal(network.blocks[6][0].conv_pw.weight, before["blocks.6.0.conv_pw.weight"])


def test_depthwise_convolutions_stay_in_float32_and_others_do_not() -> None:
    network = timm.create_model(LITE, num_classes=0).eval()
    picture = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = network(picture)
        depthwise_in_float32(network)
        torch.testing.assert_close(network(picture), expected)
        seen: dict[str, torch.dtype] = {}
        for name in ("conv_dw", "conv_pw"):
            layer = getattr(network.blocks[1][0], name)
            layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.dtype}))
        with torch.autocast("cpu", torch.bfloat16):
            network(picture)
    assert seen == {"conv_dw": torch.float32, "conv_pw": torch.bfloat16}


def test_blocks_are_passed_by_while_learning_alone() -> None:
    torch.manual_seed(0)
    network = timm.create_model(LITE, pretrained=False)
    picture = torch.randn(4, 3, 32, 32)
    before = network.eval()(picture)
    drop_paths(network, 0.0)
    assert not any(isinstance(m, timm.layers.DropPath) for m in network.modules())
    drop_paths(network, 0.5)
    shares = [m.drop_prob for m in network.modules() if isinstance(m, timm.layers.DropPath)]
    assert shares == sorted(shares) and shares[-1] == 0.5 and 0 < shares[0] < 0.1
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(picture), before)
        freeze(network, ("",))
        network.train()
        rest_norms(network, ("bn", "blocks"))
        assert network.blocks[-2][-1].training is False
        for module in network.modules():
            if isinstance(module, timm.layers.DropPath):
                module.train()
        assert not torch.allclose(network(picture), before)
