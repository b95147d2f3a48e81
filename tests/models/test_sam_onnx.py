"""ONNX: exported once, run by onnxruntime, compared with the model it came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from tests.models.meta_sam import blobs
from textseg import geometry, image
from textseg.build import resolve
from textseg.errors import ModelError, PromptError, UnsupportedError, WeightsError
from textseg.models import sam, sam_onnx
from textseg.models.sam import FAMILIES, SamSegmenter
from textseg.models.sam_input import InputSpec
from textseg.models.sam_tiny import tiny_model, tiny_processor
from textseg.protocols import Segmenter
from textseg.segment import SegmentConfig, segment
from textseg.types import Prompts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def segmenter(kind: str) -> SamSegmenter:
    spec = InputSpec.from_processor(tiny_processor(kind))
    return SamSegmenter(kind, FAMILIES[kind].network(tiny_model(kind)), spec, "tiny")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return {family: sam_onnx.export(segmenter(family), folder / family) for family in ("sam", "edgetam")}


@pytest.fixture(params=["sam", "edgetam"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def exported(folders: dict[str, Path], family: str) -> Path:
    return folders[family]


@pytest.fixture
def loaded(exported: Path) -> sam_onnx.OnnxSegmenter:
    return sam_onnx.load(exported, threads=1)


def asked(
    n: int, *, box: bool = False, points: int = 0, mask: bool = False, text: int = 0, multi: bool = True
) -> Prompts:
    rng = np.random.default_rng(1)
    return Prompts(
        np.arange(n),
        np.tile([[5, 5, 60, 60]], (n, 1)) + rng.uniform(0, 5, (n, 4)) if box else np.full((n, 4), np.nan),
        rng.uniform(0, 70, (n, points, 2)),
        rng.integers(0, 2, (n, points)),
        rng.normal(0, 3, (n, 48, 64)) if mask else None,
        rng.normal(0, 1, (n, text, 32)) if text else None,
        multi,
    )


KINDS: list[dict[str, Any]] = [
    {"box": True},
    {"points": 1},
    {"points": 3, "multi": False},
    {"box": True, "points": 2},
    {"mask": True},
    {"box": True, "mask": True, "multi": False},
    {"text": 1},
    {"text": 2, "points": 1, "box": True},
]


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_agrees(kind: dict[str, Any], n: int, family: str, loaded: sam_onnx.OnnxSegmenter) -> None:
    reference, picture = segmenter(family), image.read(blobs(75, 100))
    one, two = loaded.encode(picture), reference.encode(picture)
    for name, level in two.features.items():
        np.testing.assert_allclose(one.features[name], level.numpy(), atol=1e-4)
    got, wanted = loaded.decode(one, asked(n, **kind)), reference.decode(two, asked(n, **kind))
    np.testing.assert_allclose(got.logits, wanted.logits, atol=1e-3)
    np.testing.assert_allclose(got.predicted_iou, wanted.predicted_iou, atol=1e-3)
    assert got.frame == wanted.frame
    masks = [geometry.upscale_masks(answer.logits[0], answer.frame) for answer in (got, wanted)]
    assert (masks[0] != masks[1]).mean() < 1e-3


def test_logits_are_fed_back(family: str, loaded: sam_onnx.OnnxSegmenter) -> None:
    reference, picture = segmenter(family), image.read(blobs(75, 100))
    got, wanted = (
        segment(one, one.encode(picture), picture, asked(2, box=True), SegmentConfig(refine_rounds=2))
        for one in (loaded, reference)
    )
    np.testing.assert_allclose(got.logits, wanted.logits, atol=1e-3)
    with pytest.raises(PromptError, match="raw masks"):
        loaded.feed_back(loaded.encode(picture), asked(2, box=True), np.zeros((2, 5, 5), np.float32))


def test_it_is_a_segmenter(family: str, loaded: sam_onnx.OnnxSegmenter) -> None:
    assert isinstance(loaded, Segmenter)
    assert loaded.text_width == 32 and loaded.model_id.startswith(f"onnx:{family}:tiny#")
    embedding = loaded.encode(image.read(blobs(75, 100)))
    assert loaded.decode(embedding, asked(0, box=True)).logits.shape == (0, 3, *loaded.mask_hw)
    with pytest.raises(PromptError, match="outside the picture"):
        loaded.decode(embedding, Prompts([0], [[200, 5, 300, 9]], np.zeros((1, 0, 2)), np.zeros((1, 0))))
    other = segmenter("sam").encode(image.read(blobs(75, 100)))
    with pytest.raises(ModelError, match="made by 'sam:tiny'"):
        loaded.decode(other, asked(1, box=True))


def test_the_decoder_stands_alone(family: str, exported: Path) -> None:
    import onnxruntime

    run = onnxruntime.InferenceSession(str(exported / "decoder.onnx"), providers=["CPUExecutionProvider"])
    assert [value.name for value in run.get_inputs()] == [*segmenter(family).network.feature_shapes, *sam_onnx.INPUTS]
    assert [value.name for value in run.get_outputs()] == list(sam_onnx.OUTPUTS)
    assert sorted(path.name for path in exported.iterdir()) == sorted(sam_onnx.FILES)


def test_nano_for_a_web_page(tmp_path: Path) -> None:
    reference = sam.load("edgetam", resolve("package:nano/sam"))
    folder = sam_onnx.export(reference, tmp_path)
    assert (folder / "decoder.onnx").stat().st_size < 4 << 20
    graphs, picture = sam_onnx.load(folder, threads=1), image.read(EXAMPLES / "coffee.jpg")
    one, two = graphs.encode(picture), reference.encode(picture)
    for name, level in two.features.items():
        np.testing.assert_allclose(one.features[name], level.numpy(), atol=1e-3)
    height, width = picture.size_hw
    box = np.array([[0.2 * width, 0.1 * height, 0.8 * width, 0.9 * height]])
    point = np.array([[[0.5 * width, 0.5 * height]]])
    kinds = [
        Prompts([0], box, np.zeros((1, 0, 2)), np.zeros((1, 0))),
        Prompts([0], np.full((1, 4), np.nan), point, np.ones((1, 1))),
        Prompts([0], box, point, np.zeros((1, 1)), np.full((1, 9, 9), 2.0)),
    ]
    for prompts in kinds:
        got, wanted = graphs.decode(one, prompts), reference.decode(two, prompts)
        np.testing.assert_allclose(got.logits, wanted.logits, atol=1e-3)
        np.testing.assert_allclose(got.predicted_iou, wanted.predicted_iou, atol=1e-3)


def test_damaged_folders(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing.*encoder\.onnx"):
        sam_onnx.load(tmp_path)
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "decoder.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="damaged ONNX file"):
        sam_onnx.load(copy)
    (copy / "model.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(WeightsError, match=r"model\.json is damaged"):
        sam_onnx.load(copy)


def test_other_families_say_so(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="SAM 2 cannot be exported"):
        sam_onnx.export(segmenter("sam2"), tmp_path)
