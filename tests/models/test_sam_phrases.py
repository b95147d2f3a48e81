"""An EdgeTAM that answers phrases by graphs, and builds its model when somebody asks for more."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import textseg
from textseg.build import resolve
from textseg.errors import ModelError, PromptError, WeightsError
from textseg.models import graphs, sam, sam_phrases
from textseg.models.sam import SamSegmenter
from textseg.models.sam_phrases import PhraseSegmenter
from textseg.types import Prompts

pytest.importorskip("openvino")

FOLDER = Path(resolve("package:nano/sam"))
STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"
IMAGE = textseg.image.read(STREET)


def asked(
    n: int, *, box: bool = True, mask: bool = True, tokens: int = 2, points: int = 0, multi: bool = True
) -> Prompts:
    rng = np.random.default_rng(1)
    boxes = np.tile([[40.0, 50, 300, 400]], (n, 1)) + rng.uniform(0, 20, (n, 4))
    return Prompts(
        np.arange(n),
        boxes if box else np.full((n, 4), np.nan),
        np.full((n, points, 2), 100.0),
        np.ones((n, points)),
        rng.normal(0, 3, (n, 72, 96)) if mask else None,
        rng.normal(0, 1, (n, tokens, 128)) if tokens else None,
        multi,
    )


def mixed() -> Prompts:
    """Two boxes with rough masks and text, between them text alone."""
    one = asked(3)
    boxes, masks = one.boxes_xyxy.copy(), np.array(one.mask_logits)
    boxes[1], masks[1] = np.nan, 0
    return Prompts(one.proposal_index, boxes, one.points_xy, one.point_labels, masks, one.text_tokens, True)


@pytest.fixture
def quick() -> PhraseSegmenter:
    found = sam.load("edgetam", FOLDER)
    assert isinstance(found, PhraseSegmenter)
    return found


@pytest.fixture(scope="module")
def plain() -> SamSegmenter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "is_installed", lambda: False)
        found = sam.load("edgetam", FOLDER)
    assert type(found) is SamSegmenter
    return found


@pytest.mark.parametrize("prompts", [asked(3), asked(1), asked(2, box=False, mask=False), mixed()])
def test_what_a_phrase_asks_is_answered_without_the_model(
    prompts: Prompts, quick: PhraseSegmenter, plain: SamSegmenter
) -> None:
    got = quick.decode(quick.encode(IMAGE), prompts)
    assert "network" not in vars(quick)
    want = plain.decode(plain.encode(IMAGE), prompts)
    np.testing.assert_allclose(got.predicted_iou, want.predicted_iou, atol=1e-3)
    np.testing.assert_allclose(got.logits, want.logits, atol=2e-2)
    assert got.frame == want.frame


@pytest.mark.parametrize(
    "prompts",
    [
        asked(2, tokens=0),
        asked(2, mask=False),
        asked(2, points=1),
        asked(2, tokens=3),
        asked(2, multi=False),
        asked(2, box=False),
        asked(1, box=False, mask=False, tokens=0, points=1),
    ],
)
def test_all_else_is_answered_by_the_model(prompts: Prompts, quick: PhraseSegmenter, plain: SamSegmenter) -> None:
    got = quick.decode(quick.encode(IMAGE), prompts)
    assert "network" in vars(quick)
    want = plain.decode(plain.encode(IMAGE), prompts)
    np.testing.assert_allclose(got.logits, want.logits, atol=2e-2)
    np.testing.assert_allclose(got.predicted_iou, want.predicted_iou, atol=1e-3)


def test_it_is_the_same_segmenter_by_name_and_embedding(quick: PhraseSegmenter, plain: SamSegmenter) -> None:
    assert quick.model_id == plain.model_id
    assert quick.text_width == plain.text_width
    assert quick.spec == plain.spec
    one, two = quick.encode(IMAGE), plain.encode(IMAGE)
    assert {name: value.shape for name, value in one.features.items()} == plain.network.feature_shapes
    for name in one.features:
        np.testing.assert_allclose(one.features[name], two.features[name], atol=1e-3)
    assert quick.chunk == plain.chunk
    assert sam.load("edgetam", FOLDER, chunk=3).chunk == 3
    assert sam.load("edgetam", FOLDER, dtype="bfloat16").model_id.endswith("+bfloat16")


def test_an_empty_question_has_an_empty_answer(quick: PhraseSegmenter) -> None:
    answer = quick.decode(quick.encode(IMAGE), asked(0))
    assert answer.logits.shape == (0, 3, 112, 112)


def test_bad_prompts_and_embeddings_are_refused_as_by_any(quick: PhraseSegmenter) -> None:
    embedding = quick.encode(IMAGE)
    bad = asked(1)
    outside = Prompts(bad.proposal_index, bad.boxes_xyxy + 9000, bad.points_xy, bad.point_labels, bad.mask_logits,
                      bad.text_tokens, True)  # fmt: skip
    with pytest.raises(PromptError, match="lies outside"):
        quick.decode(embedding, outside)
    other = textseg.types.Embedding(embedding.features, embedding.frame, embedding.digest, "another")
    with pytest.raises(ModelError, match="another"):
        quick.decode(other, asked(1))


def test_threads_build_one_model(quick: PhraseSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    load = sam_phrases.load_network
    monkeypatch.setattr(sam_phrases, "load_network", lambda *args: calls.append(args) or load(*args))
    with ThreadPoolExecutor(4) as pool:
        networks = list(pool.map(lambda _: quick.network, range(8)))
    assert len(calls) == 1
    assert all(network is networks[0] for network in networks)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = quick.nothing


@pytest.mark.parametrize("name", ["preprocessor_config.json", "config.json", "spoken.onnx"])
def test_a_folder_that_lacks_something_goes_by_transformers(name: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    if name == "config.json":
        with pytest.raises(WeightsError, match=r"config\.json"):
            sam.load("edgetam", tmp_path)
    else:
        assert type(sam.load("edgetam", tmp_path)) is SamSegmenter


def test_another_kind_of_configuration_goes_by_transformers(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["vision_config"]["fpn_stride"]  # as its class has it by default
    path.write_text(json.dumps(config), encoding="utf-8")
    assert type(sam.load("edgetam", tmp_path)) is SamSegmenter


def test_truncated_weights_are_named(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(WeightsError, match="safetensors"):
        sam.load("edgetam", tmp_path)
