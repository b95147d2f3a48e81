"""Colour words of plain surfaces, and recolouring."""

from __future__ import annotations

import numpy as np
import pytest

from textseg.colors import COLOR_SYNONYMS, color_shares, name_color
from textseg.language import COLORS
from textseg.train.recolor import recolor

PLAIN = {
    "black": (12, 12, 14),
    "white": (246, 246, 244),
    "gray": (128, 128, 130),
    "red": (205, 25, 30),
    "green": (40, 150, 50),
    "blue": (30, 70, 200),
    "yellow": (245, 220, 40),
    "orange": (245, 130, 20),
    "brown": (110, 65, 30),
    "pink": (245, 150, 185),
    "purple": (120, 50, 160),
}


def patch(rgb: tuple[int, int, int], count: int = 64) -> np.ndarray:
    return np.tile(np.array(rgb, dtype=np.uint8), (count, 1))


@pytest.mark.parametrize("color", COLORS)
def test_a_plain_surface_has_its_word(color: str) -> None:
    assert name_color(patch(PLAIN[color])) == color


def test_two_halves_have_no_word() -> None:
    assert name_color(np.vstack([patch(PLAIN["red"]), patch(PLAIN["blue"])])) is None


@pytest.mark.parametrize("count", [0, 1, 23])
def test_few_pixels_have_no_word(count: int) -> None:
    assert name_color(patch(PLAIN["red"], count)) is None


def test_shares_sum_to_one_and_are_zero_of_nothing() -> None:
    mixed = np.vstack([patch(PLAIN["red"], 30), patch(PLAIN["white"], 10)])
    shares = color_shares(mixed)
    assert shares[COLORS.index("red")] == pytest.approx(0.75)
    assert shares.sum() == pytest.approx(1.0)
    assert color_shares(np.zeros((0, 3), np.uint8)).tolist() == [0.0] * 11


def test_synonyms_stand_for_basic_words() -> None:
    assert set(COLOR_SYNONYMS.values()) <= set(COLORS)
    assert COLOR_SYNONYMS["silver"] == "gray"


@pytest.mark.parametrize("source", ["red", "white", "blue"])
@pytest.mark.parametrize("color", COLORS)
def test_a_recoloured_cutout_has_the_new_word(source: str, color: str) -> None:
    rgba = np.zeros((24, 24, 4), np.uint8)
    rgba[4:20, 4:20, :3] = PLAIN[source]
    rgba[4:20, 4:20, 3] = 255
    before = rgba.copy()
    found = recolor(rgba, color, np.random.default_rng(0))
    assert name_color(found[..., :3][found[..., 3] > 0]) == color
    assert np.array_equal(found[..., 3], rgba[..., 3])
    assert np.array_equal(rgba, before), "the input is left alone"


def test_shading_survives() -> None:
    rgba = np.full((16, 16, 4), 255, np.uint8)
    rgba[..., 0] = np.linspace(120, 250, 16).astype(np.uint8)[:, None]
    rgba[..., 1:3] = 10
    blue = recolor(rgba, "blue", np.random.default_rng(1))
    assert (np.diff(blue[:, 0, 2].astype(int)) >= 0).all()
    assert blue[-1, 0, 2] > blue[0, 0, 2] + 30


def test_nothing_visible_and_unknown_words() -> None:
    empty = np.zeros((8, 8, 4), np.uint8)
    assert np.array_equal(recolor(empty, "red", np.random.default_rng(0)), empty)
    with pytest.raises(KeyError):
        recolor(empty, "mauve", np.random.default_rng(0))
