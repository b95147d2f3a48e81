"""What ships, asked on a real picture: how large the picture around a thing is makes no difference to its mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import textseg
from textseg import geometry, image
from textseg.pipeline import Pipeline
from textseg.types import UInt8

STREET = Path(__file__).resolve().parents[1] / "examples" / "street.jpg"
CAR = np.array([60, 230, 370, 440], np.float32)  # the red one


@pytest.fixture(scope="module")
def nano() -> Pipeline:
    return textseg.load("nano")


@pytest.fixture(scope="module")
def small() -> UInt8:
    """The street, an eighth as large: its red car is 39 by 26 pixels."""
    rgb = image.read(STREET).rgb
    return np.asarray(cv2.resize(rgb, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA), np.uint8)


def test_a_box_is_answered_alike_on_a_small_and_on_a_large_picture(nano: Pipeline, small: UInt8) -> None:
    height, width = small.shape[:2]
    large = np.tile(small, (15, 15, 1))
    alone = nano.open(small).segment(box=CAR / 8)
    among = nano.open(large).segment(box=CAR / 8 + 7 * np.array([width, height] * 2))
    assert len(alone) == len(among) == 1
    part = among.masks[:, 7 * height : 8 * height, 7 * width : 8 * width]
    assert part.sum() == among.masks.sum() > 300
    assert geometry.mask_iou(alone.masks, part)[0, 0] > 0.9


def test_boxes_that_overlap_are_answered_each_in_their_order(nano: Pipeline) -> None:
    window = np.array([150, 240, 280, 300], np.float32)
    for boxes in ([window, CAR], [CAR, window, CAR]):
        result = nano.open(STREET).segment(box=boxes)
        overlap = geometry.box_iou(result.boxes_xyxy, np.stack(boxes))
        assert result.accepted.proposal_index.tolist() == list(range(len(boxes)))
        assert (np.diag(overlap) > 0.6).all()
