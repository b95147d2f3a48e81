"""Edges and object proposals."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fakes import BLUE_BOX, RED_BOX, fake_pipeline, scene
from tests.models.meta_sam import blobs, pair
from textseg import edges, geometry, image
from textseg.edges import EdgeOptions
from textseg.errors import ConfigError, ShapeError
from textseg.everything import EverythingOptions
from textseg.object_proposals import average_recall, mask_ious, propose_objects


def test_edges_lie_on_the_outlines() -> None:
    seen: list[tuple[int, int]] = []
    found = edges.edges(fake_pipeline(), scene(), EdgeOptions(points_per_side=8), lambda *done: seen.append(done))
    assert found.shape == (96, 128) and found.dtype == np.float32
    assert found.max() == 1.0 and found.min() == 0.0
    near = np.zeros((96, 128), np.bool_)
    for x0, y0, x1, y1 in (RED_BOX, BLUE_BOX):
        near[y0 - 5 : y1 + 5, x0 - 5 : x1 + 5] = True
        near[y0 + 5 : y1 - 5, x0 + 5 : x1 - 5] = False
    strong = found > 0.3
    assert strong[near].sum() > 100
    assert strong[~near].sum() < 0.1 * strong[near].sum()
    for x0, y0, x1, y1 in (RED_BOX, BLUE_BOX):  # each side is seen
        middle_y, middle_x = (y0 + y1) // 2, (x0 + x1) // 2
        for part in (strong[middle_y, x0 - 5 : x0 + 5], strong[y0 - 5 : y0 + 5, middle_x]):
            assert 1 <= part.sum() <= 4
    assert seen[-1] == (64, 64)


def test_thinning_leaves_the_ridge() -> None:
    x = np.arange(60, dtype=np.float32)
    ridge = np.tile(np.exp(-((x - 30) ** 2) / 8), (40, 1))
    thinned = edges.thin(ridge)
    assert (thinned[5:-5, 30] > 0.9).all()
    assert (thinned[5:-5, :28] == 0).all() and (thinned[5:-5, 33:] == 0).all()
    slanted = np.exp(-(((x[None] - x[:, None]) / np.sqrt(2)) ** 2) / 8).astype(np.float32)
    across = edges.thin(slanted)[20:40, 20:40] > 0
    assert across[np.arange(20), np.arange(20)].all() and across.sum() <= 3 * 20


def test_thick_edges_are_a_superset() -> None:
    thick = edges.edges(fake_pipeline(), scene(), EdgeOptions(points_per_side=4, thin=False))
    thin = edges.edges(fake_pipeline(), scene(), EdgeOptions(points_per_side=4))
    assert ((thin == 0) | (thin == thick)).all()
    assert (thin > 0).sum() < (thick > 0).sum()


def test_holes_give_no_edges() -> None:
    probability = np.zeros((60, 60), np.float32)
    probability[10:50, 10:50] = 1
    probability[25:35, 25:35] = 0
    strength = edges.mask_edges(probability)
    assert strength[10, 30] > 0 and (strength[20:40, 20:40] == 0).all()


@pytest.mark.parametrize("size", [(75, 100), (64, 64), (1, 30)])
def test_a_real_network_gives_edges(size: tuple[int, int]) -> None:
    picture, (_, ours) = image.read(blobs(*size)), pair()
    found = edges.edge_map(ours, picture, ours.encode(picture), EdgeOptions(points_per_side=4))
    assert found.shape == size and np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


def test_nothing_to_see() -> None:
    options = EdgeOptions(points_per_side=2, pred_iou_thresh=1.0)
    assert (edges.edges(fake_pipeline(), scene(), options) == 0).all()


def test_proposals_are_ranked() -> None:
    proposals = propose_objects(fake_pipeline(), scene(), 3, EverythingOptions(points_per_side=8, pred_iou_thresh=0.0))
    assert len(proposals) == 3
    assert (np.diff(proposals.scores) <= 0).all()
    true = np.zeros((2, 96, 128), np.bool_)
    for mask, (x0, y0, x1, y1) in zip(true, (RED_BOX, BLUE_BOX), strict=True):
        mask[y0:y1, x0:x1] = True
    iou = mask_ious(proposals, true)
    assert iou.shape == (3, 2)
    assert average_recall([iou]) > 0.7
    boxes = geometry.box_iou(proposals.boxes_xyxy, geometry.mask_boxes(true))
    assert average_recall([boxes, boxes]) == average_recall([boxes])
    with pytest.raises(ConfigError, match="at least 1"):
        propose_objects(fake_pipeline(), scene(), 0)


def test_average_recall_by_hand() -> None:
    iou = np.array([[0.92, 0.9], [0.0, 0.62], [0.0, 0.0]])
    assert average_recall([iou]) == pytest.approx((9 + 3) / 20)  # one to one: the second object gets the second box
    assert average_recall([iou], limit=1) == pytest.approx(9 / 20)
    assert average_recall([np.zeros((0, 2))]) == 0
    assert np.isnan(average_recall([np.zeros((3, 0))]))
    with pytest.raises(ShapeError):
        average_recall([np.zeros(3)])


@pytest.mark.parametrize("bad", [{"points_per_side": 0}, {"points_per_side": 1000}, {"nms_thresh": 2.0}])
def test_bad_options(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        EdgeOptions(**bad)  # type: ignore[arg-type]
