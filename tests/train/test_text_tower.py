"""The text tower's composed codes: what is near what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from textseg.train.clip_model import ClipModelConfig
from textseg.train.loop import load_checkpoint
from textseg.train.text_tower import ConceptCodes, train_text_tower
from textseg.train.vocab import NanoTokenizer, build_tokenizer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of training data with three cut-outs' names and nothing else."""
    (tmp_path / "fluent").mkdir()
    entries = [
        {"file_name": "automobile.webp", "name": "automobile", "tags": ["car", "vehicle"], "group": 5},
        {"file_name": "teapot.webp", "name": "teapot", "tags": ["drink", "pot"], "group": 4},
        {"file_name": "honeybee.webp", "name": "honeybee", "tags": ["animal", "insect"], "group": 3},
    ]
    (tmp_path / "fluent" / "names.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path


@pytest.fixture
def tokenizer() -> NanoTokenizer:
    words = ["automobile", "car", "vehicle", "teapot", "honeybee", "the red car", "a photo of a blue teapot"]
    return NanoTokenizer(build_tokenizer(words * 5, 400))


def test_synonyms_are_near_and_other_nouns_far(root: Path, tokenizer: NanoTokenizer) -> None:
    codes = ConceptCodes(tokenizer, root, 256)
    assert codes("automobile", None) @ codes("car", None) > 0.5
    assert abs(codes("teapot", None) @ codes("honeybee", None)) < 0.35


def test_a_colored_noun_lies_between_color_and_noun(root: Path, tokenizer: NanoTokenizer) -> None:
    codes = ConceptCodes(tokenizer, root, 256)
    red_car, blue_car, red_bee = codes("car", "red"), codes("car", "blue"), codes("honeybee", "red")
    assert 0.3 < red_car @ blue_car < 0.8
    assert 0.2 < red_car @ red_bee < 0.8
    np.testing.assert_allclose(np.linalg.norm(red_car), 1.0)


def test_training_reaches_the_codes_and_keeps_the_picture_tower(root: Path, tokenizer: NanoTokenizer) -> None:
    shape = ClipModelConfig(image_tower="test_resnet", embed_dim=32, text_width=32, text_heads=2, text_layers=1)
    checkpoint = root / "text.pt"
    short = train_text_tower(shape, tokenizer, root, checkpoint, steps=2, batch=16)
    before = load_checkpoint(checkpoint)["ema"]["shadow"]
    trained = train_text_tower(shape, tokenizer, root, checkpoint, steps=60, batch=32)
    after = load_checkpoint(checkpoint)["ema"]["shadow"]
    assert trained > short + 0.2
    picture = [name for name in before if name.startswith("visual.")]
    assert picture
    assert all(bool((before[name] == after[name]).all()) for name in picture)
