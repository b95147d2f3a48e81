"""Photographs and their labels, on tiny folders written here."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from textseg import geometry
from textseg.errors import DataError
from textseg.train import nouns
from textseg.train.data import PhotoSet, ellipse_color, mask_box, white_border_mask


def write_set(root: Path, folder: str, classes: list[str], images: dict[int, list[dict]]) -> None:
    """A folder like ../shared/data's: red 40×60 pictures with the given annotations."""
    (root / folder / "images").mkdir(parents=True)
    table: dict[str, list] = {
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(classes)],
        "images": [],
        "annotations": [],
    }
    for number, labels in images.items():
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[:] = (20, 20, 210)  # BGR: red
        cv2.imwrite(str(root / folder / "images" / f"{number}.png"), picture)
        entry = {"id": number, "file_name": f"{number}.png", "width": 60, "height": 40}
        table["images"].append(entry)
        table["annotations"] += [{"image_id": number, "iscrowd": 0, **a} for a in labels]
    (root / folder / "annotations.json").write_text(json.dumps(table))


def masked(category: int, x: int, y: int, w: int, h: int, **more: int) -> dict:
    mask = np.zeros((40, 60), np.uint8)
    mask[y : y + h, x : x + w] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    rle["counts"] = rle["counts"].decode()
    return {"category_id": category, "bbox": [x, y, w, h], "segmentation": rle, **more}


def test_coco_objects_carry_masks_colours_and_synonyms(tmp_path: Path) -> None:
    write_set(tmp_path, "coco", ["person", "car"], {1: [masked(2, 10, 5, 20, 10)], 10: []})
    photos = PhotoSet.load(tmp_path, "coco", "train")
    assert len(photos) == 1
    sample = photos[0]
    car = sample.objects[0]
    assert (sample.source, sample.image_rgb.shape, sample.image_rgb.dtype) == ("coco", (40, 60, 3), np.uint8)
    assert car.name == "car" and {"car", "automobile"} <= car.names
    assert car.color == "red" and not car.crowd
    assert car.box_xyxy.tolist() == [10, 5, 30, 15] and car.box_xyxy.dtype == np.float32
    assert car.mask is not None and car.mask.dtype == bool and car.mask.sum() == 200
    assert {"person", "car", "automobile"} <= sample.exhaustive
    assert "vehicle" not in sample.exhaustive, "broad words are no negatives on photographs"


def test_every_tenth_picture_is_held_out(tmp_path: Path) -> None:
    write_set(tmp_path, "coco", ["person"], {i: [] for i in range(1, 21)})
    assert len(PhotoSet.load(tmp_path, "coco", "train")) == 18
    assert len(PhotoSet.load(tmp_path, "coco", "val")) == 2


def test_crowds_are_marked(tmp_path: Path) -> None:
    write_set(tmp_path, "coco", ["person"], {1: [masked(1, 0, 0, 9, 9, iscrowd=1)]})
    photos = PhotoSet.load(tmp_path, "coco", "train")
    assert photos[0].objects[0].crowd
    assert list(photos.places()) == []


def test_ccp_adds_the_person(tmp_path: Path) -> None:
    write_set(tmp_path, "ccp", ["shoes", "hat"], {1: [masked(1, 20, 30, 10, 8), masked(2, 20, 0, 10, 6)]})
    sample = PhotoSet.load(tmp_path, "ccp", "train")[0]
    person = sample.objects[-1]
    assert person.name == "person" and person.color is None
    assert person.mask is not None and person.mask.sum() == 140
    assert person.box_xyxy.tolist() == [20, 0, 30, 38]
    assert "person" in sample.exhaustive


def test_boxes_have_no_mask_and_nothing_is_exhaustive(tmp_path: Path) -> None:
    box = {"category_id": 1, "bbox": [6.0, 4.0, 40.0, 30.0]}
    write_set(tmp_path, "vehicles-openimages", ["car"], {1: [box]})
    sample = PhotoSet.load(tmp_path, "vehicles", "train")[0]
    assert sample.objects[0].mask is None and sample.objects[0].color == "red"
    assert "car" not in sample.exhaustive


def test_boxes_may_be_given_masks_but_only_of_their_pictures_size(tmp_path: Path) -> None:
    boxes = [{"category_id": 1, "bbox": [6.0, 4.0, 40.0, 30.0]}, {"category_id": 1, "bbox": [0.0, 0.0, 9.0, 9.0]}]
    write_set(tmp_path, "vehicles-openimages", ["car"], {1: boxes})
    photos = PhotoSet.load(tmp_path, "vehicles", "train")
    mask = np.zeros((40, 60), np.bool_)
    mask[5:30, 8:40] = True
    known, unknown = photos.with_masks({(0, 0): geometry.encode_rle(mask)})[0].objects
    assert known.mask is not None and (known.mask == mask).all() and unknown.mask is None
    assert photos[0].objects[0].mask is None, "the set itself stays as it was"
    with pytest.raises(DataError, match=r"mask of picture 0 of vehicles: size is \[9, 9\], expected \[40, 60\]"):
        photos.with_masks({(0, 0): geometry.encode_rle(mask[:9, :9])})
    with pytest.raises(DataError, match="picture 7 of vehicles"):
        photos.with_masks({(7, 0): geometry.encode_rle(mask)})


def test_shrinking_moves_boxes_and_masks(tmp_path: Path) -> None:
    write_set(tmp_path, "coco", ["car"], {1: [masked(1, 20, 10, 20, 20)]})
    sample = PhotoSet.load(tmp_path, "coco", "train", max_side=30)[0]
    assert sample.image_rgb.shape == (20, 30, 3)
    assert sample.objects[0].box_xyxy.tolist() == [10, 5, 20, 15]
    assert sample.objects[0].mask is not None and sample.objects[0].mask.shape == (20, 30)


def test_one_decodes_a_single_object(tmp_path: Path) -> None:
    write_set(tmp_path, "coco", ["car"], {1: [masked(1, 0, 0, 9, 9), masked(1, 30, 10, 20, 20)]})
    photos = PhotoSet.load(tmp_path, "coco", "train")
    assert list(photos.places(least_side=10)) == [(0, 1, "car")]
    _, thing = photos.one(0, 1)
    assert thing.mask is not None and thing.mask.sum() == 400


def test_caltech_is_cut_out_of_a_white_border(tmp_path: Path) -> None:
    folder = tmp_path / "caltech101" / "car_side"
    folder.mkdir(parents=True)
    picture = np.full((50, 80, 3), 255, np.uint8)
    picture[15:35, 20:60] = (200, 40, 40)
    for i in range(2):
        cv2.imwrite(str(folder / f"image_{i}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    for other in ("dolphin", "chair", "BACKGROUND_Google"):
        (tmp_path / "caltech101" / other).mkdir()
    sample = PhotoSet.load(tmp_path, "caltech", "train")[0]
    thing = sample.objects[0]
    assert thing.name == "car" and thing.mask is not None
    assert np.abs(thing.box_xyxy - [20, 15, 60, 35]).max() <= 1
    assert sample.exhaustive == {"dolphin"}, "one thing a picture, but there may be a chair in any of them"


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'train' or 'val'"):
        PhotoSet.load(tmp_path, "coco", "test")
    with pytest.raises(ValueError, match="choose one of coco"):
        PhotoSet.load(tmp_path, "kitti", "val")
    with pytest.raises(FileNotFoundError, match="missing"):
        PhotoSet.load(tmp_path, "coco", "val")


def test_mask_box_is_tight_and_zero_of_nothing() -> None:
    mask = np.zeros((4, 6), bool)
    assert mask_box(mask).tolist() == [0, 0, 0, 0]
    mask[1:3, 2:5] = True
    assert mask_box(mask).tolist() == [2, 1, 5, 3]


def test_dark_windows_do_not_hide_a_cars_colour() -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, :] = (200, 20, 20)
    picture[10:30] = (10, 10, 12)
    box = np.array([0, 0, 60, 60], np.float32)
    assert ellipse_color(picture, box, skip_dark=True) == "red"
    assert ellipse_color(picture, np.array([0, 0, 3, 3], np.float32), skip_dark=True) is None


def test_pictures_without_a_white_border_are_not_cut_out() -> None:
    assert white_border_mask(np.zeros((20, 20, 3), np.uint8)) is None
    assert white_border_mask(np.full((20, 20, 3), 255, np.uint8)) is None


@pytest.mark.parametrize(
    ("noun", "names", "expected"),
    [
        ("car", {"car"}, True),
        ("apple", {"red apple"}, True),
        ("red apple", {"apple"}, True),
        ("shoe", {"shoes"}, True),
        ("boots", {"shoes"}, True),
        ("zebra", {"horse", "animal"}, False),
    ],
)
def test_what_may_be_called_so(noun: str, names: set[str], expected: bool) -> None:
    assert nouns.may_be(noun, frozenset(names)) is expected


def test_tags_that_are_no_nouns_are_dropped() -> None:
    assert nouns.kept_tags("hot dog", ["dog", "hot", "hotdog", "sausage"]) == {"hotdog", "sausage"}
    assert "car" in nouns.names_of("automobile", ["car", "driving", "vehicle"])
