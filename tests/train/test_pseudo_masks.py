"""Masks for photographs without: drawn by a pipeline, kept in a file, read back into the photographs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fakes import BLUE_BOX, RED_BOX, fake_pipeline, scene
from textseg import build
from textseg.errors import DataError
from textseg.geometry import decode_rle
from textseg.train import pseudo_masks
from textseg.train.data import FOLDERS, PhotoSet


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four sets with one picture each, of a red box, a blue one, and a box of nothing; two of caltech's folders."""
    for name in pseudo_masks.BOXED:
        folder = tmp_path / FOLDERS[name]
        (folder / "images").mkdir(parents=True)
        cv2.imwrite(str(folder / "images" / "1.png"), scene((192, 256))[..., ::-1])
        boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (RED_BOX, BLUE_BOX, (130, 100, 250, 180))]
        table = {
            "categories": [{"id": 1, "name": "car"}],
            "images": [{"id": 1, "file_name": "1.png", "width": 256, "height": 192}],
            "annotations": [{"image_id": 1, "iscrowd": 0, "category_id": 1, "bbox": box} for box in boxes],
        }
        (folder / "annotations.json").write_text(json.dumps(table))
    for noun in ("red_thing", "nothing"):
        folder = tmp_path / FOLDERS["caltech"] / noun
        folder.mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(folder / f"{number}.jpg"), scene(boxes={"red": RED_BOX})[..., ::-1])
    return tmp_path


def test_boxes_are_outlined_where_the_mask_fits_them(root: Path) -> None:
    photos = PhotoSet.load(root, "vehicles", "train")
    found = pseudo_masks.outline(fake_pipeline(), photos)
    assert {(0, 0), (0, 1)} <= set(found)
    x0, y0, x1, y1 = RED_BOX
    mask = decode_rle(found[0, 0])
    assert mask.shape == (192, 256)
    assert mask[y0:y1, x0:x1].mean() > 0.9 and mask.sum() < 1.2 * (x1 - x0) * (y1 - y0)


def test_things_are_asked_for_by_name_and_get_the_box_of_their_mask(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo_masks, "MOST_OF_A_NAME", 1)
    photos = PhotoSet.load(root, "caltech", "train")
    assert [name for *_, name in photos.places()] == ["nothing", "nothing", "red thing", "red thing"]
    found = pseudo_masks.find(fake_pipeline(), photos)
    assert list(found) == [(2, 0)], "one picture a noun, and none where the answer is that it is not there"
    thing = photos.with_masks(found)[2].objects[0]
    np.testing.assert_allclose(thing.box_xyxy, RED_BOX, atol=3)
    assert photos[2].objects[0].box_xyxy.tolist() == [0, 0, 128, 96]


def test_the_command_writes_what_a_training_reads(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "load", lambda preset: fake_pipeline())
    path = root / "masks.json"
    pseudo_masks.main(["--data", str(root), "--out", str(path)])
    bare = pseudo_masks.load("", root, ["vehicles", "caltech"])
    outlined = pseudo_masks.load(path, root, ["vehicles", "caltech"])
    assert list(bare) == list(outlined) == ["vehicles", "caltech"]
    for name in bare:
        assert all(thing.mask is None for thing in bare[name][0].objects)
        assert sum(thing.mask is not None for sample in outlined[name] for thing in sample.objects) >= 2
    assert pseudo_masks.load(path, root, ["caltech"], "val")["caltech"][0].objects[0].mask is None


@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"fruit": []}', b'{"vehicles": [[0, 1]]}'])
def test_a_file_that_cannot_be_read_says_how_to_make_one(root: Path, content: bytes | None) -> None:
    path = root / "masks.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"pseudo_masks: .*masks.json cannot be read .*python -m textseg.train.pseudo_masks"
    ):
        pseudo_masks.load(path, root, ["vehicles"])


def test_masks_of_other_pictures_are_refused(root: Path) -> None:
    path = root / "masks.json"
    path.write_text(json.dumps({"vehicles": [[0, 0, {"size": [5, 5], "counts": "0P1"}]]}))
    with pytest.raises(DataError, match=r"mask of picture 0 of vehicles: size is \[5, 5\], expected \[192, 256\]"):
        pseudo_masks.load(path, root, ["vehicles"])
