"""Logistic regression, collecting candidates, and fitting the ranking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import fake_pipeline
from textseg.config import fill
from textseg.errors import DataError, ShapeError
from textseg.evaluate import fit, photo_pages
from textseg.evaluate.collect import Row, collect
from textseg.evaluate.logistic import fit_logistic
from textseg.evaluate.pages import Material
from textseg.parts import PARTS
from textseg.rank import RankConfig

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


def test_logistic_finds_the_weights_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2))
    labels = rng.random(4000) < 1 / (1 + np.exp(-(x @ [1.5, -0.7] + 0.4)))
    weights, bias = fit_logistic(x, labels.astype(float), l2=0.0)
    assert weights == pytest.approx([1.5, -0.7], abs=0.15) and bias == pytest.approx(0.4, abs=0.12)
    held, _ = fit_logistic(x, labels.astype(float), nonnegative=np.array([True, True]))
    assert held[0] > 1.0 and held[1] == 0.0


def test_logistic_survives_separable_and_constant_features() -> None:
    x = np.array([[-1.0, 1.0], [-2.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    weights, bias = fit_logistic(x, np.array([0.0, 0.0, 1.0, 1.0]))
    assert np.isfinite(weights).all() and np.isfinite(bias) and weights[0] > 1


def test_logistic_wants_samples() -> None:
    with pytest.raises(ShapeError):
        fit_logistic(np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(ShapeError):
        fit_logistic(np.zeros((3, 2)), np.zeros(2))


def row(page: int, detector: list[float], overlaps: list[float], *, present: bool = True) -> Row:
    """A row on a 1 × M grid: candidate i is the cell i, and the truth is cell 0."""
    m = len(detector)
    parts = np.full((m, len(PARTS)), np.nan, np.float32)
    parts[:, 0] = detector
    masks = np.eye(m, dtype=np.uint8)
    truth = np.packbits(masks[0]) if present and m else None
    index, values = np.arange(m), np.array(overlaps, np.float32)
    return Row(
        "scenes_nouns", page, "cup", "cup", present, parts, values, values, values > 0, index, np.zeros(m, np.int64),
        ("detector",) * m, np.packbits(masks, axis=1) if m else np.zeros((0, 1), np.uint8), truth, None, (1, max(m, 1)),
    )  # fmt: skip


def test_choosing_again_grows_the_union_best_first() -> None:
    scores, unions = row(0, [0.9, 0.2, 0.4], [1, 0, 0]).choose(np.array([0.9, 0.2, 0.4], np.float32), RankConfig())
    assert scores.tolist() == pytest.approx([0.9, 0.4, 0.2])
    assert unions.tolist() == pytest.approx([1.0, 1 / 2, 1 / 3])
    assert [len(v) for v in row(0, [], []).choose(np.zeros(0, np.float32), RankConfig())] == [0, 0]


def rows(seed: int = 0) -> list[Row]:
    """200 phrases whose detector score tells the truth; half are absent."""
    rng = np.random.default_rng(seed)
    out = []
    for page in range(200):
        present = page % 4 < 2
        good, bad = rng.uniform(0.55, 0.95), rng.uniform(0.05, 0.5)
        out.append(row(page, [good if present else bad, bad], [1.0 if present else 0.0, 0.0], present=present))
    return out


def test_fit_weighs_what_tells_and_sets_the_threshold_between() -> None:
    fitted = fit.fit_rows(rows(), RankConfig())
    assert fitted.config.weights["detector"] > 0.5
    assert all(fitted.config.weights[name] == 0.0 for name in PARTS[1:])
    assert fitted.report["AUROC fused"] > 0.99 and fitted.report["mean union IoU"] > 0.95
    assert fitted.report["absent and empty"] > 0.95


def test_fit_holds_back_half() -> None:
    fitting, reporting = fit.halves(rows())
    assert {r.page % 2 for r in fitting} == {0} and {r.page % 2 for r in reporting} == {1}


def test_missing_part_gets_the_stand_in_that_fits() -> None:
    fitted = []
    for good_when_missing in (True, False):
        changed = []
        for r in rows():
            parts = r.parts.copy()
            if r.present is good_when_missing:
                parts[0, 0] = np.nan
            changed.append(replace(r, parts=parts))
        fitted.append(fit.fit_rows(changed, RankConfig()).config.missing["detector"])
    assert fitted[0] > fitted[1]


def test_fit_needs_good_and_bad() -> None:
    with pytest.raises(DataError, match="nothing to fit"):
        fit.fit_rows([row(0, [0.5], [0.0])], RankConfig())


def test_yaml_fills_a_rank_config() -> None:
    yaml = pytest.importorskip("yaml")
    fitted = fit.fit_rows(rows(), RankConfig())
    back = fill(RankConfig, yaml.safe_load(fitted.yaml())["rank"], "fitted")
    assert back.threshold == pytest.approx(fitted.config.threshold)
    assert back.weights == pytest.approx(dict(fitted.config.weights), abs=1e-3)
    assert "AUROC fused" in fitted.summary() and "report" in fitted.to_dict()


def test_collecting_agrees_with_the_pipeline(data_root: Path) -> None:
    pipeline = fake_pipeline()
    pages = list(photo_pages.garment_color_pages(Material(data_root)))
    found = collect(pipeline, pages)
    boots = next(r for r in found if r.phrase == "the black boots")
    assert boots.present and boots.overlaps.max() > 0.85 and boots.right.any()
    scores = fit.scores_of(boots, pipeline.config.rank)
    result = pipeline(pages[0].image_rgb, "the black boots")
    assert scores == pytest.approx(result.scored.scores, abs=1e-6)
    kept, unions = boots.choose(scores, pipeline.config.rank)
    assert int((kept >= pipeline.config.rank.threshold).sum()) == len(result) and unions[0] > 0.85
    assert set(boots.without("text").sources) == {"detector"}


def test_fit_preset_runs_over_the_fakes(data_root: Path) -> None:
    pipeline = fake_pipeline()
    fitted = fit.fit_preset(pipeline, Material(data_root), 6)
    assert fitted.apply(pipeline).config.rank.weights == fitted.config.weights
    assert fitted.report["candidates"] > 0
