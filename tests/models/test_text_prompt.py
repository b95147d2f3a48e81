"""The text prompt: shapes, saving, and what it says about files and arrays that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from textseg.errors import ShapeError, WeightsError
from textseg.models.nano_files import CONFIG_FILE, WEIGHTS_FILE
from textseg.models.text_prompt import TextPrompt, TextPromptConfig

SMALL = TextPromptConfig(clip_dim=6, text_width=8, token_count=3, hidden_dim=5)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_tokens_have_the_prompt_encoders_width(count: int) -> None:
    tokens = TextPrompt(SMALL).tokens(np.ones((count, 6), np.float32))
    assert tokens.shape == (count, 3, 8)
    assert tokens.dtype == np.float32


def test_another_clip_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 7\).*\(N, 6\)"):
        TextPrompt(SMALL).tokens(np.ones((2, 7), np.float32))


def test_saved_weights_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TextPrompt(SMALL)
    model.center.fill_(0.25)
    model.save(tmp_path / "text_prompt")
    loaded = TextPrompt.load(tmp_path / "text_prompt")
    given = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    assert loaded.config == SMALL
    assert loaded.out.weight.dtype == torch.float32
    np.testing.assert_allclose(loaded.tokens(given), model.tokens(given), atol=2e-3)  # weights are kept as fp16


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=CONFIG_FILE):
        TextPrompt.load(tmp_path)
    TextPrompt(SMALL).save(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(WeightsError, match=WEIGHTS_FILE):
        TextPrompt.load(tmp_path)


def test_damaged_or_foreign_weights_are_named(tmp_path: Path) -> None:
    TextPrompt(SMALL).save(tmp_path)
    table = json.loads((tmp_path / CONFIG_FILE).read_text(encoding="utf-8"))
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**table, "hidden_dim": 9}), encoding="utf-8")
    with pytest.raises(WeightsError, match="does not fit"):
        TextPrompt.load(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"\x00\x01")
    with pytest.raises(WeightsError, match="damaged"):
        TextPrompt.load(tmp_path)
