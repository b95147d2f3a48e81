"""What a protocol found: figures with targets and a breakdown per kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from textseg.evaluate import metrics


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        measure: what was measured ("mean IoU", "right object" …).
        value: the mean, 0..1; NaN where nothing could be measured.
        n: how many things it is the mean of.
        target: the least it should be; None for a figure that is only informative.
        by_kind: kind (noun, class, set) → (n, mean), most frequent first.
    """

    measure: str
    value: float
    n: int
    target: float | None = None
    by_kind: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Whether the target is reached; None without a target or a value."""
        if self.target is None or math.isnan(self.value):
            return None
        return self.value >= self.target


@dataclass(frozen=True)
class Outcome:
    """One row of the table.

    Attributes:
        name: the protocol's name.
        what: what was asked, in words: pictures, phrases, rules.
        pictures: how many pictures were looked at.
        figures: the measured numbers.
    """

    name: str
    what: str
    pictures: int
    figures: tuple[Figure, ...]

    def __getitem__(self, measure: str) -> Figure:
        """Return the figure of that measure; KeyError where there is none."""
        for figure in self.figures:
            if figure.measure == measure:
                return figure
        raise KeyError(f"{self.name} has no figure {measure!r}; it has {[f.measure for f in self.figures]}")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; NaN becomes None."""
        figures = []
        for f in self.figures:
            kinds = {kind: {"n": n, "value": _number(value)} for kind, (n, value) in f.by_kind.items()}
            row = {"measure": f.measure, "value": _number(f.value), "n": f.n, "target": f.target, "passed": f.passed}
            figures.append({**row, "by_kind": kinds})
        return {"name": self.name, "what": self.what, "pictures": self.pictures, "figures": figures}


class Tally:
    """Collects values by measure and kind while a protocol runs."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[str, float]]] = {}

    def add(self, measure: str, kind: str, value: float) -> None:
        """Note one value (bools count as 0 and 1)."""
        self._values.setdefault(measure, []).append((kind, float(value)))

    def figure(self, measure: str, target: float | None = None, *, kind: str | None = None) -> Figure:
        """Return the mean of a measure, of one kind of things only where ``kind`` is given."""
        pairs = [(k, v) for k, v in self._values.get(measure, []) if kind is None or k == kind]
        groups: dict[str, list[float]] = {}
        for k, v in pairs:
            groups.setdefault(k, []).append(v)
        ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        by_kind = {} if kind is not None else {k: (len(v), metrics.mean(v)) for k, v in ordered}
        name = measure if kind is None else f"{measure} ({kind})"
        return Figure(name, metrics.mean([v for _, v in pairs]), len(pairs), target, by_kind)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)
