"""OWL-ViT and OWLv2 on tiny random weights, against transformers' own processing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.models import tiny_detectors
from tests.models.tiny_detectors import ODD_TEXTS, check_proposals, picture, rows
from textseg.errors import UnsupportedError
from textseg.models import detector, owl
from textseg.models.owl import OwlDetector, SeparableOwlv2ImageProcessor

OPEN = {"nms_iou": None, "max_per_phrase": None}
PROMPTS = ["a cat", "red dog", "the left lion"]


@pytest.fixture(scope="module", params=["owlvit", "owlv2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, tiny_detectors.owl(tmp_path_factory.mktemp(request.param), v2=request.param == "owlv2")


@pytest.fixture(scope="module")
def finder(checkpoint: tuple[str, Path]) -> OwlDetector:
    return detector.load(*checkpoint, **OPEN)  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module")
def processor(checkpoint: tuple[str, Path]) -> Any:
    kind, folder = checkpoint
    return {"owlvit": transformers.OwlViTProcessor, "owlv2": transformers.Owlv2Processor}[kind].from_pretrained(folder)


def full_forward(finder: OwlDetector, processor: Any, rgb: np.ndarray, prompts: list[str]) -> Any:
    inputs = processor(images=rgb, text=[prompts], return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        return finder._model(**inputs)


@pytest.mark.parametrize("size", [(37, 53), (96, 64), (1, 1), (3, 3), (200, 150), (120, 300)])
def test_kept_features_equal_the_full_forward(finder: OwlDetector, processor: Any, size: tuple[int, int]) -> None:
    image = picture(*size)
    out = full_forward(finder, processor, image.rgb, PROMPTS)
    theirs = processor.post_process_grounded_object_detection(out, threshold=0.0, target_sizes=[size])[0]
    found = finder.detect(finder.encode(image), PROMPTS, 0.0)
    assert len(found) > 0
    probabilities = out.logits[0].sigmoid()
    for phrase in range(3):
        mine = found[found.phrase_index == phrase]
        expected = rows(theirs["boxes"], probabilities[:, phrase], size)
        got = rows(mine.boxes_xyxy, mine.scores, size)
        np.testing.assert_allclose(got[:, :4], expected[:, :4], atol=1e-5 * max(size))
        np.testing.assert_allclose(got[:, 4], expected[:, 4], atol=1e-5)


def test_a_phrase_does_not_depend_on_the_others(finder: OwlDetector) -> None:
    encoded = finder.encode(picture(37, 53))
    together = finder.detect(encoded, PROMPTS, 0.0)
    for index, prompt in enumerate(PROMPTS):
        alone, mine = finder.detect(encoded, [prompt], 0.0), together[together.phrase_index == index]
        np.testing.assert_allclose(mine.scores, alone.scores, atol=1e-6)
        np.testing.assert_allclose(mine.boxes_xyxy, alone.boxes_xyxy, atol=1e-4)


def test_a_new_phrase_costs_the_text_tower_once(checkpoint: tuple[str, Path]) -> None:
    finder: Any = detector.load(*checkpoint)
    tower = finder._tower
    seen: list[str] = []
    vision = tower.vision_model.register_forward_hook(lambda *_: seen.append("vision"))
    text = tower.text_model.register_forward_hook(lambda *_: seen.append("text"))
    encoded = finder.encode(picture(37, 53))
    finder.detect(encoded, ["a cat"], 0.0)
    finder.detect(encoded, ["a cat", "dog"], 0.0)
    finder.detect(encoded, ["dog", "a cat"], 0.0)
    vision.remove()
    text.remove()
    assert seen == ["vision", "text", "text"]


def test_preprocessing_is_the_processors_own(finder: OwlDetector, processor: Any) -> None:
    for size in [(37, 53), (3, 3), (1, 1), (250, 180)]:
        images = {"images": picture(*size).rgb, "input_data_format": "channels_last", "return_tensors": "pt"}
        mine = finder._processor.image_processor(**images)["pixel_values"]
        torch.testing.assert_close(mine, processor.image_processor(**images)["pixel_values"], atol=1e-5, rtol=0)


def test_the_separable_blur_equals_the_square_one() -> None:
    size = {"height": 48, "width": 32}
    slow = transformers.Owlv2ImageProcessor(size=size)
    fast = SeparableOwlv2ImageProcessor(size=size)
    for height, width in [(200, 333), (48, 48), (40, 300), (33, 20), (47, 40)]:
        images = {"images": picture(height, width).rgb, "return_tensors": "pt"}
        torch.testing.assert_close(fast(**images)["pixel_values"], slow(**images)["pixel_values"], atol=1e-5, rtol=0)


def test_three_hundred_phrases(finder: OwlDetector) -> None:
    encoded = finder.encode(picture(37, 53))
    prompts = [f"thing {i}" for i in range(300)]
    found = finder.detect(encoded, prompts, 0.0)
    assert set(found.phrase_index.tolist()) == set(range(300))
    check_proposals(found, (37, 53), 300, 0.0)
    for index in (0, 127, 128, 299):
        alone = finder.detect(encoded, [prompts[index]], 0.0)
        np.testing.assert_allclose(found.scores[found.phrase_index == index], alone.scores, atol=1e-6)


def test_odd_texts_and_only_the_overlong_one_is_cut(finder: OwlDetector) -> None:
    encoded = finder.encode(picture(37, 53))
    alone = finder.detect(encoded, ["a cat"], 0.0)
    for odd in (*ODD_TEXTS, "lion " * 2000):
        found = finder.detect(encoded, [odd, "a cat"], 0.0)
        check_proposals(found, (37, 53), 2, 0.0)
        np.testing.assert_allclose(found.scores[found.phrase_index == 1], alone.scores, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (17, 3000), (3000, 17), (1, 5000)])
def test_odd_sizes(finder: OwlDetector, checkpoint: tuple[str, Path], size: tuple[int, int]) -> None:
    if checkpoint[0] == "owlv2" and max(size) > 100:
        size = (min(size), 1500) if size[0] < size[1] else (1500, min(size))  # padded to a square first
    check_proposals(finder.detect(finder.encode(picture(*size)), ["a cat", "dog"], 0.0), size, 2, 0.0)


def test_suppression_limits_and_threshold(checkpoint: tuple[str, Path], finder: OwlDetector) -> None:
    image = picture(37, 53)
    every = finder.detect(finder.encode(image), ["a cat"], 0.0)
    thinned: Any = detector.load(*checkpoint, nms_iou=0.05, max_per_phrase=3)
    few = thinned.detect(thinned.encode(image), ["a cat", "dog"], 0.0)
    assert [int((few.phrase_index == i).sum()) for i in (0, 1)] == [3, 3]
    assert few.scores[0] == pytest.approx(every.scores[0], abs=1e-6)
    middle = float(np.median(every.scores))
    above = finder.detect(finder.encode(image), ["a cat"], middle)
    assert len(above) == int((every.scores >= middle).sum())
    assert len(finder.detect(finder.encode(image), ["a cat"], 1.0)) == 0
    assert len(finder.detect(finder.encode(image), [], 0.0)) == 0


def test_another_models_picture_is_refused(finder: OwlDetector, checkpoint: tuple[str, Path], tmp_path: Path) -> None:
    other_folder = tiny_detectors.owl(tmp_path, v2=True)
    other = owl.load_owlv2(other_folder)
    with pytest.raises(UnsupportedError, match="encode it with this model"):
        finder.detect(other.encode(picture(8, 8)), ["a cat"], 0.5)


def test_half_precision_weights_answer_in_float32(checkpoint: tuple[str, Path]) -> None:
    half = detector.load(*checkpoint, dtype="bfloat16")
    check_proposals(half.detect(half.encode(picture(37, 53)), ["a cat", "dog"], 0.0), (37, 53), 2, 0.0)


@pytest.mark.hub
def test_the_real_model_finds_nothing_in_noise() -> None:
    from textseg.errors import HubError

    try:
        real = owl.load_owlv2("google/owlv2-base-patch16-ensemble")
    except HubError as error:
        pytest.skip(str(error))
    assert len(real.detect(real.encode(picture(240, 320)), ["a cat"], 0.5)) == 0
