"""The rough mask that a box alone implies."""

from __future__ import annotations

import numpy as np
import pytest

from textseg import closeup
from textseg.prior import box_prior, box_rough


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


@pytest.mark.parametrize("box", [(20, 40, 60, 60), (3000, 2000, 3012, 2030), (-3, 0, 5, 4)])
def test_a_box_has_an_ellipse_as_fine_as_itself(box: tuple[float, ...]) -> None:
    rough = box_rough(np.array(box, np.float32))
    side = max(box[2] - box[0], box[3] - box[1])
    np.testing.assert_allclose(closeup.extent(rough), box, atol=0.06 * side)  # the ellipse's tips are thin
    window = closeup.windows_around(np.array([box], np.float32), 1.5, 1.0)[0]
    inside = closeup.box_in(window, np.array(box, np.float32), 48)
    want = box_prior(inside[None], (48, 48), (48, 48))[0]
    assert np.abs(closeup.look(rough, window, 48) - want).max() < 0.5


def test_no_boxes_and_tiny_boxes() -> None:
    assert box_prior(np.zeros((0, 4), np.float32), (10, 10), (8, 8)).shape == (0, 8, 8)
    assert np.isfinite(box_prior(np.array([[3, 3, 3, 3]], np.float32), (10, 10), (8, 8))).all()
