"""The rough mask that a box alone implies."""

from __future__ import annotations

import numpy as np

from textseg.prior import box_prior


def test_it_is_high_inside_and_low_outside() -> None:
    prior = box_prior(np.array([[20, 40, 60, 80]], np.float32), (100, 200), (50, 50))
    assert prior.shape == (1, 50, 50)
    assert prior.dtype == np.float32
    assert prior[0, 30, 10] > 3.5  # the middle, (40, 60) in the picture
    assert prior[0, 0, 0] == -4
    assert prior[0, 20, 5] < 0  # the box's corner lies outside its ellipse
    inside = np.argwhere(prior[0] > 0)
    assert inside.min(axis=0).tolist() == [20, 5]
    assert inside.max(axis=0).tolist() == [39, 14]


def test_no_boxes_and_tiny_boxes() -> None:
    assert box_prior(np.zeros((0, 4), np.float32), (10, 10), (8, 8)).shape == (0, 8, 8)
    assert np.isfinite(box_prior(np.array([[3, 3, 3, 3]], np.float32), (10, 10), (8, 8))).all()
