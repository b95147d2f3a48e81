"""Composed scenes: masks, names, colours and repeatability, on cut-outs drawn here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from textseg.colors import name_color
from textseg.language import COLORS
from textseg.train.data import LabelledObject, Sample
from textseg.train.scenes import Cutout, Part, SceneComposer, SceneConfig, load_cutouts, photo_cutouts

CONFIG = SceneConfig(size_hw=(96, 128), jitter_probability=0.0, recolor_probability=0.0)


def disc(name: str, rgb: tuple[int, int, int], side: int = 48) -> Cutout:
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[..., :3] = rgb
    cv2.circle(alpha := np.zeros((side, side), np.uint8), (side // 2, side // 2), side // 2 - 2, 255, -1)
    rgba[..., 3] = alpha
    return Cutout(name, frozenset({name}), rgba, name_color(rgba[..., :3][alpha > 0]))


CUTOUTS = [disc("car", (200, 20, 20)), disc("ball", (20, 60, 200)), disc("moon", (240, 220, 40))]


def test_masks_fit_the_picture_and_do_not_overlap() -> None:
    composer = SceneComposer(CUTOUTS, [np.full((60, 60, 3), 128, np.uint8)], CONFIG)
    for seed in range(20):
        sample = composer.compose(np.random.default_rng(seed))
        assert sample.image_rgb.shape == (96, 128, 3) and sample.image_rgb.dtype == np.uint8
        total = np.zeros((96, 128), int)
        for thing in sample.objects:
            assert thing.mask is not None and thing.mask.shape == (96, 128)
            total += thing.mask
            x0, y0, x1, y1 = thing.box_xyxy.astype(int)
            assert thing.mask[y0:y1, x0:x1].sum() == thing.mask.sum() > 0
        assert total.max(initial=0) <= 1


def test_colours_are_what_the_pixels_show() -> None:
    config = replace(CONFIG, same_noun_probability=1.0, car_share=1.0, objects=(2, 4))
    composer = SceneComposer(CUTOUTS, [np.full((60, 60, 3), 128, np.uint8)], config)
    right = total = 0
    for seed in range(20):
        sample = composer.compose(np.random.default_rng(seed))
        for thing in sample.objects:
            assert thing.color in COLORS and thing.mask is not None
            inner = cv2.erode(thing.mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            if inner.sum() > 60:
                total += 1
                right += name_color(sample.image_rgb[inner]) == thing.color
    assert total > 20 and right / total > 0.95


def test_the_same_seed_gives_the_same_scene() -> None:
    composer = SceneComposer(CUTOUTS, [np.full((60, 60, 3), 128, np.uint8)])
    one, two = (composer.compose(np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.image_rgb, two.image_rgb)
    assert [o.name for o in one.objects] == [o.name for o in two.objects]


def test_a_backgrounds_own_objects_are_kept_and_occluded() -> None:
    whole = np.ones((96, 128), bool)
    sky = LabelledObject("sky", frozenset({"sky"}), None, np.array([0, 0, 128, 96], np.float32), whole)
    picture = Sample(np.full((96, 128, 3), 128, np.uint8), (sky,), frozenset({"sky"}), "coco")
    sample = SceneComposer(CUTOUTS, [picture], CONFIG).compose(np.random.default_rng(0))
    back, *front = sample.objects
    assert back.name == "sky" and back.mask is not None and sample.exhaustive == {"sky"}
    assert front
    for thing in front:
        assert not (thing.mask & back.mask).any()


def test_without_backgrounds_every_noun_is_exhaustive() -> None:
    sample = SceneComposer(CUTOUTS, [], CONFIG).compose(np.random.default_rng(0))
    assert sample.exhaustive == {"car", "ball", "moon"}


def test_parts_come_along() -> None:
    half = np.zeros((48, 48), bool)
    half[24:] = True
    person = replace(
        disc("person", (90, 90, 90)),
        parts=(Part("pants", frozenset({"pants"}), "gray", half),),
        clouds=frozenset({"ball"}),
    )
    config = replace(CONFIG, photo_probability=1.0, objects=(1, 1), same_noun_probability=0.0)
    sample = SceneComposer(CUTOUTS, [], config, [person]).compose(np.random.default_rng(1))
    whole, part = sample.objects
    assert (whole.name, part.name) == ("person", "pants")
    assert not (part.mask & ~whole.mask).any()
    assert "ball" not in sample.exhaustive


def test_things_are_cut_out_of_photographs() -> None:
    mask = np.zeros((80, 80), bool)
    mask[10:70, 20:60] = True
    box = np.array([20, 10, 60, 70], np.float32)
    dog = LabelledObject("dog", frozenset({"dog"}), "brown", box, mask)
    picture = Sample(np.full((80, 80, 3), 90, np.uint8), (dog,), frozenset(), "coco")
    (cutout,) = photo_cutouts([picture])
    assert cutout.name == "dog" and cutout.rgba.shape == (60, 40, 4) and cutout.rgba.dtype == np.uint8
    assert photo_cutouts([picture], least_side=50) == []


def test_only_vehicles_of_photographs_are_painted() -> None:
    mask = np.zeros((80, 80), np.bool_)
    mask[10:70, 10:70] = True
    picture = np.full((80, 80, 3), (120, 120, 122), np.uint8)
    thing = LabelledObject("car", frozenset({"car", "sedan"}), "gray", np.array([10, 10, 70, 70], np.float32), mask)
    sample = Sample(picture, (thing, replace(thing, name="license plate")), frozenset(), "vehicles")
    car, plate = photo_cutouts([sample])
    assert car.paintable and not plate.paintable
    assert not photo_cutouts([replace(sample, source="coco")])[0].paintable
    config = replace(CONFIG, same_noun_probability=1.0, car_share=1.0, objects=(2, 2))
    seen: set[str | None] = set()
    for photos in ([car], [replace(car, paintable=False)]):
        composer = SceneComposer(CUTOUTS, [np.full((60, 60, 3), 128, np.uint8)], config, photos)
        scenes = [composer.compose(np.random.default_rng(seed)) for seed in range(20)]
        cars = [o.color for s in scenes for o in s.objects if "sedan" in o.names]
        assert bool(cars) == photos[0].paintable, "as several of one noun, a photograph's own colour would not do"
        seen |= set(cars)
    assert len(seen) > 4


def test_any_folder_of_cutouts_will_do(tmp_path: Path) -> None:
    rgba = CUTOUTS[0].rgba
    cv2.imwrite(str(tmp_path / "garden-gnome.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    (gnome,) = load_cutouts(tmp_path)
    assert gnome.name == "garden gnome" and gnome.color == "red"
    entries = [{"file_name": "garden-gnome.png", "name": "Dwarf", "tags": ["toy", "funny"], "group": 7}]
    (tmp_path / "names.json").write_text(json.dumps(entries))
    (dwarf,) = load_cutouts(tmp_path, max_side=20)
    assert dwarf.name == "dwarf" and dwarf.names == {"dwarf", "toy"}
    assert max(dwarf.rgba.shape[:2]) == 20


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.webp or \.png"):
        load_cutouts(tmp_path)
    with pytest.raises(ValueError, match="load_cutouts"):
        SceneComposer([], [])
