"""Pictures seen otherwise: what is turned stays in its place, and only what may changes."""

from __future__ import annotations

import numpy as np
import pytest

from textseg.train.augment import light, tint, turn
from textseg.train.sam_prompts import tight_box
from textseg.types import UInt8

FILL = (10, 20, 30)


def picture() -> tuple[UInt8, UInt8]:
    """A white bar, 40 × 10 pixels, on black, and its mask."""
    rgb = np.zeros((60, 90, 3), np.uint8)
    rgb[20:30, 30:70] = 255
    return rgb, rgb[..., 0].copy()


@pytest.mark.parametrize("seed", range(8))
def test_a_picture_and_its_mask_turn_alike(seed: int) -> None:
    rgb, mask = picture()
    turned, shape = turn(rgb, mask, np.random.default_rng(seed), degrees=30, squeeze=1.5, fill_rgb=FILL)
    assert turned.shape[:2] == shape.shape
    assert set(np.unique(shape)) == {0, 255}
    white = turned.min(axis=2) > 127
    assert (white == (shape > 0)).mean() > 0.999
    assert 1 / 1.6 < white.sum() / 400 < 1.6  # all of it is in the frame
    assert (turned == FILL).all(axis=2).any()


def test_nothing_turned_nothing_squeezed_is_the_picture() -> None:
    rgb, mask = picture()
    turned, shape = turn(rgb, mask, np.random.default_rng(0), degrees=0, squeeze=1, fill_rgb=FILL)
    np.testing.assert_array_equal(turned, rgb)
    np.testing.assert_array_equal(shape, mask)


def test_squeezing_changes_the_shape_and_turning_the_direction() -> None:
    sides, angles = set(), set()
    for seed in range(6):
        squeezed = tight_box(turn(*picture(), np.random.default_rng(seed), degrees=0, squeeze=2, fill_rgb=FILL)[1])
        turned = tight_box(turn(*picture(), np.random.default_rng(seed), degrees=20, squeeze=1, fill_rgb=FILL)[1])
        assert squeezed is not None
        assert turned is not None
        assert squeezed[3] - squeezed[1] == pytest.approx(10, abs=1)
        sides.add(int(squeezed[2] - squeezed[0]))
        angles.add(int(turned[3] - turned[1]))
    assert min(sides) < 35 < 45 < max(sides)
    assert max(angles) > 14


def test_a_tint_keeps_how_bright_things_are() -> None:
    rgb = np.random.default_rng(0).integers(40, 200, (16, 16, 3), np.uint8)
    tinted = [tint(rgb, np.random.default_rng(seed)) for seed in range(40)]
    assert any((one != rgb).any() for one in tinted)
    assert any((one.max(axis=2) == one.min(axis=2)).all() for one in tinted)  # gray now and then
    for one in tinted:
        assert np.abs(one.max(axis=2).astype(int) - rgb.max(axis=2)).max() <= 2  # value, as HSV has it


def test_light_keeps_gray_gray() -> None:
    gray = np.repeat(np.random.default_rng(1).integers(0, 256, (16, 16, 1), np.uint8), 3, axis=2)
    for seed in range(10):
        lit = light(gray, np.random.default_rng(seed))
        assert lit.shape == gray.shape
        assert (lit.max(axis=2) - lit.min(axis=2) <= 1).all()
