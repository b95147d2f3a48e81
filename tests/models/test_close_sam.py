"""A SAM on close-ups: its answers are transformers' own, in the right place, each as if it were the only one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textseg import image as images
from textseg.closeup import LIMIT, Rough, box_in, full_mask
from textseg.errors import ConfigError, ModelError
from textseg.models.close_sam import DIM, CloseSam, crop, dim
from textseg.models.sam_tiny import SIZE, tiny_model, tiny_processor
from textseg.prior import box_prior
from textseg.types import Image, UInt8

CELLS = SIZE // 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("close")
    tiny_model("edgetam").save_pretrained(folder)
    tiny_processor("edgetam").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam(folder: Path) -> CloseSam:
    return CloseSam.load(folder, grow=2.0)


def pixels(height: int = SIZE, width: int = SIZE) -> UInt8:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def picture(height: int = SIZE, width: int = SIZE) -> Image:
    return images.read(pixels(height, width))


def some_rough(count: int, size_hw: tuple[int, int]) -> list[Rough]:
    logits = np.random.default_rng(5).normal(0, 4, (count, CELLS, CELLS)).astype(np.float32)
    return [Rough.whole(one, size_hw) for one in logits]


@pytest.mark.parametrize("has_box", [True, False])
def test_a_window_that_is_the_whole_picture_gets_the_models_own_answer(sam: CloseSam, has_box: bool) -> None:
    box = np.array([[16, 20, 48, 44]], np.float32)  # 32 wide in the middle: twice that is all
    rough = box_prior(box, (SIZE, SIZE), (CELLS, CELLS))
    if not has_box:
        rough = np.full((1, CELLS, CELLS), -6, np.float32)
        rough[0, 4:12, 4:12] = 6  # its extent is that of 16..48
    got = sam.refine(
        picture(), [Rough.whole(rough[0], (SIZE, SIZE))], box if has_box else np.full((1, 4), np.nan, np.float32)
    )
    given: dict[str, Any] = {"input_boxes": torch.from_numpy(box)[None]} if has_box else {}
    seen = dim(pixels(), box[0]) if has_box else pixels()
    normal = (seen - np.array(sam.spec.mean)) / np.array(sam.spec.std)
    with torch.no_grad():
        want = tiny_model("edgetam")(
            pixel_values=torch.from_numpy(normal).permute(2, 0, 1)[None].float(),
            input_masks=torch.from_numpy(rough)[None],
            multimask_output=False,
            **given,
        )
    np.testing.assert_allclose(got.windows, [[0, 0, SIZE]])
    np.testing.assert_allclose(got.logits[0], want.pred_masks[0, 0, 0].clamp(-LIMIT, LIMIT), atol=3e-3)
    np.testing.assert_allclose(got.predicted_iou, want.iou_scores[0, 0].clamp(0, 1), atol=1e-3)


def test_a_mask_fed_back_is_a_rough_mask_of_the_next_round(folder: Path, sam: CloseSam) -> None:
    boxes, image = np.array([[5, 5, 40, 30], [np.nan] * 4], np.float32), picture(90, 130)
    once = sam.refine(image, some_rough(2, (90, 130)), boxes)
    near = [Rough.near(*pair) for pair in zip(once.logits, once.windows, strict=True)]
    again = sam.refine(image, near, boxes)
    fed = CloseSam.load(folder, grow=2.0, rounds=1).refine(image, some_rough(2, (90, 130)), boxes)
    np.testing.assert_allclose(fed.logits[0], again.logits[0], atol=3e-3)
    assert not np.allclose(fed.logits[0], once.logits[0], atol=0.01)
    np.testing.assert_array_equal(fed.windows, once.windows)


def test_each_prompt_is_answered_as_if_alone(sam: CloseSam) -> None:
    none = [np.nan] * 4
    boxes = np.array([[5, 5, 40, 30], none, [60, 20, 128, 80], [100, 60, 104, 63]] * 4, np.float32)  # several batches
    rough, image = some_rough(len(boxes), (90, 130)), picture(90, 130)
    together = sam.refine(image, rough, boxes)
    assert len(together) == len(boxes)
    for n in (0, 1, 11, 13):
        alone = sam.refine(image, rough[n : n + 1], boxes[n : n + 1])
        np.testing.assert_allclose(together.windows[n], alone.windows[0])
        np.testing.assert_allclose(together.logits[n], alone.logits[0], atol=3e-3)


@pytest.mark.parametrize("size_hw", [(1, 1), (17, 3000), (90, 120)])
def test_pictures_of_any_size(sam: CloseSam, size_hw: tuple[int, int]) -> None:
    box = np.array([[0, 0, size_hw[1], size_hw[0]], [np.nan] * 4], np.float32)
    got = sam.refine(picture(*size_hw), some_rough(2, size_hw), box)
    assert got.logits.shape == (2, CELLS, CELLS)
    assert np.isfinite(got.logits).all()
    assert full_mask(got, 0, size_hw).shape == size_hw


def test_nothing_is_drawn_beside_the_picture(folder: Path) -> None:
    sam = CloseSam.load(folder, grow=1.5)
    got = sam.refine(picture(50, 80), some_rough(1, (50, 80)), np.array([[0, 0, 40, 40]], np.float32))
    beside = int(CELLS * 10 / 60)  # the window begins 10 of its 60 pixels before the picture
    assert (got.logits[0, :beside] == -LIMIT).all()
    assert (got.logits[0, :, :beside] == -LIMIT).all()


def test_no_prompts_no_masks(sam: CloseSam) -> None:
    got = sam.refine(picture(), [], np.zeros((0, 4), np.float32))
    assert got.logits.shape == (0, CELLS, CELLS)


def test_boxes_and_pixels_keep_their_place_in_a_crop() -> None:
    window = np.array([10, 20, 50], np.float32)
    np.testing.assert_allclose(box_in(window, np.array([20, 30, 35, 70], np.float32), 100), [20, 20, 50, 100])
    assert np.isnan(box_in(window, np.full(4, np.nan, np.float32), 100)).all()
    rgb = pixels(40, 40)
    one = crop((rgb,), np.array([-10, 5, 20], np.float32), 20)
    assert not one.inside[:, :10].any()
    assert one.inside[:, 10:].all()
    np.testing.assert_array_equal(one.rgb[:, 10:], rgb[5:25, :10])


def test_a_box_darkens_what_lies_beside_it() -> None:
    rgb = np.full((8, 8, 3), 200, np.uint8)
    seen = dim(rgb, np.array([2, 1, 6.5, 8], np.float32))
    assert (seen[1:, 2:6] == 200).all()
    assert (seen[1:, 6] == 200 * (DIM + 1) / 2).all()  # half of that pixel
    for beside in (seen[0], seen[:, :2], seen[:, 7:]):
        assert (beside == 200 * DIM).all()
    np.testing.assert_array_equal(dim(rgb, np.full(4, np.nan, np.float32)), rgb)
    assert (rgb == 200).all()


def test_what_cannot_be_loaded_says_why(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"grow: got 0\.5, expected 1 or more"):
        CloseSam.load(folder, grow=0.5)
    with pytest.raises(ConfigError, match="rounds: got -1"):
        CloseSam.load(folder, rounds=-1)
    tiny_model("sam2").save_pretrained(tmp_path)
    tiny_processor("sam2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="EdgeTAM"):
        CloseSam.load(tmp_path)
