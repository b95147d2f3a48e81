"""What is made quicker answers as before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from tests.models.tiny_detectors import NANO
from textseg.models.nano_network import NanoNetwork
from textseg.models.packed_convolutions import PackedConv2d
from textseg.models.quick_convolutions import (
    EvenSame,
    fold_norms,
    is_known,
    pad_in_kernels,
    quicken,
    round_convolutions,
)


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "regnetx_002"])
def test_folded_norms_change_nothing(backbone: str) -> None:
    torch.manual_seed(0)
    network = NanoNetwork(replace(NANO, backbone=backbone)).train()
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64))  # so that the norms' averages are not those of the start
        expected = network.eval()(torch.ones(1, 3, 64, 64))
        fold_norms(network)
        folded = network(torch.ones(1, 3, 64, 64))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for one, other in zip(folded, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size_hw", [(8, 8), (10, 14), (7, 9), (8, 5), (1, 1), (2, 2)])
@pytest.mark.parametrize(("side", "groups", "bias"), [(3, 1, False), (3, 4, True), (5, 4, False), (7, 1, True)])
def test_padding_in_the_kernel_is_the_same(size_hw: tuple[int, int], side: int, groups: int, bias: bool) -> None:
    torch.manual_seed(0)
    other = Conv2dSame(4, 8, side, stride=2, groups=groups, bias=bias)
    x = torch.randn(2, 4, *size_hw)
    with torch.inference_mode():
        expected, got = other(x), EvenSame(other)(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert got.shape[-2:] == (-(-size_hw[0] // 2), -(-size_hw[1] // 2))


def test_only_strides_of_two_are_padded_in_their_kernels() -> None:
    network = nn.Sequential(
        Conv2dSame(3, 4, 3, stride=2), Conv2dSame(4, 4, 3, stride=1), Conv2dSame(4, 4, (3, 5), stride=2),
        Conv2dSame(4, 4, 2, stride=2), Conv2dSame(4, 4, 3, stride=2, dilation=2),
    )  # fmt: skip
    x = torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        expected = network(x)
        pad_in_kernels(network)
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    assert [isinstance(module, EvenSame) for module in network] == [True, False, False, False, False]


@pytest.mark.parametrize("size_hw", [(64, 96), (72, 72)])
def test_a_quickened_trunk_answers_as_before(size_hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    trunk = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4))
    x = torch.randn(2, 3, *size_hw)
    with torch.no_grad():
        trunk.train()(x)
        expected = trunk.eval()(x)
        assert is_known(trunk)
        quicken(trunk)
        got = trunk(x)
    assert isinstance(trunk.conv_stem, EvenSame)
    assert isinstance(trunk.conv_stem.even, PackedConv2d)
    assert trunk.conv_stem.even.plain.weight.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_other_trunks_are_not_known() -> None:
    assert not is_known(timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1))


def test_weights_rounded_beforehand_change_nothing_under_autocast() -> None:
    torch.manual_seed(0)
    network = NanoNetwork(NANO).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = network(torch.ones(1, 3, 64, 64))
        round_convolutions(network)
        rounded = network(torch.ones(1, 3, 64, 64))
    assert {m.weight.dtype for m in network.modules() if isinstance(m, nn.Conv2d)} == {torch.bfloat16}
    assert network.text.codes.weight.dtype == torch.float32
    for one, other in zip(rounded, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
