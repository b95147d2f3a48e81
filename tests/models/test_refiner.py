"""The table of mask refiners."""

from __future__ import annotations

from pathlib import Path

import pytest

from textseg.errors import ConfigError
from textseg.models import refiner
from textseg.models.close_sam import CloseSam
from textseg.models.nano_refiner import NanoRefiner, RefinerConfig, RefinerNetwork, save_refiner
from textseg.models.sam_tiny import tiny_model, tiny_processor


def test_each_kind_is_loaded_with_its_options(tmp_path: Path) -> None:
    save_refiner(tmp_path / "nano", RefinerNetwork(RefinerConfig(side=32, widths=(4, 6, 8, 8), blocks=1)))
    assert isinstance(refiner.load("nano", str(tmp_path / "nano")), NanoRefiner)
    tiny_model("edgetam").save_pretrained(tmp_path / "sam")
    tiny_processor("edgetam").save_pretrained(tmp_path / "sam")
    loaded = refiner.load("close_sam", str(tmp_path / "sam"), grow=1.7)
    assert isinstance(loaded, CloseSam)
    assert loaded.grow == 1.7


def test_an_unknown_family_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown family 'nanno'.*'nano'"):
        refiner.load("nanno", str(tmp_path))
