"""How well maps cover what they should: balanced cross-entropy and dice."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

_LEAST_AREA = 0.25
_MOST_GAIN = 12.0


class MapLosses(NamedTuple):
    """Scalars: the cross-entropy, and 1 - dice of the maps of what is present."""

    pixels: Tensor
    dice: Tensor


def map_losses(logits: Tensor, target: Tensor, weight: Tensor, hard: float = 0.03) -> MapLosses:
    """Compare maps with the truth; present and absent things count the same, whatever their numbers.

    Args:
        logits: (B, T, h, w).
        target: (B, T, h, w), share of the place that is covered, 0..1.
        weight: (B, T, h, w), 0 where the truth is not known.
        hard: share of an absent thing's places that count a second time because they score highest.
    """
    logits, target, weight = (x.float().flatten(2) for x in (logits, target, weight))  # (B, T, hw)
    inside = target * weight
    area, known = inside.sum(-1), weight.sum(-1)
    present = area > 0.5
    absent = (known > 0) & ~present
    cross = functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
    # the inside counts as if it filled at least a quarter of the known ground
    gain = (_LEAST_AREA * known.clamp_min(1.0) / area.clamp_min(1.0)).clamp(1.0, _MOST_GAIN)[..., None]
    balanced = (cross * (1.0 + (gain - 1.0) * target)).sum(-1) / known.clamp_min(1.0)
    top = max(1, int(hard * logits.shape[-1]))
    worst = (cross * (1.0 - target))[absent].topk(top, dim=-1).values.mean(-1)
    there, gone = present.sum().clamp_min(1), absent.sum().clamp_min(1)
    pixels = 0.5 * (balanced[present].sum() / there + (balanced[absent] + 0.5 * worst).sum() / gone)
    chance = logits.sigmoid()
    overlap = (chance * inside).sum(-1)
    dice = 1.0 - (2.0 * overlap + 1.0) / ((chance * weight).sum(-1) + area + 1.0)
    return MapLosses(pixels, dice[present].sum() / there)
