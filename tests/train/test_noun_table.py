"""The nouns that exclude each other, and their kin."""

from __future__ import annotations

import json
from pathlib import Path

from textseg.train.noun_table import exclusive_nouns


def test_usual_nouns_with_their_other_names_and_their_kin(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    classes = [{"name": "car"}, {"name": "truck"}, {"name": "dog"}]
    (tmp_path / "coco" / "annotations.json").write_text(json.dumps({"categories": classes}))
    (tmp_path / "fluent").mkdir()
    (tmp_path / "fluent" / "names.json").write_text(json.dumps([{"name": "hot dog", "tags": ["food"]}]))
    names, kin = exclusive_nouns(tmp_path)
    usual = [entry[0] for entry in names]
    assert {"car", "dog", "hot dog", "person", "truck"} <= set(usual)
    assert "food" not in usual and "food" in names[usual.index("hot dog")]
    assert "automobile" in names[usual.index("car")]
    related = {(usual[i], usual[j]) for i, j in kin.tolist()}
    assert ("car", "truck") in related, "labellers mix them up"
    assert ("dog", "hot dog") in related, "one's words are among the other's"
    assert ("car", "dog") not in related
