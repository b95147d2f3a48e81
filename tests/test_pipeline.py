"""The whole flow on the fakes: what callers rely on, whatever the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import BLUE_BOX, RED_BOX, FakeDetector, FakeSegmenter, fake_pipeline, scene
from textseg.errors import ConfigError, ImageError, PromptError, QueryError
from textseg.types import Phrase


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def box_mask(box: tuple[int, int, int, int]) -> np.ndarray:
    out = np.zeros((96, 128), bool)
    out[box[1] : box[3], box[0] : box[2]] = True
    return out


def test_each_mask_carries_the_callers_own_phrase() -> None:
    result = fake_pipeline()(scene(), [" the  blue box", "the red box"])
    assert result.labels == (" the  blue box", "the red box")
    assert result.phrase_index.tolist() == [0, 1]
    assert iou(result.masks[0], box_mask(BLUE_BOX)) > 0.9
    assert iou(result.masks[1], box_mask(RED_BOX)) > 0.9
    assert result.masks.dtype == np.bool_
    assert result.boxes_xyxy.dtype == result.scores.dtype == np.float32


def test_what_is_not_there_is_an_answer() -> None:
    result = fake_pipeline()(scene(), "a dog")
    assert len(result) == 0
    assert result.masks.shape == (0, 96, 128)
    assert result.missing == ("a dog",)
    assert result.phrase_scores.tolist() == [0.0]


def test_every_mask_can_be_traced_to_its_phrase_box_prompt_and_mask() -> None:
    result = fake_pipeline()(scene(), ["the red box", "the blue box"])
    for k in range(len(result)):
        segment = result.accepted
        assert result.query.phrases[segment.phrase_index[k]].text == result.labels[k]
        candidates = result.scored.candidates
        assert segment.prompt_index[k] < len(candidates)
        assert segment.mask_index[k] < candidates.logits.shape[1]
    assert set(result.rejected.sources) <= {"detector", "text"}
    assert all(result.rejected.reasons)


def test_an_opened_picture_is_encoded_once() -> None:
    detector, segmenter = FakeDetector(), FakeSegmenter()
    picture = fake_pipeline(detector=detector, segmenter=segmenter).open(scene())
    first = picture.segment("the red box")
    picture.segment(["the blue box", "a dog"])
    picture.segment(points=[(30, 40)])
    again = picture.segment("the red box")
    assert detector.encoded == segmenter.encoded == 1
    np.testing.assert_array_equal(first.masks, again.masks)


def test_one_phrase_or_many_in_one_call_agree() -> None:
    pipeline = fake_pipeline()
    both = pipeline(scene(), ["the red box", "the blue box"])
    for k, phrase in enumerate(["the red box", "the blue box"]):
        np.testing.assert_array_equal(pipeline(scene(), phrase).masks[0], both.masks[k])


def test_pointing_gives_the_clicked_object() -> None:
    picture = fake_pipeline().open(scene())
    clicked = picture.segment(points=[(96, 48)], labels=[1])
    assert iou(clicked.masks[0], box_mask(BLUE_BOX)) > 0.9
    assert clicked.labels == ("",)
    boxed = picture.segment(box=RED_BOX)
    assert len(boxed) == 1
    assert iou(boxed.masks[0], box_mask(RED_BOX)) > 0.9
    assert boxed.scored.candidates.logits.shape[1] == 1  # a box is clear: one mask


def test_text_and_a_click_together() -> None:
    result = fake_pipeline().open(scene()).segment("the red box", points=[(30, 40)])
    assert result.labels == ("the red box",)
    assert iou(result.masks[0], box_mask(RED_BOX)) > 0.9


def test_two_boxes_in_one_call() -> None:
    result = fake_pipeline().open(scene()).segment(box=[RED_BOX, BLUE_BOX])
    assert sorted(result.accepted.proposal_index.tolist()) == [0, 1]


def test_another_threshold_runs_no_model() -> None:
    segmenter = FakeSegmenter()
    result = fake_pipeline(segmenter=segmenter)(scene(), ["the red box", "the blue box"])
    decoded = segmenter.decoded
    strict = result.with_threshold(1.0)
    assert len(strict) == 0
    assert len(strict.with_threshold(0.5)) == len(result) == 2
    assert strict.missing == ("the red box", "the blue box")
    one = result.with_threshold(0.5, {"the red box": 1.0})
    assert one.labels == ("the blue box",)
    assert segmenter.decoded == decoded


def test_stages_can_be_left_out() -> None:
    without_clip = fake_pipeline(clip=None, text_prompt=None)(scene(), "the red box")
    assert np.isnan(without_clip.parts["clip"]).all()
    assert set(without_clip.accepted.sources) == {"detector"}
    text_only = fake_pipeline(detector=None)(scene(), "the red box", threshold=0.0)
    assert set(text_only.accepted.sources) == {"text"}
    with pytest.raises(ConfigError, match="needs a CLIP"):
        fake_pipeline(clip=None)


def test_batch_reports_a_bad_picture_and_goes_on(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    items = list(fake_pipeline().batch([scene(), bad, scene()], ["the red box"]))
    assert [item.error is None for item in items] == [True, False, True]
    assert isinstance(items[1].error, ImageError)
    assert items[1].result is None
    assert items[2].result is not None
    assert items[2].result.labels == ("the red box",)


def test_batch_reads_only_a_little_ahead() -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield scene()

    stream = fake_pipeline().batch(endless(), "the red box", ahead=2)
    for _ in range(5):
        next(stream)
    assert taken <= 5 + 2 + 1


def test_bad_phrases_stop_a_batch_at_once() -> None:
    with pytest.raises(QueryError):
        list(fake_pipeline().batch([scene()], ""))


def test_many_phrases_at_once_stay_bounded() -> None:
    segmenter = FakeSegmenter()
    phrases = [f"the red thing number {i}" for i in range(2000)]
    result = fake_pipeline(segmenter=segmenter)(scene(), phrases)
    assert segmenter.decoded <= 200
    assert len(result) == 1  # one red box: the best of the phrases keeps it


def test_negatives_are_contrasted() -> None:
    plain = fake_pipeline()(scene(), Phrase("box", "the red box"))
    wary = fake_pipeline()(scene(), Phrase("box", "the red box", ("a red thing",)))
    assert wary.scored.parts["clip"].max() < plain.scored.parts["clip"].max()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.segment(), PromptError, "nothing asked"),
        (lambda p: p.segment(""), QueryError, "phrase"),
        (lambda p: p.segment("x", threshold=1.5), ConfigError, "threshold: got 1.5"),
        (lambda p: p.segment(box=(50, 10, 20, 30)), PromptError, "inverted"),
        (lambda p: p.segment(points=[(500, 10)]), PromptError, "outside"),
        (lambda p: p.segment("x").with_threshold(0.5, {"y": 0.1}), ConfigError, "not one of the phrases"),
        (lambda p: p.segment("x").with_threshold(2.0), ConfigError, "threshold"),
        (lambda p: p.segment("x").with_threshold(0.5, {"x": 3.0}), ConfigError, "got 3.0"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(fake_pipeline().open(scene()))


def test_one_pixel_and_very_long_pictures() -> None:
    for size in ((1, 1), (17, 3000)):
        result = fake_pipeline()(np.zeros((*size, 3), np.uint8), "the red box")
        assert result.masks.shape == (0, *size)
