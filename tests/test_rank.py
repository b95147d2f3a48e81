"""Ranking on hand-written 4x4 masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.small_stages import CORNER, DETECTOR_ONLY, IMAGE, LEFT, RIGHT, query, stages
from textseg import choose, rank
from textseg.errors import ConfigError
from textseg.language import COLORS
from textseg.rank import RankConfig
from textseg.types import Bool, Candidates, Closeups, Float, Frame, Image, Int, Query
from textseg.vocabulary import Vocabulary

NO_KIN = np.zeros((0, 2), np.int64)
GRAY = (127, 127, 127)  # as red as blue


def test_fusion_is_the_sigmoid_of_weighted_log_odds() -> None:
    parts = {"detector": np.array([0.9], np.float32), "clip": np.array([np.nan], np.float32)}
    config = RankConfig(weights={"bias": 0.5, "detector": 2.0, "clip": 1.0}, missing={"clip": 0.25})
    expected = 1 / (1 + np.exp(-(0.5 + 2 * np.log(9) - np.log(3))))
    np.testing.assert_allclose(rank.fuse(parts, config), [expected], rtol=1e-5)


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
    told = rank.score(IMAGE, query("car"), *stage, clip, config, name, likely, np.array([0.3, 0.6], np.float32))
    assert named == [1] and clip.seen == 2  # of what is known already nobody is asked again
    np.testing.assert_allclose(told.parts["region"], [0.3, 0.6])
    nobody = rank.score(IMAGE, query("car"), *stage, clip, config, name, ~likely & False)
    assert named == [1] and clip.seen == 2
    assert np.isnan(nobody.parts["clip"]).all()
