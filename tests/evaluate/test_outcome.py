"""Tallies, figures and how they are shown."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from textseg.evaluate import report
from textseg.evaluate.outcome import Figure, Outcome, Tally


def tally() -> Tally:
    out = Tally()
    for kind, value in (("a", 1.0), ("b", 0.0), ("b", 0.5)):
        out.add("mean IoU", kind, value)
    return out


def test_tally_means_all_and_each_kind() -> None:
    figure = tally().figure("mean IoU", 0.4)
    assert (figure.value, figure.n, figure.passed) == (0.5, 3, True)
    assert figure.by_kind == {"b": (2, 0.25), "a": (1, 1.0)}


def test_tally_of_one_kind() -> None:
    figure = tally().figure("mean IoU", 0.4, kind="b")
    assert (figure.measure, figure.value, figure.n, figure.passed) == ("mean IoU (b)", 0.25, 2, False)


def test_nothing_measured_is_neither_passed_nor_missed() -> None:
    figure = Tally().figure("mean IoU", 0.4)
    assert math.isnan(figure.value) and figure.n == 0 and figure.passed is None
    assert Figure("x", 0.9, 1).passed is None


def test_outcome_is_json_ready(tmp_path: Path) -> None:
    outcome = Outcome("coco", "what", 2, (tally().figure("mean IoU", 0.4), Figure("other", math.nan, 0)))
    assert outcome["other"].n == 0
    with pytest.raises(KeyError, match="mean IoU"):
        outcome["nothing"]
    report.write_json(tmp_path / "deep" / "out.json", outcome.to_dict())
    back = json.loads((tmp_path / "deep" / "out.json").read_text("utf-8"))
    assert back["figures"][0]["value"] == 0.5 and back["figures"][1]["value"] is None


def test_table_and_markdown_name_every_figure() -> None:
    outcome = Outcome("coco", "what", 2, (tally().figure("mean IoU", 0.6), Figure("other", math.nan, 0)))
    out = io.StringIO()
    report.print_table([outcome], "title", Console(file=out, width=120), kinds=5)
    assert all(text in out.getvalue() for text in ("title", "coco", "0.60", "0.500", "missed", "other", "b 0.25 (2)"))
    assert "| coco | mean IoU | 0.60 | 0.500 | 3 | missed |" in report.markdown([outcome])
