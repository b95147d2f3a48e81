"""Averaged weights: the mixture, what is carried over, and folders that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from textseg.errors import WeightsError
from textseg.train.average import average, main


def folder(path: Path, value: float, note: str, shape: tuple[int, ...] = (2, 3)) -> Path:
    path.mkdir()
    tensors = {"weight": torch.full(shape, value, dtype=torch.float16), "steps": torch.tensor(int(value))}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(note)
    return path


def test_the_mixture_lies_between(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one", 1.0, "old"), folder(tmp_path / "two", 3.0, "new")
    assert average(one, two, 0.75, tmp_path / "out") == ["model.safetensors"]
    mixed = load_file(tmp_path / "out" / "model.safetensors")
    assert mixed["weight"].dtype == torch.float16
    torch.testing.assert_close(mixed["weight"], torch.full((2, 3), 2.5, dtype=torch.float16))
    assert int(mixed["steps"]) == 3
    assert (tmp_path / "out" / "config.json").read_text() == "new"
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_it_may_take_the_second_ones_place(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one", 1.0, "old"), folder(tmp_path / "two", 3.0, "new")
    main([str(one), str(two), "--share", "0.5", "--out", str(two)])
    assert load_file(two / "model.safetensors")["weight"].unique().tolist() == [2.0]
    assert sorted(p.name for p in two.iterdir()) == ["config.json", "model.safetensors"]


def test_what_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = folder(tmp_path / "one", 1.0, ""), folder(tmp_path / "other", 1.0, "", (4,))
    with pytest.raises(WeightsError, match="such as weight"):
        average(one, other, 0.5, tmp_path / "out")
    with pytest.raises(WeightsError, match=r"share: got 1\.5"):
        average(one, one, 1.5, tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(WeightsError, match="no safetensors"):
        average(one, tmp_path / "none", 0.5, tmp_path / "out")
    (other / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="damaged"):
        average(one, other, 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main([str(one), str(other), "--out", str(tmp_path / "out")])
    assert "damaged" in capsys.readouterr().err
