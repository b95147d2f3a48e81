"""YAML fills dataclasses, and every mistake in it names the file, the key and the nearest right one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from textseg import config
from textseg.config import ModelConfig, Preset, fill, preset_names, read_preset, read_yaml
from textseg.errors import ConfigError

SMALL = {"name": "mine", "segmenter": {"kind": "edgetam", "model": "package:nano/sam"}}


@dataclass(frozen=True)
class Shapes:
    """One of each kind of field."""

    whole: int = 1
    real: float = 1.0
    yes: bool = True
    text: str = ""
    maybe: str | None = None
    names: tuple[str, ...] = ()
    table: Mapping[str, float] = field(default_factory=dict)
    anything: Any = None


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_reads(name: str) -> None:
    preset = read_preset(name)
    assert preset.name == name
    assert preset.summary
    assert preset.segmenter.model


def test_the_shipped_presets() -> None:
    assert set(preset_names()) >= {"base", "fast", "large", "nano", "sam3"}
    nano = read_preset("nano")
    for model in (nano.segmenter, nano.detector, nano.clip, nano.text_prompt):
        assert model is not None
        assert model.model.startswith("package:")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsegmenter: {kind: sam, model: some/folder}\nrank: {threshold: 1}\n")
    preset = read_preset(path)
    assert preset == read_preset(str(path))
    assert preset.segmenter == ModelConfig("sam", "some/folder")
    assert preset.rank.threshold == 1.0
    assert isinstance(preset.rank.threshold, float)
    assert preset.detector is None


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'nanno'; did you mean 'nano'\? choices: .*base"):
        read_preset("nanno")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detectr": {}}, "unknown key 'detectr'; did you mean 'detector'"),
        ({"rank": {"threshhold": 0.5}}, "rank: unknown key 'threshhold'; did you mean 'threshold'"),
        ({"rank": {"threshold": 2}}, "rank: threshold: got 2"),
        ({"rank": {"weights": {"clipp": 1.0}}}, "unknown part 'clipp'; did you mean 'clip'"),
        ({"rank": {"threshold": "high"}}, "rank: threshold: got str 'high', expected float"),
        ({"rank": {"threshold": True}}, "threshold: got bool True, expected float"),
        ({"rank": []}, "rank: got list"),
        ({"rank": {"min_area": 1.5}}, "min_area: got float 1.5, expected int"),
        ({"segmenter": "sam"}, "segmenter: got str 'sam', expected a mapping"),
        ({"segmenter": {"kind": "sam"}}, "segmenter: .*model"),
        ({"propose": {"text_only": "no"}}, "text_only: got str 'no', expected bool"),
        ({"name": 3}, "name: got int 3, expected str"),
        ({3: 4}, "unknown key 3"),
    ],
)
def test_mistakes_name_file_and_key(change: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        fill(Preset, {**SMALL, **change}, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")


def test_missing_segmenter() -> None:
    with pytest.raises(ConfigError, match="segmenter"):
        fill(Preset, {"name": "mine"}, "mine.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "3", "just words"])
def test_yaml_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="expected a mapping"):
        read_preset(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_preset(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_preset(tmp_path / "bad.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01\x80")
    with pytest.raises(ConfigError, match="binary"):
        read_preset(tmp_path / "binary.yaml")


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_yaml(path, Preset)


def test_every_kind_of_field() -> None:
    values = {
        "whole": 3, "real": 2, "yes": False, "text": "a", "maybe": None, "names": ["x", "y"],
        "table": {"a": 1}, "anything": [1],
    }  # fmt: skip
    filled = fill(Shapes, values, "here")
    assert filled == Shapes(3, 2.0, False, "a", None, ("x", "y"), {"a": 1.0}, [1])
    assert fill(Shapes, {}, "here") == Shapes()
    assert fill(Shapes, {"maybe": "b"}, "here").maybe == "b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"whole": True}, "whole: got bool"),
        ({"names": "xy"}, "names: got str 'xy'"),
        ({"names": ["x", 1]}, r"names\[1\]: got int 1"),
        ({"table": {"a": "b"}}, r"table\.a: got str 'b'"),
        ({"maybe": 3}, "maybe: got int 3, expected str"),
    ],
)
def test_wrong_types(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fill(Shapes, values, "here")


def test_the_folder_of_the_presets_is_there() -> None:
    assert (config.preset_folder() / "nano.yaml").is_file()
