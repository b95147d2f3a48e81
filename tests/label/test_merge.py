"""Stores of shards come together: everything, once, and the merged store goes on like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.label.helpers import content, make_picture, make_pictures, run
from tests.label.stores import CLASSES, SETTINGS, fill, make_store, mask_of, new_mask, stored
from textseg.cli import app
from textseg.errors import ConfigError, DataError
from textseg.label import queue
from textseg.label.merge import merge
from textseg.label.settings import Settings
from textseg.label.sources import Shard
from textseg.label.store import Store


def shards(folder: Path, count: int = 3) -> tuple[Path, list[Path]]:
    pictures = make_pictures(folder / "in", 20)
    (pictures / "bad.png").write_bytes(b"")
    outs = [folder / f"labels-{i}" for i in range(1, count + 1)]
    for i, out in enumerate(outs, 1):
        run(pictures, out, shard=Shard(i, count))
    return pictures, outs


def test_shards_merged_are_the_whole_and_go_on(tmp_path: Path) -> None:
    pictures, outs = shards(tmp_path)
    run(pictures, tmp_path / "whole")
    with Store.write(tmp_path / "labels") as store:
        taken = merge(store, outs)
        assert (sum(one.pictures for one in taken), sum(one.failed for one in taken)) == (20, 1)
        again = merge(store, [*outs, outs[0]])
        assert [(one.pictures, one.failed, one.masks, one.different) for one in again] == [(0, 0, 0, ())] * 4
        assert (store.check(), store.count(), len(store.runs())) == ([], 21, 3)
        assert store.mask_count() == sum(one.masks for one in taken)
    assert content(tmp_path / "labels") == content(tmp_path / "whole")
    progress = run(make_pictures(pictures, 22), tmp_path / "labels")
    assert (progress.done, progress.done_before, progress.failed_before) == (2, 20, 1)


def test_everything_comes_along(tmp_path: Path) -> None:
    out = make_store(tmp_path)
    with Store.write(out) as store:
        first = next(store.masks())
        store.decide(first.id, "reject", "too large")
        queue.mark(store, {first.key: "seen"})
    with Store.write(tmp_path / "all") as store:
        store.begin(SETTINGS, ("another", *reversed(CLASSES)))  # the numbers of classes, runs and masks differ
        extra = make_picture(tmp_path / "extra.png")
        fill(store, {"extra.png": (extra, [new_mask(mask_of((48, 64), (3, 3, 9, 9)), "another")])})
        merge(store, [out])
        assert store.classes() == ("another", *reversed(CLASSES))
        assert [mask.verdict for mask in store.masks(first.key)].count("reject") == 1
        assert queue.reviewed(store) == {first.key: "seen"}
        assert [row.error for row in store.pictures("failed")] == ["zero bytes <b>"]
        assert store.check() == []
    found = stored(tmp_path / "all")
    for key, masks in stored(out).items():
        assert [(label, mask.tobytes()) for label, mask in found[key]] == [(n, m.tobytes()) for n, m in masks]
    with Store.read(out) as one, Store.read(tmp_path / "all") as other:
        before = {p.key: replace(p, id=0, run=0) for p in one.pictures()}
        assert {p.key: replace(p, id=0, run=0) for p in other.pictures() if p.key != "extra.png"} == before


def test_a_labelled_picture_beats_a_failed_one_and_another_by_the_same_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    for folder in "bc":
        make_picture(tmp_path / folder / "x.png", seed=ord(folder))
    for folder in "abc":
        run(tmp_path / folder, tmp_path / f"labels-{folder}")
    with Store.write(tmp_path / "labels") as store:
        for one, other in ((0, "a"), (1, "b"), (1, "c")):
            (taken,) = merge(store, [tmp_path / f"labels-{other}"], override=True)
            assert store.count("done") == one
        assert (taken.pictures, taken.already, taken.different) == (0, 1, ("x.png",))
    assert content(tmp_path / "labels") == content(tmp_path / "labels-b")


def test_other_settings_itself_and_nothing_are_refused(tmp_path: Path) -> None:
    _, outs = shards(tmp_path, 2)
    with Store.write(outs[1]) as store:
        store.begin(Settings({"threshold": 0.9}, {}), (), override=True)
        with pytest.raises(DataError, match="cannot be merged into itself"):
            merge(store, [outs[1]])
    with Store.write(tmp_path / "labels") as store:
        with pytest.raises(ConfigError, match=r"threshold: null → 0\.9"):
            merge(store, outs)
        with pytest.raises(DataError, match="is missing"):
            merge(store, [outs[0], tmp_path / "nowhere"])
        assert store.count() == 0  # checked before anything is taken


def test_on_the_command_line(tmp_path: Path) -> None:
    _, outs = shards(tmp_path)
    done = CliRunner().invoke(app, ["merge", *map(str, outs), "-o", str(tmp_path / "labels")])
    assert done.exit_code == 0, done.output
    assert "20 pictures labelled, 1 failed" in done.output
    refused = CliRunner().invoke(app, ["merge", str(tmp_path / "none"), "-o", str(tmp_path / "new")])
    assert (refused.exit_code, (tmp_path / "new").exists()) == (2, False)
