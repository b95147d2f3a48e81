"""geometry: hand-written 4x4 masks, literal arrays, round trips; transformers' own post-processing as reference."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from textseg import geometry
from textseg.errors import PromptError, ShapeError
from textseg.types import Frame


def grid(text: str) -> Any:
    """Return the bool mask of rows of ``#`` and ``.``."""
    return np.array([[c == "#" for c in row] for row in text.split()])


L_SHAPE = grid("#... #... ##.. ....")
SQUARE = grid(".... .##. .##. ....")
EMPTY = grid(".... .... .... ....")
FULL = grid("#### #### #### ####")


def test_mask_boxes_are_tight_and_exclusive() -> None:
    boxes = geometry.mask_boxes(np.stack([L_SHAPE, SQUARE, EMPTY, FULL, grid(".... .... ...# ....")]))
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, [[0, 0, 2, 3], [1, 1, 3, 3], [0, 0, 0, 0], [0, 0, 4, 4], [3, 2, 4, 3]])
    assert geometry.mask_boxes(np.zeros((0, 4, 4), bool)).shape == (0, 4)


def test_box_iou() -> None:
    a = np.array([[0, 0, 2, 2], [5, 5, 5, 5]], np.float32)
    b = np.array([[1, 0, 3, 2], [0, 0, 2, 2], [3, 3, 4, 4]], np.float32)
    np.testing.assert_allclose(geometry.box_iou(a, b), np.array([[1 / 3, 1.0, 0], [0, 0, 0]]), rtol=1e-6)
    assert geometry.box_iou(a[:0], b).shape == (0, 3)
    assert geometry.box_iou(a, b[:0]).shape == (2, 0)


def test_nms_keeps_the_best_and_respects_groups() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 10]], np.float32)
    scores = np.array([0.5, 0.9, 0.7, 0.5], np.float32)
    assert geometry.nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert geometry.nms(boxes, scores, 0.95).tolist() == [1, 2, 0]  # equal scores: the earlier one stays
    assert geometry.nms(boxes, scores, 0.5, groups=np.array([0, 0, 0, 1])).tolist() == [1, 2, 3]
    kept = geometry.nms(boxes[:0], scores[:0], 0.5)
    assert kept.dtype == np.int64
    assert kept.shape == (0,)


def test_clip_boxes() -> None:
    boxes = geometry.clip_boxes(np.array([[-3, 1, 99, 2]], np.float32), (10, 20))
    np.testing.assert_array_equal(boxes, [[0, 1, 20, 2]])


def test_mirrored_boxes() -> None:
    boxes = geometry.mirrored_boxes(np.array([[1, 2, 5, 9], [np.nan] * 4], np.float32), 20)
    np.testing.assert_array_equal(boxes, [[15, 2, 19, 9], [np.nan] * 4])
    assert boxes.dtype == np.float32


def test_mask_iou_and_containment() -> None:
    a = np.stack([L_SHAPE, EMPTY])
    b = np.stack([L_SHAPE, SQUARE, FULL, EMPTY])
    np.testing.assert_allclose(geometry.mask_iou(a, b), np.array([[1, 1 / 7, 0.25, 0], [0, 0, 0, 0]]), rtol=1e-6)
    np.testing.assert_allclose(geometry.mask_containment(a, b), np.array([[1, 0.25, 1.0, 0], [0, 0, 0, 0]]), rtol=1e-6)
    assert geometry.mask_iou(a[:0], b).shape == (0, 4)
    with pytest.raises(ShapeError, match=r"\(2, 4, 4\) and \(1, 3, 4\)"):
        geometry.mask_iou(a, np.zeros((1, 3, 4), bool))


def test_mask_iou_counts_exactly_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_PIXELS_PER_BLOCK", 5)
    np.testing.assert_allclose(geometry.mask_iou(L_SHAPE[None], SQUARE[None]), [[1 / 7]], rtol=1e-6)


@pytest.mark.parametrize(
    ("size_hw", "resized"),
    [((480, 640), (768, 1024)), ((1, 1), (1024, 1024)), ((17, 3000), (6, 1024)), ((1, 3000), (1, 1024))],
)
def test_longest_edge_frame(size_hw: tuple[int, int], resized: tuple[int, int]) -> None:
    assert geometry.longest_edge_frame(size_hw, 1024) == Frame(size_hw, resized, (1024, 1024))
    assert geometry.longest_edge_frame(size_hw, 1024, pad=False).input_hw == resized


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([256, 1024]))
def test_longest_edge_frame_rounds_like_transformers(h: int, w: int, edge: int) -> None:
    scale = edge / max(h, w)
    want = (max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5)))
    frame = geometry.longest_edge_frame((h, w), edge)
    assert frame.resized_hw == want
    assert max(frame.resized_hw) == edge


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.booleans(),
    hnp.arrays(
        np.float32, st.tuples(st.integers(0, 5), st.sampled_from([2, 4])), elements=st.floats(0, 4000, width=32)
    ),
)
def test_coordinates_come_back(h: int, w: int, stretch: bool, coords: Any) -> None:
    frame = geometry.stretch_frame((h, w), (96, 64)) if stretch else geometry.longest_edge_frame((h, w), 1024)
    back = geometry.to_original(geometry.to_input(coords, frame), frame)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, coords, rtol=1e-5, atol=1e-4)


def test_coordinates_scale_by_axis() -> None:
    frame = geometry.stretch_frame((10, 20), (100, 40))
    np.testing.assert_allclose(geometry.to_input(np.array([[1, 1, 20, 10]], np.float32), frame), [[2, 10, 40, 100]])
    with pytest.raises(ShapeError, match="expected"):
        geometry.to_input(np.zeros((2, 3), np.float32), frame)


def test_crop_padding() -> None:
    frame = geometry.longest_edge_frame((480, 640), 1024)
    assert geometry.crop_padding(np.zeros((2, 3, 256, 256), np.float32), frame).shape == (2, 3, 192, 256)
    thin = geometry.longest_edge_frame((1, 3000), 1024)
    assert geometry.crop_padding(np.zeros((1, 256, 256), np.float32), thin).shape == (1, 1, 256)


@pytest.mark.parametrize("size_hw", [(480, 640), (640, 427), (1, 1), (17, 300), (300, 17), (256, 256), (33, 1025)])
def test_upscale_agrees_with_transformers(size_hw: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.sam.image_processing_sam import SamImageProcessor

    frame = geometry.longest_edge_frame(size_hw, 256)
    processor = SamImageProcessor(pad_size={"height": 256, "width": 256}, size={"longest_edge": 256})
    logits = np.random.default_rng(0).normal(0, 4, (3, 64, 64)).astype(np.float32)
    want = processor.post_process_masks(
        [torch.from_numpy(logits)[None]], [size_hw], [frame.resized_hw], binarize=False, pad_size=processor.pad_size
    )[0][0]
    got = geometry.upscale_logits(logits, frame)
    assert got.shape == (3, *size_hw)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want.numpy(), atol=1e-4)
    np.testing.assert_array_equal(geometry.upscale_masks(logits, frame), got > 0)
    exact = torch.from_numpy(logits)[None].double()  # torch rounds its float32 coordinates; cv2 is nearer the truth
    for step, cut in ((frame.input_hw, frame.resized_hw), (size_hw, size_hw)):
        exact = torch.nn.functional.interpolate(exact, step, mode="bilinear")[..., : cut[0], : cut[1]]
    np.testing.assert_allclose(got, exact[0].numpy(), atol=1e-5)


def test_upscale_of_nothing() -> None:
    frame = geometry.longest_edge_frame((5, 7), 256)
    assert geometry.upscale_logits(np.zeros((0, 64, 64), np.float32), frame).shape == (0, 5, 7)
    assert geometry.upscale_masks(np.zeros((0, 64, 64), np.float32), frame).shape == (0, 5, 7)
    assert geometry.resize_logits(np.zeros((0, 64, 64), np.float32), (5, 7)).shape == (0, 5, 7)


def test_resize_logits_literal() -> None:
    out = geometry.resize_logits(np.array([[[0, 4]]], np.float32), (1, 4))
    np.testing.assert_allclose(out, [[[0, 1, 3, 4]]])


def test_stability_ignores_the_padding() -> None:
    frame = Frame((2, 4), (2, 4), (4, 4))
    logits = np.array([[3, 0.5, -0.5, -3], [3, 3, -3, -3], [9, 9, 9, 9], [9, 9, 9, 9]], np.float32)
    np.testing.assert_allclose(geometry.stability(logits, frame), 3 / 5)
    both = geometry.stability(np.stack([logits, np.full((4, 4), -9, np.float32)])[None], frame)
    np.testing.assert_allclose(both, [[3 / 5, 0]])
    assert geometry.stability(np.zeros((0, 3, 4, 4), np.float32), frame).shape == (0, 3)


def test_remove_small_regions() -> None:
    ring = grid("#### #..# #..# ####")
    assert geometry.remove_small_regions(ring, 5, "holes").all()
    np.testing.assert_array_equal(geometry.remove_small_regions(ring, 4, "holes"), ring)
    two = grid("##.. ##.. .... ...#")
    np.testing.assert_array_equal(geometry.remove_small_regions(two, 2, "islands"), grid("##.. ##.. .... ...."))
    np.testing.assert_array_equal(geometry.remove_small_regions(two, 99, "islands"), grid("##.. ##.. .... ...."))
    modes: tuple[Literal["holes", "islands"], ...] = ("holes", "islands")
    for mode in modes:
        np.testing.assert_array_equal(geometry.remove_small_regions(EMPTY, 2, mode), EMPTY)
    with pytest.raises(ShapeError, match="'dots'"):
        geometry.remove_small_regions(ring, 2, "dots")  # type: ignore[arg-type]


def test_square_crop() -> None:
    picture = np.arange(16, dtype=np.uint8).reshape(4, 4)
    box = np.array([1, 1, 3, 3], np.float32)
    np.testing.assert_array_equal(geometry.square_crop(picture, box), [[5, 6], [9, 10]])
    np.testing.assert_array_equal(geometry.square_crop(picture, box, grow=2), picture)
    grown = geometry.square_crop(picture, box, grow=3, fill=7)
    assert grown.shape == (6, 6)
    assert (grown[0] == 7).all()
    np.testing.assert_array_equal(grown[1:5, 1:5], picture)
    wide = geometry.square_crop(np.ones((4, 4, 3), np.uint8), np.array([0, 0, 4, 2], np.float32), fill=(9, 8, 7))
    assert wide.shape == (4, 4, 3)
    assert wide[0, 0].tolist() == [9, 8, 7]
    assert wide[1:3].min() == 1
    outside = geometry.square_crop(picture, np.array([90, 90, 91, 91], np.float32), fill=3)
    np.testing.assert_array_equal(outside, [[3]])
    assert geometry.square_crop(picture, np.zeros(4, np.float32)).shape == (1, 1)


@settings(deadline=None)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_rle_round_trip(mask: Any) -> None:
    rle = geometry.encode_rle(mask)
    assert isinstance(rle["counts"], str)
    np.testing.assert_array_equal(geometry.decode_rle(rle), mask)


def test_rle_literal_and_errors() -> None:
    uncompressed = {"size": [4, 4], "counts": [5, 2, 2, 2, 5]}
    np.testing.assert_array_equal(geometry.decode_rle(uncompressed), SQUARE)
    assert geometry.encode_rle(SQUARE) == {"size": [4, 4], "counts": "52203"}
    with pytest.raises(ShapeError, match=r"expected \(H, W\)"):
        geometry.encode_rle(SQUARE[None])
    for bad in (
        {},
        {"size": [4, 4]},
        {"size": 3, "counts": "1"},
        {"size": [4, 4], "counts": None},
        {"size": [4, 4], "counts": "o0o0"},
    ):
        with pytest.raises(ShapeError, match="RLE"):
            geometry.decode_rle(bad)


def test_validate_boxes() -> None:
    np.testing.assert_array_equal(geometry.validate_boxes((1, 2, 3, 4), (10, 20)), [[1, 2, 3, 4]])
    np.testing.assert_array_equal(geometry.validate_boxes([[-5, 2, 30, 4]], (10, 20)), [[0, 2, 20, 4]])
    assert geometry.validate_boxes([], (10, 20)).shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((5, 2, 3, 4), "inverted"),
        ((5, 2, 5, 4), "empty"),
        ((math.nan, 2, 5, 4), "NaN"),
        ((0, 0, math.inf, 4), "NaN or infinite"),
        ((25, 2, 30, 4), "outside the picture, which is 20 wide and 10 high"),
        ((1, 2, 3), "shape"),
        ("box", "numbers"),
        ([[1, 2, 3, 4], [1, 2]], "numbers"),
    ],
)
def test_validate_boxes_tells_what_came(box: Any, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        geometry.validate_boxes(box, (10, 20))


def test_validate_points() -> None:
    points, labels = geometry.validate_points([(1, 2), (20, 10)], [1, 0], (10, 20))
    assert points.dtype == np.float32
    assert labels.tolist() == [1, 0]
    points, labels = geometry.validate_points((3, 4), None, (10, 20))
    assert points.tolist() == [[3, 4]]
    assert labels.tolist() == [1]
    points, labels = geometry.validate_points([], [], (10, 20))
    assert points.shape == (0, 2)
    assert labels.shape == (0,)


@pytest.mark.parametrize(
    ("points", "labels", "says"),
    [
        ([(21, 2)], None, "outside"),
        ([(1, -1)], None, "outside"),
        ([(math.nan, 1)], None, "NaN"),
        ([(1, 2, 3)], None, "shape"),
        ([(1, 2)], [1, 1], "one for each of 1"),
        ([(1, 2)], [2], "expected 1"),
        ([(1, 2)], ["x"], "numbers"),
    ],
)
def test_validate_points_tells_what_came(points: Any, labels: Any, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        geometry.validate_points(points, labels, (10, 20))


def test_imports_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys, textseg.geometry, textseg.image, textseg.language; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
