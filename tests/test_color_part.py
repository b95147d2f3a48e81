"""The pixels' word on a colour that a phrase names."""

from __future__ import annotations

import numpy as np
import pytest

from textseg import color_part as parts
from textseg.color_part import color_part
from textseg.types import Bool, Float, Image, Int


def scene(scale: int = 1) -> Image:
    """A red and a blue square with black bands on white, 32 × 64 pixels times ``scale``."""
    rgb = np.full((32, 64, 3), 250, np.uint8)
    rgb[4:28, 4:28], rgb[4:28, 36:60] = (205, 25, 30), (30, 70, 200)
    rgb[20:28, 4:28] = rgb[20:28, 36:60] = (10, 10, 10)  # a third of either
    return Image(np.asarray(rgb.repeat(scale, 0).repeat(scale, 1), np.uint8), "test", "0" * 64)


def squares(size: int = 16) -> Bool:
    """Masks of both squares, on ``size`` rows of the picture."""
    masks = np.zeros((2, size, 2 * size), np.bool_)
    step = size // 8
    masks[0, step:-step, step : size - step], masks[1, step:-step, size + step : -step] = True, True
    return masks


def both(index: int = 0) -> Int:
    return np.full(2, index, np.int64)


@pytest.mark.parametrize("scale", [1, 7])
def test_the_red_one_is_red(scale: int) -> None:
    red, blue = color_part(scene(scale), ["the red car"], squares(), both())
    assert red == pytest.approx((2 / 3 + 0.02) / (1 + 0.04), abs=0.05)  # its band is no other colour's thing
    assert blue == pytest.approx(0.02 / (2 / 3 + 0.04), abs=0.02)
    assert color_part(scene(scale), ["the red car"], squares(), both()).dtype == np.float32


def test_each_phrase_has_its_own_colour() -> None:
    masks = squares()[[0, 1, 0, 1, 0]]
    phrases = ["a car", "a blue car", "the GREY car"]
    got: Float = color_part(scene(), phrases, masks, np.array([0, 1, 1, 2, 2]))
    assert np.isnan(got).tolist() == [True, False, False, False, False]
    assert got[1] > 0.5 and got[2:] == pytest.approx([0.03, 0.03, 0.03], abs=0.01)


@pytest.mark.parametrize("prompt", ["a car", "an orange", "red", ""])
def test_without_a_colour_nothing_is_said(prompt: str) -> None:
    assert np.isnan(color_part(scene(), [prompt], squares(), both())).all()


def test_of_a_few_pixels_nothing_is_said() -> None:
    masks = np.zeros((3, 16, 32), np.bool_)
    masks[1, 4, 4:11], masks[2, 4, 3:11] = True, True  # seven and eight
    assert np.isnan(color_part(scene(), ["a red car"], masks, np.zeros(3, np.int64))).tolist() == [True, True, False]
    assert color_part(scene(), ["a red car"], masks[:0], np.zeros(0, np.int64)).shape == (0,)


def test_the_smallest_level_with_enough_pixels_is_read() -> None:
    blank, large = np.zeros((1, 1, 3), np.uint8), Image(np.zeros((320, 640, 3), np.uint8), "test", "1" * 64)
    vars(large)["levels"] = (large.rgb, scene().rgb, blank)
    np.testing.assert_array_equal(
        color_part(large, ["a red car"], squares(), both()), color_part(scene(), ["a red car"], squares(), both())
    )


def test_colours_are_named_once_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    image, named = scene(), []
    classify = parts.classify_pixels
    monkeypatch.setattr(parts, "classify_pixels", lambda pixels: named.append(len(pixels)) or classify(pixels))
    for prompt in ("a red car", "a blue car"):
        color_part(image, [prompt], squares(), both())
    color_part(image, ["a red car"], squares(8), both())
    assert named == [16 * 32, 8 * 16]
