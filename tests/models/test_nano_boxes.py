"""Boxes from places, on hand-written answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from textseg.models.nano_boxes import ProposalConfig, find_boxes, join_looks, worth_a_second_look
from textseg.models.nano_network import Answers
from textseg.types import Proposals

SIZE_HW = (100, 100)
WHOLE, LEFT, MIDDLE = (0, 0, 80, 100), (0, 0, 45, 100), (40, 40, 60, 60)


def test_overlapping_boxes_of_one_phrase_are_one() -> None:
    maps = torch.full((1, 1, 8, 8), -9.0)
    maps[0, 0, 0, 0], maps[0, 0, 7, 7] = 5.0, 4.0
    boxes = torch.tensor([0.0, 0.0, 30.0, 30.0])[None, None, :, None, None].expand(1, 1, 4, 4, 4)
    answers = Answers(maps, boxes, torch.full((1, 1, 4, 4), 5.0), torch.full((1, 1), 5.0))
    found = find_boxes(answers, ProposalConfig(), 0.5)
    torch.testing.assert_close(found.boxes_xyxy, torch.tensor([[0.0, 0.0, 30.0, 30.0]]))
    assert found.scores[0] > 0.98


def test_a_box_is_the_mean_of_what_the_places_around_it_say() -> None:
    maps = torch.full((1, 1, 8, 8), -20.0)
    maps[0, 0, 0, :6] = torch.tensor([9.0, 9.0, 2.0, 2.0, 0.0, 0.0])  # places 0, 1 and 2 of the upper row
    boxes = torch.zeros(1, 1, 4, 4, 4)
    boxes[..., 2:, :, :] = 30.0
    boxes[0, 0, 2, 0, 1] = 40.0  # the second place sees more of the thing
    boxes[0, 0, :, 0, 2] = torch.tensor([25.0, 0.0, 60.0, 30.0])  # the third sees another one
    answers = Answers(maps, boxes, torch.full((1, 1, 4, 4), 9.0), torch.full((1, 1), 9.0))
    found = find_boxes(answers, ProposalConfig(), 0.9)
    own, second = torch.tensor(9.0).sigmoid(), 30 / 40 * torch.tensor(2.0).sigmoid()
    mean = float((30 * own + 40 * second) / (own + second))
    torch.testing.assert_close(found.boxes_xyxy, torch.tensor([[0.0, 0.0, mean, 30.0]]), atol=1e-2, rtol=0)


def look(boxes: dict[tuple[int, ...], float], side: int, phrase: int = 0) -> Proposals:
    """Proposals with scores, and rough masks of their own scores at some resolution."""
    scores = np.array(list(boxes.values()), np.float32)
    masks = np.ones((len(boxes), side, side), np.float32) * scores[:, None, None]
    corners = np.array(list(boxes), np.float32).reshape(-1, 4)
    return Proposals(corners, scores, np.full(len(boxes), phrase), ("detector",) * len(boxes), masks)


@pytest.mark.parametrize(
    ("near", "far", "kept"),
    [
        ({LEFT: 0.8, MIDDLE: 0.6}, {WHOLE: 0.9}, {WHOLE: 0.9, MIDDLE: 0.6}),  # half of it is one with the whole
        ({LEFT: 0.9, MIDDLE: 0.6}, {WHOLE: 0.8}, {LEFT: 0.9, MIDDLE: 0.6}),  # there is no more of it
        ({LEFT: 0.5}, {MIDDLE: 0.9}, {LEFT: 0.5}),  # small things are seen close
        ({}, {WHOLE: 0.7, MIDDLE: 0.9}, {WHOLE: 0.7}),
        ({LEFT: 0.5}, {}, {LEFT: 0.5}),
        ({}, {}, {}),
    ],
)
def test_the_far_look_tells_of_what_fills_the_picture(
    near: dict[tuple[int, ...], float], far: dict[tuple[int, ...], float], kept: dict[tuple[int, ...], float]
) -> None:
    found = join_looks(look(near, 20), look(far, 12), SIZE_HW, ProposalConfig(far_share=0.36))
    assert {tuple(box): float(score) for box, score in zip(found.boxes_xyxy.tolist(), found.scores, strict=True)} == (
        pytest.approx(kept)
    )
    assert (np.diff(found.scores) <= 0).all()
    assert found.mask_logits is not None or not kept
    for mask, score in zip(found.mask_logits if kept else (), found.scores, strict=True):
        assert mask.shape == ((20, 20) if near else (12, 12))
        np.testing.assert_allclose(mask, score, rtol=1e-5)


def test_looks_are_joined_phrase_by_phrase() -> None:
    found = join_looks(look({LEFT: 0.9}, 20, phrase=1), look({WHOLE: 0.8}, 20, phrase=0), SIZE_HW, ProposalConfig())
    assert found.phrase_index.tolist() == [0, 1]
    assert found.boxes_xyxy.tolist() == [list(WHOLE), list(LEFT)]


@pytest.mark.parametrize(("share", "worth"), [(0.0, [0, 1, 2]), (0.15, [0, 2]), (0.6, [2]), (1.0, [])])
def test_only_what_is_seen_on_much_of_the_picture_is_worth_a_second_look(share: float, worth: list[int]) -> None:
    maps = torch.full((3, 4, 5), -8.0)
    maps[0, :2] = 1.0  # on one half
    maps[1, 0, 0] = 1.0
    maps[2, :, :4] = -0.5  # not sure, but on most of it
    assert worth_a_second_look(maps, ProposalConfig(far_seen=share)).tolist() == worth
