"""Exports read back by the tools that they are for: IoU 1.0."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import supervision as sv
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.fakes import empty_result, fake_pipeline, fake_result, scene
from textseg import export
from textseg.errors import DataError
from textseg.result import Result

PHRASES = ["the red box", "the blue box", "a dog"]


def read_coco(values: dict[str, Any], folder: Path) -> COCO:
    """Write COCO JSON and read it back with pycocotools."""
    path = folder / "coco.json"
    path.write_text(json.dumps(values))
    with redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_coco_reads_back(tmp_path: Path) -> None:
    result = fake_result(PHRASES)
    coco = read_coco(result.to_coco(image_id=7), tmp_path)
    assert {c["id"]: c["name"] for c in coco.cats.values()} == {1: "the red box", 2: "the blue box", 3: "a dog"}
    assert coco.imgs[7]["height"] == 96
    assert coco.imgs[7]["width"] == 128
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[7]))
    assert len(annotations) == len(result) == 2
    for k, annotation in enumerate(annotations):
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), result.masks[k])
        assert isinstance(annotation["segmentation"]["counts"], str)
        assert annotation["area"] == coco_mask.area(annotation["segmentation"])
        np.testing.assert_allclose(annotation["bbox"], coco_mask.toBbox(annotation["segmentation"]))
        assert coco.cats[annotation["category_id"]]["name"] == result.labels[k]
        assert annotation["score"] == pytest.approx(float(result.scores[k]))


def test_coco_evaluates_to_a_perfect_score(tmp_path: Path) -> None:
    from pycocotools.cocoeval import COCOeval

    result = fake_result(PHRASES)
    truth = read_coco(result.to_coco(), tmp_path)
    with redirect_stdout(io.StringIO()):
        found = truth.loadRes(result.to_coco()["annotations"])
        evaluation = COCOeval(truth, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_coco_of_nothing(tmp_path: Path) -> None:
    values = empty_result().to_coco()
    assert values["annotations"] == []
    assert [c["name"] for c in values["categories"]] == ["a dog"]
    assert len(read_coco(values, tmp_path).imgs) == 1


def test_coco_is_read_by_supervision(tmp_path: Path) -> None:
    result = fake_result(["the red box", "the blue box"])
    PIL.Image.fromarray(result.image.rgb).save(tmp_path / export.file_name(result))
    (tmp_path / "coco.json").write_text(json.dumps(result.to_coco()))
    data = sv.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "coco.json"), force_masks=True)
    _, _, found = next(iter(data))
    np.testing.assert_array_equal(np.asarray(found.mask), result.masks)


@pytest.mark.parametrize("phrases", [PHRASES, ["the red box"], ["a dog"]])
def test_supervision(phrases: list[str]) -> None:
    result = fake_result(phrases)
    found = result.to_supervision()
    assert len(found) == len(result)
    assert found.is_empty() == (len(result) == 0)
    np.testing.assert_array_equal(np.asarray(found.mask), result.masks)
    np.testing.assert_array_equal(found.xyxy, result.boxes_xyxy)
    np.testing.assert_array_equal(found.class_id, result.phrase_index)
    assert found.data["class_name"].tolist() == list(result.labels)
    np.testing.assert_array_equal(found.data["sam_iou"], result.parts["sam_iou"])
    assert found.mask is not None
    assert np.asarray(found.mask).shape[1:] == (96, 128)


def test_supervision_gets_copies() -> None:
    result = fake_result(["the red box"])
    found = result.to_supervision()
    np.asarray(found.mask)[:] = False
    found.xyxy[:] = 0
    assert result.masks.any()
    assert result.boxes_xyxy.any()


def test_dict_is_json_with_everything() -> None:
    result = fake_result(PHRASES)
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["picture"]["width"] == 128
    assert values["preset"] == "fake"
    assert [p["found"] for p in values["phrases"]] == [True, True, False]
    assert len(values["accepted"]) == 2
    assert len(values["rejected"]) == len(result.rejected) > 0
    assert all(r["reason"] for r in values["rejected"])
    assert all(not a["reason"] for a in values["accepted"])
    first = values["accepted"][0]
    assert set(first["parts"]) == set(result.parts)
    np.testing.assert_array_equal(coco_mask.decode(first["segmentation"]).astype(bool), result.masks[0])
    assert first["box_xyxy"] == result.boxes_xyxy[0].tolist()


def test_dict_says_null_where_a_part_does_not_apply() -> None:
    result = fake_pipeline(clip=None, text_prompt=None)(scene(), "red")
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["accepted"][0]["parts"]["clip"] is None


def test_save_writes_every_file(tmp_path: Path) -> None:
    result = fake_result(PHRASES)
    folder = result.save(tmp_path / "new" / "out")
    names = sorted(path.name for path in folder.iterdir())
    masks = ["mask_000_the-red-box.png", "mask_001_the-blue-box.png"]
    assert names == ["cutout.png", *masks, "overlay.png", "result.json"]
    for k, name in enumerate(masks):
        with PIL.Image.open(folder / name) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture) == 255, result.masks[k])
    with PIL.Image.open(folder / "cutout.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), result.cutout())
    values = json.loads((folder / "result.json").read_text("utf-8"))
    assert values["files"]["masks"] == masks


def test_save_replaces_its_own_masks_and_no_other_file(tmp_path: Path) -> None:
    fake_result(PHRASES).save(tmp_path)
    (tmp_path / "mask_900_mine.png").write_text("mine")
    empty_result().save(str(tmp_path))
    assert [p.name for p in sorted(tmp_path.glob("mask_*"))] == ["mask_900_mine.png"]
    assert json.loads((tmp_path / "result.json").read_text("utf-8"))["accepted"] == []


def test_save_deletes_nothing_that_a_forged_record_names(tmp_path: Path) -> None:
    inside = tmp_path / "out"
    inside.mkdir()
    (tmp_path / "mask_000_a.png").write_text("outside")
    (inside / "result.json").write_text(json.dumps({"files": {"masks": ["../mask_000_a.png", 3, None]}}))
    empty_result().save(inside)
    assert (tmp_path / "mask_000_a.png").exists()


def test_save_into_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match="cannot write to"):
        fake_result().save(tmp_path / "taken")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The red car!", "the-red-car"),
        ("../../etc", "etc"),
        ("赤い 車", "赤い-車"),
        ("***", "phrase"),
        ("a" * 90, "a" * 40),
    ],
)
def test_slug(text: str, want: str) -> None:
    assert export.slug(text) == want


def test_file_name_has_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    PIL.Image.fromarray(scene()).save(path)
    result: Result = fake_pipeline()(path, "red")
    assert export.file_name(result) == "a picture.png"
    assert export.file_name(fake_result()).endswith(".png")
