"""Zoom-in refinement: finer masks where there is room, the old ones where there is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.fakes import FakeSegmenter, fake_pipeline, scene
from textseg import geometry, image, refine
from textseg.closeup import Rough, extent
from textseg.errors import ConfigError, ShapeError
from textseg.everything import EverythingOptions, everything
from textseg.refine import RefineOptions
from textseg.types import Closeups

BOX = (300, 200, 341, 237)


def coarse_and_true() -> tuple[image.Image, np.ndarray, np.ndarray]:
    """Return a 480 × 640 picture of a red box, the fake segmenter's mask of it and the true one."""
    rgb = scene((480, 640), {"red": BOX})
    true = np.zeros((480, 640), np.bool_)
    true[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    found = fake_pipeline()(rgb, "the red box")
    return image.read(rgb), found.masks[:1], true


def test_edges_become_crisper() -> None:
    picture, coarse, true = coarse_and_true()
    seen: list[tuple[int, int]] = []
    refined = refine.refine(FakeSegmenter(), picture, coarse, progress=lambda *done: seen.append(done))
    before, after = (float(geometry.mask_iou(m, true[None])[0, 0]) for m in (coarse, refined.masks))
    assert after > before and after > 0.93
    assert refine.boundary_iou(refined.masks[0], true, 0.003) > refine.boundary_iou(coarse[0], true, 0.003)
    assert refined.changed.all() and refined.zoom[0] > 5 and refined.encodings == 1
    assert refine.cost(picture, coarse) == 1
    assert seen == [(1, 1)]


def test_what_fills_the_picture_costs_nothing() -> None:
    segmenter = FakeSegmenter()
    picture = image.read(scene((96, 128), {"red": (4, 4, 120, 90)}))
    masks = np.ones((1, 96, 128), np.bool_)
    refined = refine.refine(segmenter, picture, masks)
    assert not refined.changed.any() and segmenter.encoded == 0 and refined.encodings == 0
    assert (refined.masks == masks).all()


def test_another_object_never_replaces_the_mask() -> None:
    picture, _, true = coarse_and_true()
    wrong = np.zeros_like(true)
    wrong[BOX[1] : BOX[3], BOX[2] : BOX[2] + 30] = True  # beside the red box
    wrong[210:220, BOX[2] - 4 : BOX[2]] = True
    refined = refine.refine(FakeSegmenter(), picture, wrong[None])
    assert not refined.changed.any()
    assert (refined.masks[0] == wrong).all()


def test_small_regions_are_removed_by_rule() -> None:
    picture, coarse, _ = coarse_and_true()
    dotted = coarse.copy()
    dotted[0, 10, 10] = True
    refined = refine.refine(FakeSegmenter(), picture, dotted, RefineOptions(min_region_area=20, min_zoom=100, snap=0))
    assert not refined.masks[0, 10, 10] and refined.changed[0]
    assert (refined.masks[0, 100:] == coarse[0, 100:]).all()


def test_results_and_everything() -> None:
    pipeline = fake_pipeline()
    result = pipeline(scene((480, 640), {"red": BOX}), ["the red box", "a dog"])
    better = refine.refine_segments(pipeline.segmenter, result.image, result.accepted)
    assert better.labels == result.labels
    assert (geometry.mask_boxes(better.masks) == better.boxes_xyxy).all()
    found = everything(pipeline, scene((480, 640), {"red": BOX}), EverythingOptions(points_per_side=16))
    finer = refine.refine_everything(pipeline, found)
    assert len(finer) == len(found)
    assert (finer.masks.sum(axis=(1, 2)) == finer.areas).all()
    assert (geometry.mask_boxes(finer.masks) == finer.boxes_xyxy).all()


def test_nothing_to_refine() -> None:
    picture, coarse, _ = coarse_and_true()
    none = refine.refine(FakeSegmenter(), picture, coarse[:0])
    assert none.masks.shape == (0, 480, 640) and none.encodings == 0
    empty = refine.refine(FakeSegmenter(), picture, np.zeros_like(coarse))
    assert not empty.masks.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (40, 3), (500, 500)])
def test_crops_lie_in_the_picture(size: tuple[int, int]) -> None:
    h, w = size
    for box in ([0, 0, 1, 1], [w - 1, h - 1, w, h], [0, 0, w, h]):
        x0, y0, x1, y1 = refine.crop_box(np.array(box, np.float32), size, RefineOptions())
        assert 0 <= x0 < x1 <= w and 0 <= y0 < y1 <= h
        assert x0 <= box[0] and y0 <= box[1] and x1 >= box[2] and y1 >= box[3]


def test_boundary_iou() -> None:
    a = np.zeros((100, 100), np.bool_)
    a[20:60, 20:60] = True
    assert refine.boundary_iou(a, a) == 1.0
    moved = np.roll(a, 2, axis=0)
    assert refine.boundary_iou(a, moved) < float(geometry.mask_iou(a[None], moved[None])[0, 0])
    assert refine.boundary_iou(a, ~a) < 0.1
    assert refine.boundary_iou(np.zeros_like(a), np.zeros_like(a)) == 1.0
    assert refine.small_objects(np.stack([a, a & False])).tolist() == []


@pytest.mark.parametrize("bad", [{"grow": 0.5}, {"min_zoom": 0.0}, {"agree_iou": -1.0}, {"rounds": -1}, {"snap": -1}])
def test_bad_input(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        RefineOptions(**bad)  # type: ignore[arg-type]
    picture, coarse, _ = coarse_and_true()
    with pytest.raises(ShapeError, match=r"expected \(K, 480, 640\)"):
        refine.refine(FakeSegmenter(), picture, coarse[:, :5])


class Exact:
    """A mask refiner that knows where the red box is."""

    model_id = "exact"

    def refine(self, picture: image.Image, roughs: Sequence[Rough], boxes_xyxy: np.ndarray) -> Closeups:
        self.asked = roughs
        window = np.array([[280, 180, 80]], np.float32)
        near = np.full((1, 80, 80), -6, np.float32)
        near[0, BOX[1] - 180 : BOX[3] - 180, BOX[0] - 280 : BOX[2] - 280] = 6
        return Closeups(window, near, np.ones(1, np.float32))


def test_a_mask_refiner_draws_in_the_segmenters_place() -> None:
    picture, coarse, true = coarse_and_true()
    exact = Exact()
    refined = refine.refine(exact, picture, coarse, RefineOptions(snap=0))
    want = geometry.mask_boxes(coarse)[0]
    np.testing.assert_allclose(extent(exact.asked[0]), want, atol=1)  # as fine as the mask, not as the picture
    assert (refined.masks[0] == true).all()
    assert refined.changed.all() and refined.zoom[0] == pytest.approx(8)
    elsewhere = np.zeros_like(true)
    elsewhere[:50, :50] = True
    assert not refine.refine(Exact(), picture, elsewhere[None], RefineOptions(snap=0)).changed.any()


def test_everything_is_refined_by_the_pipelines_own_refiner() -> None:
    pipeline = fake_pipeline(refiner=Exact())
    found = everything(pipeline, scene((480, 640), {"red": BOX}), EverythingOptions(points_per_side=16))
    refined = refine.refine_everything(pipeline, found, RefineOptions(snap=0, agree_iou=0.0))
    assert set(refined.areas.tolist()) == {(BOX[2] - BOX[0]) * (BOX[3] - BOX[1])}
