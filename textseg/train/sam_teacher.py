"""The detector teaches SAM's picture encoder: its pixel features, token by token, are to be told from SAM's.

A prompt says something about one object and little about the rest of the picture. The detector has already
learnt what every pixel is; matching its features (feature distillation, Romero et al., "FitNets", 2015) gives
each token of the encoder something to learn from in every picture.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.models.nano_detector import load_detector, normalise
from textseg.models.nano_network import PIXEL_STRIDE

_STEP = 32  # the detector takes multiples of this


class PixelTeacher:
    """A frozen detector whose pixel features are the lesson.

    Args:
        folder: of an exported nano detector.
    """

    def __init__(self, folder: str | Path) -> None:
        self.network = load_detector(folder)[0].requires_grad_(False)

    @property
    def width(self) -> int:
        """Channels of the lesson."""
        return self.network.config.parts * self.network.config.embed_dim

    @torch.no_grad()
    def lesson(self, images_rgb: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """uint8 (B, S, S, 3) → float32 (B, width, h, w): unit variance in every channel over the batch."""
        side = images_rgb.shape[1]
        room = -side % _STEP
        pixels = F.pad(normalise(images_rgb), (0, room, 0, room)).contiguous(memory_format=torch.channels_last)
        features = self.network(pixels).pixels.float()[..., : side // PIXEL_STRIDE, : side // PIXEL_STRIDE]
        features = F.adaptive_avg_pool2d(features, grid_hw)
        mean, std = features.mean((0, 2, 3), keepdim=True), features.std((0, 2, 3), keepdim=True)
        scaled: Tensor = (features - mean) / std.clamp_min(1e-3)
        return scaled


def teacher_loss(head: nn.Conv2d, features: Tensor, lesson: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of what the head reads from the encoder's features, on the picture alone.

    Args:
        head: 1 × 1, from the encoder's channels to the lesson's.
        features: (B, C, h, w).
        lesson: float32 (B, width, h, w).
        valid: bool (B, m, m), False on padding; m a multiple of h and w.
    """
    told = head(features).float()
    inside = F.adaptive_avg_pool2d(valid[:, None].float(), (told.shape[-2], told.shape[-1]))
    missed: Tensor = ((told - lesson).square().mean(1, keepdim=True) * inside).sum() / inside.sum().clamp_min(1.0)
    return missed
