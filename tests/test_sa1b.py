"""SA-1B's files: written, read back, and refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from tests.fakes import fake_pipeline, scene
from textseg import geometry, sa1b
from textseg.errors import DataError
from textseg.everything import Everything, EverythingOptions, everything


def found(**options: Any) -> Everything:
    return everything(fake_pipeline(), scene(), EverythingOptions(points_per_side=4, **options), vocabulary="a red box")


def test_a_file_comes_back_the_same(tmp_path: Path) -> None:
    masks = found()
    path = sa1b.write(sa1b.from_everything(masks, 7, "sa_7.jpg", first_id=100), tmp_path / "new" / "sa_7.json")
    back = sa1b.read(path)
    assert (back.image_id, back.size_hw, back.file_name, len(back)) == (7, (96, 128), "sa_7.jpg", len(masks))
    assert (back.masks == masks.masks).all()
    assert (back.boxes_xyxy == masks.boxes_xyxy).all()
    assert [one["id"] for one in back.annotations] == list(range(100, 100 + len(masks)))
    assert [one["area"] for one in back.annotations] == masks.areas.tolist()
    assert all("label" in one for one in back.annotations)
    assert [path.name for path in path.parent.iterdir()] == ["sa_7.json"]


def test_pycocotools_reads_the_masks(tmp_path: Path) -> None:
    masks = found()
    path = sa1b.write(sa1b.from_everything(masks, 1, "a.jpg"), tmp_path / "a.json")
    for one, mask in zip(json.loads(path.read_text())["annotations"], masks.masks, strict=True):
        assert coco.area(one["segmentation"]) == one["area"] == mask.sum()
        assert coco.toBbox(one["segmentation"]).tolist() == one["bbox"]


def test_no_masks(tmp_path: Path) -> None:
    path = sa1b.write(sa1b.from_everything(found(pred_iou_thresh=1.0), 1, "a.jpg"), tmp_path / "a.json")
    back = sa1b.read(path)
    assert len(back) == 0
    assert back.masks.shape == (0, 96, 128)
    assert back.boxes_xyxy.shape == (0, 4)


def good() -> dict[str, Any]:
    rle = geometry.encode_rle(np.ones((2, 3), np.bool_))
    one = {"id": 1, "segmentation": rle, "bbox": [0, 0, 3, 2], "area": 6, "predicted_iou": 1.0}
    one |= {"stability_score": 1.0, "crop_box": [0, 0, 3, 2], "point_coords": [[1, 1]]}
    return {"image": {"image_id": 1, "width": 3, "height": 2, "file_name": "a.jpg"}, "annotations": [one]}


def test_what_is_good_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(good()))
    assert sa1b.read(path).mask(0).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v.pop("image"), "image"),
        (lambda v: v["annotations"][0].pop("area"), "annotation 0 has no 'area'"),
        (lambda v: v["image"].update(width=4), r"its mask is \(2, 3\), the picture \(2, 4\)"),
        (lambda v: v["annotations"][0].update(bbox=[0, 0, 1]), "expected x, y, width, height"),
        (lambda v: v["annotations"][0]["segmentation"].update(counts=[1, 2]), "pixels, its area says 6: damaged"),
        (lambda v: v.update(annotations=3), "not a file of SA-1B"),
    ],
)
def test_damaged_files(spoil: Any, message: str, tmp_path: Path) -> None:
    values = good()
    spoil(values)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        sa1b.read(path)


def test_no_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        sa1b.read(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        sa1b.read(tmp_path / "a.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another folder"):
        sa1b.write(sa1b.from_everything(found(), 1, "a.jpg"), tmp_path / "file" / "a.json")
