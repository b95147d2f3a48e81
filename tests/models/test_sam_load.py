"""Folders of SAMs: round trips, damage, the wrong family, the hub out of reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textseg.errors import HubError, ModelError, WeightsError
from textseg.models import sam
from textseg.models.sam_tiny import tiny_model, tiny_processor
from textseg.types import Candidates, Image, Prompts

RGB = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
PICTURE = Image(RGB, "array", "digest")
BOX = Prompts(np.zeros(1), np.array([[5, 5, 20, 20]]), np.zeros((1, 0, 2)), np.zeros((1, 0)))
KINDS = list(sam.FAMILIES)


def save(kind: str, folder: Path, model: Any = None, processor: bool = True) -> Path:
    (model or tiny_model(kind)).save_pretrained(folder)
    if processor:
        tiny_processor(kind).save_pretrained(folder)
    return folder


def answer(segmenter: sam.SamSegmenter) -> Candidates:
    return segmenter.decode(segmenter.encode(PICTURE), BOX)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_answers_the_same(kind: str, tmp_path: Path) -> None:
    loaded = sam.load(kind, save(kind, tmp_path / "model"))
    network = sam.FAMILIES[kind].network(tiny_model(kind))
    made = sam.SamSegmenter(kind, network, loaded.spec, "made")
    np.testing.assert_allclose(answer(loaded).logits, answer(made).logits, atol=1e-6)
    assert loaded.model_id.startswith(f"{kind}:model#")


@pytest.mark.parametrize("kind", KINDS)
def test_the_preprocessing_may_be_absent(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = sam.load(kind, save(kind, tmp_path / "bare", processor=False))
    full = sam.load(kind, save(kind, tmp_path / "full"))
    assert bare.spec == full.spec
    assert "no preprocessor_config.json" in caplog.text


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_half_precision_weights_are_widened(kind: str, tmp_path: Path) -> None:
    full = tiny_model(kind)
    half = sam.load(kind, save(kind, tmp_path / "half", tiny_model(kind).to(torch.float16)))
    tensors = half.network.model.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    for name, tensor in full.state_dict().items():
        assert torch.equal(tensors[name], tensor.to(torch.float16).float()), name


def test_the_id_follows_the_weights(tmp_path: Path) -> None:
    ids = [
        sam.load("sam", save("sam", tmp_path / str(n) / "model", tiny_model("sam", seed))).model_id
        for n, seed in enumerate((0, 0, 1))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_damaged_and_missing_weights(tmp_path: Path) -> None:
    folder = save("sam", tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"damaged: .*model\.safetensors"):
        sam.load("sam", folder)
    weights.unlink()
    with pytest.raises(WeightsError, match=r"missing: .*model\.safetensors"):
        sam.load("sam", folder)
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickles are never loaded"):
        sam.load("sam", folder)
    with pytest.raises(WeightsError, match="no such folder"):
        sam.load("sam", tmp_path / "nowhere")


def test_weights_of_another_shape(tmp_path: Path) -> None:
    folder = save("sam", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["mask_decoder_config"]["mlp_dim"] = 48
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        sam.load("sam", folder)


def test_another_family_is_refused(tmp_path: Path) -> None:
    folder = save("sam", tmp_path / "model")
    with pytest.raises(ModelError, match="type 'sam', but SAM 2 was asked for"):
        sam.load("sam2", folder)


def test_preprocessing_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = save("sam", tmp_path / "model")
    path = folder / "preprocessor_config.json"
    numbers = json.loads(path.read_text())
    numbers |= {"size": {"longest_edge": 32}, "pad_size": {"height": 32, "width": 32}}
    path.write_text(json.dumps(numbers))
    with pytest.raises(ModelError, match=r"\(32, 32\).*takes \(64, 64\)"):
        sam.load("sam", folder)
    path.write_text("{")
    with pytest.raises(WeightsError, match="SamImageProcessor"):
        sam.load("sam", folder)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def fails(repo: str, revision: str | None = None, local_files_only: bool = False, **_: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        asked.append((repo, revision))
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(HubError, match=r"someone/model@abc.*nano"):
        sam.load("sam", "someone/model", revision="abc")
    assert set(asked) == {("someone/model", "abc")}


@pytest.mark.hub
def test_a_hub_model_answers() -> None:
    try:
        loaded = sam.load("sam", "facebook/sam-vit-base")
    except HubError as error:
        pytest.skip(str(error))
    assert answer(loaded).logits.shape == (1, 3, 256, 256)
