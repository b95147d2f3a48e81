"""Windows, what is cut out of them, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from textseg import closeup
from textseg.closeup import Rough
from textseg.types import LEAST_LEVEL, Image


def test_windows_are_square_about_the_boxes_and_never_too_small() -> None:
    boxes = np.array([[10, 20, 50, 40], [5, 5, 8, 6]], np.float32)
    windows = closeup.windows_around(boxes, 1.5, 24)
    np.testing.assert_allclose(windows, [[0, 0, 60], [-5.5, -6.5, 24]])
    assert windows.dtype == np.float32


def test_no_box_has_no_window() -> None:
    assert closeup.windows_around(np.zeros((0, 4), np.float32), 1.5, 24).shape == (0, 3)


def test_a_cut_at_the_pictures_own_scale_is_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(closeup.cut(picture, np.array([7, 9, 16], np.float32), 16), picture[9:25, 7:23])


def test_beyond_the_picture_a_cut_is_empty() -> None:
    picture = np.full((10, 10), 200, np.uint8)
    part = closeup.cut(picture, np.array([-5, -5, 10], np.float32), 10)
    assert part[:4, :4].max() == 0
    assert part[6:, 6:].min() == 200
    assert closeup.cut(picture, np.array([50, 50, 10], np.float32), 10).max() == 0


def test_fine_texture_is_averaged_where_many_pixels_become_one() -> None:
    chequered = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255
    small = closeup.cut(chequered, np.array([0, 0, 64], np.float32), 8)
    assert abs(float(small[1:-1, 1:-1].mean()) - 127.5) < 3


@pytest.mark.parametrize(
    ("box", "expected"),
    [((0, 0, 8, 8), 1.0), ((2, 0, 6, 8), 0.5), ((100, 100, 120, 120), 0.0), ((1.5, 0, 2, 8), 0.0625)],
)
def test_a_box_covers_its_share_of_a_window(box: tuple[float, ...], expected: float) -> None:
    covered = closeup.cover(np.array([0, 0, 8], np.float32), np.array(box, np.float32), 8)
    assert covered.mean() == pytest.approx(expected)


def test_what_is_looked_at_comes_back_to_its_place() -> None:
    size_hw = (120, 160)
    logits = np.full((60, 80), -6, np.float32)
    logits[20:35, 30:50] = 6
    window = np.array([44, 24, 64], np.float32)  # the mask is at 60..100 by 40..70 pixels of the picture
    near = closeup.look(Rough.whole(logits, size_hw), window, 56)
    back = closeup.paste(Rough.near(near, window), size_hw, (60, 80))
    np.testing.assert_array_equal(back > 0, logits > 0)
    full = closeup.paste(Rough.near(near, window), size_hw, size_hw, -1) > 0
    ys, xs = np.nonzero(full)
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (60, 40, 100, 70)


def test_specks_do_not_stretch_the_extent_of_a_mask() -> None:
    logits = np.full((50, 100), -1, np.float32)
    logits[10:30, 20:60] = 1
    logits[48, 98] = 1
    np.testing.assert_allclose(closeup.extent(Rough.whole(logits, (100, 200))), [40, 20, 120, 60])
    moved = Rough(logits, (1000, 500, 1200, 600))
    np.testing.assert_allclose(closeup.extent(moved), [1040, 520, 1120, 560])
    assert closeup.extent(Rough.whole(np.zeros((4, 4), np.float32), (8, 8))).max() == 0


def test_a_window_moves_by_shares_of_its_side() -> None:
    box = np.array([10, 20, 30, 30], np.float32)
    still = closeup.window_around(box, 1.5, 8.0, (0.0, 0.0))
    np.testing.assert_allclose(still, closeup.windows_around(box, 1.5, 8.0)[0])
    np.testing.assert_allclose(closeup.window_around(box, 1.5, 8.0, (0.1, -0.2)), [5 + 3, 10 - 6, 30])


def test_logits_move_from_one_window_to_another() -> None:
    near = np.full((20, 20), -5, np.float32)
    near[5:10, 5:15] = 5  # in a window of 40 pixels at (100, 50): rows 60..70, columns 110..130
    moved = closeup.look(Rough.near(near, np.array([100, 50, 40])), np.array([90, 40, 80], np.float32), 80)
    ys, xs = np.nonzero(moved > 0)
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (20, 20, 40, 30)
    assert (moved[:8] == -8).all()
    same = closeup.look(Rough.near(near, np.array([3, 4, 5])), np.array([3, 4, 5], np.float32), 20)
    np.testing.assert_allclose(same, near)


def test_a_rough_mask_has_its_place_in_the_mirror_image() -> None:
    logits = np.full((4, 6), -8, np.float32)
    logits[1, 0] = 5
    x0, y0, x1, y1 = closeup.extent(Rough(logits, (10, 20, 22, 28)))
    mirrored = Rough(logits, (10, 20, 22, 28)).mirrored(100)
    np.testing.assert_allclose(closeup.extent(mirrored), [100 - x1, y0, 100 - x0, y1])


def test_what_is_smaller_than_a_pixel_does_not_get_lost() -> None:
    near = np.full((40, 40), -6, np.float32)
    near[10:30, 15:25] = 6
    window, size_hw = np.array([300, 200, 8], np.float32), (3000, 4000)
    assert not (closeup.paste(Rough.near(near, window), size_hw, (112, 112)) > 0).any()
    out = closeup.coarse(Rough.near(near, window), size_hw, (112, 112))
    assert np.argwhere(out > 0).tolist() == [[int(204 * 112 / 3000), int(304 * 112 / 4000)]]
    nothing = closeup.coarse(Rough.near(np.full((40, 40), -6, np.float32), window), size_hw, (112, 112))
    assert not (nothing > 0).any()
    large = np.array([300, 200, 2000], np.float32)
    pasted = closeup.paste(Rough.near(near, large), size_hw, (112, 112))
    np.testing.assert_array_equal(closeup.coarse(Rough.near(near, large), size_hw, (112, 112)), pasted)


def test_masks_of_different_groups_are_never_alike() -> None:
    masks = np.ones((3, 2, 2), np.bool_)
    unlike, owner = closeup.distinct(masks)
    assert (unlike.tolist(), owner.tolist()) == ([0], [0, 0, 0])
    unlike, owner = closeup.distinct(masks, np.array([4, 7, 4]))
    assert (unlike.tolist(), owner.tolist()) == ([0, 1], [0, 1, 0])


def test_hints_of_zeros_are_none() -> None:
    told = np.stack([np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)])
    first, second = closeup.each_hint(told, 2)
    assert first is None
    assert second is not None
    assert closeup.each_hint(None, 2) == [None, None]


@pytest.mark.parametrize("size_hw", [(300, 401), (97, 1000), (640, 480)])
def test_smaller_versions_give_the_same_crop(size_hw: tuple[int, int]) -> None:
    """Of a smooth picture, whatever its size: the places agree to a fraction of the crop's pixel."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    rgb = np.stack([x * 255 // size_hw[1], y * 255 // size_hw[0], (x + y) % 256], axis=2).astype(np.uint8)
    image = Image(rgb, "array", "digest")
    assert [max(level.shape[:2]) for level in image.levels][-1] in range(LEAST_LEVEL, 2 * LEAST_LEVEL)
    for window in ([10, 20, 40], [-30, 5, 280], [-50, -40, 1100]):
        whole, level = (closeup.cut_level(some, np.array(window, np.float32), 32) for some in ((rgb,), image.levels))
        np.testing.assert_allclose(whole[..., :2].astype(int), level[..., :2].astype(int), atol=6)


def test_a_small_picture_is_its_only_level() -> None:
    tiny = Image(np.zeros((1, 90, 3), np.uint8), "array", "digest")
    assert len(tiny.levels) == 1 and tiny.levels[0] is tiny.rgb
