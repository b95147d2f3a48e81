"""Boxes from places, on hand-written answers."""

from __future__ import annotations

import torch

from textseg.models.nano_boxes import ProposalConfig, find_boxes
from textseg.models.nano_network import Answers


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
