"""Which prompts get a close look, on hand-written 4x4 masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.small_stages import CORNER, DETECTOR_ONLY, EMPTY, IMAGE, LEFT, RIGHT, query, stages
from textseg.errors import ConfigError
from textseg.glance import glance, worth_drawing
from textseg.rank import RankConfig
from textseg.types import Bool, Float, Image, Int

ALL = replace(DETECTOR_ONLY, weights={"detector": 1.0, "region": 1.0}, threshold=0.5)


class Namer:
    """Names every mask by how much of the picture it fills, and keeps what it was asked."""

    def __init__(self) -> None:
        self.masks: list[Bool] = []
        self.phrases: list[int] = []

    def __call__(self, masks: Bool, prompts: Sequence[str], phrase_index: Int) -> Float:
        self.masks += list(masks)
        self.phrases += phrase_index.tolist()
        return np.asarray(masks.mean(axis=(1, 2)), np.float32)


def test_hopeless_prompts_are_told_before_a_closer_look() -> None:
    proposals, prompts, candidates = stages([[LEFT, RIGHT], [LEFT, CORNER], [RIGHT, EMPTY]], [0.9, 0.2, 0.2], [0, 0, 1])
    iou = np.array([[0.9, 0.1], [0.2, 0.3], [0.3, 0.9]], np.float32)
    given = IMAGE, query("car", "dog"), proposals, prompts, replace(candidates, predicted_iou=iou)
    config = replace(DETECTOR_ONLY, weights={"detector": 0.5, "sam_iou": 0.5}, threshold=0.5)
    assert glance(*given, config).likely.tolist() == [True, True, True]
    glancing = replace(config, glance=0.4)  # one of a prompt's masks has to come to that
    assert glance(*given, glancing).likely.tolist() == [True, False, True]
    assert glance(*given, replace(glancing, threshold=1.0)).likely.tolist() == [True, False, True]
    assert glance(*given, replace(glancing, threshold=0.0)).likely.all()
    assert glance(*given, replace(glancing, threshold=0.2)).likely.all()


def test_what_the_caller_points_at_is_always_looked_at_and_not_named() -> None:
    proposals, prompts, candidates = stages([[LEFT], [RIGHT], [LEFT]], [0.01, 0.01, 0.01], [0, 0, 0])
    config = replace(ALL, threshold=0.9, glance=0.9, glance_margin=0.0, glance_iou=0.1)
    name = Namer()
    mine = replace(proposals, sources=("user", "detector", "user"))
    seen = glance(IMAGE, query("car"), mine, prompts, candidates, config, name)
    assert seen.likely.tolist() == [True, False, True]
    assert np.isnan(seen.region).all() and not name.masks
    seen = glance(IMAGE, query("car"), replace(proposals, sources=("user",) * 3), prompts, candidates, config, name)
    assert seen.likely.all() and not name.masks


def test_each_prompts_best_mask_is_named_once() -> None:
    proposals, prompts, candidates = stages(
        [[LEFT, CORNER], [EMPTY, CORNER], [LEFT, RIGHT]], [0.9, 0.9, 0.2], [0, 1, 1]
    )
    iou = np.array([[0.9, 0.1], [0.2, 0.3], [0.3, 0.9]], np.float32)
    name = Namer()
    given = IMAGE, query("car", "dog"), proposals, prompts, replace(candidates, predicted_iou=iou)
    seen = glance(*given, replace(ALL, glance=0.3, missing={"region": 0.5}), name)
    np.testing.assert_array_equal(name.masks, [LEFT, CORNER])  # the third is hopeless without it
    assert name.phrases == [0, 1]
    np.testing.assert_allclose(seen.region, [LEFT.mean(), CORNER.mean(), np.nan])
    assert seen.likely.tolist() == [True, True, False]
    unknown = glance(*given, ALL, lambda *asked: None)
    assert np.isnan(unknown.region).all() and unknown.likely.all()


def test_what_is_far_behind_its_phrases_likeliest_goes_no_further() -> None:
    proposals, prompts, candidates = stages([[CORNER], [LEFT], [RIGHT]], [0.5, 0.6, 0.5], [0, 0, 1])
    given = IMAGE, query("car", "dog"), proposals, prompts, candidates
    assert glance(*given, replace(ALL, glance_margin=2.0), Namer()).kept.tolist() == [0, 1, 2]
    seen = glance(*given, replace(ALL, glance_margin=1.0), Namer())
    assert seen.kept.tolist() == [1, 2]  # by the share that the namer says; of another phrase nothing is said
    assert seen.likely.all()
    np.testing.assert_allclose(seen.region, [0.5, 0.5])
    assert len(glance(*given, replace(ALL, glance_margin=1.0)).kept) == 3  # by the detector's word alone it is near
    sure = replace(ALL, glance_margin=1.0, margin_growth=1.0)
    assert len(glance(IMAGE, query("car"), *stages([[CORNER], [LEFT]], [0.8, 0.95], [0, 0]), sure).kept) == 2


def test_of_prompts_with_nearly_one_mask_the_likeliest_goes_on() -> None:
    proposals, prompts, candidates = stages([[LEFT], [LEFT], [RIGHT], [LEFT]], [0.7, 0.8, 0.7, 0.6], [0, 0, 0, 1])
    given = IMAGE, query("car", "dog"), proposals, prompts, candidates
    assert len(glance(*given, ALL).kept) == 4
    assert glance(*given, replace(ALL, glance_iou=0.9)).kept.tolist() == [1, 2, 3]


def test_hopeless_prompts_stay_among_the_candidates() -> None:
    stage = stages([[LEFT], [RIGHT], [LEFT]], [0.9, 0.1, 0.1], [0, 0, 1])
    seen = glance(IMAGE, query("car", "dog"), *stage, replace(ALL, glance=0.3, glance_margin=0.5, glance_iou=0.5))
    assert seen.kept.tolist() == [0, 1, 2]
    assert seen.likely.tolist() == [True, False, False]


def test_proposals_far_behind_by_their_rough_masks_are_not_drawn() -> None:
    rough = np.where([LEFT, CORNER, CORNER, EMPTY], 2.0, -2.0).astype(np.float32)
    rough[3] = 0  # none for this one
    proposals = stages([[LEFT]] * 4, [0.5, 0.6, 0.5, 0.1], [0, 0, 1, 0], rough)[0]
    name = Namer()
    kept = worth_drawing(IMAGE, query("car", "dog"), proposals, replace(ALL, glance_margin=0.5), name)
    np.testing.assert_array_equal(kept.scores, np.array([0.5, 0.5, 0.1], np.float32))
    np.testing.assert_array_equal(name.masks, [LEFT, CORNER, CORNER])
    assert len(worth_drawing(IMAGE, query("car", "dog"), proposals, ALL, Namer())) == 4
    lone = Namer()
    assert len(worth_drawing(IMAGE, query("car", "dog"), proposals[1:], replace(ALL, glance_margin=0.0), lone)) == 3
    assert not lone.masks  # where no phrase has two, none can be behind


def test_where_nobody_names_regions_every_proposal_is_drawn() -> None:
    rough = np.where([LEFT, CORNER], 2.0, -2.0).astype(np.float32)
    proposals = stages([[LEFT]] * 2, [0.5, 0.6], [0, 0], rough)[0]
    config = replace(ALL, glance_margin=0.0)
    for given, name in (
        (proposals, None),
        (proposals, lambda *asked: None),
        (replace(proposals, mask_logits=None), Namer()),
        (replace(proposals, mask_logits=np.zeros_like(rough)), Namer()),
    ):
        assert len(worth_drawing(IMAGE, query("car"), given, config, name)) == 2


def test_a_colour_that_is_asked_for_counts_before_anything_is_drawn() -> None:
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[:, :8, 0], rgb[:, 8:, 2] = 255, 255  # left red, right blue
    left = np.repeat(np.repeat(LEFT, 4, 0), 4, 1)
    rough = np.where([left, ~left], 2.0, -2.0).astype(np.float32)
    proposals = stages([[LEFT]] * 2, [0.5, 0.6], [0, 0], rough)[0]
    config = replace(ALL, weights={"detector": 1.0, "color": 1.0}, glance_margin=1.0)
    image = Image(rgb, "test", "2" * 64)
    for phrase, score in (("red car", 0.5), ("blue car", 0.6)):
        kept = worth_drawing(image, query(phrase), proposals, config, Namer())
        np.testing.assert_allclose(kept.scores, [score])
    assert len(worth_drawing(image, query("car"), proposals, config, Namer())) == 2


def test_margins_out_of_range() -> None:
    with pytest.raises(ConfigError, match="glance_margin: got -1, expected a number of at least 0, or none"):
        RankConfig(glance_margin=-1)
    with pytest.raises(ConfigError, match="glance_iou: got 2"):
        RankConfig(glance_iou=2)
