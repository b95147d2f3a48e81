"""Proposals from a detector and from text alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from textseg.errors import ConfigError
from textseg.propose import ProposeConfig, concatenate, fair_order, place_in_phrase, propose, user_proposals
from textseg.types import Image, Phrase, Proposals, Query

QUERY = Query((Phrase("car", "car"), Phrase("dog", "dog")))


class Listed:
    """A detector that returns a fixed list, whatever the picture."""

    model_id = "listed"

    def __init__(self, scores: Sequence[float], phrases: Sequence[int], rough: Any = None) -> None:
        n = len(scores)
        boxes = np.tile(np.array([1, 2, 3, 4], np.float32), (n, 1))
        self.found = Proposals(boxes, np.array(scores), np.array(phrases, np.int64), ("detector",) * n, rough)

    def encode(self, image: Image) -> None:
        return None

    def detect(self, encoded: Any, prompts: Sequence[str], threshold: float) -> Proposals:
        return self.found[self.found.scores >= threshold]


def test_each_phrase_keeps_its_best_and_gets_a_text_proposal() -> None:
    detector = Listed([0.9, 0.2, 0.5, 0.05], [0, 0, 1, 0])
    out = propose(QUERY, detector, None, (10, 20), ProposeConfig(max_per_phrase=1))
    assert out.sources == ("detector", "detector", "text", "text")
    np.testing.assert_allclose(out.scores, [0.9, 0.5, 0.9, 0.5])
    assert out.phrase_index.tolist() == [0, 1, 0, 1]
    assert out.boxes_xyxy[2].tolist() == [0, 0, 20, 10]


def test_a_phrase_that_the_detector_does_not_see_has_a_text_proposal_of_score_zero() -> None:
    out = propose(QUERY, Listed([0.9], [0]), None, (10, 20), ProposeConfig())
    np.testing.assert_allclose(out.scores, [0.9, 0.9, 0.0])


def test_a_text_proposal_has_the_rough_mask_of_its_best_detection() -> None:
    rough = np.stack([np.full((2, 3), value, np.float32) for value in (1.0, 2.0, 3.0)])
    out = propose(QUERY, Listed([0.2, 0.9, 0.5], [0, 0, 1], rough), None, (10, 20), ProposeConfig())
    assert out.mask_logits is not None
    assert out.mask_logits[:, 0, 0].tolist() == [1, 2, 3, 2, 3]
    unseen = propose(QUERY, Listed([0.9], [1], rough[:1]), None, (10, 20), ProposeConfig())
    assert unseen.mask_logits is not None
    assert unseen.mask_logits[:, 0, 0].tolist() == [1, 0, 1]


def test_a_phrase_with_a_likely_box_needs_no_text_proposal() -> None:
    out = propose(QUERY, Listed([0.9, 0.4], [0, 1]), None, (10, 20), ProposeConfig(text_only_below=0.4))
    assert out.sources == ("detector", "detector", "text")
    assert out.phrase_index.tolist() == [0, 1, 1]
    with pytest.raises(ConfigError, match="text_only_below"):
        ProposeConfig(text_only_below=1.5)


def test_without_a_detector_only_text_remains() -> None:
    assert propose(QUERY, None, None, (10, 20), ProposeConfig()).sources == ("text", "text")
    assert len(propose(QUERY, None, None, (10, 20), ProposeConfig(text_only=False))) == 0


def test_the_total_is_bounded_best_first() -> None:
    detector = Listed([0.9, 0.2, 0.5], [0, 0, 1])
    out = propose(QUERY, detector, None, (10, 20), ProposeConfig(max_total=3, text_only=True))
    np.testing.assert_allclose(sorted(out.scores), [0.5, 0.9, 0.9])


def test_joining_fills_rough_masks_with_none() -> None:
    rough = np.ones((1, 2, 2), np.float32)
    joined = concatenate([Listed([0.9], [0], rough).found, user_proposals(np.array([[0, 0, 5, 5]]), np.array([1]))])
    assert joined.mask_logits is not None
    assert joined.mask_logits.any(axis=(1, 2)).tolist() == [True, False]
    assert joined.sources == ("detector", "user")
    assert len(concatenate([])) == 0


def test_a_box_much_less_likely_than_its_phrases_best_is_left_out() -> None:
    detector = Listed([0.8, 0.5, 0.3, 0.2, 0.19], [0, 0, 0, 1, 1])

    def kept(**options: float) -> list[float]:
        out = propose(QUERY, detector, None, (10, 20), ProposeConfig(text_only=False, **options))
        return [round(float(score), 2) for score in out.scores]

    assert kept() == [0.8, 0.5, 0.3, 0.2, 0.19]
    assert kept(beside_share=0.5) == [0.8, 0.5, 0.2, 0.19]
    assert kept(beside=0.25) == [0.8, 0.5, 0.3, 0.2]  # the best one stays, however unlikely
    assert kept(beside=0.6, beside_share=0.5) == [0.8, 0.2]


@pytest.mark.parametrize(
    "options",
    [{"detector_threshold": 2.0}, {"beside": -0.1}, {"beside_share": 1.5}, {"max_per_phrase": 0}, {"max_total": 0}],
)
def test_bad_settings(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ProposeConfig(**options)


def test_many_phrases_share_the_total_fairly() -> None:
    detector = Listed([0.9, 0.8, 0.7, 0.2], [0, 0, 0, 1])
    out = propose(QUERY, detector, None, (10, 20), ProposeConfig(max_total=3, text_only=False))
    assert sorted(zip(out.phrase_index.tolist(), out.scores.round(1).tolist(), strict=True)) == [
        (0, pytest.approx(0.8)),
        (0, pytest.approx(0.9)),
        (1, pytest.approx(0.2)),
    ]


def test_a_likely_phrase_has_more_of_the_total() -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.2, 0.1, 0.75]
    detector = Listed(scores, [0, 0, 0, 0, 1, 1, 0])
    out = propose(QUERY, detector, None, (10, 20), ProposeConfig(max_total=4, text_only=False))
    assert [out.phrase_index.tolist().count(phrase) for phrase in (0, 1)] == [3, 1]
    order = fair_order(np.array([0.9, 0.8, 0.7, 0.5, 0.45], np.float32), np.array([0, 1, 2, 0, 1]))
    assert order.tolist() == [0, 3, 1, 2, 4]  # 0.8 x 0.7, 0.7 x 0.49, 0.45 x 0.7
    assert fair_order(np.zeros(0, np.float32), np.zeros(0, np.int64)).tolist() == []


def test_places_within_a_phrase() -> None:
    scores, phrases = np.array([0.1, 0.5, 0.3, 0.5], np.float32), np.array([7, 2, 7, 2])
    assert place_in_phrase(scores, phrases).tolist() == [1, 0, 0, 1]
    assert len(place_in_phrase(scores[:0], phrases[:0])) == 0
