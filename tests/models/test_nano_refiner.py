"""The mask refiner: what it sees, what it answers, its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from textseg import image as images
from textseg.closeup import Rough
from textseg.models import onednn
from textseg.models.nano_refiner import (
    PLANES,
    NanoRefiner,
    RefinerConfig,
    RefinerNetwork,
    crop_planes,
    load_refiner,
    save_refiner,
)
from textseg.models.quick_convolutions import fold_norms
from textseg.types import Float

TINY = RefinerConfig(side=32, widths=(4, 6, 8, 8), blocks=1)


@pytest.fixture
def network() -> RefinerNetwork:
    torch.manual_seed(0)
    return RefinerNetwork(TINY).eval()


def rough(h: int, w: int) -> Float:
    out = np.full((h, w), -4, np.float32)
    out[h // 4 : h // 2 + 1, w // 4 : w // 2 + 1] = 4
    return out


@pytest.mark.parametrize("size_hw", [(1, 1), (17, 300), (90, 120)])
def test_masks_of_pictures_of_any_size_are_drawn(network: RefinerNetwork, size_hw: tuple[int, int]) -> None:
    picture = images.read(np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8))
    grid = max(1, size_hw[0] // 4), max(1, size_hw[1] // 4)
    answer = NanoRefiner(network, "tiny").refine(
        picture, [Rough.whole(rough(*grid), size_hw)], np.full((1, 4), np.nan, np.float32)
    )
    assert answer.logits.shape == (1, 16, 16)
    assert np.isfinite(answer.logits).all()
    assert 0 <= answer.predicted_iou[0] <= 1


def test_no_masks_no_closeups(network: RefinerNetwork) -> None:
    picture = images.read(np.zeros((8, 8, 3), np.uint8))
    answer = NanoRefiner(network, "tiny").refine(picture, [], np.zeros((0, 4), np.float32))
    assert answer.windows.shape == (0, 3)
    assert answer.logits.shape == (0, 16, 16)


def test_an_untrained_network_leaves_the_rough_mask_where_it_is(network: RefinerNetwork) -> None:
    torch.nn.init.zeros_(network.draw.weight)
    torch.nn.init.zeros_(network.draw.bias)
    picture = images.read(np.zeros((64, 64, 3), np.uint8))
    box = np.array([[16, 16, 34, 34]], np.float32)
    answer = NanoRefiner(network, "tiny").refine(picture, [Rough.whole(rough(32, 32), (64, 64))], box)
    x, y, side = answer.windows[0]
    ys, xs = np.nonzero(answer.logits[0] > 0)
    assert x + xs.min() * side / 16 == pytest.approx(16, abs=2)
    assert y + (ys.max() + 1) * side / 16 == pytest.approx(34, abs=2)


def test_the_planes_tell_picture_mask_box_and_what_lies_outside() -> None:
    picture = np.full((20, 20, 3), 255, np.uint8)
    window, box = np.array([-10, 0, 20], np.float32), np.array([0, 0, 5, 20], np.float32)
    rough, hint = np.full((16, 16), 40, np.float32), np.full((16, 16), -2, np.float32)
    planes = crop_planes((picture,), rough, window, box, hint, TINY)
    assert planes.shape == (PLANES, 32, 32)
    assert (planes[:3, :, :15] == 0).all()
    assert (planes[:3, 1:-1, 17:] > 2).all()
    assert (planes[3] == 2).all()  # limited
    assert planes[4].mean() == pytest.approx(0.25)
    assert planes[5].mean() == pytest.approx(0.5)
    assert (planes[6] == -0.5).all()
    bare = crop_planes((picture,), np.zeros((16, 16), np.float32), window, None, None, TINY)
    assert not bare[[4, 6]].any()


def test_rounding_to_bfloat16_hardly_moves_an_edge(network: RefinerNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = images.read(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    boxes = np.array([[8, 8, 40, 50], [20, 4, 60, 30]], np.float32)
    given = [Rough.whole(rough(32, 32), (64, 64))] * 2
    answers = []
    for quick in (False, True):
        monkeypatch.setattr(onednn, "has_bfloat16", lambda quick=quick: quick)
        answers.append(NanoRefiner(network, "tiny").refine(picture, given, boxes))
    exact, rounded = answers
    assert exact.logits.dtype == rounded.logits.dtype == np.float32
    assert ((exact.logits > 0) == (rounded.logits > 0)).mean() > 0.97
    np.testing.assert_allclose(exact.predicted_iou, rounded.predicted_iou, atol=0.03)


def test_saved_weights_come_back(network: RefinerNetwork, tmp_path: Path) -> None:
    save_refiner(tmp_path / "refiner", network)
    loaded = load_refiner(tmp_path / "refiner")
    assert loaded.config == TINY
    planes = torch.randn(2, PLANES, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(planes).logits, network(planes).logits, atol=0.02, rtol=0.02)  # fp16 on disk


def test_folding_the_norms_changes_no_answer(network: RefinerNetwork, tmp_path: Path) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    save_refiner(tmp_path, network)
    folded = load_refiner(tmp_path)
    fold_norms(folded)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    planes = torch.randn(2, PLANES, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(folded(planes).logits, load_refiner(tmp_path)(planes).logits, atol=1e-4, rtol=1e-4)
