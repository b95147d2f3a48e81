"""What is said of the machine that a figure was measured on."""

from __future__ import annotations

import json

import pytest
import torch

from textseg.config import read_preset
from textseg.evaluate.machine import machine_info, machine_line, weights_hashes


def test_the_machine_is_told_in_a_record_and_in_a_line() -> None:
    info = machine_info()
    assert json.loads(json.dumps(info)) == info
    assert info["cores"] >= 1 and info["libraries"]["torch"] in machine_line()
    assert f"({info['vectors']})" in machine_line()


@pytest.mark.parametrize("able", [True, False])
def test_processors_of_one_name_are_told_apart(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    assert machine_info()["vectors"].endswith("with bfloat16") is able


def test_every_file_of_weights_has_its_hash() -> None:
    hashes = weights_hashes(read_preset("nano"))
    assert {"detector/model.safetensors", "segmenter/model.safetensors", "clip/vocabulary.safetensors"} <= set(hashes)
    assert all(len(value) == 16 for value in hashes.values())
