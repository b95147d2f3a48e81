"""The files of our own networks: written whole, read as float32, and named where they are damaged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from textseg.errors import WeightsError
from textseg.models import nano_files
from textseg.models.nano_files import CONFIG_FILE, WEIGHTS_FILE


@dataclass(frozen=True)
class Shape:
    widths: tuple[int, ...] = (3, 5)


def build(shape: Shape) -> nn.Sequential:
    return nn.Sequential(nn.Linear(shape.widths[0], shape.widths[1]), nn.BatchNorm1d(shape.widths[1]))


def load(folder: Path) -> nn.Sequential:
    network = nano_files.read_config(folder, "a test network", Shape, build)
    nano_files.load_weights(folder, network)
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    nano_files.save(tmp_path / "new" / "net", build(Shape()), Shape(), exact=("0.bias",))
    return tmp_path / "new" / "net"


def test_networks_come_back_as_float32(folder: Path) -> None:
    torch.manual_seed(0)
    own, loaded = build(Shape()).state_dict(), load(folder).state_dict()
    for name, value in own.items():
        torch.testing.assert_close(loaded[name], value, atol=1e-3, rtol=1e-3)
    assert loaded["0.weight"].dtype == torch.float32
    torch.testing.assert_close(loaded["0.bias"], own["0.bias"], atol=0, rtol=0)


def test_files_are_small_whole_and_readable(folder: Path) -> None:
    saved = load_file(folder / WEIGHTS_FILE)
    assert saved["0.weight"].dtype == torch.float16
    assert saved["0.bias"].dtype == torch.float32
    assert not any(name.endswith("num_batches_tracked") for name in saved)
    assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}  # nothing half-written
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_damaged_and_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{nonsense")
    with pytest.raises(WeightsError, match=name):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=name):
        load(folder)


@pytest.mark.parametrize("table", [{"widths": [3, 7]}, {"widths": [5, 3]}])
def test_weights_of_another_shape_do_not_fit(folder: Path, table: dict[str, object]) -> None:
    (folder / CONFIG_FILE).write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"model\.safetensors does not fit config\.json"):
        load(folder)


@pytest.mark.parametrize("text", ['{"width": 3}', "[3]", "3", '{"widths": 3}'])
def test_another_kind_of_config_is_refused(folder: Path, text: str) -> None:
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"config\.json is missing or malformed: expected the config of a test"):
        load(folder)


def test_weights_with_other_tensors_do_not_fit(folder: Path) -> None:
    nano_files.save(folder, nn.Sequential(nn.Linear(3, 5)), Shape())
    with pytest.raises(WeightsError, match=r"does not fit config\.json: 4 tensors"):
        load(folder)


def test_a_module_to_be_filled_is_as_large_and_counts_from_nothing() -> None:
    made = nano_files.unfilled(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    assert {name: tuple(t.shape) for name, t in made.state_dict().items()} == {
        name: tuple(t.shape) for name, t in nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict().items()
    }
    assert all(t.device.type == "cpu" for t in made.state_dict().values())
    assert made[1].num_batches_tracked == 0
