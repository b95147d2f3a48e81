"""Weights by what counts, on literal candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from textseg.evaluate.collect import Row, stack
from textseg.evaluate.fit import scores_of, threshold_curve
from textseg.evaluate.tune import Aim, calibrated, tune
from textseg.parts import PARTS
from textseg.rank import RankConfig, log_odds

DETECTOR_ALONE = RankConfig(weights={"bias": 0.0, "detector": 1.0})


def row(page: int, detector: list[float], region: float, *, present: bool) -> Row:
    """A row on a 2 × M grid: candidate i is column i, and the truth is column 0."""
    m = len(detector)
    parts = np.full((m, len(PARTS)), np.nan, np.float32)
    parts[:, PARTS.index("detector")], parts[:, PARTS.index("region")] = detector, region
    masks = np.tile(np.eye(m, dtype=np.uint8)[:, None], (1, 2, 1)).reshape(m, 2 * m)
    truth = np.packbits(masks[0]) if present else None
    overlaps = (np.arange(m) == 0).astype(np.float32) * present
    return Row(
        "scenes_nouns", page, "cup", "cup", present, parts, overlaps, overlaps, overlaps > 0, np.arange(m),
        np.zeros(m, np.int64), ("detector",) * m, np.packbits(masks, axis=1), truth, None, (2, m),
    )  # fmt: skip


def rows() -> list[Row]:
    """60 phrases with the same detector scores whether they are there or not; region tells."""
    rng = np.random.default_rng(0)
    found = []
    for page in range(60):
        present = page % 2 == 0
        scores = [float(rng.uniform(0.6, 0.9)), float(rng.uniform(0.1, 0.4)), 0.05]
        found.append(row(page, scores, 0.9 if present else 0.1, present=present))
    return found


def test_the_aim_is_what_a_threshold_gives() -> None:
    given = rows()
    aim = Aim(given, DETECTOR_ALONE, 0.25)
    weights = np.array([1.0 if name == "detector" else 0.0 for name in PARTS])
    curve = threshold_curve(given, DETECTOR_ALONE)
    best = max(0.75 * point.iou + 0.25 * point.not_there for point in curve)
    assert aim(weights) == pytest.approx(best, abs=0.03)  # the curve's thresholds are coarser
    assert aim(weights) < 0.9


def test_weights_move_to_the_part_that_decides() -> None:
    aim = Aim(rows(), DETECTOR_ALONE, 0.25)
    tuned = tune(aim, {"detector": 1.0})
    assert tuned["region"] > 0.02 and tuned["detector"] > 0.1, "region tells phrases apart, the detector masks"
    assert aim(np.array([tuned[name] for name in PARTS])) > 0.99
    assert sum(tuned.values()) == pytest.approx(1.0)
    held = tune(aim, {"detector": 1.0}, ("detector", "clip"))
    assert held["region"] == 0.0


def test_an_empty_arena_changes_nothing() -> None:
    assert tune(Aim([], DETECTOR_ALONE, 0.25), {"detector": 0.7, "clip": 0.3})["detector"] == 0.7
    absent = row(0, [0.5], 0.5, present=False)
    assert Aim([absent], DETECTOR_ALONE, 0.25)(np.ones(len(PARTS))) <= 0.25


def test_a_part_of_a_winner_is_no_second_mask() -> None:
    one = row(0, [0.9, 0.8], 0.9, present=True)
    doubled = Row(**{**vars(one), "masks_packed": np.repeat(one.masks_packed[:1], 2, axis=0)})
    scores, unions = Aim([doubled], DETECTOR_ALONE, 0.25).contests[0].outcome(np.array([0.2, 0.4]))
    assert scores.tolist() == [0.4] and unions.tolist() == [1.0]


@pytest.mark.parametrize(("margin", "growth", "winners"), [(None, 0.0, 2), (3.0, 0.0, 2), (1.0, 0.0, 1), (1.0, 0.5, 2)])
def test_the_margin_is_the_rankings_own(margin: float | None, growth: float, winners: int) -> None:
    config = replace(DETECTOR_ALONE, margin=margin, margin_growth=growth)
    one = row(0, [0.9, 0.6], 0.9, present=True)  # log-odds 2.2 and 0.4
    contest = Aim([one], config, 0.25).contests[0]
    scores, unions = contest.outcome(contest.odds[:, PARTS.index("detector")])
    chosen, same = one.choose(scores_of(one, config), config)
    assert len(scores) == len(chosen) == winners
    np.testing.assert_allclose(unions, same)


def test_weights_that_are_tried_give_scores_of_the_same_level() -> None:
    config = replace(DETECTOR_ALONE, weights={"bias": -1.0, "detector": 0.5})
    aim = Aim(rows(), config, 0.25)
    given = np.array([0.5 if name == "detector" else 0.0 for name in PARTS])
    kept = np.concatenate(aim.scores(given))
    np.testing.assert_allclose(kept, np.concatenate([c.odds @ given for c in aim.contests]) - 1.0, rtol=1e-5)
    others = np.concatenate(aim.scores(np.ones(len(PARTS))))
    assert others.mean() == pytest.approx(kept.mean(), abs=1e-5)
    assert others.std() > kept.std()


def test_calibration_keeps_the_order() -> None:
    given = rows()
    values, overlaps = stack(given)
    weights = dict.fromkeys(PARTS, 0.0) | {"detector": 0.2, "region": 0.2}
    config = calibrated(values, overlaps > 0.5, DETECTOR_ALONE, weights)
    assert config.weights["detector"] == pytest.approx(config.weights["region"], abs=1e-3)
    assert config.weights["detector"] > 0.2, "the parts tell more than so small weights say"
    scores = scores_of(given[0], config)
    raw = log_odds(given[0].parts[:, 0])
    assert (np.argsort(scores) == np.argsort(raw)).all()
    assert scores[0] > 0.5 > scores[1]


def test_telling_present_from_absent_is_worth_something_by_itself() -> None:
    given = rows()
    weights = np.array([1.0 if name == "region" else 0.0 for name in PARTS])
    plain, ordered = (Aim(given, DETECTOR_ALONE, 0.25, weight)(weights) for weight in (0.0, 0.2))
    assert ordered == pytest.approx(plain + 0.2)  # region tells them all apart
    only_present = [r for r in given if r.present]
    assert Aim(only_present, DETECTOR_ALONE, 0.25, 0.2)(weights) == Aim(only_present, DETECTOR_ALONE, 0.25)(weights)
