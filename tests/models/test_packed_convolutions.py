"""Packed convolutions answer as torch's own do."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from textseg.models import onednn
from textseg.models.packed_convolutions import PackedConv2d, add_relu, pack


def convolution(side: int = 3, stride: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 16, side, stride=stride, padding=side // 2, groups=groups, bias=bias).eval()


def picture(batch: int = 1, side: int = 12) -> Tensor:
    return torch.randn(batch, 8, side, side + 2, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize(("side", "stride", "groups", "bias"), [(3, 1, 1, True), (1, 1, 1, False), (5, 2, 8, True)])
def test_a_packed_convolution_is_the_same(
    side: int, stride: int, groups: int, bias: bool, activation: nn.Module | None
) -> None:
    plain = convolution(side, stride, groups, bias)
    packed = PackedConv2d(plain, activation)
    with torch.inference_mode():
        for batch, size in ((1, 12), (3, 12), (1, 7), (1, 12)):  # each input is packed for by itself
            x = 5 * picture(batch, size)
            expected = plain(x) if activation is None else activation(plain(x))
            torch.testing.assert_close(packed(x), expected, rtol=1e-4, atol=1e-4)


def test_under_autocast_it_rounds_as_torch_does() -> None:
    plain = convolution()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected, got = plain(picture()), PackedConv2d(plain)(picture())
    assert got.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected.float(), rtol=0.01, atol=0.01)


def test_weights_of_one_layout_are_kept_once() -> None:
    packed = PackedConv2d(convolution())
    with torch.inference_mode():
        for batch in (1, 1, 2):
            packed(picture(batch))
    kept = packed._packed
    layouts = {torch.ops.mkldnn._get_mkldnn_serialized_md(weight).numpy().tobytes() for weight, _ in kept.values()}
    assert len(kept) == 2
    assert len({id(weight) for weight, _ in kept.values()}) == len(layouts)


def test_with_gradients_it_is_the_plain_one() -> None:
    plain = convolution()
    packed = PackedConv2d(plain, nn.ReLU())
    packed(picture()).sum().backward()
    assert plain.weight.grad is not None
    assert not packed._packed


def test_the_shortcut_is_added_in_the_same_call() -> None:
    layers, shortcut = nn.Sequential(convolution()), torch.randn(1, 16, 12, 14)
    with torch.inference_mode():
        expected = add_relu(layers, picture(), shortcut)
        torch.testing.assert_close(expected, torch.relu(layers(picture()) + shortcut))
        pack(layers)
        assert isinstance(layers[0], PackedConv2d)
        torch.testing.assert_close(add_relu(layers, picture(), shortcut), expected, rtol=1e-4, atol=1e-4)
    with torch.enable_grad():
        torch.testing.assert_close(add_relu(layers, picture(), shortcut), expected, rtol=1e-4, atol=1e-4)


def test_an_activation_before_the_shortcut_stays_there() -> None:
    layers, shortcut = nn.Sequential(convolution(), nn.ReLU()), torch.randn(1, 16, 12, 14)
    with torch.inference_mode():
        expected = torch.relu(torch.relu(layers[0](picture())) + shortcut)
        pack(layers)
        assert len(layers) == 1
        torch.testing.assert_close(add_relu(layers, picture(), shortcut), expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_packed_stays() -> None:
    layers = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, padding_mode="reflect", padding=1), nn.Linear(4, 4)
    )
    pack(layers)
    assert not any(isinstance(layer, PackedConv2d) for layer in layers)


def test_packing_twice_changes_nothing() -> None:
    layers = nn.Sequential(convolution(), nn.ReLU())
    pack(layers)
    once = list(layers)
    pack(layers)
    assert list(layers) == once
    assert type(once[0].plain) is nn.Conv2d  # type: ignore[union-attr]


def test_a_processor_without_bfloat16_is_not_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: False)
    plain = convolution()
    packed = PackedConv2d(plain)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(packed(picture()), plain(picture()), rtol=0, atol=0)
    assert not packed._packed
    with torch.inference_mode():
        packed(picture())
    assert packed._packed


def test_copies_lay_their_weights_out_for_themselves() -> None:
    packed = PackedConv2d(convolution(), nn.ReLU())
    with torch.inference_mode():
        expected = packed(picture())
        for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
            assert not other._packed
            torch.testing.assert_close(other(picture()), expected, rtol=0, atol=0)
