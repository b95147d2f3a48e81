"""The table of mask refiners."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from textseg import image as images
from textseg.errors import ConfigError, WeightsError
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
    with pytest.raises(ConfigError, match=r"unknown family 'nanno'.*'nano'"):
        refiner.later("nanno", str(tmp_path))


def test_one_for_later_is_loaded_once_when_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_refiner(tmp_path, RefinerNetwork(RefinerConfig(side=32, widths=(4, 6, 8, 8), blocks=1)))
    calls: list[str] = []
    monkeypatch.setitem(refiner.KINDS, "nano", lambda model: calls.append(model) or NanoRefiner.load(model))
    one = refiner.later("nano", str(tmp_path))
    assert isinstance(one, refiner.Later) and not calls
    assert "nano" in one.model_id
    picture, none = images.read(np.zeros((8, 8, 3), np.uint8)), np.zeros((0, 4), np.float32)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: one.refine(picture, [], none), range(8)))
    assert calls == [str(tmp_path)]
    assert all(answer.logits.shape == (0, 16, 16) for answer in answers)
    assert isinstance(copy.deepcopy(one).ready(), NanoRefiner)


def test_one_for_later_says_late_what_is_wrong(tmp_path: Path) -> None:
    one = refiner.later("nano", str(tmp_path))
    assert isinstance(one, refiner.Later)
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"config\.json"):
            one.ready()
