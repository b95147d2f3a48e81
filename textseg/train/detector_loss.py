"""The detector's losses: maps, presence, boxes and their quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from textseg.models.nano_network import Answers
from textseg.train.detector_names import NameLosses
from textseg.train.detector_targets import Batch
from textseg.train.map_loss import map_losses


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms.

    Attributes:
        pixels: balanced cross-entropy of the maps; ``hard`` is the share of an absent phrase's
            pixels that count a second time because they score highest.
        dice: overlap of the maps of phrases that are present.
        presence: cross-entropy of "is it in the picture".
        boxes: 1 - GIoU (Rezatofighi et al., CVPR 2019) of the boxes.
        quality: cross-entropy between the quality and the IoU that the box reaches.
        names: cross-entropy of "which noun of all is this place"; maps: of the nouns' maps, with their dice;
            many: of "is this noun in the picture".
        nouns, asked: how many nouns a place chooses among, and how many are asked with map and presence.
    """

    pixels: float = 1.0
    dice: float = 1.0
    presence: float = 0.3
    boxes: float = 0.5
    quality: float = 0.2
    hard: float = 0.03
    names: float = 0.6
    maps: float = 0.5
    many: float = 0.3
    nouns: int = 512
    asked: int = 128


class Losses(NamedTuple):
    """Scalars: the weighted sum, and each term unweighted."""

    total: Tensor
    pixels: Tensor
    dice: Tensor
    presence: Tensor
    boxes: Tensor
    quality: Tensor
    names: Tensor
    maps: Tensor
    many: Tensor


def detector_loss(answers: Answers, batch: Batch, config: LossConfig, over_nouns: NameLosses | None = None) -> Losses:
    """Compare what a batch's phrases found with the truth; ``over_nouns`` come from ``name_losses``."""
    pixels, dice = map_losses(answers.maps, batch.target.float() / 255.0, batch.weight, config.hard)
    known = batch.presence >= 0
    presence = functional.binary_cross_entropy_with_logits(
        answers.presence[known], batch.presence[known].float(), reduction="sum"
    ) / known.sum().clamp_min(1)
    boxes, quality = _box_losses(answers, batch)
    total = (
        config.pixels * pixels
        + config.dice * dice
        + config.presence * presence
        + config.boxes * boxes
        + config.quality * quality
    )
    names, maps, many = over_nouns or NameLosses(*[total.new_zeros(())] * 3)
    total = total + config.names * names + config.maps * maps + config.many * many
    parts = (pixels, dice, presence, boxes, quality, names, maps, many)
    return Losses(total, *(part.detach() for part in parts))


def _box_losses(answers: Answers, batch: Batch) -> tuple[Tensor, Tensor]:
    """GIoU at the places that present things own, larger things counting with their root, and the quality's entropy.

    Phrases without an answered box (they come after those that are present) own nothing.
    """
    owners = batch.owner[:, : answers.boxes_xyxy.shape[1]]
    picture, phrase, y, x = torch.nonzero(owners >= 0, as_tuple=True)
    if len(picture) == 0:
        zero = answers.boxes_xyxy.sum() * 0.0
        return zero, zero
    owner = owners[picture, phrase, y, x].long()
    truth = batch.boxes_xyxy[picture, owner]  # (M, 4)
    found = answers.boxes_xyxy[picture, phrase, :, y, x]  # (M, 4)
    iou, giou = _overlaps(found, truth)
    things = (picture * owners.shape[1] + phrase) * batch.boxes_xyxy.shape[1] + owner
    _, which, counts = torch.unique(things, return_inverse=True, return_counts=True)
    share = counts[which].float().rsqrt()
    share = share / share.sum()
    quality = functional.binary_cross_entropy_with_logits(
        answers.quality[picture, phrase, y, x], iou.detach().clamp(0, 1), reduction="none"
    )
    return ((1.0 - giou) * share).sum(), (quality * share).sum()


def _overlaps(found_xyxy: Tensor, truth_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of M pairs of boxes, each (M,)."""
    low, high = torch.maximum(found_xyxy[:, :2], truth_xyxy[:, :2]), torch.minimum(found_xyxy[:, 2:], truth_xyxy[:, 2:])
    both = (high - low).clamp_min(0).prod(-1)
    union = (found_xyxy[:, 2:] - found_xyxy[:, :2]).prod(-1) + (truth_xyxy[:, 2:] - truth_xyxy[:, :2]).prod(-1) - both
    iou = both / union.clamp_min(1e-6)
    outer_low = torch.minimum(found_xyxy[:, :2], truth_xyxy[:, :2])
    outer_high = torch.maximum(found_xyxy[:, 2:], truth_xyxy[:, 2:])
    hull = (outer_high - outer_low).prod(-1).clamp_min(1e-6)
    return iou, iou - (hull - union) / hull
