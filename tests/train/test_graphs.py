"""Graphs are written from the real classes, hold no weights, and answer as the classes do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

from tests.models.test_clip import TIMM, VIT, save_model
from tests.models.test_nano_refiner import TINY
from textseg.errors import UnsupportedError
from textseg.models import clip, clip_load, graphs, sam
from textseg.models.clip_towers import GraphTowers
from textseg.models.nano_refiner import NanoRefiner, RefinerNetwork, save_refiner
from textseg.models.sam import SamSegmenter
from textseg.models.sam_phrases import PhraseSegmenter
from textseg.models.sam_tiny import SIZE, tiny_model, tiny_processor
from textseg.models.text_prompt import TextPrompt, TextPromptConfig
from textseg.train import graphs as writer
from textseg.types import Image, Prompts


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks of all kinds, with their graphs."""
    folder = tmp_path_factory.mktemp("tiny")
    save_model(folder / "clip", TIMM)
    torch.manual_seed(0)
    save_refiner(folder / "refiner", RefinerNetwork(TINY).eval())
    segmenter = tiny_model("edgetam")
    segmenter.half().save_pretrained(folder / "sam")
    tiny_processor("edgetam").save_pretrained(folder / "sam")
    TextPrompt(TextPromptConfig(clip_dim=24, text_width=32, token_count=1)).save(folder / "text_prompt")
    writer.main([str(folder)])
    return folder


def test_no_weights_are_in_them(preset: Path) -> None:
    written = {path.stem: path.stat().st_size for path in preset.glob("*/*.onnx")}
    assert set(written) == {"image", "text", "refine", "masks", "spoken"}
    weights = sum(path.stat().st_size for path in preset.glob("clip/*.safetensors"))
    assert written["image"] < weights / 10
    assert max(written.values()) < 200_000


def test_a_tiny_clip_answers_as_open_clip(preset: Path) -> None:
    source = clip_load.find(preset / "clip")
    model = clip_load.build_model(source).float()
    towers = clip.load(preset / "clip")._towers
    assert isinstance(towers, GraphTowers)
    crops = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = clip_load.build_tokenizer(source)(["a car", "the red dog", "x" * 900])
    with torch.inference_mode():
        torch.testing.assert_close(towers.embed_texts(ids), model.encode_text(ids), atol=1e-4, rtol=1e-3)
        got, want = towers.embed_crops(crops), model.encode_image(crops)
    assert torch.cosine_similarity(got, want).min() > 0.99  # of bfloat16 where the processor multiplies it


def test_a_tiny_refiner_answers_as_torch(preset: Path) -> None:
    refiner = NanoRefiner.load(preset / "refiner")
    assert refiner.graph is not None
    planes = torch.randn(2, 7, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want = refiner.network(planes)
    for got, expected in zip(refiner.graph.each(planes.numpy()), want, strict=True):
        np.testing.assert_allclose(got, expected.numpy(), atol=0.1)


@pytest.mark.parametrize("boxed", [True, False])
def test_a_tiny_segmenter_answers_as_torch(boxed: bool, preset: Path) -> None:
    segmenter = sam.load("edgetam", preset / "sam")
    assert isinstance(segmenter, PhraseSegmenter)
    rng = np.random.default_rng(0)
    picture = Image(rng.integers(0, 256, (50, SIZE, 3), np.uint8), "noise", "noise")
    boxes = np.array([[5, 5, 40, 40], [1, 2, 60, 45]]) if boxed else np.full((2, 4), np.nan)
    masks, text = rng.normal(0, 3, (2, 16, 16)) if boxed else None, rng.normal(0, 1, (2, 1, 32))
    prompts = Prompts(np.arange(2), boxes, np.zeros((2, 0, 2)), np.zeros((2, 0)), masks, text, True)
    embedding = segmenter.encode(picture)
    got = segmenter.decode(embedding, prompts)
    assert "network" not in vars(segmenter)
    want = SamSegmenter.decode(segmenter, embedding, prompts)
    np.testing.assert_allclose(got.logits, want.logits, atol=1e-3)
    np.testing.assert_allclose(got.predicted_iou, want.predicted_iou, atol=1e-4)


def test_new_weights_of_the_same_layout_need_no_new_graph(preset: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    other = RefinerNetwork(TINY).eval()
    save_refiner(tmp_path, other)
    shutil.copy(preset / "refiner" / "refine.onnx", tmp_path)
    graph = graphs.find(tmp_path, "refine")
    assert graph is not None
    planes = torch.randn(1, 7, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want = other(planes).logits.numpy()
    np.testing.assert_allclose(graph(planes.numpy())[0], want, atol=0.1)


def test_a_text_tower_that_sees_what_follows_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, VIT)
    path = tmp_path / clip_load.CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"]["pool_type"] = "last"
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UnsupportedError, match="causal"):
        writer.of_clip(tmp_path)


def test_the_same_is_written_whenever_it_is_written(preset: Path) -> None:
    path = preset / "refiner" / "refine.onnx"
    before = path.read_bytes()
    (export,) = writer.of_refiner(path.parent)
    assert writer.write(export, path.with_name("model.safetensors")) == path
    assert path.read_bytes() == before
