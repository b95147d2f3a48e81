"""The detector as SAM's teacher: what the lesson is, and that it is learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from textseg.models.nano_boxes import ProposalConfig
from textseg.models.nano_detector import save_detector
from textseg.models.nano_network import NanoNetwork, NetworkConfig
from textseg.train.sam_teacher import PixelTeacher, teacher_loss

TINY = NetworkConfig(width=16, fine_width=8, embed_dim=8, context_width=16, context_layers=1, context_heads=2)


@pytest.fixture
def teacher(tmp_path: Path) -> PixelTeacher:
    torch.manual_seed(0)
    save_detector(tmp_path, NanoNetwork(TINY), ProposalConfig())
    return PixelTeacher(tmp_path)


def test_a_lesson_is_standardised_on_the_students_grid(teacher: PixelTeacher) -> None:
    images = torch.randint(0, 255, (3, 72, 72, 3), dtype=torch.uint8)  # 72 is no multiple of the detector's step
    lesson = teacher.lesson(images, (6, 6))
    assert lesson.shape == (3, teacher.width, 6, 6) and not lesson.requires_grad
    torch.testing.assert_close(lesson.mean((0, 2, 3)), torch.zeros(teacher.width), atol=1e-4, rtol=0)


def test_padding_is_not_taught() -> None:
    head = nn.Conv2d(4, 2, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    lesson = torch.zeros(1, 2, 2, 2)
    lesson[..., 1] = 5.0
    valid = torch.zeros(1, 8, 8, dtype=torch.bool)
    valid[..., :4] = True
    assert float(teacher_loss(head, torch.randn(1, 4, 2, 2), lesson, valid).detach()) == 0.0
    assert float(teacher_loss(head, torch.randn(1, 4, 2, 2), lesson, ~valid).detach()) == 25.0


def test_a_student_learns(teacher: PixelTeacher) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    lesson, valid = teacher.lesson(images, (4, 4)), torch.ones(2, 16, 16, dtype=torch.bool)
    head, features = nn.Conv2d(32, teacher.width, 1), torch.randn(2, 32, 4, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = teacher_loss(head, features, lesson, valid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
