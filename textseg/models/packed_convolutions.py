"""Convolutions whose weights oneDNN has laid out once, each with the activation or the shortcut behind it in one call.

torch's own convolution hands oneDNN the weights as they are, and they are laid out anew for every call: of one crop
through a small network that takes half of a convolution's time. The operators behind ``torch.compile``'s convolutions
take weights laid out before, and what follows the convolution besides. Where they are missing, where gradients are
wanted or a graph is exported, torch's own convolution is asked.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from textseg.models import onednn

Activation = tuple[str, list[float]]
"""An activation's name and its limits, as oneDNN's operators want them."""

NONE: Activation = ("none", [])
_KNOWN: dict[type[nn.Module], Activation] = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0])}


class PackedConv2d(nn.Module):
    """A convolution, perhaps with an activation, as one call; for networks that are only asked.

    Args:
        plain: the convolution, on the CPU; it keeps its own weights.
        activation: ``nn.ReLU``, ``nn.ReLU6``; None: none.
    """

    def __init__(self, plain: nn.Conv2d, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.plain, self.activation = plain, activation
        self._how = NONE if activation is None else _KNOWN[type(activation)]
        self._where = ([*map(int, plain.padding)], [*plain.stride], [*plain.dilation], plain.groups)
        self._packed: dict[tuple[torch.Size, torch.dtype], tuple[Tensor, Tensor | None]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, h, w)."""
        dtype = self._dtype()
        if not onednn.packs(x, dtype):
            out: Tensor = self.plain(x)
            return out if self.activation is None else self.activation(out)
        x, weight, bias = self._at_hand(x, dtype)
        act, limits = self._how
        packed: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *self._where, act, limits, "")
        return packed

    def add_relu(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Return relu(convolution of (B, C, H, W) + shortcut (B, D, h, w)); its own activation is not applied."""
        dtype = self._dtype()
        if not onednn.packs(x, dtype):
            return torch.relu(self.plain(x) + shortcut)
        x, weight, bias = self._at_hand(x, dtype)
        apply = torch.ops.mkldnn._convolution_pointwise.binary
        out: Tensor = apply(x, shortcut.to(dtype), weight, bias, *self._where, "add", None, "relu", [], "")
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles lay the weights out for themselves: what is laid out cannot be copied."""
        return {**self.__dict__, "_packed": {}}

    def _dtype(self) -> torch.dtype:
        """Return the precision that is asked for."""
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.plain.weight.dtype

    def _at_hand(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the input, channels last, the weights laid out for it, and the bias, all in one precision."""
        x = x.to(dtype).contiguous(memory_format=torch.channels_last)
        key = (x.shape, dtype)
        if key not in self._packed:
            self._packed[key] = self._pack(x.shape, dtype)
        return x, *self._packed[key]

    def _pack(self, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return weights and bias for an input; those of another input with the same layout are shared."""
        padding, stride, dilation, groups = self._where
        weight = self.plain.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        new = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, list(shape))
        layout = torch.ops.mkldnn._get_mkldnn_serialized_md(new)
        for (_, known), (one, bias) in list(self._packed.items()):  # another thread may add to them
            if known == dtype and torch.equal(torch.ops.mkldnn._get_mkldnn_serialized_md(one), layout):
                return one, bias
        own = self.plain.bias
        return new, None if own is None else own.detach().to(dtype)


def pack(module: nn.Module) -> None:
    """Put ``PackedConv2d`` in the place of a network's convolutions, on the CPU, and of activations right behind them.

    Layers have to be applied in the order in which they are kept, as ``quick_convolutions.fold_norms`` says.
    """
    for parent in list(module.modules()):
        if isinstance(parent, PackedConv2d):
            continue
        children = [*parent.named_children(), ("", None)]
        for (name, child), (next_name, following) in pairwise(children):
            if type(child) is not nn.Conv2d or child.padding_mode != "zeros" or isinstance(child.padding, str):
                continue
            behind = following if type(following) in _KNOWN else None
            setattr(parent, name, PackedConv2d(child, behind))
            if behind is not None:
                setattr(parent, next_name, nn.Identity())
        if type(parent) is nn.Sequential:
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Identity):
                    delattr(parent, name)


def add_relu(layers: nn.Module, x: Tensor, shortcut: Tensor) -> Tensor:
    """Return relu(layers(x) + shortcut), in one call where the layers are no more than a packed convolution."""
    only = layers[0] if isinstance(layers, nn.Sequential) and len(layers) == 1 else None
    if isinstance(only, PackedConv2d) and only.activation is None:
        return only.add_relu(x, shortcut)
    return torch.relu(layers(x) + shortcut)
