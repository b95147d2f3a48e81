"""Ranking on hand-written 4x4 masks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from textseg import choose, rank
from textseg.errors import ConfigError
from textseg.language import COLORS
from textseg.rank import RankConfig
from textseg.types import Bool, Candidates, Closeups, Float, Frame, Image, Int, Phrase, Prompts, Proposals, Query
from textseg.vocabulary import Vocabulary

IMAGE = Image(np.zeros((4, 4, 3), np.uint8), "test", "0" * 64)
FRAME = Frame((4, 4), (4, 4), (4, 4))
LEFT = np.array([[1, 1, 0, 0]] * 4, bool)
RIGHT = ~LEFT
CORNER = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
NO_KIN = np.zeros((0, 2), np.int64)
EMPTY = np.zeros((4, 4), bool)
DETECTOR_ONLY = RankConfig(weights={"detector": 1.0})
GRAY = (127, 127, 127)  # as red as blue


def query(*texts: str) -> Query:
    return Query(tuple(Phrase(text, text) for text in texts))


def stages(
    masks: list[list[np.ndarray]], scores: list[float], phrases: list[int], rough: np.ndarray | None = None
) -> tuple[Proposals, Prompts, Candidates]:
    """One proposal a row of masks, with the detector's score and the phrase's index."""
    n = len(masks)
    c = len(masks[0]) if n else 3
    whole = np.tile(np.array([0, 0, 4, 4], np.float32), (n, 1))
    proposals = Proposals(whole, np.array(scores, np.float32), np.array(phrases, np.int64), ("detector",) * n, rough)
    nothing = np.zeros((n, 0, 2), np.float32), np.zeros((n, 0), np.int64)
    prompts = Prompts(np.arange(n), whole, *nothing)
    logits = np.where(np.array(masks, bool).reshape(n, c, 4, 4), 5.0, -5.0).astype(np.float32)
    return proposals, prompts, Candidates(logits, np.full((n, c), 0.9, np.float32), FRAME)


def run(q: Query, config: RankConfig, *args: object) -> tuple[rank.Scored, object, object]:
    proposals, prompts, candidates = stages(*args)  # type: ignore[arg-type]
    scored = rank.score(IMAGE, q, proposals, prompts, candidates, None, config)
    return scored, *choose.select(scored, q, config)


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


def test_a_mask_drawn_again_is_as_large_as_its_closeup_says() -> None:
    proposals, prompts, candidates = stages([[LEFT], [RIGHT]], [0.9, 0.9], [0, 0])
    near = np.full((1, 2, 2), -5, np.float32)
    near[0, 0] = 5  # half of a window of a quarter of the picture
    closeups = Closeups(np.array([[1, 1, 2]], np.float32), near, np.full(1, 0.5, np.float32))
    drawn = replace(candidates, closeups=closeups, closeup_index=np.array([[0], [-1]]))
    scored = rank.score(IMAGE, query("car"), proposals, prompts, drawn, None, DETECTOR_ONLY)
    np.testing.assert_allclose(scored.areas, [1 / 8, 1 / 2])


def test_each_phrases_closest_miss_is_kept() -> None:
    config = RankConfig(weights={"detector": 1.0}, max_rejected=1)
    _, _, rejected = run(query("cat", "dog"), config, [[LEFT], [CORNER], [RIGHT]], [0.4, 0.3, 0.1], [0, 0, 1])
    assert rejected.labels == ("cat", "dog")
    _, _, none = run(query("cat"), replace(config, max_rejected=0), [[LEFT]], [0.4], [0])
    assert len(none) == 0


def test_fusion_is_the_sigmoid_of_weighted_log_odds() -> None:
    parts = {"detector": np.array([0.9], np.float32), "clip": np.array([np.nan], np.float32)}
    config = RankConfig(weights={"bias": 0.5, "detector": 2.0, "clip": 1.0}, missing={"clip": 0.25})
    expected = 1 / (1 + np.exp(-(0.5 + 2 * np.log(9) - np.log(3))))
    np.testing.assert_allclose(rank.fuse(parts, config), [expected], rtol=1e-5)


def test_agreement_is_the_overlap_with_the_detectors_rough_mask() -> None:
    rough = np.where(CORNER, 4.0, -4.0).astype(np.float32)[None]
    scored, _, _ = run(query("car"), DETECTOR_ONLY, [[LEFT, CORNER, RIGHT]], [0.9], [0], rough)
    np.testing.assert_allclose(scored.parts["agreement"], [0.5, 1.0, 0.0])


def test_agreement_without_rough_masks_compares_boxes() -> None:
    scored, _, _ = run(query("car"), DETECTOR_ONLY, [[LEFT, LEFT | RIGHT]], [0.9], [0])
    np.testing.assert_allclose(scored.parts["agreement"], [0.5, 1.0])


class TwoColorClip:
    """Embeds a crop by its mean red and blue, a text by the word for a colour, or for a warm or a cold one, in it."""

    model_id, dim, logit_scale = "two-colors", 3, 20.0

    def encode_text(self, texts: list[str]) -> np.ndarray:
        table = {"red": [1, 0, 0], "warm": [1, 0, 0], "blue": [0, 1, 0], "cold": [0, 1, 0]}
        table |= {color: [0, 0, -1] for color in COLORS if color not in table}
        return np.array([next((v for k, v in table.items() if k in t), [0, 0, 1]) for t in texts], np.float32)

    def encode_images(self, crops: list[np.ndarray]) -> np.ndarray:
        mean = np.array([[c[..., 0].mean(), c[..., 2].mean(), 60.0] for c in crops], np.float32)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


class Counting(TwoColorClip):
    """Counts the crops that it was shown."""

    seen = 0

    def encode_images(self, crops: list[np.ndarray]) -> np.ndarray:
        self.seen += len(crops)
        return super().encode_images(crops)


def test_clip_sees_the_masked_crop_and_contrasts_phrases() -> None:
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[:, :2, 0], rgb[:, 2:, 2] = 255, 255  # left red, right blue
    image = Image(rgb, "test", "1" * 64)
    q = query("red car", "blue car")
    proposals, prompts, candidates = stages([[LEFT], [RIGHT], [LEFT]], [0.5] * 3, [0, 0, 1])
    config = RankConfig(weights={"clip": 1.0}, clip_fill=(0, 0, 0))
    scored = rank.score(image, q, proposals, prompts, candidates, TwoColorClip(), config)
    clip = scored.parts["clip"]
    assert clip[0] > 0.9
    assert clip[1] < 0.1
    assert clip[2] < 0.1
    accepted, _ = choose.select(scored, q, config)
    assert accepted.labels == ("red car",)
    np.testing.assert_array_equal(accepted.masks[0], LEFT)


def test_a_clips_own_nouns_are_rivals_but_not_what_the_phrase_means() -> None:
    class Knowing(TwoColorClip):
        vocabulary = Vocabulary((("cold car", "car"), ("cold dog",)), NO_KIN, np.array([[0, 1, 0]] * 2, np.float32))

    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[..., 0], rgb[..., 2] = 200, 255  # more blue than red
    image = Image(rgb, "test", "3" * 64)
    proposals, prompts, candidates = stages([[LEFT]], [0.5], [0])
    config = RankConfig(weights={"clip": 1.0}, backgrounds=("dust",), clip_fill=GRAY)

    def clip_part(clip: TwoColorClip, text: str) -> float:
        return float(rank.score(image, query(text), proposals, prompts, candidates, clip, config).parts["clip"][0])

    assert clip_part(TwoColorClip(), "warm thing") > 0.9
    assert clip_part(Knowing(), "warm thing") < 0.1, "both cold nouns fit better"
    assert clip_part(Knowing(), "warm car") == pytest.approx(clip_part(Knowing(), "warm box"), abs=0.1)
    one = Knowing()
    one.vocabulary = Vocabulary((("cold car", "car"),), NO_KIN, np.array([[0, 1, 0]], np.float32))
    assert clip_part(one, "warm car") > 0.9, "the car may be the phrase's own"


def test_a_temperature_divides_clips_log_odds() -> None:
    image = Image(np.full((4, 4, 3), (200, 0, 190), np.uint8), "test", "5" * 64)
    proposals, prompts, candidates = stages([[LEFT]], [0.5], [0])
    odds = []
    for temperature in (1.0, 2.0):
        config = RankConfig(clip_temperature=temperature)
        scored = rank.score(
            image, query("warm car", "cold car"), proposals, prompts, candidates, TwoColorClip(), config
        )
        odds.append(float(rank.log_odds(scored.parts["clip"])[0]))
    assert 0 < odds[1] == pytest.approx(odds[0] / 2, rel=1e-4)


def test_phrases_of_one_group_do_not_compete() -> None:
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[..., 0] = rgb[..., 2] = 255  # as red as blue
    image = Image(rgb, "test", "2" * 64)
    proposals, prompts, candidates = stages([[LEFT]], [0.5], [0])
    config = RankConfig(weights={"clip": 1.0}, clip_fill=GRAY)
    apart = query("warm car", "cold car")
    joined = Query(tuple(replace(phrase, group="car") for phrase in apart.phrases))
    parts = [
        rank.score(image, q, proposals, prompts, candidates, TwoColorClip(), config).parts["clip"][0]
        for q in (apart, joined)
    ]
    assert parts[0] < 0.55 < 0.9 < parts[1]


def test_the_same_in_another_colour_is_a_rival_unless_it_may_mean_the_same() -> None:
    image = Image(np.full((4, 4, 3), (200, 0, 255), np.uint8), "test", "6" * 64)  # more blue than red
    proposals, prompts, candidates = stages([[LEFT]], [0.5], [0])

    def clip_part(q: Query) -> float:
        scored = rank.score(image, q, proposals, prompts, candidates, TwoColorClip(), RankConfig(clip_fill=GRAY))
        return float(scored.parts["clip"][0])

    alone = clip_part(query("red car"))
    assert alone < 0.2 < 0.9 < clip_part(query("warm car"))
    assert clip_part(query("red car", "blue car")) == pytest.approx(alone, abs=1e-5), "it counts once"
    one_class = Query(tuple(replace(phrase, group="car") for phrase in query("red car", "blue car").phrases))
    assert clip_part(one_class) > 0.9


def test_clip_does_not_look_twice_at_the_same_mask() -> None:
    clip = Counting()
    proposals, prompts, candidates = stages([[LEFT], [LEFT], [RIGHT]], [0.5] * 3, [0, 1, 1])
    scored = rank.score(IMAGE, query("red car", "a dog"), proposals, prompts, candidates, clip, RankConfig())
    assert clip.seen == 2
    assert not np.isnan(scored.parts["clip"]).any()


def test_clip_is_shown_a_mask_as_fine_as_it_is_known() -> None:
    """The mask is the left half of the picture; its closeup holds no more than what is red of it."""
    rgb = np.zeros((40, 40, 3), np.uint8)
    rgb[:, :4, 0], rgb[:, 4:, 2] = 255, 255  # of the left half a fifth is red, the rest blue
    image = Image(rgb, "test", "5" * 64)
    proposals, prompts, candidates = stages([[LEFT]], [0.5], [0])
    candidates = replace(candidates, frame=Frame((40, 40), (40, 40), (40, 40)))
    near = np.where(np.arange(8)[None].repeat(8, 0) < 4, 5.0, -5.0).astype(np.float32)
    closeups = Closeups(np.array([[0, 0, 8]], np.float32), near[None], np.array([0.9], np.float32))
    closer = replace(candidates, closeups=closeups, closeup_index=np.zeros((1, 1), np.int64))
    nothing = replace(closer, closeups=replace(closeups, logits=-np.abs(closeups.logits)))
    config, q = RankConfig(weights={"clip": 1.0}), query("warm car", "cold car")

    def clip_part(of: Candidates) -> float:
        return float(rank.score(image, q, proposals, prompts, of, TwoColorClip(), config).parts["clip"][0])

    assert clip_part(candidates) < 0.5 < 0.9 < clip_part(closer)
    assert clip_part(nothing) == clip_part(candidates), "an empty closeup shows nothing"


def test_clip_looks_only_at_the_budgeted_best() -> None:
    proposals, prompts, candidates = stages([[LEFT], [RIGHT], [CORNER]], [0.2, 0.9, 0.5], [0, 0, 0])
    config = RankConfig(weights={"detector": 1.0}, clip_budget=2)
    scored = rank.score(IMAGE, query("red car"), proposals, prompts, candidates, TwoColorClip(), config)
    assert np.isnan(scored.parts["clip"]).tolist() == [True, False, False]


def test_clip_looks_at_every_prompt_before_a_second_mask_and_tells_all_of_its_masks() -> None:
    proposals, prompts, candidates = stages([[LEFT, CORNER], [RIGHT, RIGHT & CORNER.T[:, ::-1]]], [0.9, 0.3], [0, 0])
    candidates = replace(candidates, predicted_iou=np.array([[0.9, 0.8], [0.7, 0.2]], np.float32))

    clip, config = Counting(), RankConfig(weights={"detector": 1.0, "sam_iou": 0.5}, clip_budget=2)
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[:, :2, 0], rgb[:, 2:, 2] = 255, 255
    image = Image(rgb, "test", "4" * 64)
    scored = rank.score(image, query("red car", "blue car"), proposals, prompts, candidates, clip, config)
    assert clip.seen == 2
    part = scored.parts["clip"]
    assert part[0] == part[1] > 0.5 > part[2] == part[3]


def test_clip_looks_at_each_phrases_best_first_when_there_are_many() -> None:
    proposals, prompts, candidates = stages([[LEFT], [RIGHT], [CORNER]], [0.9, 0.8, 0.5], [0, 0, 1])
    config = RankConfig(weights={"detector": 1.0}, clip_total=1)  # two phrases: each is looked at once all the same
    scored = rank.score(IMAGE, query("red car", "a dog"), proposals, prompts, candidates, TwoColorClip(), config)
    assert np.isnan(scored.parts["clip"]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold: got 1.5"),
        ({"clip_temperature": 0.0}, "clip_temperature: got 0.0"),
        ({"clip_fill": (0, 0, 256)}, "clip_fill: got (0, 0, 256), expected red, green and blue in 0..255"),
        ({"margin": -1.0}, "margin: got -1.0"),
        ({"margin_growth": -0.5}, "margin_growth: got -0.5"),
        ({"weights": {"detektor": 1.0}}, "did you mean 'detector'"),
        ({"missing": {"bias": 0.5}}, "unknown part 'bias'"),
    ],
)
def test_bad_settings_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        RankConfig(**options)  # type: ignore[arg-type]


def test_what_the_detector_calls_a_region_is_a_part_and_missing_where_it_does_not_say() -> None:
    config = replace(DETECTOR_ONLY, weights={"region": 1.0}, missing={"region": 0.3})
    proposals, prompts, candidates = stages([[LEFT], [RIGHT]], [0.9, 0.9], [0, 1])
    asked = (IMAGE, query("car", "dog"), proposals, prompts, candidates, None, config)
    for silent in (rank.score(*asked), rank.score(*asked, lambda masks, prompts, phrase_index: None)):
        assert np.isnan(silent.parts["region"]).all()
        np.testing.assert_allclose(silent.scores, [0.3, 0.3], rtol=1e-5)

    def name(masks: Bool, prompts: Sequence[str], phrase_index: Int) -> Float:
        assert masks.shape[0] == 2 and list(prompts) == ["car", "dog"] and phrase_index.tolist() == [0, 1]
        return np.array([0.8, 0.1], np.float32)

    scored = rank.score(*asked, name)
    np.testing.assert_allclose(scored.parts["region"], [0.8, 0.1], rtol=1e-6)
    np.testing.assert_allclose(scored.scores, [0.8, 0.1], rtol=1e-5)


def test_masks_with_one_closeup_are_named_once() -> None:
    proposals, prompts, candidates = stages([[LEFT, RIGHT], [LEFT, RIGHT]], [0.9, 0.9], [0, 0])
    closeups = Closeups(np.zeros((1, 3)), np.zeros((1, 4, 4)), np.array([0.7]))
    drawn = replace(candidates, closeups=closeups, closeup_index=np.array([[0, 0], [-1, -1]]))
    asked: list[int] = []

    def name(masks: Bool, prompts: Sequence[str], phrase_index: Int) -> Float:
        asked.append(len(masks))
        return np.linspace(0.1, 0.3, len(masks), dtype=np.float32)

    scored = rank.score(IMAGE, query("car"), proposals, prompts, drawn, None, DETECTOR_ONLY, name)
    assert asked == [3]
    np.testing.assert_allclose(scored.parts["region"], [0.1, 0.1, 0.2, 0.3])


def test_a_mask_without_a_phrase_is_not_named() -> None:
    def refuse(masks: Bool, prompts: Sequence[str], phrase_index: Int) -> Float:
        raise AssertionError("asked for a name")

    proposals, prompts, candidates = stages([[LEFT]], [0.9], [0])
    scored = rank.score(IMAGE, query(""), proposals, prompts, candidates, None, DETECTOR_ONLY, refuse)
    assert np.isnan(scored.parts["region"]).all()


def test_hopeless_prompts_are_told_before_a_closer_look() -> None:
    proposals, prompts, candidates = stages([[LEFT, RIGHT], [LEFT, CORNER], [RIGHT, EMPTY]], [0.9, 0.2, 0.2], [0, 0, 1])
    iou = np.array([[0.9, 0.1], [0.2, 0.3], [0.3, 0.9]], np.float32)
    given = IMAGE, query("car", "dog"), proposals, prompts, replace(candidates, predicted_iou=iou)
    config = replace(DETECTOR_ONLY, weights={"detector": 0.5, "sam_iou": 0.5}, threshold=0.5)
    assert rank.likely_prompts(*given, config).tolist() == [True, True, True]
    glancing = replace(config, glance=0.4)  # one of a prompt's masks has to come to that
    assert rank.likely_prompts(*given, glancing).tolist() == [True, False, True]
    assert rank.likely_prompts(*given, replace(glancing, threshold=1.0)).tolist() == [True, False, True]
    assert rank.likely_prompts(*given, replace(glancing, threshold=0.0)).all()
    assert rank.likely_prompts(*given, replace(glancing, threshold=0.2)).all()


def test_what_the_caller_points_at_is_always_looked_at() -> None:
    proposals, prompts, candidates = stages([[LEFT], [RIGHT]], [0.01, 0.01], [0, 0])
    config = replace(DETECTOR_ONLY, threshold=0.9, glance=0.9)
    mine = replace(proposals, sources=("user", "detector"))
    assert rank.likely_prompts(IMAGE, query("car"), mine, prompts, candidates, config).tolist() == [True, False]


def test_no_model_is_asked_about_hopeless_prompts() -> None:
    named: list[int] = []

    def name(masks: Bool, prompts: Sequence[str], phrase_index: Int) -> Float:
        named.append(len(masks))
        return np.full(len(masks), 0.5, np.float32)

    stage = stages([[LEFT], [RIGHT]], [0.9, 0.9], [0, 0])
    clip = Counting()
    likely = np.array([False, True])
    config = replace(DETECTOR_ONLY, weights={"clip": 1.0}, missing={"clip": 0.2})
    scored = rank.score(IMAGE, query("car"), *stage, clip, config, name, likely)
    assert named == [1]
    assert clip.seen == 1
    assert np.isnan(scored.parts["clip"]).tolist() == [True, False]
    assert np.isnan(scored.parts["region"]).tolist() == [True, False]
    assert scored.scores[0] == pytest.approx(0.2)
    nobody = rank.score(IMAGE, query("car"), *stage, clip, config, name, ~likely & False)
    assert named == [1] and clip.seen == 1
    assert np.isnan(nobody.parts["clip"]).all()


@pytest.mark.parametrize(("sources", "order"), [(("detector", "user"), [1, 0]), (("user", "user"), [0, 1])])
def test_a_mended_mask_stands_where_its_score_says_and_what_is_pointed_at_in_order(
    sources: tuple[str, ...], order: list[int]
) -> None:
    proposals, prompts, candidates = stages([[LEFT], [RIGHT]], [0.6, 0.9], [0, 0])
    proposals = replace(proposals, sources=sources)
    scored = rank.score(IMAGE, query("car"), proposals, prompts, candidates, None, DETECTOR_ONLY)
    assert choose.choose(scored, query("car"), DETECTOR_ONLY).accepted.tolist() == order
