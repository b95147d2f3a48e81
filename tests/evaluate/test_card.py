"""Figures in documents come from the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from textseg.errors import DataError
from textseg.evaluate.card import fill, main

RECORD = {
    "outcomes": [
        {
            "name": "coco_classes",
            "figures": [
                {
                    "measure": "mean IoU",
                    "value": 0.314,
                    "n": 5,
                    "target": 0.3,
                    "passed": True,
                    "by_kind": {"car": {"n": 3, "value": 0.5}, "dog": {"n": 2, "value": None}},
                },
                {"measure": "found", "value": 0.9, "n": 5, "target": None, "passed": None, "by_kind": {}},
            ],
        }
    ],
    "fit": {"weights": {"bias": 0.5, "clip": 1.25}, "report": {"AUROC clip alone": 0.7, "AUROC fused": 0.8}},
}


def test_tables_replace_what_stands_at_their_marks() -> None:
    text = "a\n<!-- figures:targets -->\nstale\n<!-- end -->\nb\n<!-- figures:kinds -->\n<!-- end -->\n"
    out = fill(text, RECORD)
    assert "| coco_classes | mean IoU | **0.31** | 0.30 | 5 |" in out
    assert "found" not in out
    assert "car (3: 0.50), dog (2: –)" in out
    assert "stale" not in out
    assert fill(out, RECORD) == out


def test_the_ranking_table_compares_parts_with_the_fusion() -> None:
    out = fill("<!-- figures:ranking -->\n<!-- end -->", RECORD)
    assert "| clip | 1.25 | 0.70 |" in out
    assert "| all, fused | | 0.80 |" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [("nothing", "no mark"), ("<!-- figures:target -->\n<!-- end -->", "did you mean 'targets'")],
)
def test_wrong_marks_are_named(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fill(text, RECORD)


def test_a_record_without_a_fit_has_no_ranking() -> None:
    with pytest.raises(DataError, match="--fit"):
        fill("<!-- figures:ranking -->\n<!-- end -->", {"outcomes": []})


def test_documents_are_written_in_place(tmp_path: Path) -> None:
    record, document = tmp_path / "eval.json", tmp_path / "card.md"
    record.write_text(json.dumps(RECORD))
    document.write_text("<!-- figures:targets -->\n<!-- end -->")
    main([str(record), str(document)])
    assert "0.31" in document.read_text()
