"""What CLIP is shown, from masks of different fineness."""

from __future__ import annotations

import numpy as np
import pytest

from textseg.crops import MEAN_RGB, masked_crops
from textseg.types import UInt8


def picture(height: int, width: int) -> UInt8:
    """A picture whose pixels tell where they are: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 200 // width, y * 200 // height, np.full((height, width), 250)], axis=2).astype(np.uint8)


def test_a_crop_is_square_around_the_mask_and_blank_outside() -> None:
    rgb = picture(60, 90)
    mask = np.zeros((60, 90), bool)
    mask[20:40, 10:20] = True
    (crop,) = masked_crops((rgb,), mask[None], grow=1.0, fill=(7, 8, 9))
    assert crop.shape == (20, 20, 3)
    np.testing.assert_array_equal(crop[:, 5:15], rgb[20:40, 10:20])
    assert (crop[:, :5] == (7, 8, 9)).all() and (crop[:, 15:] == (7, 8, 9)).all()


def test_an_empty_mask_gives_a_blank_crop() -> None:
    (crop,) = masked_crops((picture(20, 20),), np.zeros((1, 5, 5), bool), grow=1.2)
    assert (crop == MEAN_RGB).all()


@pytest.mark.parametrize("size", [224, 16])
def test_a_mask_of_a_part_gives_the_crop_of_the_whole_mask(size: int) -> None:
    """At 16 the picture is shrunk first, and the part with it."""
    rgb = picture(120, 160)
    whole = np.zeros((120, 160), bool)
    whole[40:70, 50:90] = True
    whole[40:50, 50:60] = False
    near = whole[30:90, 40:100]  # of a window that begins at (40, 30)
    covered = np.array([[0, 0, 160, 120], [40, 30, 100, 90]], np.float32)
    one, other = masked_crops((rgb,), [whole, near], grow=1.2, size=size, covered_xyxy=covered)
    (plain,) = masked_crops((rgb,), whole[None], grow=1.2, size=size)
    np.testing.assert_array_equal(one, plain)
    unlike = (other != plain).any(axis=2)  # where the mask is finer than the crop, its edge may fall either way
    assert unlike.mean() < (0.05 if size == 16 else 1e-9)


def test_a_part_may_reach_beyond_the_picture() -> None:
    rgb = picture(40, 40)
    near = np.zeros((20, 20), bool)
    near[10:, 10:] = True  # the picture's first ten rows and columns
    (crop,) = masked_crops((rgb,), [near], grow=1.0, covered_xyxy=np.array([[-10, -10, 10, 10]], np.float32))
    np.testing.assert_array_equal(crop, rgb[:10, :10])
