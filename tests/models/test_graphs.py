"""Graphs: those that ship answer as torch does, and where there is none, torch answers."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textseg
from textseg import geometry
from textseg.build import resolve
from textseg.errors import ModelError, WeightsError
from textseg.models import clip, graphs, onednn
from textseg.models.clip_towers import GraphTowers, TorchTowers
from textseg.models.graphs import Graph
from textseg.models.nano_refiner import NanoRefiner, load_refiner, save_refiner
from textseg.types import Float

openvino = pytest.importorskip("openvino")

NANO = Path(resolve("package:nano/clip")).parent
STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"
SHIPPED = {"clip": ("image", "text"), "refiner": ("refine",), "sam": ("masks", "spoken")}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """No OpenVINO: as on a processor that it is not made for."""
    monkeypatch.setattr(graphs, "is_installed", lambda: False)


def found(kind: str, name: str) -> Graph:
    graph = graphs.find(NANO / kind, name)
    assert graph is not None
    return graph


def test_all_that_ships_is_of_the_weights_beside_it() -> None:
    there = {(path.parent.name, path.stem) for path in NANO.glob("*/*.onnx")}
    assert there == {(kind, name) for kind, names in SHIPPED.items() for name in names}
    for kind, name in there:
        assert found(kind, name) is found(kind, name)


def test_a_graph_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_kept", {})
    compiled: list[str] = []
    plain = Graph._compile
    monkeypatch.setattr(Graph, "_compile", lambda self: compiled.append(self.path.stem) or plain(self))
    graphs.begin(NANO / "refiner")
    with ThreadPoolExecutor(4) as pool:
        same = set(pool.map(lambda _: found("refiner", "refine"), range(8)))
    assert len(same) == 1
    same.pop().ready()
    assert compiled == ["refine"]


def test_crops_and_texts_are_embedded_as_by_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = clip.load(NANO / "clip")
    assert isinstance(quick._towers, GraphTowers)
    monkeypatch.setattr(graphs, "is_installed", lambda: False)
    plain = clip.load(NANO / "clip")
    assert isinstance(plain._towers, TorchTowers)
    assert quick.logit_scale == pytest.approx(plain.logit_scale)
    assert quick.logit_bias == pytest.approx(plain.logit_bias)
    texts = ["a cup", "the red car", "x" * 900, "собака", *(f"thing {i}" for i in range(20))]
    np.testing.assert_allclose(quick.encode_text(texts), plain.encode_text(texts), atol=2e-5)
    np.testing.assert_allclose(quick.encode_text(["alone"]), plain.encode_text(["alone"]), atol=2e-5)
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((112, 112), (1, 1), (31, 300))]
    assert (quick.encode_images(crops) * plain.encode_images(crops)).sum(axis=1).min() > 0.995


def test_masks_are_drawn_again_as_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = NanoRefiner.load(NANO / "refiner")
    assert quick.graph is not None
    monkeypatch.setattr(graphs, "is_installed", lambda: False)
    plain = NanoRefiner.load(NANO / "refiner")
    assert plain.graph is None
    planes = np.random.default_rng(0).normal(0, 1, (3, 7, 112, 112)).astype(np.float32)
    for got, want in zip(quick._ask(planes), plain._ask(planes), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=0.15 if onednn.has_bfloat16() else 1e-3)


def test_without_openvino_the_answer_is_the_same(without: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = textseg.load("nano")(STREET, "the red car")
    monkeypatch.undo()
    quick = textseg.load("nano")(STREET, "the red car")
    assert len(plain) == len(quick) == 1
    assert geometry.mask_iou(plain.masks, quick.masks)[0, 0] > 0.97
    assert quick.scores[0] == pytest.approx(plain.scores[0], abs=0.05)


def test_a_folder_without_graphs_has_none(tmp_path: Path) -> None:
    assert graphs.find(tmp_path, "image") is None
    assert graphs.find(tmp_path / "missing", "image") is None
    graphs.begin(tmp_path / "missing")


def test_a_graph_of_other_weights_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(NANO / "refiner" / "refine.onnx", tmp_path)
    shutil.copy(NANO / "text_prompt" / "model.safetensors", tmp_path)
    assert graphs.find(tmp_path, "refine") is None
    assert "refine.onnx is not of the weights beside it" in caplog.text


@pytest.mark.parametrize("content", [b"", b"abc", (200).to_bytes(8, "little") + b"no header"])
def test_damaged_weights_have_no_layout(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert graphs.layout_of(path) == ""


def test_a_damaged_graph_says_which(tmp_path: Path) -> None:
    shutil.copytree(NANO / "refiner", tmp_path, dirs_exist_ok=True)
    name = graphs.graph_name(graphs.BFLOAT16, graphs.layout_of(tmp_path / "model.safetensors"))
    (tmp_path / "refine.onnx").write_bytes(b"damaged, " + name.encode())
    graph = graphs.find(tmp_path, "refine")
    assert graph is not None
    with pytest.raises(WeightsError, match=r"refine\.onnx is damaged"):
        graph(np.zeros((1, 7, 112, 112), np.float32))


def test_truncated_weights_are_found_out(tmp_path: Path) -> None:
    shutil.copytree(NANO / "refiner", tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing or damaged"):
        NanoRefiner.load(tmp_path)


def test_threads_share_a_graph() -> None:
    graph = found("refiner", "refine")
    planes = [np.full((1, 7, 112, 112), i / 10, np.float32) for i in range(8)]
    alone = [graph(one)[0] for one in planes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: graph(one)[0], planes * 3))
    for got, want in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(got, want)


def test_outputs_are_the_caller_s_own() -> None:
    graph = found("refiner", "refine")
    first = graph(np.zeros((1, 7, 112, 112), np.float32))[0]
    kept = first.copy()
    graph(np.ones((1, 7, 112, 112), np.float32))
    np.testing.assert_array_equal(first, kept)


def test_copies_and_pickles_are_found_again() -> None:
    graph = found("refiner", "refine")
    assert copy.deepcopy(graph) is graph
    assert pickle.loads(pickle.dumps(graph)) is graph


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, graphs.SPIN_COUNT),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_torch_s_threads_wait_shortly_unless_somebody_says_how_long(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    graphs.begin(NANO / "refiner")
    came = os.environ.get("GOMP_SPINCOUNT")
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back
    assert came == expected


def test_each_stacks_what_calls_return() -> None:
    graph = found("refiner", "refine")
    planes: Float = np.random.default_rng(0).normal(0, 1, (2, 7, 112, 112)).astype(np.float32)
    logits, iou = graph.each(planes)
    assert logits.shape == (2, 56, 56) and iou.shape == (2,)
    np.testing.assert_array_equal(logits[1:], graph(planes[1:])[0])
    assert torch.from_numpy(logits).isfinite().all()


def test_weights_that_have_changed_are_read_anew(tmp_path: Path) -> None:
    shutil.copytree(NANO / "refiner", tmp_path, dirs_exist_ok=True)
    planes = np.ones((1, 7, 112, 112), np.float32)
    before = graphs.find(tmp_path, "refine")
    assert before is not None
    first = before(planes)[0]
    network = load_refiner(tmp_path)
    with torch.no_grad():
        network.draw.bias += 1
    save_refiner(tmp_path, network)
    os.utime(tmp_path / "model.safetensors", ns=(0, 1))  # however coarse the clock is
    after = graphs.find(tmp_path, "refine")
    assert after is not None and after is not before
    np.testing.assert_allclose(after(planes)[0], first + 1, atol=0.1)


def test_an_openvino_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ImportError("libtbb.so.12: cannot open shared object file")

    monkeypatch.setattr(graphs, "_kept", {})
    monkeypatch.setattr(graphs, "_core", broken)
    with pytest.raises(ModelError, match=r"OpenVINO cannot be loaded \(libtbb.*uninstall"):
        found("refiner", "refine").ready()
