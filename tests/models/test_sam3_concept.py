"""SAM 3's concept prompts on tiny random weights, against transformers' own processing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam3Processor

from tests.models import tiny_detectors
from tests.models.tiny_detectors import ODD_SIZES, ODD_TEXTS, check_proposals, picture
from textseg.models import detector, sam3_concept
from textseg.models.sam3_concept import Sam3ConceptDetector

OPEN = {"nms_iou": None, "max_per_phrase": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detectors.sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def sam3(folder: Path) -> Sam3ConceptDetector:
    return detector.load("sam3", folder, **OPEN)  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module")
def processor(folder: Path) -> Sam3Processor:
    return Sam3Processor.from_pretrained(folder)


@pytest.mark.parametrize("size", [(37, 53), (120, 90), (1, 1), (17, 300)])
def test_matches_transformers(sam3: Sam3ConceptDetector, processor: Sam3Processor, size: tuple[int, int]) -> None:
    image = picture(*size)
    inputs = processor(images=image.rgb, text="red cat", return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        out = sam3._model(
            pixel_values=inputs["pixel_values"],
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
        )
    theirs = processor.image_processor.post_process_instance_segmentation(out, threshold=0.0, target_sizes=[size])[0]
    found = sam3.detect(sam3.encode(image), ["red cat"], 0.0)
    order = theirs["scores"].argsort(descending=True, stable=True)
    limits = [size[1], size[0], size[1], size[0]]
    boxes = np.clip(theirs["boxes"][order].numpy(), 0, limits)
    assert len(found) == len(order)
    np.testing.assert_allclose(found.boxes_xyxy, boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, theirs["scores"][order].numpy(), atol=1e-5)
    assert found.mask_logits is not None
    np.testing.assert_allclose(found.mask_logits, out.pred_masks[0][order].numpy(), atol=1e-4)
    soft = torch.from_numpy(found.mask_logits.copy()).sigmoid()[None]
    masks = torch.nn.functional.interpolate(soft, size=size, mode="bilinear")[0] > 0.5
    assert (masks == theirs["masks"][order].bool()).float().mean() > 0.999


def test_picture_and_phrases_are_encoded_once(folder: Path) -> None:
    sam3: Any = detector.load("sam3", folder)
    seen: list[str] = []
    sam3._model.vision_encoder.register_forward_hook(lambda *_: seen.append("vision"))
    sam3._model.text_encoder.register_forward_hook(lambda *_: seen.append("text"))
    encoded = sam3.encode(picture(37, 53))
    for prompts in (["cat"], ["cat", "dog"], ["dog", "cat"]):
        sam3.detect(encoded, prompts, 0.0)
    assert seen == ["vision", "text", "text"]


def test_phrases_do_not_depend_on_each_other(sam3: Sam3ConceptDetector) -> None:
    encoded = sam3.encode(picture(37, 53))
    together = sam3.detect(encoded, ["cat", "lion " * 2000, "dog"], 0.0)
    assert set(together.phrase_index.tolist()) == {0, 1, 2}
    for index, prompt in ((0, "cat"), (2, "dog")):
        mine, alone = together[together.phrase_index == index], sam3.detect(encoded, [prompt], 0.0)
        np.testing.assert_allclose(mine.boxes_xyxy, alone.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(mine.scores, alone.scores, atol=1e-5)


def test_preprocessing_is_the_processors_own(sam3: Sam3ConceptDetector, processor: Sam3Processor) -> None:
    seen: list[torch.Tensor] = []
    handle = sam3._model.vision_encoder.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    for size in [(37, 53), (3, 3), (1, 1)]:
        image = picture(*size)
        sam3.encode(image)
        theirs = processor.image_processor(image.rgb, input_data_format="channels_last", return_tensors="pt")
        assert torch.equal(seen[-1], theirs["pixel_values"])
    handle.remove()


def test_three_hundred_phrases(sam3: Sam3ConceptDetector) -> None:
    found = sam3.detect(sam3.encode(picture(37, 53)), [f"thing {i}" for i in range(300)], 0.0)
    assert set(found.phrase_index.tolist()) == set(range(300))
    check_proposals(found, (37, 53), 300, 0.0)
    assert found.mask_logits is not None
    assert len(found.mask_logits) == len(found)


def test_odd_texts(sam3: Sam3ConceptDetector) -> None:
    encoded = sam3.encode(picture(37, 53))
    check_proposals(sam3.detect(encoded, list(ODD_TEXTS), 0.0), (37, 53), len(ODD_TEXTS), 0.0)


@pytest.mark.parametrize("size", ODD_SIZES)
def test_odd_sizes(sam3: Sam3ConceptDetector, size: tuple[int, int]) -> None:
    check_proposals(sam3.detect(sam3.encode(picture(*size)), ["cat", "dog"], 0.0), size, 2, 0.0)


def test_empty_answers(sam3: Sam3ConceptDetector) -> None:
    encoded = sam3.encode(picture(37, 53))
    assert len(sam3.detect(encoded, [], 0.0)) == 0
    nothing = sam3.detect(encoded, ["cat"], 1.0)
    assert nothing.boxes_xyxy.shape == (0, 4)
    assert nothing.mask_logits is None


def test_half_precision_weights_answer_in_float32(folder: Path) -> None:
    half = detector.load("sam3", folder, dtype="bfloat16")
    found = half.detect(half.encode(picture(37, 53)), ["cat", "dog"], 0.0)
    check_proposals(found, (37, 53), 2, 0.0)
    assert found.mask_logits is not None
    assert found.mask_logits.dtype == np.float32


@pytest.mark.hub
def test_the_real_model_finds_nothing_in_noise() -> None:
    from textseg.errors import HubError

    try:
        real = sam3_concept.load("facebook/sam3")
    except HubError as error:
        pytest.skip(str(error))
    assert len(real.detect(real.encode(picture(240, 320)), ["a cat"], 0.5)) == 0
