"""What the page knows of one picture: the answer to the phrases, and what a person mended since. A frozen value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from textseg.errors import PromptError
from textseg.mend import mend
from textseg.pipeline import OpenPicture
from textseg.result import Result
from textseg.types import Phrase

Kind = Literal["on", "off", "box"]


@dataclass(frozen=True)
class Mark:
    """One thing pointed at.

    Attributes:
        kind: "on" and "off" are points on the object and beside it, "box" is a box around it.
        xy: x, y of a point, or x0, y0, x1, y1 of a box; pixels of the picture.
    """

    kind: Kind
    xy: tuple[float, ...]


@dataclass(frozen=True)
class Mend:
    """All that was pointed at for one mask.

    Attributes:
        target: the candidate (index into ``Result.scored`` of the answer) that is mended; None: a mask of its own.
        phrase_index: the phrase that it belongs to.
        marks: in the order in which they were made.
        words: whether the phrase goes along.
    """

    target: int | None
    phrase_index: int
    marks: tuple[Mark, ...]
    words: bool = True

    @property
    def points(self) -> list[tuple[float, float]] | None:
        """The points, or None."""
        return [(m.xy[0], m.xy[1]) for m in self.marks if m.kind != "box"] or None

    @property
    def labels(self) -> list[int] | None:
        """1 or 0 for each point, or None."""
        return [int(m.kind == "on") for m in self.marks if m.kind != "box"] or None

    @property
    def box(self) -> tuple[float, ...] | None:
        """The last box, or None."""
        return next((m.xy for m in reversed(self.marks) if m.kind == "box"), None)


@dataclass(frozen=True)
class Choosing:
    """The sliders: what ``Result.with_threshold`` takes.

    Attributes:
        threshold: least score, 0..1.
        duplicate_iou: overlap from which two masks of a phrase are one object, 0..1.
        min_percent: least area of a mask, percent of the picture.
    """

    threshold: float
    duplicate_iou: float
    min_percent: float = 0.0

    def apply(self, result: Result) -> Result:
        """Choose again from the candidates that are there; no model runs."""
        height, width = result.image.size_hw
        pixels = max(1, round(self.min_percent / 100 * height * width))
        return result.with_threshold(self.threshold, duplicate_iou=self.duplicate_iou, min_area=pixels)


@dataclass(frozen=True)
class Answer:
    """One picture's answer.

    Attributes:
        picture: open: its embedding is kept.
        base: the answer to the phrases; None before any was asked.
        mends: what was pointed at, the latest last.
        result: the base with the mends, or what is pointed at alone; None where nothing was asked.
        places: for each mend the accepted mask that it replaced when its turn came; None where it added one.
    """

    picture: OpenPicture
    base: Result | None = None
    mends: tuple[Mend, ...] = ()
    result: Result | None = field(default=None, repr=False)
    places: tuple[int | None, ...] = ()

    def asked(self, phrases: Sequence[Phrase], choosing: Choosing) -> Answer:
        """Return the answer to phrases; earlier mends are gone."""
        found = self.picture.segment(phrases, threshold=choosing.threshold)
        return Answer(self.picture, found).chosen(choosing)

    def chosen(self, choosing: Choosing) -> Answer:
        """Return the answer with the sliders set anew; what was mended stays."""
        if self.base is None:
            return self
        return replace(self, base=choosing.apply(self.base))._replayed()

    def marked(self, target: int | None, phrase_index: int, mark: Mark, words: bool) -> Answer:
        """Return the answer with one more mark.

        Args:
            target: the accepted mask, an index into ``result.scored``; None for a new mask.
            phrase_index: of a new mask.
            mark: what was pointed at.
            words: whether the phrase goes along.
        """
        mends = list(self.mends)
        known = 0 if self.base is None else len(self.base.scored)
        if self.base is None and mends:  # without words there is one object
            current = mends.pop()
        elif target is not None and target >= known and target - known < len(mends):
            current = mends.pop(target - known)
        else:
            old = next((m for m in mends if m.target == target), None) if target is not None else None
            current = old or Mend(target, self._phrase_of(target, phrase_index), ())
            mends = [m for m in mends if m is not old]
        made = replace(current, marks=(*current.marks, mark), words=words)
        return replace(self, mends=(*mends, made))._replayed()

    def undone(self) -> Answer:
        """Return the answer without the last mark.

        Raises:
            PromptError: there is none.
        """
        if not self.mends:
            raise PromptError("nothing to undo: no point or box was made")
        last = self.mends[-1]
        rest = self.mends[:-1]
        if len(last.marks) > 1:
            rest = (*rest, replace(last, marks=last.marks[:-1]))
        return replace(self, mends=rest)._replayed()

    @property
    def latest(self) -> int | None:
        """The candidate of the latest mend, an index into ``result.scored``; None where nothing was mended."""
        if not self.mends or self.result is None:
            return None
        if self.base is None:
            return int(self.result.choice.accepted[0]) if len(self.result) else None
        return len(self.base.scored) + len(self.mends) - 1

    def _phrase_of(self, target: int | None, phrase_index: int) -> int:
        if target is None or self.result is None:
            return phrase_index
        return int(self.result.scored.phrase_index[target])

    def _replayed(self) -> Answer:
        result = self.base
        places: list[int | None] = []
        if result is None and self.mends:
            one = self.mends[-1]
            result = self.picture.segment(points=one.points, labels=one.labels, box=one.box)
        elif result is not None:
            for one in self.mends:
                places.append(_position(result, one.target))
                result = mend(
                    self.picture,
                    result,
                    places[-1],
                    points=one.points,
                    labels=one.labels,
                    box=one.box,
                    phrase_index=one.phrase_index,
                    words=one.words,
                )
        return replace(self, result=result, places=tuple(places))


def _position(result: Result, candidate: int | None) -> int | None:
    """Return where among the accepted masks a candidate stands, or None."""
    accepted = result.choice.accepted.tolist()
    return accepted.index(candidate) if candidate in accepted else None
