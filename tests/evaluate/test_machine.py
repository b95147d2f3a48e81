"""What is said of the machine that a figure was measured on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from textseg.config import read_preset
from textseg.evaluate.machine import machine_info, machine_line, peak_mib, weights_hashes


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a process was forked from counts on Linux alone")
def test_peak_memory_is_a_processs_own() -> None:
    held = bytearray(200 << 20)
    held[::4096] = b"x" * len(held[::4096])
    asked = "from textseg.evaluate.machine import peak_mib; print(peak_mib())"
    own = float(subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout)
    assert 0 < own < peak_mib()
    assert peak_mib() == pytest.approx(peak_mib(os.getpid()), rel=0.05)
    del held
