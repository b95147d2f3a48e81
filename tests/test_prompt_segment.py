"""Proposals become prompts; prompts are decoded, refined and guarded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fakes import BLUE_BOX, FakeSegmenter, FakeTextPrompt, scene
from textseg import image
from textseg.errors import ConfigError, ModelError, PromptError, UnsupportedError
from textseg.prompt import PromptConfig, build_prompts, text_tokens, user_prompts
from textseg.segment import SegmentConfig, segment
from textseg.types import Candidates, Embedding, Prompts, Proposals

BOX = np.array([[1, 2, 3, 4], [0, 0, 9, 9]], np.float32)
ROUGH = np.stack([np.ones((2, 2)), np.zeros((2, 2))]).astype(np.float32)
PROPOSALS = Proposals(BOX, np.array([0.9, 0.0]), np.array([1, 0]), ("detector", "text"), ROUGH)
TOKENS = np.arange(2 * 1 * 3, dtype=np.float32).reshape(2, 1, 3)


def test_a_prompt_carries_box_rough_mask_and_token() -> None:
    prompts = build_prompts(PROPOSALS, TOKENS, PromptConfig())
    assert prompts.has_box.tolist() == [True, False]
    assert prompts.has_mask.tolist() == [True, False]
    assert prompts.has_text.tolist() == [True, True]
    assert prompts.text_tokens is not None
    np.testing.assert_array_equal(prompts.text_tokens[0], TOKENS[1])  # proposal 0 is of phrase 1


def test_mask_and_token_can_be_turned_off_beside_a_box() -> None:
    prompts = build_prompts(PROPOSALS, TOKENS, PromptConfig(rough_mask=False, text_token=False))
    assert prompts.has_mask.tolist() == [False, False]
    assert prompts.has_text.tolist() == [False, True]  # a text-only proposal keeps its token


def test_a_text_only_proposal_needs_tokens() -> None:
    with pytest.raises(PromptError, match="needs a text prompt"):
        build_prompts(PROPOSALS, None, PromptConfig())


def test_no_proposal_no_prompt() -> None:
    assert len(build_prompts(Proposals.empty(), TOKENS, PromptConfig())) == 0
    assert len(user_prompts(np.zeros(0, np.int64))) == 0


def test_tokens_must_fit_the_segmenter() -> None:
    segmenter = FakeSegmenter()
    embeddings = np.zeros((2, 12), np.float32)
    assert text_tokens(None, segmenter, embeddings) is None
    fit = text_tokens(FakeTextPrompt(), segmenter, embeddings)
    assert fit is not None
    assert fit.shape == (2, 1, 12)
    segmenter.text_width = None
    with pytest.raises(UnsupportedError, match="takes no text tokens"):
        text_tokens(FakeTextPrompt(), segmenter, embeddings)
    segmenter.text_width = 256
    with pytest.raises(UnsupportedError, match="width 256"):
        text_tokens(FakeTextPrompt(), segmenter, embeddings)


class Remembers(FakeSegmenter):
    """Keeps the prompts it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Prompts] = []

    def decode(self, embedding: Embedding, prompts: Prompts) -> Candidates:
        self.asked.append(prompts)
        return super().decode(embedding, prompts)


def test_refinement_feeds_the_best_logits_back() -> None:
    segmenter, picture = Remembers(), image.read(scene())
    prompts = user_prompts(np.arange(1), boxes_xyxy=np.array([BLUE_BOX], np.float32))
    first = segment(segmenter, segmenter.encode(picture), picture, prompts, SegmentConfig())
    segment(segmenter, segmenter.encode(picture), picture, prompts, SegmentConfig(refine_rounds=2))
    assert [asked.has_mask.tolist() for asked in segmenter.asked] == [[False], [False], [True], [True]]
    fed = segmenter.asked[2].mask_logits
    assert fed is not None
    np.testing.assert_array_equal(fed[0], first.logits[0, 0, :48, :64])  # 96x128 fills 48 of 64 rows


def test_a_box_without_a_rough_mask_can_be_given_its_ellipse() -> None:
    segmenter, picture = Remembers(), image.read(scene())
    rough = np.stack([np.ones((8, 8)), np.zeros((8, 8)), np.zeros((8, 8))]).astype(np.float32)
    boxes = np.array([BLUE_BOX, BLUE_BOX, [np.nan] * 4], np.float32)
    points = np.full((3, 1, 2), 40.0, np.float32)
    prompts = user_prompts(np.arange(3), boxes_xyxy=boxes, mask_logits=rough, points_xy=points)
    segment(segmenter, segmenter.encode(picture), picture, prompts, SegmentConfig(box_prior=True))
    asked = segmenter.asked[0]
    assert asked.has_mask.tolist() == [True, True, False]
    assert asked.mask_logits is not None
    np.testing.assert_array_equal(asked.mask_logits[0], rough[0])
    assert asked.mask_logits[1, 4, 6] > 0  # the middle of the box, stretched to 8 x 8
    assert asked.mask_logits[1, 0, 0] < 0


def test_rough_masks_can_be_blended_in() -> None:
    segmenter, picture = FakeSegmenter(), image.read(scene())
    boxes = np.array([BLUE_BOX, BLUE_BOX], np.float32)
    rough = np.stack([np.full((4, 4), 100.0), np.zeros((4, 4))]).astype(np.float32)
    prompts = user_prompts(np.arange(2), boxes_xyxy=boxes, mask_logits=rough)
    embedding = segmenter.encode(picture)
    plain = segment(segmenter, embedding, picture, prompts, SegmentConfig())
    blended = segment(segmenter, embedding, picture, prompts, SegmentConfig(rough_weight=0.5))
    inside = blended.logits[0, :, :48] - plain.logits[0, :, :48]  # 96x128 fills 48 of 64 rows
    np.testing.assert_allclose(inside, 4.0)  # half of the limit, 8
    np.testing.assert_array_equal(blended.logits[0, :, 48:], plain.logits[0, :, 48:])
    np.testing.assert_array_equal(blended.logits[1], plain.logits[1])  # an all-zero row means "no mask"


def test_no_prompt_is_decoded_to_no_candidate() -> None:
    segmenter, picture = FakeSegmenter(), image.read(scene())
    none = user_prompts(np.zeros(0, np.int64))
    assert len(segment(segmenter, segmenter.encode(picture), picture, none, SegmentConfig(refine_rounds=1))) == 0


@pytest.mark.parametrize("wrong", ["picture", "model"])
def test_an_embedding_of_something_else_is_refused(wrong: str) -> None:
    segmenter, picture = FakeSegmenter(), image.read(scene())
    other: Any = image.read(scene((50, 50)))
    embedding = segmenter.encode(other if wrong == "picture" else picture)
    if wrong == "model":
        segmenter.model_id = "another"
    with pytest.raises(ModelError, match="another"):
        segment(segmenter, embedding, picture, user_prompts(np.zeros(0, np.int64)), SegmentConfig())


@pytest.mark.parametrize("options", [{"refine_rounds": -1}, {"rough_weight": -1.0}])
def test_negative_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: got -1"):
        SegmentConfig(**options)
