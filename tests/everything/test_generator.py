"""Everything in a picture against segment-anything's own generator, and on the fakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from segment_anything import SamAutomaticMaskGenerator

from tests.fakes import BLUE_BOX, RED_BOX, FakeSegmenter, fake_pipeline, scene
from tests.models.meta_sam import blobs, pair
from textseg import geometry, image, tiles
from textseg.errors import ConfigError, ImageError, QueryError, UnsupportedError
from textseg.everything import EverythingOptions, cost, everything, generate
from textseg.tiles import TileOptions

LOOSE = {"points_per_side": 8, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.4}
KEEP = {"box_nms_thresh": 0.98, "crop_nms_thresh": 0.98}
CASES: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((75, 100), KEEP),
    ((64, 64), {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, **KEEP}),
    ((140, 90), {"min_mask_region_area": 40, "points_per_batch": 7, **KEEP}),
    ((96, 128), {"crop_n_layers": 1, **KEEP}),
    ((120, 160), {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "min_mask_region_area": 9, **KEEP}),
]
"""Random weights make masks that fill the picture: only a strict notion of duplicates leaves many to compare."""


def both(size: tuple[int, int], options: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the records of segment-anything and ours."""
    reference, ours = pair()
    picture = image.read(blobs(*size))
    theirs = SamAutomaticMaskGenerator(reference, **options).generate(picture.rgb.copy())
    return theirs, generate(ours, picture, EverythingOptions(**options)).records()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("size", "extra"), CASES)
def test_the_masks_are_those_of_segment_anything(size: tuple[int, int], extra: dict[str, Any]) -> None:
    theirs, ours = both(size, LOOSE | extra)
    theirs = [record for record in theirs if record["area"]]
    assert len(ours) == len(theirs) > 3
    for a, b in zip(ours, theirs, strict=True):
        union = (a["segmentation"] | b["segmentation"]).sum()
        assert (a["segmentation"] & b["segmentation"]).sum() / union >= 0.99
        assert a["area"] == a["segmentation"].sum()
        np.testing.assert_allclose(a["point_coords"], b["point_coords"], atol=1e-3)
        np.testing.assert_allclose(a["predicted_iou"], b["predicted_iou"], atol=1e-4)
        np.testing.assert_allclose(a["stability_score"], b["stability_score"], atol=1e-2)
        assert a["crop_box"] == b["crop_box"]
        np.testing.assert_allclose(a["bbox"], np.add(b["bbox"], [0, 0, 1, 1]), atol=2)  # theirs ends at the last pixel


def test_every_colour_is_found() -> None:
    found = everything(fake_pipeline(), scene(), EverythingOptions(points_per_side=8))
    boxes = {tuple(int(v) for v in box) for box in found.boxes_xyxy}
    near = geometry.box_iou(np.array([RED_BOX, BLUE_BOX], np.float32), np.array(sorted(boxes), np.float32))
    assert (near.max(axis=1) > 0.8).all()
    assert found.prompts == 64
    assert found.masks.shape == (len(found), 96, 128)
    assert (found.masks.sum(axis=(1, 2)) == found.areas).all()
    assert (geometry.mask_boxes(found.masks) == found.boxes_xyxy).all()


def test_names_are_exactly_the_callers() -> None:
    words = ["The Red box", "the blue box"]
    found = everything(fake_pipeline(), scene(), EverythingOptions(points_per_side=8), vocabulary=words)
    assert found.labels is not None and found.label_scores is not None
    assert set(found.labels) - {None} == set(words)
    for label, box in (("The Red box", RED_BOX), ("the blue box", BLUE_BOX)):
        chosen = found.boxes_xyxy[np.array([name == label for name in found.labels])]
        assert geometry.box_iou(np.array([box], np.float32), chosen).max() > 0.8
    assert ((found.label_scores >= 0) & (found.label_scores <= 1)).all()
    assert found.records("coco_rle")[0]["label"] in [*words, None]


def test_an_empty_answer_is_a_value() -> None:
    found = everything(
        fake_pipeline(), scene(), EverythingOptions(points_per_side=2, pred_iou_thresh=1.0), vocabulary="the red box"
    )
    assert len(found) == 0
    assert found.masks.shape == (0, 96, 128)
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.records() == []
    assert found.labels == ()
    assert (found.index_map() == -1).all()
    assert (found.overlay() == scene()).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    found = everything(fake_pipeline(), np.full((*size, 3), 200, np.uint8), EverythingOptions(2, crop_n_layers=1))
    assert found.masks.shape[1:] == size


def test_a_picture_of_twenty_thousand_pixels() -> None:
    wide = np.full((40, 20_000, 3), 200, np.uint8)
    wide[10:30, 9_000:12_000] = (255, 0, 0)
    _, ours = pair()
    loose = EverythingOptions(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    found = generate(ours, image.read(wide), loose)
    assert len(found) > 0 and found.mask(0).shape == (40, 20_000)
    with pytest.raises(ConfigError, match=r"20000 × 40 pixels in tiles of 32 are .* tiles, more than max_tiles"):
        tiles.everything(fake_pipeline(), wide, TileOptions(side=32, overlap=8))


def test_records_in_every_form() -> None:
    found = everything(fake_pipeline(), scene(), EverythingOptions(points_per_side=4))
    masks, rles, runs = (found.records(mode) for mode in ("binary_mask", "coco_rle", "uncompressed_rle"))
    for a, b, c in zip(masks, rles, runs, strict=True):
        assert (geometry.decode_rle(b["segmentation"]) == a["segmentation"]).all()
        assert (geometry.decode_rle(c["segmentation"]) == a["segmentation"]).all()
        x, y, w, h = a["bbox"]
        assert a["segmentation"][int(y) : int(y + h), int(x) : int(x + w)].sum() == a["area"]
    with pytest.raises(ConfigError, match="did you mean 'coco_rle'"):
        found.records("coco")


def test_smaller_masks_lie_on_top() -> None:
    found = everything(fake_pipeline(), scene(), EverythingOptions(points_per_side=8))
    which = found.index_map()
    smallest = int(found.areas.argmin())
    assert (which[found.mask(smallest)] == smallest).all()
    assert len(found[found.areas > 10**6]) == 0


def test_progress_ends_at_the_whole() -> None:
    seen: list[tuple[int, int]] = []
    options = EverythingOptions(points_per_side=4, points_per_batch=5, crop_n_layers=1)
    everything(fake_pipeline(), scene(), options, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (80, 80)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert cost(options).prompts == 80


def test_the_embedding_of_the_picture_is_shared() -> None:
    pipeline = fake_pipeline()
    everything(pipeline, scene(), EverythingOptions(points_per_side=2))
    everything(pipeline, scene(), EverythingOptions(points_per_side=3))
    assert isinstance(pipeline.segmenter, FakeSegmenter) and pipeline.segmenter.encoded == 1


def test_bad_input() -> None:
    pipeline = fake_pipeline()
    with pytest.raises(ImageError):
        everything(pipeline, "nowhere.jpg")
    with pytest.raises(QueryError):
        everything(pipeline, scene(), vocabulary=[])
    with pytest.raises(UnsupportedError, match="needs a CLIP"):
        everything(fake_pipeline(clip=None, text_prompt=None), scene(), vocabulary="a dog")
    with pytest.raises(ConfigError, match=r"21,504 prompts on 21 crops, more than max_prompts = 100"):
        everything(pipeline, scene(), EverythingOptions(crop_n_layers=2, max_prompts=100))
