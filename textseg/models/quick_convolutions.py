"""What makes a convolutional network quicker to ask and leaves its answers as they are. Not for training.

Norms are folded into the convolutions before them, the padding of strided convolutions goes into their kernels, the
weights are laid out once for all calls (``packed_convolutions``) and, where the processor multiplies bfloat16 itself,
rounded to it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from timm.models import EfficientNet, RegNet
from timm.models._features import FeatureGetterNet
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from textseg.models.packed_convolutions import pack


def is_known(trunk: nn.Module) -> bool:
    """Whether ``quicken`` fits a timm trunk: its kinds keep their layers in the order in which they are applied."""
    inner = trunk.model if isinstance(trunk, FeatureGetterNet) else trunk
    return isinstance(inner, EfficientNet | EfficientNetFeatures | RegNet)


def quicken(network: nn.Module, *, rounded: bool = False) -> None:
    """Change a network in place: all of the module's text, and channels last. ``rounded`` is for use under autocast."""
    fold_norms(network)
    pad_in_kernels(network)
    if rounded:
        round_convolutions(network)
    network.to(memory_format=torch.channels_last)
    if next(network.parameters()).device.type == "cpu":
        pack(network)


def fold_norms(module: nn.Module) -> None:
    """Fold batch norms into the convolutions that stand before them: one pass less.

    They have to be applied in the order in which they are kept, as in a `Sequential`, in this package's layers and in
    those of timm's EfficientNets and RegNets.
    """
    for parent in module.modules():
        children = list(parent.named_children())
        for (first_name, first), (second_name, second) in pairwise(children):
            if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)):
                continue
            if first.out_channels == second.num_features:
                setattr(parent, first_name, fuse_conv_bn_eval(first, second))
                # timm's norms apply the activation too.
                setattr(parent, second_name, second.act if isinstance(second, BatchNormAct2d) else nn.Identity())


def pad_in_kernels(module: nn.Module) -> None:
    """Put TensorFlow's "same" padding of convolutions of stride 2 into their kernels; see ``EvenSame``."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv2dSame) and EvenSame.fits(child):
                setattr(parent, name, EvenSame(child))


class EvenSame(nn.Module):
    """A ``Conv2dSame`` of stride 2 that copies nothing where the sides are even.

    "Same" then pads one pixel more at the right and bottom than at the left and top, which torch's convolutions cannot:
    timm copies the whole input into a wider one, a quarter of the trunk's time. A kernel with a row and a column of
    zeros before its own asks for as much padding on either side, and reads the same pixels.

    Attributes:
        even: for sides that are even; odd: for others, the convolution as it was.
    """

    def __init__(self, odd: Conv2dSame) -> None:
        super().__init__()
        side = odd.kernel_size[0]
        self.even = nn.Conv2d(
            odd.in_channels,
            odd.out_channels,
            side + 1,
            stride=2,
            padding=(side - 1) // 2,
            groups=odd.groups,
            bias=odd.bias is not None,
        )
        with torch.no_grad():
            self.even.weight.copy_(functional.pad(odd.weight, (1, 0, 1, 0)))
            if self.even.bias is not None and odd.bias is not None:
                self.even.bias.copy_(odd.bias)
        self.odd = odd

    @staticmethod
    def fits(other: Conv2dSame) -> bool:
        """Whether a convolution is of the kind that this replaces."""
        height, width = other.kernel_size
        return bool(height == width and height % 2 == 1 and other.stride == (2, 2) and other.dilation == (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, ⌈H/2⌉, ⌈W/2⌉)."""
        out: Tensor = self.odd(x) if x.shape[-2] % 2 or x.shape[-1] % 2 else self.even(x)
        return out


def round_convolutions(module: nn.Module) -> None:
    """Keep the weights of convolutions as bfloat16, for networks that run under autocast.

    It would round them anew at every call, which of a few crops takes as long as a tenth of the call; the results are
    the same bit by bit. Only where ``onednn.has_bfloat16``.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(torch.bfloat16)
