"""What SAM is trained on: dice and cross-entropy of the best mask, and the IoU it claims."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

OTHERS_SHARE = 0.1


class SamLoss(NamedTuple):
    """Parts of the loss (scalars, to be added), and the true IoU (N, 4) of each mask."""

    mask: Tensor
    iou: Tensor
    true_iou: Tensor

    @property
    def total(self) -> Tensor:
        """The scalar to minimise."""
        return self.mask + self.iou


def sam_loss(
    logits: Tensor, claimed: Tensor, targets: Tensor, valid: Tensor, far: Tensor, single_weight: float = 0.5
) -> SamLoss:
    """Loss of N prompts.

    Of the three ambiguity masks the best is trained (the others a little), and SAM's single mask
    besides. The IoU head learns the true IoU of all four, zero where nothing is there.

    Args:
        logits: float (N, 4, m, m), mask 0 the single one.
        claimed: float (N, 4) predicted IoU.
        targets: float (N, m, m) coverage in 0..1.
        valid: bool (N, m, m), False on padding and on what is ignored.
        far: float (N,), weight of the cross-entropy far from the object.
        single_weight: of the single mask's loss, where that of the best of the three has 1.
    """
    inside = valid.float()
    losses = mask_losses(logits, targets, inside, pixel_weights(targets, inside, far))  # (N, 4)
    several = losses[:, 1:]
    best = (1 - OTHERS_SHARE) * several.min(dim=1).values + OTHERS_SHARE * several.mean(dim=1)
    nothing = targets.amax(dim=(1, 2)) == 0  # then all three are to be empty, lest one of them learns to be always
    best = torch.where(nothing, several.mean(dim=1), best)
    iou = true_iou(logits.detach(), targets, valid)
    return SamLoss((best + single_weight * losses[:, 0]).mean(), F.mse_loss(claimed, iou), iou)


def mask_losses(logits: Tensor, targets: Tensor, inside: Tensor, weights: Tensor) -> Tensor:
    """Dice plus weighted cross-entropy, (N, C) for logits (N, C, m, m)."""
    want = (targets * inside)[:, None].expand_as(logits)
    crossed = F.binary_cross_entropy_with_logits(logits, want, reduction="none")
    entropy = (crossed * weights[:, None]).sum(dim=(2, 3)) / weights.sum(dim=(1, 2))[:, None].clamp_min(1.0)
    share = logits.sigmoid() * inside[:, None]
    overlap = 2 * (share * want).sum(dim=(2, 3)) + 1
    dice = 1 - overlap / (share.sum(dim=(2, 3)) + want.sum(dim=(2, 3)) + 1)
    return dice + entropy


def pixel_weights(targets: Tensor, inside: Tensor, far: Tensor) -> Tensor:
    """Weights (N, m, m): 1 near the object, 3 on its boundary, `far` elsewhere, 0 where invalid."""
    near = _near(targets)
    weights = torch.where(near, 1.0, far[:, None, None])
    one = targets[:, None]
    spread = F.max_pool2d(one, 3, 1, 1) + F.max_pool2d(-one, 3, 1, 1)  # dilated minus eroded
    return (weights + 2.0 * spread[:, 0].clamp(0, 1)) * inside


def far_weights(targets: Tensor, alone: Tensor) -> Tensor:
    """Weight (N,) of pixels far from the object: 0.15, but for prompts by phrase `alone` (bool (N,)) balanced.

    A phrase alone leaves much doubt. Weighed by area, doubt would make every mask empty; so all the
    pixels without the object weigh about as much as those with it.
    """
    share = targets.mean(dim=(1, 2))
    balanced = torch.where(share > 0, 2.0 * share / (1 - share).clamp_min(0.1), 0.3).clamp(0.02, 0.5)
    return torch.where(alone, balanced, 0.15)


def _near(targets: Tensor) -> Tensor:
    """bool (N, m, m): within the box twice the object's; everywhere where there is no object."""
    size = targets.shape[-1]
    place = torch.arange(size)
    out = []
    for axis in (2, 1):
        line = targets.amax(dim=axis) > 0.5  # (N, m): rows, then columns
        low = torch.where(line, place, size).amin(dim=1, keepdim=True)
        high = torch.where(line, place, -1).amax(dim=1, keepdim=True)
        grow = 0.5 * (high - low + 1) + 2
        out.append((place >= low - grow) & (place <= high + grow) | (high < 0))
    return out[0][:, :, None] & out[1][:, None, :]


def true_iou(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """IoU (N, C) of the masks ``logits > 0`` with the target at half coverage; 0 where both are empty."""
    got = (logits > 0) & valid[:, None]
    want = ((targets > 0.5) & valid)[:, None]
    union = (got | want).sum(dim=(2, 3))
    return (got & want).sum(dim=(2, 3)) / union.clamp_min(1)
