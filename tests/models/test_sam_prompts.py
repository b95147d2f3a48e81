"""Rough masks in the frame of the prompt encoder, and the grouping of prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textseg import geometry
from textseg.models.sam_prompts import chunks, mask_inputs
from textseg.types import Frame, Prompts

CPU = torch.device("cpu")


def test_a_mask_of_the_right_resolution_keeps_its_values() -> None:
    square = Frame((50, 80), (64, 64), (64, 64))
    mask = torch.arange(256.0).reshape(1, 16, 16)
    assert torch.equal(mask_inputs(mask, square, (16, 16)), mask[:, None])
    padded = Frame((50, 80), (40, 64), (64, 64))  # the picture takes 10 of 16 rows
    got = mask_inputs(mask[:, :10] - 5, padded, (16, 16))
    assert torch.equal(got[0, 0, :10], mask[0, :10] - 5)
    assert (got[0, 0, 10:] == -5).all()


def test_what_lies_outside_the_picture_is_outside_the_mask() -> None:
    padded = Frame((32, 64), (32, 64), (64, 64))
    got = mask_inputs(torch.full((1, 3, 3), 7.0), padded, (16, 16))
    assert (got[0, 0, :8] == 7).all()
    assert (got[0, 0, 8:] == -7).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([(7, 9), (40, 30), (200, 200)]))
def test_a_mask_keeps_its_place(height: int, width: int, mask_hw: tuple[int, int]) -> None:
    """A mask of each point's own x lands where the frame sends those x, within a pixel of the coarser grid."""
    frame = geometry.longest_edge_frame((height, width), 64)
    x = (torch.arange(mask_hw[1]) + 0.5) / mask_hw[1]  # 0..1 across the picture
    got = mask_inputs(x.expand(1, *mask_hw) + 1, frame, (16, 16))[0, 0]
    content = 16 * frame.resized_hw[1] / 64
    rows = geometry.crop_padding(got.numpy(), frame)[:1]
    inside = max(1, int(np.ceil(content - 0.5)))
    expected = (np.arange(inside) + 0.5) / content
    error = np.abs(rows[0, :inside] - 1 - expected)
    assert error.max() <= max(1 / content, 1 / mask_hw[1]) / 2 + 1e-4
    assert (got[:, int(np.ceil(content)) :] < 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), min_size=1, max_size=20), st.integers(1, 5))
def test_groups_cover_every_prompt_once(rows: list[tuple[bool, int, bool]], chunk: int) -> None:
    count = len(rows)
    boxes = np.array([[i, 1, i + 5, 9] if box else [np.nan] * 4 for i, (box, _, _) in enumerate(rows)])
    labels = np.array([[1] * n + [-1] * (3 - n) for _, n, _ in rows])
    points = np.arange(count)[:, None, None] + np.zeros((count, 3, 2))
    masks = np.array([np.full((4, 4), float(mask)) for _, _, mask in rows])
    prompts = Prompts(np.arange(count), boxes, points, labels, masks)
    frame = Frame((20, 40), (32, 64), (64, 64))
    seen: list[int] = []
    for index, tensors in chunks(prompts, frame, (16, 16), chunk, CPU):
        seen += index.tolist()
        assert tensors.count == len(index) <= chunk
        assert len({rows[i] for i in index}) == 1
        box, n, mask = rows[index[0]]
        assert (tensors.boxes is not None, tensors.masks is not None) == (box, mask)
        assert (0 if tensors.points is None else tensors.points.shape[1]) == n
        if tensors.boxes is not None:
            assert tensors.boxes[:, 0].tolist() == pytest.approx([1.6 * i for i in index])
        if tensors.points is not None:
            assert tensors.points[:, 0, 1].tolist() == pytest.approx([1.6 * i for i in index])
    assert sorted(seen) == list(range(count))
