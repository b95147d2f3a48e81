"""The trainers' YAML files: each fills its dataclass, and a slip is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from textseg.config import read_yaml
from textseg.errors import ConfigError
from textseg.train.clip import ClipTrainConfig
from textseg.train.detector import TrainConfig
from textseg.train.refiner import RefinerTrainConfig
from textseg.train.sam import SamTrainConfig

SHIPPED = Path(__file__).parents[2] / "configs" / "train"
KINDS: dict[str, Any] = {
    "clip": ClipTrainConfig,
    "detector": TrainConfig,
    "refiner": RefinerTrainConfig,
    "close_sam": SamTrainConfig,
    "sam": SamTrainConfig,
}


def test_every_shipped_file_has_its_trainer() -> None:
    assert {path.stem for path in SHIPPED.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_shipped_files_are_read(name: str) -> None:
    config = read_yaml(SHIPPED / f"{name}.yaml", KINDS[name])
    assert config.workers == 1
    assert config != KINDS[name]()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("clip", "stepz: 3", r"unknown key 'stepz'.*'steps'"),
        ("clip", "crops: {shares: {scene: much}}", r"crops: shares\.scene: got str 'much', expected float"),
        ("detector", "data: {batch_sise: 3}", r"data: unknown key 'batch_sise'.*'batch_size'"),
        ("detector", "data: {stages: [[0.0, 160, 3]]}", r"stages\[0\]: got list .*, expected 2 values"),
        ("refiner", "crops: {batches: 3}", r"crops: unknown key 'batches'.*'batch'"),
        ("refiner", "steps: 1.5", r"steps: got float 1\.5, expected int"),
        ("sam", "model: {imgae_size: 3}", r"model: unknown key 'imgae_size'.*'image_size'"),
    ],
)
def test_slips_name_the_key_and_what_was_expected(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_yaml(path, KINDS[name])
