"""Edges that move to the picture's colours."""

from __future__ import annotations

import numpy as np
import pytest

from textseg import image, refine
from textseg.refine import RefineOptions, boundary_iou
from textseg.snap import snap


def disc() -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (80, 100, 3), a noisy orange disc on grey, and its mask."""
    y, x = np.mgrid[:80, :100]
    true = (x - 50) ** 2 + (y - 40) ** 2 < 25**2
    rgb = np.where(true[..., None], [220, 130, 30], [90, 100, 110]) + np.random.default_rng(0).normal(
        0, 8, (80, 100, 3)
    )
    return rgb.clip(0, 255).astype(np.uint8), true


def square() -> np.ndarray:
    """Return bool (80, 100): a rough mask of the disc."""
    mask = np.zeros((80, 100), np.bool_)
    mask[18:62, 29:72] = True
    return mask


def test_a_rough_edge_finds_the_true_one() -> None:
    rgb, true = disc()
    new = snap(rgb, square(), 10)
    assert boundary_iou(new, true, 0.01) > 0.9 > boundary_iou(square(), true, 0.01)
    assert (snap(rgb, square(), 10) == new).all()


def test_far_from_the_edge_nothing_changes() -> None:
    rgb, _ = disc()
    new = snap(rgb, square(), 2)
    moved = new != square()
    assert not moved[20:60, 31:70].any() and not moved[:16].any()


@pytest.mark.parametrize("band", [0, 50])
def test_without_a_certain_side_the_mask_stays(band: int) -> None:
    rgb, _ = disc()
    assert (snap(rgb, square(), band) == square()).all()
    full = np.ones((80, 100), np.bool_)
    assert snap(rgb, full, 5).all()
    assert not snap(rgb, ~full, 5).any()


def test_refine_snaps_without_a_segmenter() -> None:
    rgb, true = disc()
    nothing = object()
    done = refine.refine(nothing, image.read(rgb), square()[None], RefineOptions(rounds=0, snap=10))  # type: ignore[arg-type]
    assert done.changed.all() and done.encodings == 0
    assert boundary_iou(done.masks[0], true, 0.01) > 0.9
    kept = refine.refine(nothing, image.read(rgb), square()[None], RefineOptions(rounds=0, snap=10, agree_iou=1.0))  # type: ignore[arg-type]
    assert not kept.changed.any()
