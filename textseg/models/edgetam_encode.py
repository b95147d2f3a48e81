"""EdgeTAM's image encoder without what only its video model reads, for inference and for training alike.

Zhou et al., *EdgeTAM: On-Device Track Anything Model*, 2025: a convolutional trunk, a feature pyramid (Lin et al.,
2017), and two projections of its finer levels that the mask decoder adds while it draws. transformers' own forward
pass also makes sine positions of every level, which masks of a single picture never use: a fifth of its time at nano's
size. The features equal those of ``EdgeTamModel.get_image_embeddings``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from textseg.models.quick_convolutions import is_known, quicken


class Levels(NamedTuple):
    """A picture's features: ``image`` (B, D, h, w), ``high_1`` (B, D/4, 2h, 2w), ``high_0`` (B, D/8, 4h, 4w)."""

    image: Tensor
    high_1: Tensor
    high_0: Tensor


def prepare(model: Any) -> None:
    """Make the picture's side of a model that will only be asked quicker: the features stay the same."""
    trunk = model.vision_encoder.backbone.timm_model
    if is_known(trunk):
        quicken(trunk)
    model.vision_encoder.to(memory_format=torch.channels_last)


def encode(model: Any, pixels: Tensor) -> Levels:
    """Return the features of pixels (B, 3, H, W) by a transformers ``EdgeTamModel``; H and W multiples of 32."""
    vision, decoder = model.vision_encoder, model.mask_decoder
    stages = vision.backbone.timm_model(pixels.contiguous(memory_format=torch.channels_last))
    maps = _pyramid(vision.neck, stages)[-vision.num_feature_levels :]
    image, high_1, high_0 = maps
    nothing_before = model.no_memory_embedding.reshape(1, -1, 1, 1)
    return Levels(image + nothing_before, decoder.conv_s1(high_1), decoder.conv_s0(high_0))


def _pyramid(neck: Any, stages: list[Tensor]) -> list[Tensor]:
    """Return the pyramid's maps, the coarsest first, of a trunk's stages, the finest first."""
    maps: list[Tensor] = []
    for convolution, level in zip(neck.convs, range(len(stages) - 1, -1, -1), strict=True):
        one = convolution(stages[level])
        if maps and level in neck.fpn_top_down_levels:
            one = one + F.interpolate(maps[-1], scale_factor=2.0, mode="nearest")
        maps.append(one)
    return maps
