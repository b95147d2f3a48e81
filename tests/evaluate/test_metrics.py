"""Metrics against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textseg.errors import ShapeError
from textseg.evaluate import metrics

A = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
B = np.array([[0, 1, 1, 0], [0, 1, 1, 0]], bool)
NOTHING = np.zeros((2, 4), bool)


def test_mask_iou() -> None:
    assert metrics.mask_iou(A, B) == pytest.approx(2 / 6)
    assert metrics.mask_iou(A, A) == 1.0
    assert metrics.mask_iou(A, NOTHING) == 0.0
    assert metrics.mask_iou(NOTHING, NOTHING) == 1.0


def test_mask_iou_ignores_pixels_outside_the_truth_only() -> None:
    ignore = np.zeros((2, 4), bool)
    ignore[:, 2] = True
    assert metrics.mask_iou(B, A, ignore) == pytest.approx(2 / 4)
    assert metrics.mask_iou(B, A, np.ones((2, 4), bool)) == pytest.approx(2 / 4)  # missed truth still counts


def test_mask_iou_wants_equal_sizes() -> None:
    with pytest.raises(ShapeError, match="same size"):
        metrics.mask_iou(A, A[:1])
    with pytest.raises(ShapeError):
        metrics.mask_iou(A, A, NOTHING[:1])


def test_mean() -> None:
    assert metrics.mean([0.0, 0.5, 1.0]) == 0.5
    assert math.isnan(metrics.mean([]))


@pytest.mark.parametrize(
    ("meant", "other", "right"),
    [
        ([0.4], [0.3, 0.1], True),
        ([0.1, 0.6], [0.5], True),
        ([0.2], [0.3], False),
        ([0.3], [0.3], False),
        ([0.0], [], False),
        ([], [], False),
        ([0.01], [], True),
    ],
)
def test_overlaps_most(meant: list[float], other: list[float], right: bool) -> None:
    assert metrics.overlaps_most(np.array(meant, np.float32), np.array(other, np.float32)) is right


@pytest.mark.parametrize(
    ("present", "absent", "value"),
    [
        ([0.9, 0.8], [0.1, 0.2], 1.0),
        ([0.1], [0.9], 0.0),
        ([0.5, 0.5], [0.5], 0.5),
        ([0.9, 0.3], [0.5, 0.1], 0.75),
        ([1.0, 0.5], [0.5, 0.0], 0.875),
    ],
)
def test_auroc(present: list[float], absent: list[float], value: float) -> None:
    assert metrics.auroc(present, absent) == pytest.approx(value)


def test_auroc_of_nothing() -> None:
    assert math.isnan(metrics.auroc([], [0.1]))
    assert math.isnan(metrics.auroc([0.1], []))


def test_box_recall() -> None:
    truth = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    found = np.array([[0, 0, 10, 6], [20, 20, 24, 24]], np.float32)
    assert metrics.box_hits(found, truth).tolist() == [True, False]
    assert metrics.box_recall(found, truth) == 0.5
    assert metrics.box_recall(found[:0], truth) == 0.0
    assert math.isnan(metrics.box_recall(found, truth[:0]))


def test_ellipse_fills_its_box() -> None:
    mask = metrics.ellipse_mask(np.array([1, 0, 5, 4], np.float32), (4, 6))
    expected = np.array([[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0]], bool)
    assert (mask == expected).all()


def test_calibration_error() -> None:
    scores = np.array([0.95, 0.95, 0.15, 0.15], np.float32)
    labels = np.array([1, 1, 0, 0], np.float32)
    assert metrics.calibration_error(scores, labels) == pytest.approx(0.1, abs=1e-6)
    assert metrics.calibration_error(np.array([1.0], np.float32), np.array([0.0], np.float32)) == 1.0
    assert math.isnan(metrics.calibration_error(scores[:0], labels[:0]))
