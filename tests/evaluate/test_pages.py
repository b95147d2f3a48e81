"""What is asked of which picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from textseg.errors import DataError
from textseg.evaluate import photo_pages, scene_pages
from textseg.evaluate.pages import Material, ask
from textseg.train.data import LabelledObject, Sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


@pytest.fixture(scope="module")
def material(data_root: Path) -> Material:
    return Material(data_root)


def thing(name: str, color: str | None, column: int, *, names: str = "", crowd: bool = False) -> LabelledObject:
    mask = np.zeros((4, 8), bool)
    mask[:, column : column + 2] = True
    box = np.array([column, 0, column + 2, 4], np.float32)
    return LabelledObject(name, frozenset({name, *names.split()}), color, box, mask, crowd)


def test_ask_tells_meant_others_and_unsure_apart() -> None:
    objects = (thing("car", "red", 0), thing("car", "blue", 2), thing("car", None, 4), thing("dog", "red", 6))
    sample = Sample(np.zeros((4, 8, 3), np.uint8), objects, frozenset(), "scene")
    strict = ask(sample, "car", "red", "the red car", "car")
    assert strict.present and strict.boxes_xyxy.tolist() == [[0, 0, 2, 4]] and strict.ignore is None
    assert strict.others_xyxy.tolist() == [[2, 0, 4, 4], [6, 0, 8, 4]]
    lenient = ask(sample, "car", "red", "the red car", "car", lenient=True)
    assert lenient.ignore is not None and lenient.ignore[0].tolist() == [False] * 4 + [True] * 2 + [False] * 2
    gone = ask(sample, "cat", None, "cat", "cat")
    assert not gone.present and gone.union is None


def test_ask_ignores_a_crowd_of_the_noun() -> None:
    sample = Sample(
        np.zeros((4, 8, 3), np.uint8), (thing("car", None, 0), thing("car", None, 4, crowd=True)), frozenset(), "coco"
    )
    asked = ask(sample, "car", None, "car", "car")
    assert asked.union is not None and asked.union.sum() == 8
    assert asked.ignore is not None and asked.ignore.sum() == 8


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        Material(tmp_path / "nowhere")
    with pytest.raises(DataError, match="coco"):
        Material(tmp_path).photos("coco")
    with pytest.raises(DataError, match="fluent"):
        _ = Material(tmp_path).cutouts


def test_color_scenes_ask_for_one_of_several(material: Material) -> None:
    pages = list(scene_pages.color_pages(material, 6))
    assert len(pages) == 6
    asks = [a for page in pages for a in page.asks]
    assert any(a.present for a in asks) and any(a.kind == "other colour" and not a.present for a in asks)
    for asked in asks:
        if asked.present:
            assert len(asked.boxes_xyxy) == 1 and len(asked.others_xyxy) >= 1 and asked.phrase.startswith("the ")


def test_scenes_are_the_same_each_time(material: Material) -> None:
    first, second = (list(scene_pages.noun_pages(material, 3)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert (a.image_rgb == b.image_rgb).all() and [x.phrase for x in a.asks] == [x.phrase for x in b.asks]


def test_objects_are_asked_for_by_their_noun_and_by_another(material: Material) -> None:
    pages = list(photo_pages.object_pages(material))
    assert len(pages) == 4  # every tenth of eleven, of two nouns
    assert [page.index for page in pages] == [0, 1, 2, 3]
    for page in pages:
        there, gone = page.asks
        assert {there.phrase, gone.phrase} == {"pagoda", "sloth"}
        assert there.present and not gone.present
        if there.phrase == "pagoda":  # on white
            assert there.union is not None
            assert there.union[30:70, 40:100].mean() > 0.95 and there.union.sum() < 1.1 * 40 * 60
        else:
            assert there.union is None and there.boxes_xyxy.tolist() == [[0, 0, 128, 96]]
    outlined = list(photo_pages.object_pages(material, outlined=True))
    assert [page.asks[0].phrase for page in outlined] == ["pagoda", "pagoda"]
    assert len(list(photo_pages.object_pages(material, 3))) == 3


def test_noun_scenes_ask_for_what_is_there_and_what_is_not(material: Material) -> None:
    for page in scene_pages.noun_pages(material, 5):
        there = {a.phrase for a in page.asks if a.present}
        gone = {a.phrase for a in page.asks if not a.present}
        assert not there & gone


def test_single_scenes_hold_one_thing(material: Material) -> None:
    for page in scene_pages.single_pages(material, 4):
        assert len(page.asks) == 1 and len(page.asks[0].boxes_xyxy) == 1 and not len(page.asks[0].others_xyxy)


def test_garments(material: Material) -> None:
    pages = list(photo_pages.garment_pages(material))
    assert {a.phrase for a in pages[0].asks if a.present} == {"boots", "skirt"}
    assert all(a.phrase != "person" for page in pages for a in page.asks)
    colored = [a.phrase for page in photo_pages.garment_color_pages(material) for a in page.asks if a.present]
    assert "the black boots" in colored and "the blue skirt" in colored and not any("hair" in p for p in colored)


def test_large_cars_only(material: Material) -> None:
    pages = list(photo_pages.car_pages(material))
    assert [len(page.asks[0].boxes_xyxy) for page in pages] == [1, 1, 1, 1]  # the second car of picture 10 is small
    assert [page.asks[0].kind for page in pages] == ["vehicles"] * 3 + ["plates"]


def test_cars_of_different_colours(material: Material) -> None:
    pages = list(photo_pages.car_color_pages(material))
    assert [a.phrase for a in pages[0].asks] == ["the red car", "the blue car"]
    collages = [page for page in pages if page.asks[0].kind == "collage"]
    assert collages
    for page in collages:
        assert page.image_rgb.shape == (96, 256, 3)
        assert {a.boxes_xyxy[0, 0] >= 128 for a in page.asks} == {True, False}


def test_limits(material: Material) -> None:
    for make in (photo_pages.garment_pages, photo_pages.class_pages, photo_pages.garment_color_pages):
        assert len(list(make(material, 1))) == 1
    assert len(list(photo_pages.car_pages(material, 2))) == 2
    assert [p.asks[0].kind for p in photo_pages.car_color_pages(material, 1)] == ["photograph", "collage"]
