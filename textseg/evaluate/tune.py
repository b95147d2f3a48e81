"""Weights by what counts: the IoU of what is accepted, and "not there" where it is due.

``fit_logistic`` makes the score a probability that one mask is good. Which masks win, and whether a phrase gets any, is
another question: a phrase's candidates compete with each other, and a part that says nothing of one mask against the
next ("is it there at all?") decides it. So the weights are moved, one at a time, as long as the aim rises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textseg import geometry
from textseg.evaluate.collect import Row
from textseg.evaluate.logistic import fit_logistic
from textseg.evaluate.metrics import auroc
from textseg.parts import PARTS
from textseg.rank import RankConfig, filled_log_odds
from textseg.types import Bool, Float, Int, UInt8

STEPS = (-0.4, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.4)
"""How far a weight is moved, as a share of the sum of all."""

ROUNDS = 6
MIXES = 8
"""Mixtures of weights to start from, beside those given and equal ones."""

_LEAST_GAIN = 2e-4
_LEVELS = 60


@dataclass(frozen=True)
class _Contest:
    """One phrase's M candidates, ready to be ranked by any scores.

    Attributes:
        odds: float32 (M, parts), log-odds, stand-ins filled in.
        conflict: bool (M, M), whether one that won keeps the other out.
        packed: uint8 (M, bytes), the masks; truth, ignore: uint8 (bytes,), None where there are none.
        set: which set the phrase counts for; present: whether it means anything.
        reach: how far below the best of its scores others may lie, from that score.
    """

    odds: Float
    conflict: Bool
    packed: UInt8
    truth: UInt8 | None
    ignore: UInt8 | None
    set: str
    present: bool
    reach: Callable[[float], float]

    @classmethod
    def of(cls, row: Row, config: RankConfig) -> _Contest:
        """Prepare a row; candidates without a pixel are left out."""
        h, w = row.grid_hw
        solid = np.flatnonzero(_bits(row.masks_packed))
        packed, prompts = row.masks_packed[solid], row.prompt_index[solid]
        masks = np.unpackbits(packed, axis=1, count=h * w).reshape(-1, h, w).astype(np.bool_)
        inside = geometry.mask_containment(masks, masks)
        conflict = (
            (geometry.mask_iou(masks, masks) >= config.duplicate_iou)
            | (np.maximum(inside, inside.T) >= config.contained)
            | (prompts[:, None] == prompts[None])
        )
        odds = _odds(row.parts[solid], config)
        return cls(odds, conflict, packed, row.truth_packed, row.ignore_packed, row.set, row.present, config.reach)

    def outcome(self, scores: NDArray[np.floating[Any]]) -> tuple[Float, Float]:
        """Return the scores of the masks that win, best first, and the IoU of their growing union; (K,) each.

        Scores are log-odds that a mask is right, float (M,).
        """
        winners: list[int] = []
        out = np.zeros(len(scores), np.bool_)
        best = float(scores.max(initial=-np.inf))
        reach = self.reach(best)
        for i in np.argsort(-scores, kind="stable").tolist():
            if best - scores[i] > reach:
                break
            if not out[i]:
                winners.append(i)
                out |= self.conflict[i]
        unions = np.bitwise_or.accumulate(self.packed[winners], axis=0)
        if self.truth is None:
            return scores[winners], np.zeros(len(winners), np.float32)
        known = np.uint8(255) if self.ignore is None else ~self.ignore
        both, either = (unions & self.truth) & known, (unions | self.truth) & known
        return scores[winners], (_bits(both) / np.maximum(_bits(either), 1)).astype(np.float32)


def _odds(values: Float, config: RankConfig) -> Float:
    """Return float32 (N, parts): the log-odds of the candidates' parts, stand-ins filled in."""
    return filled_log_odds(PARTS, values.T, config).T


def _table(weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Return (parts,): the parts' weights without the bias."""
    return np.array([weights.get(name, 0.0) for name in PARTS])


def _bits(packed: UInt8) -> Int:
    return np.asarray(np.bitwise_count(packed).sum(axis=1, dtype=np.int64))


class Asked(Protocol):
    """A phrase that was asked: which set it counts for, and whether it means anything."""

    @property
    def set(self) -> str: ...
    @property
    def present(self) -> bool: ...


def at_thresholds(
    phrases: Sequence[Asked], answers: Iterable[tuple[Float, Float]], thresholds: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what each of T thresholds gives: the present phrases' mean union IoU, and how often absent ones are empty.

    Sets count alike, whatever their size. An answer is the scores of the masks that win, best first, and the IoU of
    their growing union.
    """
    ious: dict[str, list[Float]] = {}
    empty: list[Bool] = []
    for phrase, (scores, unions) in zip(phrases, answers, strict=True):
        kept = (scores[None] >= thresholds[:, None]).sum(axis=1)  # (T,): scores fall, so a count is a prefix
        if phrase.present:
            ious.setdefault(phrase.set, []).append(np.append(np.float32(0), unions)[kept])
        else:
            empty.append(kept == 0)
    found = np.mean([np.mean(one, axis=0) for one in ious.values()], axis=0) if ious else np.zeros(len(thresholds))
    gone = np.mean(empty, axis=0) if empty else np.ones(len(thresholds))
    return np.asarray(found, np.float64), np.asarray(gone, np.float64)


def worth(iou: Any, not_there: Any, absent_weight: float) -> Any:
    """Return what a mean IoU and a share of rightly empty answers are worth together."""
    return (1 - absent_weight) * iou + absent_weight * not_there


class Aim:
    """What weights are worth: mean union IoU of present phrases (sets alike) and the share of rightly empty answers.

    Both are told at the best threshold. How well the best scores of present and absent phrases are told apart at any
    threshold (their AUROC) may be worth something beside.

    Args:
        rows: of phrases whose masks are known.
        config: stand-ins, overlaps, and weights with their bias, to which those that are tried are compared.
        absent_weight: what an empty answer counts beside an IoU, 0..1.
        order_weight: what the AUROC is worth.
    """

    def __init__(
        self, rows: Sequence[Row], config: RankConfig, absent_weight: float, order_weight: float = 0.0
    ) -> None:
        self.contests = [_Contest.of(row, config) for row in rows if row.has_masks]
        self.absent_weight = absent_weight
        self.order_weight = order_weight
        odds = [contest.odds for contest in self.contests]
        self._middle = np.concatenate(odds).mean(axis=0) if any(map(len, odds)) else np.zeros(len(PARTS))
        self._level = config.weights.get("bias", 0.0) + self._middle @ _table(config.weights)

    def scores(self, weights: NDArray[np.floating[Any]]) -> list[NDArray[np.floating[Any]]]:
        """Return each contest's log-odds, (M,), by (parts,) weights; their mean is that by the given weights."""
        bias = self._level - self._middle @ weights
        return [contest.odds @ weights + bias for contest in self.contests]

    def __call__(self, weights: NDArray[np.floating[Any]]) -> float:
        """Return the aim at the best threshold; weights are (parts,)."""
        answers = [c.outcome(scores) for c, scores in zip(self.contests, self.scores(weights), strict=True)]
        best = [float(scores[0]) for scores, _ in answers if len(scores)]
        if not best:
            return 0.0
        levels = np.quantile(best, np.linspace(0, 1, _LEVELS))
        found, gone = at_thresholds(self.contests, answers, levels)
        return float(worth(found, gone, self.absent_weight).max()) + self._order(answers)

    def _order(self, answers: Sequence[tuple[Float, Float]]) -> float:
        """Return the AUROC of the best scores, weighted; phrases without a candidate score least."""
        if not self.order_weight:
            return 0.0
        best = [float(scores[0]) if len(scores) else -np.inf for scores, _ in answers]
        split = [[b for b, c in zip(best, self.contests, strict=True) if c.present is there] for there in (True, False)]
        order = auroc(*split)
        return 0.0 if np.isnan(order) else self.order_weight * order


def tune(aim: Aim, weights: Mapping[str, float], parts: Sequence[str] = PARTS) -> dict[str, float]:
    """Move the weights of some parts, one at a time, for as long as the aim rises; the sum of all is kept.

    That ends on the next hill. So it starts from the weights given, from equal ones and from some mixtures drawn by
    chance (always the same ones); the best end counts.
    """
    given = _table(weights)
    starts = np.zeros((2 + MIXES, len(PARTS)))
    used = [PARTS.index(name) for name in parts]
    starts[1:, used] = 1 / len(parts)
    starts[2:, used] = np.random.default_rng(0).dirichlet(np.ones(len(parts)), MIXES)
    starts *= given.sum()
    starts[0] = given
    _, best = max((_climb(aim, start, parts) for start in starts), key=lambda end: end[0])
    return dict(zip(PARTS, best.tolist(), strict=True))


def _climb(aim: Aim, now: NDArray[np.float64], parts: Sequence[str]) -> tuple[float, NDArray[np.float64]]:
    """Return the aim that is reached from some weights, (parts,), and the weights there."""
    total, reached = now.sum(), aim(now)
    for _ in range(ROUNDS):
        before = reached
        for part in (PARTS.index(name) for name in parts):
            tried: list[Any] = [now + step * total * (np.arange(len(PARTS)) == part) for step in STEPS]
            tried = [one * total / one.sum() for one in tried if one[part] >= 0 and one.sum() > 0]
            values = [aim(one) for one in tried]
            if values and max(values) > reached + _LEAST_GAIN:
                reached, now = max(values), tried[int(np.argmax(values))]
        if reached <= before:
            break
    return reached, now


def calibrated(values: Float, good: Bool, config: RankConfig, weights: Mapping[str, float]) -> RankConfig:
    """Scale the weights so that the score is again the probability that a mask is good.

    Args:
        values: (N, parts), the candidates' parts.
        good: bool (N,).
        config: stand-ins.
        weights: of the parts.
    """
    logit = _odds(values, config) @ _table(weights)
    scale, bias = fit_logistic(logit[:, None].astype(np.float64), good.astype(float), nonnegative=np.ones(1, bool))
    table = {name: round(float(scale[0]) * weights[name], 4) for name in PARTS}
    return replace(config, weights={"bias": round(bias, 4), **table})
