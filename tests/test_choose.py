"""The choice among hand-written 4x4 masks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.small_stages import CORNER, DETECTOR_ONLY, EMPTY, IMAGE, LEFT, RIGHT, query, run, stages
from textseg import choose, rank
from textseg.rank import RankConfig


def test_no_candidate_is_an_empty_answer() -> None:
    scored, accepted, rejected = run(query("car"), DETECTOR_ONLY, [], [], [])
    assert len(scored) == len(accepted) == len(rejected) == 0
    assert accepted.masks.shape == (0, 4, 4)
    assert accepted.boxes_xyxy.shape == (0, 4)


def test_below_the_threshold_is_not_there() -> None:
    _, accepted, rejected = run(query("car"), DETECTOR_ONLY, [[LEFT]], [0.3], [0])
    assert len(accepted) == 0
    assert rejected.reasons == ("score 0.30 below the threshold 0.50",)
    np.testing.assert_array_equal(rejected.masks[0], LEFT)


def test_one_mask_of_each_prompt_wins() -> None:
    _, accepted, rejected = run(query("car"), DETECTOR_ONLY, [[LEFT, CORNER, RIGHT]], [0.9], [0])
    assert accepted.labels == ("car",)
    np.testing.assert_array_equal(accepted.masks[0], LEFT)
    assert rejected.reasons == ("another mask of the same prompt scored higher",) * 2
    assert rejected.mask_index.tolist() == [1, 2]


def test_duplicates_and_parts_of_one_phrase_are_removed() -> None:
    _, accepted, rejected = run(
        query("car"), DETECTOR_ONLY, [[LEFT], [LEFT], [CORNER], [RIGHT]], [0.9, 0.8, 0.7, 0.6], [0] * 4
    )
    assert accepted.proposal_index.tolist() == [0, 3]
    assert rejected.reasons[0].startswith("duplicate of a better mask (IoU 1.00)")
    assert rejected.reasons[1].startswith("part of a better mask")


def test_the_same_object_goes_to_the_phrase_that_scores_higher() -> None:
    _, accepted, rejected = run(query("cat", "dog"), DETECTOR_ONLY, [[LEFT], [LEFT]], [0.6, 0.8], [0, 1])
    assert accepted.labels == ("dog",)
    assert rejected.labels == ("cat",)
    assert rejected.reasons == ("the same object scored higher as 'dog' (IoU 1.00)",)


def test_accepted_come_in_the_order_of_the_phrases_best_first() -> None:
    _, accepted, _ = run(
        query("cat", "dog"),
        DETECTOR_ONLY,
        [[RIGHT & ~CORNER.T], [CORNER], [LEFT & ~CORNER]],
        [0.9, 0.6, 0.7],
        [1, 0, 0],
    )
    assert accepted.labels == ("cat", "cat", "dog")
    np.testing.assert_allclose(accepted.scores, [0.7, 0.6, 0.9], atol=1e-5)


def test_an_empty_mask_never_wins() -> None:
    _, accepted, rejected = run(query("car"), DETECTOR_ONLY, [[EMPTY]], [0.99], [0])
    assert len(accepted) == 0
    assert rejected.reasons == ("empty mask",)


def test_thresholds_can_differ_by_phrase() -> None:
    q = query("cat", "dog")
    scored, _, _ = run(q, DETECTOR_ONLY, [[LEFT], [RIGHT]], [0.4, 0.4], [0, 1])
    accepted, _ = choose.select(scored, q, DETECTOR_ONLY, np.array([0.3, 0.5]))
    assert accepted.labels == ("cat",)


def test_what_is_far_below_the_phrases_best_loses() -> None:
    config = replace(DETECTOR_ONLY, threshold=0.2, margin=1.0)  # 0.9 has log-odds 2.2, 0.7 0.8 and 0.8 1.4
    both = [[LEFT], [RIGHT]]
    _, accepted, rejected = run(query("car"), config, both, [0.9, 0.7], [0, 0])
    assert accepted.proposal_index.tolist() == [0]
    assert rejected.reasons == ("score 0.70 far below the 0.90 of the phrase's best",)
    assert len(run(query("car"), config, both, [0.9, 0.8], [0, 0])[1]) == 2
    assert len(run(query("car", "dog"), config, both, [0.9, 0.7], [0, 1])[1]) == 2  # each phrase has a best of its own
    assert len(run(query("car"), replace(config, margin=None), both, [0.9, 0.3], [0, 0])[1]) == 2  # type: ignore[arg-type]


def test_the_margin_grows_with_what_the_best_is_sure_of() -> None:
    config = replace(DETECTOR_ONLY, threshold=0.05, margin=1.0, margin_growth=0.25)
    both = [[LEFT], [RIGHT]]
    winners = {
        (best, other): len(run(query("car"), config, both, [best, other], [0, 0])[1])  # type: ignore[arg-type]
        for best, other in ((0.9, 0.7), (0.9, 0.6), (0.3, 0.15), (0.3, 0.1))
    }
    # log-odds 2.2 reach down to 0.65, 0.85 and 0.41 lie there; below 0 nothing is added: -0.85 reaches to -1.85
    assert winners == {(0.9, 0.7): 2, (0.9, 0.6): 1, (0.3, 0.15): 2, (0.3, 0.1): 1}
    assert config.reach(2.0) == 1.5 and config.reach(-2.0) == 1.0
    assert replace(config, margin=None).reach(2.0) == math.inf


def test_what_the_caller_points_at_is_not_measured_against_another_of_his_boxes() -> None:
    q, config = query("car"), replace(DETECTOR_ONLY, threshold=0.0, margin=0.1)
    scored, accepted, _ = run(q, config, [[LEFT], [RIGHT]], [0.9, 0.2], [0, 0])
    assert len(accepted) == 1  # type: ignore[arg-type]
    accepted, _ = choose.select(replace(scored, sources=("user", "user")), q, config)
    assert len(accepted) == 2


def test_whoever_points_at_two_things_gets_two_masks_though_one_lies_on_the_other() -> None:
    q = query("car")
    scored, accepted, _ = run(q, DETECTOR_ONLY, [[LEFT], [LEFT], [CORNER]], [0.9, 0.8, 0.7], [0] * 3)
    assert len(accepted) == 1  # type: ignore[arg-type]
    accepted, _ = choose.select(replace(scored, sources=("user",) * 3), q, DETECTOR_ONLY)
    assert accepted.prompt_index.tolist() == [0, 1, 2]
    backwards, _ = choose.select(replace(scored, sources=("user",) * 3, scores=scored.scores[::-1]), q, DETECTOR_ONLY)
    assert backwards.prompt_index.tolist() == [0, 1, 2]  # in the order in which they were asked for
    two = query("car", "dog")  # one thing of two names keeps the likelier one
    scored, _, _ = run(two, DETECTOR_ONLY, [[LEFT], [LEFT]], [0.6, 0.8], [0, 1])
    accepted, _ = choose.select(replace(scored, sources=("user",) * 2), two, DETECTOR_ONLY)
    assert accepted.labels == ("dog",)


def test_each_phrases_closest_miss_is_kept() -> None:
    config = RankConfig(weights={"detector": 1.0}, max_rejected=1)
    _, _, rejected = run(query("cat", "dog"), config, [[LEFT], [CORNER], [RIGHT]], [0.4, 0.3, 0.1], [0, 0, 1])
    assert rejected.labels == ("cat", "dog")
    _, _, none = run(query("cat"), replace(config, max_rejected=0), [[LEFT]], [0.4], [0])
    assert len(none) == 0


@pytest.mark.parametrize(("sources", "order"), [(("detector", "user"), [1, 0]), (("user", "user"), [0, 1])])
def test_a_mended_mask_stands_where_its_score_says_and_what_is_pointed_at_in_order(
    sources: tuple[str, ...], order: list[int]
) -> None:
    proposals, prompts, candidates = stages([[LEFT], [RIGHT]], [0.6, 0.9], [0, 0])
    proposals = replace(proposals, sources=sources)
    scored = rank.score(IMAGE, query("car"), proposals, prompts, candidates, None, DETECTOR_ONLY)
    assert choose.choose(scored, query("car"), DETECTOR_ONLY).accepted.tolist() == order
