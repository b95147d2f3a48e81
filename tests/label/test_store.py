"""The store: atomic, versioned, refusing, readable."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import fake_pipeline
from tests.label.helpers import CLASSES, begin, content, make_pictures, run
from textseg import geometry
from textseg.errors import ConfigError, DataError
from textseg.label import ontology, schema, settings
from textseg.label.records import Failed, Labelled, NewMask
from textseg.label.settings import Settings
from textseg.label.store import Store


def new_mask(label: str = "red box") -> NewMask:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    mask[0, 0] = True  # two parts
    counts = geometry.encode_rle(mask)["counts"]
    return NewMask(label, "a red box", counts, (0, 0, 5, 3), 7, 0.75, {"clip": 0.5, "detector": None}, "text", "17")


def labelled(key: str = "a.png", *masks: NewMask) -> Labelled:
    return Labelled(key, f"/in/{key}", "d1", (4, 6), masks, {"red box": 0.75}, 0.1, "a note")


def opened(out: Path, names: str = "red box, blue box") -> Store:
    store = Store.write(out)
    classes = ontology.from_names(names)
    store.begin(Settings({"ontology": classes.to_dict()}, {"clip": "c"}), classes.names, override=True)
    return store


def test_what_is_recorded_comes_back(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.record(labelled("b.png"))
        store.record(labelled("a.png", new_mask(), new_mask("blue box")))
        store.record(Failed("c.png", "/in/c.png", "ImageError", "zero bytes"))
        store.finish("done")
    with Store.read(tmp_path) as store:
        assert store.classes() == ("red box", "blue box")
        (first, masks), (second, none) = store.labelled()
        assert (first.key, second.key, none) == ("a.png", "b.png", [])
        assert (first.size_hw, first.note, first.best, first.attempts) == ((4, 6), "a note", {"red box": 0.75}, 1)
        assert [(mask.label, mask.class_id, mask.ordinal) for mask in masks] == [("red box", 0, 0), ("blue box", 1, 1)]
        assert masks[0].parts == {"clip": 0.5, "detector": None}
        assert (masks[0].phrase, masks[0].source, masks[0].origin) == ("a red box", "text", "17")
        assert masks[0].verdict is None
        assert masks[0].mask().sum() == masks[0].area == 7
        assert masks[0].mask()[0, 0]
        (failed,) = store.pictures("failed")
        assert (failed.key, failed.error_kind, failed.error) == ("c.png", "ImageError", "zero bytes")
        assert (store.count(), store.count("done"), store.mask_count()) == (3, 2, 2)
        assert store.status("a.png") == "done"
        assert store.status("z.png") is None
        found = store.picture("b.png")
        assert found is not None and found.uri == "/in/b.png"
        assert store.picture("z.png") is None
        (entry,) = store.runs()
        assert (entry.ended, entry.models, first.run) == ("done", {"clip": "c"}, entry.id)


def test_a_picture_is_committed_whole_or_not_at_all(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.record(labelled("a.png", new_mask()))
        with pytest.raises(DataError, match="'cat' is not one of the run's"):
            store.record(labelled("a.png", new_mask(), new_mask("cat")))
        with pytest.raises(DataError):
            store.record(labelled("b.png", new_mask("cat")))
        assert [mask.label for mask in store.masks()] == ["red box"]
        assert store.count() == 1


def test_labelling_again_replaces_and_failing_later_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.record(labelled("a.png", new_mask(), new_mask()))
        store.record(Failed("a.png", "x", "ImageError", "gone"))
        assert store.status("a.png") == "done"
        store.record(labelled("a.png", new_mask("blue box")))
        assert [mask.label for mask in store.masks("a.png")] == ["blue box"]
        store.record(Failed("b.png", "x", "ImageError", "one"))
        store.record(Failed("b.png", "x", "ImageError", "name \udcff"))
        (failed,) = store.pictures("failed")
        assert (failed.attempts, failed.error) == (2, "name \\udcff")
        store.record(labelled("b.png"))
        assert (store.count("failed"), store.count("done")) == (0, 2)


def test_decisions(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.record(labelled("a.png", new_mask(), new_mask("blue box")))
        first, second = store.masks()
        store.decide(first.id, "accept")
        store.decide(first.id, "reject", "a shadow")
        store.decide(second.id, "accept")
        store.decide(second.id, None)
        assert [mask.verdict for mask in store.masks()] == ["reject", None]
        with pytest.raises(DataError, match="no mask 99"):
            store.decide(99, "accept")
        store.record(labelled("a.png", new_mask()))  # decisions on masks that are gone go with them
        assert [mask.verdict for mask in store.masks()] == [None]
        assert store.check() == []
    with Store.read(tmp_path) as store, pytest.raises(DataError, match="was opened to read"):
        store.record(labelled())


def test_changed_settings_are_refused_and_named(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 4), tmp_path / "out"
    run(pictures, out, limit=2)
    other = ontology.Ontology((*CLASSES.classes[1:], ontology.LabelClass("cat", ("grey cat",), threshold=0.25)))
    with pytest.raises(ConfigError) as caught:
        run(pictures, out, classes=other, pipeline=fake_pipeline(threshold=0.6))
    message = str(caught.value)
    assert "ontology.red box.phrases" in message and "gone" in message
    assert "ontology.cat.threshold: new, 0.25" in message
    assert "pipeline.rank.threshold: 0.5 → 0.6" in message
    assert "--override" in message and "--new" in message
    with Store.read(out) as store:
        assert len(store.runs()) == 1
    assert run(pictures, out).done == 2  # the old settings still go on


def test_override_keeps_what_is_labelled_and_new_puts_the_store_aside(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 4), tmp_path / "out"
    run(pictures, out, limit=2)
    before = content(out)
    other = ontology.from_names("cat, red box")
    made = settings.make(fake_pipeline(), other, source="elsewhere")
    with Store.write(out) as store:
        store.begin(made, other.names, override=True)
        assert store.classes() == (*CLASSES.names, "cat")  # ids stay
        assert store.count("done") == 2
    assert content(out) == before
    with Store.write(out, new=True) as store:
        assert store.count() == 0
        store.begin(made, other.names)
    (kept,) = out.glob("labels-*.sqlite")
    assert content(kept) == before


def test_an_empty_store_takes_any_settings(tmp_path: Path) -> None:
    with Store.write(tmp_path) as store:
        store.begin(Settings({"a": 1}, {}), ("x",))
        store.begin(Settings({"a": 2}, {}), ("x",))


def test_another_programs_file_a_newer_layout_and_damage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / schema.FILE
    with pytest.raises(DataError, match="is missing"):
        Store.read(tmp_path)
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE x (y)")
    foreign.close()
    for open_it in (Store.read, Store.write):
        with pytest.raises(DataError, match="another program's database"):
            open_it(tmp_path)
    path.unlink()
    opened(tmp_path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(DataError, match=r"has layout 99.*upgrade textseg"):
        Store.write(tmp_path)
    path.write_bytes(b"no database at all, but long enough to be looked at" * 99)
    with pytest.raises(DataError, match="damaged or not a database"):
        Store.write(tmp_path)
    with Store.write(tmp_path, new=True) as store:  # the damaged file is put aside, too
        assert store.count() == 0


def test_a_run_killed_before_its_first_commit_leaves_something_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / schema.FILE).write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        Store.read(tmp_path)
    with opened(tmp_path) as store:
        assert store.count() == 0


def test_the_output_may_not_be_a_file_or_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="choose another output folder"):
        Store.write(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no such permissions here")
def test_a_read_only_folder_is_refused_for_writing_and_good_for_reading(open_folder: Path) -> None:
    out = open_folder / "out"
    run(make_pictures(open_folder / "in", 3), out)
    assert not (out / "labels.sqlite-wal").exists()  # closing folds the log in
    before = content(out)
    for path in out.iterdir():
        path.chmod(0o444)
    out.chmod(0o555)
    try:
        with pytest.raises(DataError, match=r"cannot write|choose another|cannot be written"):
            Store.write(out)
        assert content(out) == before
        with pytest.raises(DataError, match="cannot make"):
            Store.write(out / "deeper")
    finally:
        out.chmod(0o777)
    with Store.read(out) as store:
        assert store.check() == []


def test_two_writers_in_one_process_are_kept_apart_too(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(DataError, match="another run is writing"):
        Store.write(tmp_path)
    opened(tmp_path).close()


def test_iterators_stream(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for i in range(300):
            store.record(labelled(f"{i:04d}", new_mask()))
        pictures = store.labelled()
        assert [next(pictures)[0].key for _ in range(3)] == ["0000", "0001", "0002"]
        store.record(labelled("0000", new_mask("blue box")))  # writing goes on while another reads
        assert sum(1 for _ in pictures) == 297


def test_settings_hash_does_not_depend_on_the_order_of_keys() -> None:
    one: dict[str, Any] = {"a": 1, "b": {"c": 2, "d": 3}}
    other = {"b": {"d": 3, "c": 2}, "a": 1}
    assert Settings(one, {}).hash == Settings(other, {}).hash
    assert Settings(one, {"clip": "x"}).hash != Settings(one, {}).hash
    assert settings.changes(Settings(one, {}), Settings(other, {"clip": "x"})) == ['models.clip: new, "x"']


def test_begin_is_what_a_run_does(tmp_path: Path) -> None:
    from textseg.label.sources import open_source

    with Store.write(tmp_path / "out") as store:
        begin(store, open_source(make_pictures(tmp_path / "in", 1)), fake_pipeline())
        (entry,) = store.runs()
        assert entry.settings["ontology"]["red box"]["phrases"] == ["red box"]
        assert entry.models == {"segmenter": "fake/sam", "detector": "fake/detector", "clip": "fake/clip",
                                "text_prompt": "FakeTextPrompt"}  # fmt: skip
