"""Grounding DINO on tiny random weights, against transformers' own processing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GroundingDinoProcessor

from tests.models import tiny_detectors
from tests.models.tiny_detectors import ODD_SIZES, ODD_TEXTS, check_proposals, picture, rows
from textseg.errors import ConfigError, UnsupportedError
from textseg.models import detector, grounding_dino
from textseg.models.grounding_dino import GroundingDinoDetector, caption, widen

OPEN = {"nms_iou": None, "max_per_phrase": None}


@pytest.fixture(scope="module", params=["grounding_dino", "mm_grounding_dino"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, tiny_detectors.grounding_dino(folder, mm=request.param.startswith("mm"))


@pytest.fixture(scope="module")
def dino(checkpoint: tuple[str, Path]) -> GroundingDinoDetector:
    return detector.load(*checkpoint, **OPEN, exclusive=False)  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module")
def processor(checkpoint: tuple[str, Path]) -> GroundingDinoProcessor:
    return GroundingDinoProcessor.from_pretrained(checkpoint[1])


@pytest.mark.parametrize("size", [(37, 53), (64, 96), (1, 1), (120, 30)])
def test_a_single_phrase_matches_transformers(
    dino: GroundingDinoDetector, processor: GroundingDinoProcessor, size: tuple[int, int]
) -> None:
    image = picture(*size)
    inputs = processor(images=image.rgb, text=[["a red cat"]], return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        out = dino._model(**inputs)
    theirs = processor.post_process_grounded_object_detection(out, threshold=0.0, target_sizes=[size])[0]
    scores = out.logits[0].sigmoid()[:, 1:4].amax(dim=1)  # [CLS] a red cat . [SEP]
    found = dino.detect(dino.encode(image), ["a red cat"], 0.0)
    assert len(found) > 0
    np.testing.assert_allclose(
        rows(found.boxes_xyxy, found.scores, size), rows(theirs["boxes"], scores, size), atol=1e-4
    )


def test_token_ids_equal_the_tokenizer_on_the_whole_caption(
    dino: GroundingDinoDetector, processor: GroundingDinoProcessor
) -> None:
    prompts = ["A cat", "the left lion", "remote", "zebra"]
    tokenizer = processor.tokenizer
    ids, spans = caption([list(p) for p in dino._phrase_ids(prompts)], 101, 102, 1012)
    whole = tokenizer("a cat. the left lion. remote. zebra.", return_offsets_mapping=True)
    assert ids == whole["input_ids"]
    starts = [0, 7, 22, 30]
    for start, prompt, (first, last) in zip(starts, prompts, spans, strict=True):
        offsets = [tuple(o) for o in whole["offset_mapping"]]
        inside = [i for i, (a, b) in enumerate(offsets) if b > a and a >= start and b <= start + len(prompt)]
        assert inside == list(range(first, last))


def test_several_phrases_are_scored_by_their_own_tokens(
    dino: GroundingDinoDetector, processor: GroundingDinoProcessor
) -> None:
    image = picture(48, 64)
    encoded = dino.encode(image)
    found = dino.detect(encoded, ["a cat", "red dog", "remote"], 0.0)
    inputs = processor(images=image.rgb, text="a cat. red dog. remote.", return_tensors="pt")
    with torch.inference_mode():
        probabilities = dino._model(**inputs).logits[0].sigmoid()
    for phrase, span in enumerate([slice(1, 3), slice(4, 6), slice(7, 8)]):
        mine = np.sort(found.scores[found.phrase_index == phrase])
        np.testing.assert_allclose(mine, np.sort(probabilities[:, span].amax(dim=1).numpy()), atol=1e-5)


def test_exclusive_gives_every_box_to_one_phrase(checkpoint: tuple[str, Path], dino: GroundingDinoDetector) -> None:
    strict = detector.load(*checkpoint, **OPEN)  # type: ignore[arg-type]
    image, prompts = picture(48, 64), ["a cat", "red dog", "remote"]
    every = dino.detect(dino.encode(image), prompts, 0.0)
    found = strict.detect(strict.encode(image), prompts, 0.0)
    assert len(np.unique(found.boxes_xyxy, axis=0)) == len(found)
    for box, score in zip(found.boxes_xyxy, found.scores, strict=True):
        rivals = every.scores[np.isclose(every.boxes_xyxy, box, atol=1e-4).all(axis=1)]
        assert score == pytest.approx(rivals.max(), abs=1e-5)


def test_features_of_the_picture_are_used_again_and_unchanged(dino: GroundingDinoDetector) -> None:
    image = picture(48, 64)
    encoded, calls = dino.encode(image), []
    handle = dino._model.model.backbone.inner.register_forward_hook(lambda *_: calls.append(1))
    try:
        first = dino.detect(encoded, ["a cat"], 0.0)
        dino.detect(encoded, ["dog"], 0.0)
        again = dino.detect(encoded, ["a cat"], 0.0)
    finally:
        handle.remove()
    assert not calls
    np.testing.assert_array_equal(first.boxes_xyxy, again.boxes_xyxy)
    np.testing.assert_array_equal(first.scores, again.scores)


def test_preprocessing_is_the_processors_own(dino: GroundingDinoDetector, processor: GroundingDinoProcessor) -> None:
    for size in [(37, 53), (3, 3), (64, 96)]:
        image = picture(*size)
        theirs = processor.image_processor(image.rgb, input_data_format="channels_last", return_tensors="pt")
        encoded = dino.encode(image)
        assert torch.equal(encoded.pixels, theirs["pixel_values"])
        assert torch.equal(encoded.pixel_mask, theirs["pixel_mask"])


def test_odd_phrases_do_not_disturb_the_mapping(dino: GroundingDinoDetector) -> None:
    encoded = dino.encode(picture(48, 64))
    for odd in ODD_TEXTS:
        found = dino.detect(encoded, [odd, "a cat", odd + " dog"], 0.0)
        check_proposals(found, (48, 64), 3, 0.0)
        assert {1, 2} <= set(found.phrase_index.tolist())
    assert dino._phrase_ids(["st. bernard?"]) == dino._phrase_ids(["st bernard"])
    assert not {0, 101, 102, 1012, 1029} & set(dino._phrase_ids(["[SEP] cat. [PAD] dog? [CLS]"])[0])
    assert len(dino.detect(encoded, ["", "...", "?"], 0.0)) == 0


def test_three_hundred_phrases_are_asked_in_bounded_captions(dino: GroundingDinoDetector) -> None:
    encoded, lengths = dino.encode(picture(48, 64)), []
    handle = dino._model.register_forward_pre_hook(
        lambda _m, _a, kwargs: lengths.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    prompts = [f"red thing {i}" for i in range(300)]
    try:
        found = dino.detect(encoded, prompts, 0.0)
    finally:
        handle.remove()
    assert len(lengths) > 1
    assert all(batch == 1 and length <= 256 for batch, length in lengths)
    assert set(found.phrase_index.tolist()) == set(range(300))
    check_proposals(found, (48, 64), 300, 0.0)


def test_only_the_overlong_phrase_is_cut(dino: GroundingDinoDetector) -> None:
    encoded = dino.encode(picture(48, 64))
    long = "lion " * 2000
    found = dino.detect(encoded, ["a cat", long, "dog"], 0.0)
    alone = dino.detect(encoded, ["a cat"], 0.0)
    mine = found[found.phrase_index == 0]
    np.testing.assert_allclose(mine.boxes_xyxy, alone.boxes_xyxy, atol=1e-4)
    np.testing.assert_allclose(mine.scores, alone.scores, atol=1e-5)
    assert set(found.phrase_index.tolist()) == {0, 1, 2}
    assert len(dino._phrase_ids([long])[0]) == 253


def test_equal_phrases_share_their_boxes(checkpoint: tuple[str, Path]) -> None:
    strict = detector.load(*checkpoint, **OPEN)  # type: ignore[arg-type]
    found = strict.detect(strict.encode(picture(48, 64)), ["a cat", "A  Cat", "dog"], 0.0)
    first, second = found[found.phrase_index == 0], found[found.phrase_index == 1]
    assert len(first) > 0
    np.testing.assert_array_equal(first.boxes_xyxy, second.boxes_xyxy)


@pytest.mark.parametrize("size", ODD_SIZES)
def test_odd_sizes(dino: GroundingDinoDetector, size: tuple[int, int]) -> None:
    check_proposals(dino.detect(dino.encode(picture(*size)), ["a cat", "dog"], 0.0), size, 2, 0.0)


def test_thin_pictures_are_padded_and_mapped_back(
    dino: GroundingDinoDetector, processor: GroundingDinoProcessor
) -> None:
    image = picture(40, 3000)
    canvas = widen(image.rgb)
    assert canvas.shape == (94, 3000, 3)
    assert widen(picture(94, 3000).rgb).shape == (94, 3000, 3)
    assert widen(picture(3000, 1).rgb).shape == (3000, 94, 3)
    inputs = processor(images=canvas, text="dog.", return_tensors="pt")
    with torch.inference_mode():
        out = dino._model(**inputs)
    theirs = processor.post_process_grounded_object_detection(out, threshold=0.0, target_sizes=[(94, 3000)])[0]
    scores = out.logits[0].sigmoid()[:, 1]
    found = dino.detect(dino.encode(image), ["dog"], 0.0)
    np.testing.assert_allclose(
        rows(found.boxes_xyxy, found.scores, (40, 3000)), rows(theirs["boxes"], scores, (40, 3000)), atol=2e-3
    )


def test_empty_answers_and_bad_calls(dino: GroundingDinoDetector) -> None:
    encoded = dino.encode(picture(48, 64))
    assert len(dino.detect(encoded, [], 0.5)) == 0
    assert dino.detect(encoded, ["a cat"], 1.0).boxes_xyxy.shape == (0, 4)
    with pytest.raises(ConfigError, match=r"expected a number in 0\.\.1"):
        dino.detect(encoded, ["a cat"], 1.5)
    with pytest.raises(UnsupportedError, match="encode it with this model"):
        dino.detect("not encoded", ["a cat"], 0.5)


def test_half_precision_weights_answer_in_float32(checkpoint: tuple[str, Path]) -> None:
    kind, folder = checkpoint
    half = detector.load(kind, folder, dtype="bfloat16")
    check_proposals(half.detect(half.encode(picture(48, 64)), ["a cat", "dog"], 0.0), (48, 64), 2, 0.0)


@pytest.mark.hub
def test_the_real_model_finds_nothing_in_noise() -> None:
    from textseg.errors import HubError

    try:
        real = grounding_dino.load("IDEA-Research/grounding-dino-tiny")
    except HubError as error:
        pytest.skip(str(error))
    assert len(real.detect(real.encode(picture(240, 320)), ["a cat"], 0.5)) == 0
