"""Overlay, cut-out and panel: what changes, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fakes import empty_result, fake_result, scene
from textseg import draw
from textseg.errors import ConfigError, ShapeError
from textseg.types import Bool, Float


def dilated(mask: Bool, by: int) -> Bool:
    """Grow a mask by some pixels."""
    import cv2

    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0


def test_overlay_changes_the_masks_and_nothing_else() -> None:
    result = fake_result(["the red box", "the blue box"])
    drawn = draw.overlay(result, labels=False)
    changed = (drawn != result.image.rgb).any(axis=-1)
    inside = result.masks.any(axis=0)
    assert changed[inside].all()
    assert not changed[~dilated(inside, 2)].any()
    assert drawn.dtype == np.uint8
    assert drawn.shape == (96, 128, 3)


def test_overlay_mixes_the_phrases_color() -> None:
    result = fake_result(["the red box"])
    drawn = draw.overlay(result, opacity=1.0, labels=False)
    y, x = (int(v) for v in np.argwhere(result.masks[0]).mean(axis=0))
    want = tuple(int(draw.COLORS_HEX[0][i : i + 2], 16) for i in (1, 3, 5))
    assert tuple(drawn[y, x].tolist()) == want  # RGB, not OpenCV's BGR


def test_overlay_writes_labels() -> None:
    result = fake_result(["the red box"])
    assert (draw.overlay(result) != draw.overlay(result, labels=False)).any()


def test_overlay_of_nothing_is_the_picture_and_a_copy() -> None:
    result = empty_result()
    drawn = result.overlay()
    np.testing.assert_array_equal(drawn, result.image.rgb)
    drawn[:] = 0  # writable, and not the picture itself
    assert result.image.rgb.any()


def test_overlay_of_some_masks() -> None:
    result = fake_result(["the red box", "the blue box"])
    changed = (draw.overlay(result, only=[1], labels=False) != result.image.rgb).any(axis=-1)
    assert changed[result.masks[1]].all()
    assert not changed[result.masks[0]].any()
    np.testing.assert_array_equal(draw.overlay(result, only=[]), result.image.rgb)
    with pytest.raises(ConfigError, match=r"got 2, expected 0\.\.1"):
        draw.overlay(result, only=[2])


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_overlay_refuses_an_opacity_out_of_range(opacity: float) -> None:
    with pytest.raises(ConfigError, match="opacity"):
        draw.overlay(fake_result(), opacity=opacity)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (30, 2)])
def test_overlay_of_tiny_pictures(size_hw: tuple[int, int]) -> None:
    from tests.fakes import fake_pipeline

    picture = scene(size_hw, {"red": (0, 0, size_hw[1], size_hw[0])})
    result = fake_pipeline()(picture, "red", box=(0, 0, size_hw[1], size_hw[0]))
    assert draw.overlay(result).shape == (*size_hw, 3)


@pytest.mark.parametrize("phrase", ["красный red", "赤い red 車", "red " + "very " * 60 + "long", "<b>red</b>\n[red]"])
def test_overlay_writes_any_label(phrase: str) -> None:
    result = fake_result([phrase])
    assert result.labels == (phrase,)
    assert draw.overlay(result).shape == (96, 128, 3)


def test_more_phrases_than_colors() -> None:
    assert draw.color_hex(len(draw.COLORS_HEX)) == draw.color_hex(0)
    assert len(set(draw.COLORS_HEX)) == len(draw.COLORS_HEX)


def test_cutout_of_one_and_of_all() -> None:
    result = fake_result(["the red box", "the blue box"])
    one, both = result.cutout(0), result.cutout()
    np.testing.assert_array_equal(one[..., 3] == 255, result.masks[0])
    np.testing.assert_array_equal(both[..., 3] == 255, result.masks.any(axis=0))
    np.testing.assert_array_equal(one[result.masks[0], :3], result.image.rgb[result.masks[0]])
    assert not one[~result.masks[0]].any()


def test_cutout_of_nothing_is_transparent() -> None:
    out = empty_result().cutout()
    assert out.shape == (96, 128, 4)
    assert not out.any()
    with pytest.raises(ConfigError, match="no mask"):
        empty_result().cutout(0)


def test_cutout_refuses_an_unknown_mask() -> None:
    with pytest.raises(ConfigError, match=r"got -1, expected 0\.\.1"):
        fake_result(["red", "blue"]).cutout(-1)


def test_panel_puts_pictures_side_by_side() -> None:
    out = draw.panel([scene((50, 100)), scene((100, 50))], ["nano", "a title that is much too long for its picture"])
    assert out.shape[1] == 8 + 960 + 8 + 240 + 8
    assert out.shape[0] > 480
    np.testing.assert_array_equal(out[-1, 0], [255, 255, 255])


def test_panel_wants_a_title_for_each_picture() -> None:
    with pytest.raises(ShapeError, match="1 pictures and 0 titles"):
        draw.panel([scene()], [])
    with pytest.raises(ShapeError, match="0 pictures"):
        draw.panel([], [])


def test_shorten() -> None:
    assert draw.shorten("  a\n red   car ") == "a red car"
    assert draw.shorten("abcdef", 4) == "abc…"


def test_drawing_does_not_change_the_result() -> None:
    result = fake_result()
    before: tuple[Bool, Float] = (result.masks.copy(), result.boxes_xyxy.copy())
    result.overlay()
    np.testing.assert_array_equal(result.masks, before[0])
    np.testing.assert_array_equal(result.boxes_xyxy, before[1])
