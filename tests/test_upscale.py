"""Masks measured at the original size against torch's interpolation and segment-anything's run lengths."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.amg import calculate_stability_score, mask_to_rle_pytorch
from torch.nn import functional as F

from textseg import geometry
from textseg.stream import geometry_part
from textseg.types import Frame
from textseg.upscale import Outline, Upscaler

CASES = [
    ((480, 640), 1024),
    ((75, 100), 64),
    ((64, 64), 64),
    ((1, 1), 64),
    ((3, 200), 64),
    ((900, 1500), 1024),
    ((333, 1000), 256),
    ((640, 100), 64),
    ((130, 257), 256),
]


def full_size(low: np.ndarray, frame: Frame) -> torch.Tensor:
    """Return Meta's ``postprocess_masks``, float32 (1, H, W)."""
    whole = F.interpolate(torch.from_numpy(low)[None, None], frame.input_hw, mode="bilinear", align_corners=False)
    shown = whole[..., : frame.resized_hw[0], : frame.resized_hw[1]]
    return F.interpolate(shown, frame.original_hw, mode="bilinear", align_corners=False)[0]


def logits(side: int, smooth: float, shift: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (side, side)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), smooth)
    return np.asarray(soft / soft.std() * 4 - shift, np.float32)


@pytest.mark.parametrize(("size", "edge"), CASES)
@pytest.mark.parametrize(("smooth", "shift"), [(0.1, 0), (1, 0), (3, 5), (8, 8), (2, 20), (3, -30), (6, -5)])
def test_outlines_are_those_of_the_full_mask(size: tuple[int, int], edge: int, smooth: float, shift: float) -> None:
    frame = geometry.longest_edge_frame(size, edge)
    low = logits(edge // 4, smooth, shift)
    part = geometry_part(frame, low.shape)
    got = Upscaler(frame, low.shape).outline(low[: part[0], : part[1]])
    assert got is not None
    full = full_size(low, frame)
    mask = geometry.decode_rle(got.rle())
    wrong = (mask != (full[0] > 0).numpy()).sum()
    assert wrong <= 1 + 1e-4 * mask.sum()
    assert got.area == mask.sum()
    assert got.box_xyxy == tuple(geometry.mask_boxes(mask[None])[0].astype(int))
    stability = float(calculate_stability_score(full, 0.0, 1.0))
    assert np.isclose(got.stability, stability, atol=1e-3, equal_nan=True)
    if not wrong:
        assert got.counts.tolist() == mask_to_rle_pytorch(full > 0)[0]["counts"]


def test_an_unstable_mask_is_none() -> None:
    frame = geometry.longest_edge_frame((75, 100), 64)
    upscaler, low = Upscaler(frame, (16, 16)), logits(16, 1, 0)
    outline = upscaler.outline(low)
    assert outline is not None
    assert upscaler.outline(low, least_stability=outline.stability + 0.01) is None
    assert upscaler.outline(low, least_stability=outline.stability) is not None
    assert upscaler.outline(low - 100, least_stability=0.1) is None
    empty = upscaler.outline(low - 100)
    assert empty is not None and empty.area == 0 and empty.counts.tolist() == [7500]


def test_models_that_stretch_the_picture() -> None:
    frame = Frame((75, 100), (16, 16), (16, 16))
    low = logits(16, 2, 1)
    got = Upscaler(frame, (16, 16)).outline(low)
    assert got is not None
    assert (geometry.decode_rle(got.rle()) == geometry.upscale_masks(low[None], frame)[0]).mean() > 0.9999


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**31), st.booleans())
def test_crops_are_placed_in_the_picture(h: int, w: int, top: int, left: int, seed: int, dense: bool) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < (0.9 if dense else 0.4)
    flat = np.concatenate([[False], mask.T.reshape(-1), [False]])
    runs = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(runs, prepend=0, append=h * w)
    counts = counts[:-1] if len(counts) > 1 and not counts[-1] else counts
    box = tuple(int(v) for v in geometry.mask_boxes(mask[None])[0])
    outline = Outline(counts, int(mask.sum()), box, 1.0, (h, w))  # type: ignore[arg-type]
    for below in (0, 3):
        size = (top + h + below, left + w + below)
        placed = outline.placed((top, left), size)
        whole = np.zeros(size, np.bool_)
        whole[top : top + h, left : left + w] = mask
        assert (geometry.decode_rle(placed.rle()) == whole).all()
        assert placed.box_xyxy == tuple(int(v) for v in geometry.mask_boxes(whole[None])[0])
        assert placed.counts[1::2].sum() == mask.sum() and (placed.counts[1:] > 0).all()
