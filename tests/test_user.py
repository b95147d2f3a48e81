"""What the caller points at, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from textseg.errors import PromptError
from textseg.user import MASK_LOGIT, UserPrompt

SIZE = (40, 60)


def make(**given: Any) -> UserPrompt | None:
    return UserPrompt.make(SIZE, **{"box": None, "points": None, "labels": None, "mask": None, **given})


def test_nothing_given_is_none() -> None:
    assert make() is None


def test_one_click() -> None:
    prompt = make(points=(30, 20))
    assert prompt is not None
    assert prompt.points_xy.tolist() == [[[30, 20]]]
    assert prompt.point_labels.tolist() == [[1]]
    assert np.isnan(prompt.boxes_xyxy).all()
    assert prompt.extents_xyxy.tolist() == [[0, 0, 60, 40]]
    assert not prompt.clear


def test_points_of_one_object_with_labels() -> None:
    prompt = make(points=[(1, 2), (3, 4)], labels=[1, 0])
    assert prompt is not None
    assert prompt.points_xy.shape == (1, 2, 2)
    assert prompt.point_labels.tolist() == [[1, 0]]
    assert prompt.clear


def test_points_of_two_objects() -> None:
    prompt = make(points=[[(1, 2)], [(3, 4)]])
    assert prompt is not None
    assert prompt.points_xy.shape == (2, 1, 2)


def test_a_box_and_a_mask_describe_one_object() -> None:
    prompt = make(box=(1, 2, 30, 40), mask=np.eye(8, dtype=bool))
    assert prompt is not None
    assert prompt.boxes_xyxy.tolist() == [[1, 2, 30, 40]]
    assert prompt.mask_logits is not None
    assert prompt.mask_logits[0, 0, 0] == MASK_LOGIT
    assert prompt.mask_logits[0, 0, 1] == -MASK_LOGIT
    assert prompt.clear


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": [1]}, "labels came without points"),
        ({"box": (1, 2, 30, 40), "labels": [1]}, "labels came without points"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "expected"),
        ({"points": [(1, 2, 3)]}, "expected"),
        ({"points": [(100, 2)]}, "outside the picture"),
        ({"points": [(float("nan"), 2)]}, "NaN"),
        ({"points": [(1, 2)], "labels": [7]}, "expected 1"),
        ({"points": np.zeros((0, 2))}, "expected"),
        ({"box": (30, 2, 1, 40)}, "inverted"),
        ({"box": np.zeros((0, 4))}, "at least one"),
        ({"box": [(1, 2, 3), (1, 2, 3, 4)]}, "box"),
        ({"points": [(1, 2), (1, 2, 3)]}, "point"),
        ({"box": [(1, 2, 30, 40)] * 2, "points": [(1, 2)]}, "same number of objects"),
        ({"mask": np.zeros((2, 3, 4, 5), bool)}, "mask: got shape"),
        ({"mask": np.zeros((3, 4), int)}, "expected bool"),
        ({"mask": np.full((3, 4), np.nan)}, "finite float logits"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        make(**given)
