"""Tiles: cut, searched, merged without seams or duplicates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.fakes import PALETTE, fake_pipeline, scene
from textseg import geometry, tiles
from textseg.errors import ConfigError
from textseg.everything import EverythingOptions
from textseg.everything.options import Crop
from textseg.tile_merge import Piece, merge
from textseg.tiles import TileOptions

SMALL = TileOptions(side=64, overlap=16)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (200, 300), (64, 1000), (500, 63)])
@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_tiles_cover_the_picture_and_overlap(size: tuple[int, int], overlap: int) -> None:
    parts = tiles.tiles(size, TileOptions(side=64, overlap=overlap))
    assert parts[0].box_xyxy == (0, 0, size[1], size[0])
    seen = np.zeros(size, int)
    for part in parts[1:] or parts:
        x0, y0, x1, y1 = part.box_xyxy
        assert part.layer == 0 or (x1 - x0 <= 64 and y1 - y0 <= 64)
        seen[y0:y1, x0:x1] += 1
    assert seen.min() >= 1
    columns = sorted({(part.box_xyxy[0], part.box_xyxy[2]) for part in parts[1:]})
    assert all(a[1] - b[0] >= overlap for a, b in itertools.pairwise(columns))


def test_too_many_tiles_say_how_many() -> None:
    with pytest.raises(
        ConfigError, match=r"20000 × 3000 pixels in tiles of 64 are .* tiles, more than max_tiles = 400"
    ):
        tiles.tiles((3000, 20000), TileOptions(side=64, overlap=8))
    assert tiles.count((100, 100), TileOptions()) == 1


@pytest.mark.parametrize("bad", [{"side": 3}, {"overlap": 640}, {"overlap": -1}, {"agree_iou": 2.0}, {"max_tiles": 0}])
def test_bad_options(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        TileOptions(**bad)  # type: ignore[arg-type]


def piece(
    box: tuple[int, int, int, int], tile: tuple[int, int, int, int], score: float = 0.5, label: str = "a"
) -> Piece:
    """Return the part of a rectangle that a tile of a 100 × 100 picture shows."""
    full = np.zeros((100, 100), np.bool_)
    full[box[1] : box[3], box[0] : box[2]] = True
    x0, y0, x1, y1 = tile
    whole = tile == (0, 0, 100, 100)
    return Piece.of(full[y0:y1, x0:x1], score, label, Crop(tile, 0 if whole else 1), (100, 100))


LEFT, RIGHT, WHOLE = (0, 0, 60, 100), (40, 0, 100, 100), (0, 0, 100, 100)


def merged(*pieces: Piece, contained: float = 0.85) -> list[tuple[int, int, int, int]]:
    return [one.box_xyxy for one in merge(pieces, 0.5, 0.6, contained)]


def test_parts_are_joined_without_a_seam() -> None:
    box = (20, 10, 90, 30)
    assert piece(box, LEFT).is_cut and piece(box, RIGHT).is_cut
    assert merged(piece(box, LEFT), piece(box, RIGHT)) == [box]
    one = merge([piece(box, LEFT, 0.3), piece(box, RIGHT, 0.8)], 0.5, 0.6, 0.85)[0]
    assert one.area == 70 * 20 and one.score == 0.8 and not one.is_cut


def test_parts_of_different_things_stay_apart() -> None:
    a, b = (20, 10, 60, 30), (40, 60, 90, 80)
    assert len(merged(piece(a, LEFT), piece(b, RIGHT))) == 2
    assert len(merged(piece((20, 10, 90, 30), LEFT), piece((20, 10, 90, 30), RIGHT, label="b"))) == 2


def test_what_the_whole_picture_shows_is_not_repeated() -> None:
    box = (20, 10, 90, 30)
    assert merged(piece(box, WHOLE, 0.2), piece(box, LEFT, 0.9), piece(box, RIGHT, 0.9)) == [box]


def test_duplicates_keep_the_finer_pixels_and_the_better_score() -> None:
    found = merge([piece((45, 10, 55, 20), WHOLE, 0.9), piece((45, 11, 55, 20), LEFT, 0.4)], 0.5, 0.6, 0.85)
    assert [(one.box_xyxy, one.score) for one in found] == [((45, 11, 55, 20), 0.9)]


def test_a_part_inside_a_better_mask() -> None:
    inner, outer = piece((10, 10, 15, 15), LEFT, 0.4), piece((5, 5, 30, 30), LEFT, 0.9)
    assert merged(inner, outer) == [(5, 5, 30, 30)]
    assert len(merged(inner, outer, contained=1.1)) == 2


def test_nothing() -> None:
    assert merge([], 0.5, 0.6, 0.85) == []
    assert merged(piece((0, 0, 0, 0), LEFT)) == []


def large_scene() -> np.ndarray:
    """Return 160 × 240 pixels: a red bar across three tiles, a small blue and a small red box."""
    boxes = {"red": (20, 20, 200, 40), "blue": (150, 100, 156, 106)}
    rgb = scene((160, 240), boxes)
    rgb[120:128, 30:38] = PALETTE["red"]
    return rgb


def test_text_across_tiles() -> None:
    seen: list[tuple[int, int]] = []
    found = tiles.segment(
        fake_pipeline(), large_scene(), ["red", "blue", "a dog"], SMALL, lambda done, total: seen.append((done, total))
    )
    assert found.labels is not None
    boxes = {(label, tuple(int(v) for v in box)) for label, box in zip(found.labels, found.boxes_xyxy, strict=True)}
    assert len(boxes) == 3
    wanted = [("red", (20, 20, 200, 40)), ("red", (30, 120, 38, 128)), ("blue", (150, 100, 156, 106))]
    for label, box in wanted:
        near = [b for name, b in boxes if name == label]
        iou = geometry.box_iou(np.array([box], np.float32), np.array(near, np.float32))
        assert iou.max() > 0.8, (label, box, near)
    assert seen[-1] == (tiles.count((160, 240), SMALL),) * 2
    bar = found.masks[int(found.areas.argmax())]
    assert bar[24:36, 24:196].all()  # no seam


def test_everything_across_tiles() -> None:
    found = tiles.everything(fake_pipeline(), large_scene(), SMALL, EverythingOptions(points_per_side=8))
    for box in [(20, 20, 200, 40), (30, 120, 38, 128), (150, 100, 156, 106)]:
        iou = geometry.box_iou(np.array([box], np.float32), found.boxes_xyxy)
        assert iou.max() > 0.7, box
    for (x, y), (x0, y0, x1, y1) in zip(found.points_xy, found.boxes_xyxy, strict=True):
        assert x0 - 8 <= x <= x1 + 8 and y0 - 8 <= y <= y1 + 8  # of the grid, in pixels of the picture
    with pytest.raises(ConfigError, match="prompts, more than max_prompts"):
        tiles.everything(fake_pipeline(), large_scene(), SMALL, EverythingOptions(max_prompts=2000))


def test_nothing_in_the_picture() -> None:
    found = tiles.segment(fake_pipeline(), large_scene(), "a dog", SMALL)
    assert len(found) == 0 and found.labels == () and found.masks.shape == (0, 160, 240)
