"""Fit the ranking: weights, bias, stand-ins for missing parts, and the threshold.

Candidates of one half of the validation pictures (even positions) are fitted, the other half is reported.
A candidate is good when it overlaps what the phrase means (together or one thing of it) by IoU 0.5; phrases
that are absent give bad ones only. From the weights that tell good from bad candidates best, `tune` goes on to those
whose choices are worth most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from textseg.errors import DataError
from textseg.evaluate import metrics, photo_pages, scene_pages
from textseg.evaluate.collect import Row, collect, stack
from textseg.evaluate.logistic import fit_logistic
from textseg.evaluate.pages import Material, Page
from textseg.evaluate.tune import Aim, at_thresholds, calibrated, tune, worth
from textseg.parts import PARTS
from textseg.pipeline import Pipeline
from textseg.rank import LOG_ODDS_LIMIT, RankConfig, fuse, log_odds
from textseg.types import Bool, Float

FIT_PAGES: dict[str, Callable[[Material, int | None], Iterator[Page]]] = {
    "scenes_color": scene_pages.color_pages,
    "scenes_nouns": scene_pages.noun_pages,
    "ccp": photo_pages.garment_pages,
    "ccp_color": photo_pages.garment_color_pages,
    "coco": photo_pages.class_pages,
    "objects": partial(photo_pages.object_pages, outlined=True),
    "cars_color": photo_pages.car_color_pages,
}
"""Sets that candidates are collected from. ("car" alone is not: the car folders leave cars unlabelled.)"""

GOOD_IOU = 0.5
ORDER_WEIGHT = 0.2
"""What the AUROC of present against absent phrases is worth beside IoU and empty answers when weights are tuned."""

FLAT = 0.01
"""Thresholds whose worth differs by no more are as good as each other."""

THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(1, 50))


@dataclass(frozen=True)
class Point:
    """What a threshold gives: mean union IoU of present phrases, and how often absent ones get no mask."""

    threshold: float
    iou: float
    not_there: float


@dataclass(frozen=True)
class RankFit:
    """A fitted ranking, and what such a fit is worth on pictures that it has not seen.

    Attributes:
        config: the ranking's settings with weights, missing and threshold filled in.
        curve: what each threshold gives on all pages; report: figures of the odd pages, by name, under a fit of the
            even ones alone.
    """

    config: RankConfig
    curve: tuple[Point, ...]
    report: dict[str, float]

    def yaml(self) -> str:
        """Return the lines for a preset's YAML."""
        weights = ", ".join(f"{name}: {value:.3f}" for name, value in self.config.weights.items())
        missing = ", ".join(f"{name}: {value:.3f}" for name, value in self.config.missing.items())
        return f"rank:\n  threshold: {self.config.threshold:g}\n  weights: {{{weights}}}\n  missing: {{{missing}}}\n"

    def summary(self) -> str:
        """Return the report and a short curve, one figure a line."""
        lines = [f"{name}: {value:.3f}" for name, value in self.report.items()]
        for point in self.curve[4::5]:
            lines.append(f"threshold {point.threshold:.2f}: IoU {point.iou:.3f}, not there {point.not_there:.3f}")
        return "\n".join(lines)

    def apply(self, pipeline: Pipeline) -> Pipeline:
        """Return a pipeline that ranks so."""
        return pipeline.with_config(replace(pipeline.config, rank=self.config))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        report = {name: None if math.isnan(value) else round(value, 5) for name, value in self.report.items()}
        curve = [{"threshold": p.threshold, "iou": p.iou, "not_there": p.not_there} for p in self.curve]
        ranking = {"weights": dict(self.config.weights), "missing": dict(self.config.missing)}
        return {"threshold": self.config.threshold, **ranking, "report": report, "curve": curve, "yaml": self.yaml()}


def fit_preset(pipeline: Pipeline, material: Material, limit: int | None = None) -> RankFit:
    """Collect the candidates of every set of ``FIT_PAGES`` and fit the pipeline's ranking.

    Raises:
        DataError: the pictures gave no good or no bad candidate.
    """
    rows = [row for make in FIT_PAGES.values() for row in collect(pipeline, make(material, limit))]
    return fit_rows(rows, pipeline.config.rank)


def fit_rows(
    rows: Sequence[Row], base: RankConfig, parts: Sequence[str] = PARTS, *, absent_weight: float = 0.25
) -> RankFit:
    """Fit weights and threshold on all pages; the report is of the odd ones by a fit of the even ones alone.

    Args:
        rows: the collected candidates.
        base: settings that stay as they are (duplicates, budgets …).
        parts: which parts may have a weight; the others get 0.
        absent_weight: what a rightly empty answer counts beside the IoU of a present phrase when the
            threshold is chosen, 0..1. At 0 nothing would speak against accepting everything.
    """
    even, odd = halves(rows)
    held_out, _ = fit(even, base, parts, absent_weight=absent_weight)
    config, curve = fit(rows, base, parts, absent_weight=absent_weight)
    return RankFit(config, curve, _report(odd, held_out))


def fit(
    rows: Sequence[Row], base: RankConfig, parts: Sequence[str] = PARTS, *, absent_weight: float = 0.25
) -> tuple[RankConfig, tuple[Point, ...]]:
    """Return the settings that suit the rows, and what each threshold then gives; arguments as ``fit_rows``.

    Where thresholds are worth about the same the lowest is taken: a mask too many is easily seen.
    """
    values, overlaps = stack(rows)
    good = overlaps >= GOOD_IOU
    config = _weights(values, good, base, parts)
    weights = tune(Aim(rows, config, absent_weight, ORDER_WEIGHT), config.weights, parts)
    config = calibrated(values, good, config, weights)
    curve = threshold_curve(rows, config)
    values_of = [worth(point.iou, point.not_there, absent_weight) for point in curve]
    threshold = next(p.threshold for p, value in zip(curve, values_of, strict=True) if value >= max(values_of) - FLAT)
    return replace(config, threshold=threshold), curve


def halves(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of even pages (to fit) and of odd pages (to report)."""
    return [r for r in rows if r.page % 2 == 0], [r for r in rows if r.page % 2 == 1]


def scores_of(row: Row, config: RankConfig) -> Float:
    """Return float32 (M,): the row's fused scores under other settings."""
    return fuse({name: row.parts[:, i] for i, name in enumerate(PARTS)}, config)


def threshold_curve(rows: Sequence[Row], config: RankConfig) -> tuple[Point, ...]:
    """Return what each of ``THRESHOLDS`` gives; sets count alike, whatever their size."""
    told = [row for row in rows if row.has_masks]
    answers = (row.choose(scores_of(row, config), config) for row in told)
    found, gone = at_thresholds(told, answers, np.array(THRESHOLDS, np.float32))
    return tuple(Point(t, float(i), float(e)) for t, i, e in zip(THRESHOLDS, found, gone, strict=True))


def _weights(values: Float, good: Bool, base: RankConfig, parts: Sequence[str]) -> RankConfig:
    """Return ``base`` with fitted weights and stand-ins.

    A missing part first gets an indicator with a weight of its own; the stand-in that amounts to the same is
    read from it (the part's mean where the part has no weight), and the rest is fitted again with it.
    """
    if not good.any() or good.all():
        raise DataError(f"{len(good)} candidates, {int(good.sum())} of them good: nothing to fit; give more pictures")
    used = [PARTS.index(name) for name in parts]
    gone = np.isnan(values[:, used])
    odds = np.where(gone, 0.0, log_odds(np.nan_to_num(values[:, used], nan=0.5))).astype(np.float64)
    bound = np.append(np.ones(len(used), bool), np.zeros(len(used), bool))
    coefficients, _ = fit_logistic(np.hstack([odds, gone]), good.astype(float), nonnegative=bound)
    stand_in = np.zeros(len(used))
    for k in range(len(used)):
        known = odds[~gone[:, k], k]
        stand_in[k] = known.mean() if len(known) else 0.0
        if gone[:, k].any() and coefficients[k] > 0.02:
            stand_in[k] = coefficients[len(used) + k] / coefficients[k]
    stand_in = np.clip(stand_in, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
    filled = np.where(gone, stand_in, odds)
    weights, bias = fit_logistic(filled, good.astype(float), nonnegative=np.ones(len(used), bool))
    table = dict.fromkeys(PARTS, 0.0) | {PARTS[i]: round(float(w), 4) for i, w in zip(used, weights, strict=True)}
    missing = dict.fromkeys(PARTS, 0.5)
    missing |= {PARTS[i]: round(float(1 / (1 + np.exp(-s))), 4) for i, s in zip(used, stand_in, strict=True)}
    return replace(base, weights={"bias": round(bias, 4), **table}, missing=missing)


def _report(rows: Sequence[Row], config: RankConfig) -> dict[str, float]:
    """Return the figures of the rows: calibration, AUROC of the fusion and of each part alone, IoU, "not there"."""
    values, overlaps = stack(rows)
    good = overlaps >= GOOD_IOU
    fused = fuse({name: values[:, i] for i, name in enumerate(PARTS)}, config)
    report = {
        "candidates": float(len(good)),
        "good share": metrics.mean(good.astype(float).tolist()),
        "calibration error": metrics.calibration_error(fused, good.astype(np.float32)),
        "AUROC fused": metrics.auroc(fused[good].tolist(), fused[~good].tolist()),
    }
    for i, name in enumerate(PARTS):
        known = ~np.isnan(values[:, i])
        part, label = values[known, i], good[known]
        report[f"AUROC {name} alone"] = metrics.auroc(part[label].tolist(), part[~label].tolist())
    at = next(p for p in threshold_curve(rows, config) if p.threshold == config.threshold)
    return {**report, "mean union IoU": at.iou, "absent and empty": at.not_there, "threshold": at.threshold}
