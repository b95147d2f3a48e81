"""Loading checkpoints: folders, hub names, and every way in which files can be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from tests.models import tiny_detectors
from textseg.errors import ConfigError, HubError, WeightsError
from textseg.models import hub


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detectors.owl(tmp_path_factory.mktemp("owl"), v2=False)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def load(model: str | Path, **kwargs: Any) -> Any:
    from transformers import OwlViTForObjectDetection

    return hub.load_pretrained(OwlViTForObjectDetection, model, **kwargs)


def test_loads_a_folder_in_evaluation_mode_as_float32(checkpoint: Path) -> None:
    model = load(str(checkpoint))
    assert not model.training
    assert model.dtype == torch.float32


def test_dtype_by_name_or_value(checkpoint: Path) -> None:
    assert load(checkpoint, dtype="bfloat16").dtype == torch.bfloat16
    assert load(checkpoint, dtype=torch.float16).dtype == torch.float16
    with pytest.raises(ConfigError, match="did you mean 'float16'"):
        load(checkpoint, dtype="floot16")


def test_damaged_weights_name_the_file(copy: Path) -> None:
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not safetensors at all"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"damaged: .*model\.safetensors"):
            load(copy)


def test_missing_weights_name_the_file_and_pickles_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"missing: .*model\.safetensors; pytorch_model\.bin cannot be used"):
        load(copy)


def test_missing_shard_is_named(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    index = copy / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(WeightsError, match=r"model-00001-of-00002\.safetensors"):
        load(copy)
    index.write_text("{")
    with pytest.raises(WeightsError, match=r"index damaged: .*index\.json"):
        load(copy)


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_bad_config_names_the_file(copy: Path, content: str | None) -> None:
    path = copy / "config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        load(copy)


def test_weights_that_do_not_fill_the_model_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copy / "model.safetensors"
    tensors = load_file(path)
    del tensors["class_head.dense0.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 tensors are missing \(class_head\.dense0\.weight\)"):
        load(copy)
    tensors["class_head.dense0.weight"] = torch.zeros(3, 3)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"cannot be built from .*model\.safetensors"):
        load(copy)


def test_bad_tokenizer_files_are_a_weights_error(copy: Path) -> None:
    from transformers import OwlViTProcessor

    (copy / "tokenizer.json").write_text("{broken")
    with pytest.raises(WeightsError, match="OwlViTProcessor"):
        hub.load_processor(OwlViTProcessor, copy)


@pytest.mark.parametrize(
    "model", ["", "no-such-folder", "a/b/c", "/no/such/folder", "org/na me", "org/name@", "../x/y"]
)
def test_neither_a_folder_nor_a_hub_name(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no such folder"):
        hub.fetch(model)


class FakeHub:
    """Stands for ``snapshot_download``: nothing cached, and the network answers with ``error``."""

    def __init__(self, folder: Path, error: Exception | None, *, cached: bool = False) -> None:
        self.folder, self.error, self.cached = folder, error, cached
        self.calls: list[dict[str, Any]] = []

    def __call__(self, repo: str, **kwargs: Any) -> str:
        self.calls.append({"repo": repo, **kwargs})
        if kwargs.get("local_files_only") and not self.cached:
            raise LocalEntryNotFoundError("not cached")
        if self.error is not None and not self.cached:
            raise self.error
        return str(self.folder)


def response(status: int) -> Any:
    """An answer of the hub, of whichever HTTP client huggingface_hub carries."""
    client = huggingface_hub.errors.HfHubHTTPError.__init__.__globals__
    module = client.get("httpx2") or client.get("httpx")
    if module is None:
        import httpx as module
    return module.Response(status, request=module.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConnectionError("Name or service not known"), "out of reach (Name or service not known)"),
        (lambda: TimeoutError(), "out of reach (TimeoutError)"),
        (lambda: GatedRepoError("gated", response=response(403)), "it is gated: accept its terms"),
        (lambda: RepositoryNotFoundError("none", response=response(404)), "unknown to the model hub, or private"),
    ],
)
def test_hub_failures_name_the_model_and_the_way_out(
    make: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", FakeHub(tmp_path, make()))
    with pytest.raises(HubError) as caught:
        load("some-org/some-model")
    message = str(caught.value)
    assert "'some-org/some-model'" in message
    assert words in message
    assert "'nano' works offline" in message
    assert "textseg models pull PRESET" in message


def test_a_hub_model_loads_by_the_same_path_and_never_asks_for_pickles(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeHub(checkpoint, None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    load("some-org/some-model@v1.2")
    assert [call.get("local_files_only", False) for call in fake.calls] == [True, False]
    for call in fake.calls:
        assert (call["repo"], call["revision"]) == ("some-org/some-model", "v1.2")
        assert not any(pattern.endswith((".bin", ".pt", ".pth", ".ckpt", "*")) for pattern in call["allow_patterns"])


def test_a_cached_model_does_not_touch_the_network(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(checkpoint, ConnectionError("down"), cached=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    assert hub.fetch("some-org/some-model") == checkpoint
    assert len(fake.calls) == 1


def test_a_half_cached_model_is_completed_from_the_network(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "model.safetensors").unlink()
    fake = FakeHub(copy, None, cached=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    hub.fetch("some-org/some-model")
    assert [call.get("local_files_only", False) for call in fake.calls] == [True, False]


@pytest.mark.hub
def test_a_real_hub_model_loads() -> None:
    try:
        model = load("google/owlvit-base-patch32")
    except HubError as error:
        pytest.skip(str(error))
    assert not model.training
