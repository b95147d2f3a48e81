"""OmDet-Turbo on tiny random weights, against transformers' own processing; and the table of families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import OmDetTurboProcessor

from tests.models import tiny_detectors
from tests.models.tiny_detectors import ODD_SIZES, ODD_TEXTS, check_proposals, picture, rows
from textseg.errors import ConfigError
from textseg.models import detector
from textseg.models.detector import DetectOptions, PhraseCache, pack, to_proposals
from textseg.models.omdet import OmDetDetector

OPEN = {"nms_iou": None, "max_per_phrase": None}
PROMPTS = ["cat", "red dog", "a, b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detectors.omdet(tmp_path_factory.mktemp("omdet"))


@pytest.fixture(scope="module")
def omdet(folder: Path) -> OmDetDetector:
    return detector.load("omdet", folder, **OPEN)  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module")
def processor(folder: Path) -> OmDetTurboProcessor:
    return OmDetTurboProcessor.from_pretrained(folder)


@pytest.mark.parametrize("size", [(37, 53), (64, 96), (1, 1), (17, 300)])
def test_matches_transformers(omdet: OmDetDetector, processor: OmDetTurboProcessor, size: tuple[int, int]) -> None:
    image = picture(*size)
    inputs = processor(images=image.rgb, text=PROMPTS, return_tensors="pt", input_data_format="channels_last")
    inputs.pop("pixel_mask", None)
    with torch.inference_mode():
        out = omdet._model(**inputs)
    found = omdet.detect(omdet.encode(image), PROMPTS, 0.0)
    theirs = processor.post_process_grounded_object_detection(
        out, threshold=0.0, nms_threshold=1.0, target_sizes=[size], max_num_det=12 * len(PROMPTS)
    )[0]
    assert len(found) > 0
    for phrase in range(len(PROMPTS)):
        mine, rest = found[found.phrase_index == phrase], theirs["labels"] == phrase
        expected = rows(theirs["boxes"][rest], theirs["scores"][rest], size)
        np.testing.assert_allclose(rows(mine.boxes_xyxy, mine.scores, size), expected, atol=1e-4 * max(1, size[1] / 50))


def test_language_and_picture_are_computed_once(folder: Path) -> None:
    omdet: Any = detector.load("omdet", folder)
    seen: list[str] = []
    omdet._model.vision_backbone.register_forward_hook(lambda *_: seen.append("vision"))
    omdet._model.language_backbone.register_forward_hook(
        lambda _m, _a, kwargs, _o: seen.append(kwargs["encode_type"]), with_kwargs=True
    )
    encoded = omdet.encode(picture(37, 53))
    for _ in range(2):
        omdet.detect(encoded, ["cat", "dog"], 0.0)
    omdet.detect(encoded, ["cat", "lion"], 0.0)
    assert seen == ["vision", "task", "class", "task", "class"]


def test_preprocessing_is_the_processors_own(omdet: OmDetDetector, processor: OmDetTurboProcessor) -> None:
    seen: list[torch.Tensor] = []
    handle = omdet._model.vision_backbone.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    for size in [(37, 53), (3, 3), (1, 1)]:
        image = picture(*size)
        omdet.encode(image)
        theirs = processor.image_processor(image.rgb, input_data_format="channels_last", return_tensors="pt")
        assert torch.equal(seen[-1], theirs["pixel_values"])
    handle.remove()


def test_three_hundred_phrases_in_sentences_that_fit(omdet: OmDetDetector) -> None:
    prompts = [f"cat {i}" for i in range(300)]
    runs = list(pack(omdet._lengths(prompts), 73))
    for run in runs:
        sentence = f"Detect {', '.join(prompts[i] for i in run)}."
        assert len(omdet._processor.tokenizer(sentence)["input_ids"]) <= 77 + len("detect")  # tiny byte tokenizer
    found = omdet.detect(omdet.encode(picture(37, 53)), prompts, 0.0)
    assert set(found.phrase_index.tolist()) == set(range(300))
    check_proposals(found, (37, 53), 300, 0.0)


def test_odd_texts_and_only_the_overlong_one_is_cut(omdet: OmDetDetector) -> None:
    encoded = omdet.encode(picture(37, 53))
    for odd in ODD_TEXTS:
        check_proposals(omdet.detect(encoded, [odd, "cat"], 0.0), (37, 53), 2, 0.0)
    alone = omdet.detect(encoded, ["cat"], 0.0)
    found = omdet.detect(encoded, ["lion " * 2000, "cat"], 0.0)
    np.testing.assert_allclose(found.scores[found.phrase_index == 1], alone.scores, atol=1e-6)
    assert set(found.phrase_index.tolist()) == {0, 1}


@pytest.mark.parametrize("size", ODD_SIZES)
def test_odd_sizes(omdet: OmDetDetector, size: tuple[int, int]) -> None:
    check_proposals(omdet.detect(omdet.encode(picture(*size)), ["cat", "dog"], 0.0), size, 2, 0.0)


def test_empty_answers(omdet: OmDetDetector) -> None:
    encoded = omdet.encode(picture(37, 53))
    assert len(omdet.detect(encoded, [], 0.0)) == 0
    assert len(omdet.detect(encoded, ["cat"], 1.0)) == 0


def test_half_precision_weights_answer_in_float32(folder: Path) -> None:
    half = detector.load("omdet", folder, dtype="bfloat16")
    check_proposals(half.detect(half.encode(picture(37, 53)), ["cat", "dog"], 0.0), (37, 53), 2, 0.0)


@pytest.mark.hub
def test_the_real_model_finds_nothing_in_noise() -> None:
    from textseg.errors import HubError

    try:
        real = detector.load("omdet", "omlab/omdet-turbo-swin-tiny-hf")
    except HubError as error:
        pytest.skip(str(error))
    assert len(real.detect(real.encode(picture(240, 320)), ["a cat"], 0.5)) == 0


# The table of families and what all adapters share.


def test_unknown_kinds_and_options_name_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'owlv2'"):
        detector.load("owl_v2", folder)
    with pytest.raises(ConfigError, match="did you mean 'nms_iou'"):
        detector.load("omdet", folder, nms=0.5)
    for bad in ({"nms_iou": 0.0}, {"nms_iou": 2.0}, {"max_per_phrase": 0}):
        with pytest.raises(ConfigError, match="expected"):
            detector.load("omdet", folder, **bad)


def test_nano_is_built_by_its_own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from textseg.models.nano_detector import NanoDetector

    encoder: Any = object()
    monkeypatch.setattr(NanoDetector, "load", lambda folder, encoder, **options: (folder, encoder, options))
    assert detector.load("nano", "weights", text_encoder=encoder, image_size=8) == (
        "weights",
        encoder,
        {"image_size": 8},
    )
    with pytest.raises(ConfigError, match="give the preset a 'clip'"):
        detector.load("nano", "weights")
    with pytest.raises(ConfigError, match="unknown option 'size' of detector 'nano'"):
        detector.load("nano", "weights", text_encoder=encoder, size=8)


def test_boxes_are_clipped_degenerate_ones_dropped_and_the_rest_sorted() -> None:
    boxes = torch.tensor([[-5, -5, 4, 4], [3, 3, 3, 9], [8, 8, 20, 30], [1, 1, 2, 2], [0, 0, float("nan"), 5.0]])
    scores = torch.tensor([0.5, 0.9, 0.7, 0.1, 0.8])
    found = to_proposals(boxes, scores, torch.tensor([1, 0, 0, 1, 0]), (10, 12), 0.2, DetectOptions())
    np.testing.assert_array_equal(found.boxes_xyxy, [[8, 8, 12, 10], [0, 0, 4, 4]])
    np.testing.assert_allclose(found.scores, [0.7, 0.5])
    np.testing.assert_array_equal(found.phrase_index, [0, 1])


def test_suppression_stays_within_a_phrase_and_masks_follow_their_boxes() -> None:
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4.1], [0, 0, 4, 4]])
    masks = torch.arange(3.0).reshape(3, 1, 1).expand(3, 2, 2)
    scores = torch.tensor([0.5, 0.9, 0.7])
    found = to_proposals(boxes, scores, torch.tensor([0, 0, 1]), (10, 10), 0.0, DetectOptions(), masks)
    np.testing.assert_allclose(found.scores, [0.9, 0.7])
    assert found.mask_logits is not None
    np.testing.assert_array_equal(found.mask_logits[:, 0, 0], [1, 2])
    assert to_proposals(boxes[:0], scores[:0], torch.zeros(0), (10, 10), 0.0, DetectOptions()).mask_logits is None


def test_runs_keep_order_and_budget() -> None:
    assert list(pack([3, 3, 9, 1, 1], 6)) == [[0, 1], [2], [3, 4]]
    assert list(pack([], 6)) == []


def test_phrase_cache_is_bounded_and_forgets_the_least_recent() -> None:
    asked: list[list[str]] = []

    def compute(keys: list[str]) -> list[str]:
        asked.append(keys)
        return [key.upper() for key in keys]

    cache: PhraseCache[str] = PhraseCache(2)
    assert cache.get(["a", "b", "a"], compute) == ["A", "B", "A"]
    cache.get(["a"], compute)
    assert cache.get(["c", "d", "e"], compute) == ["C", "D", "E"]
    assert len(cache) == 2
    cache.get(["e", "a"], compute)
    assert asked == [["a", "b"], ["c", "d", "e"], ["a"]]
