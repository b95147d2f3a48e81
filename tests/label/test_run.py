"""The runner in this process: damage, memory, limits, exit codes."""

from __future__ import annotations

import os
import stat
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeSegmenter, fake_pipeline, scene
from tests.label.helpers import CLASSES, begin, content, make_picture, make_pictures, run
from textseg import image as images
from textseg.errors import ConfigError, DataError, ModelError
from textseg.label.items import Item
from textseg.label.run import GOOD, NOTHING_DONE, SOME_FAILED, LocalEngine, Progress, RunConfig, label
from textseg.label.sources import Shard, Source, open_source
from textseg.label.store import Store
from textseg.label.work import Labeller
from textseg.types import Embedding, Image


def bomb_png(side: int = 60_000) -> bytes:
    """Return a small PNG that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def damage(folder: Path) -> dict[str, str]:
    """Write pictures damaged in many ways; return each one's key and a word of the reason."""
    good = make_picture(folder / "good.png").read_bytes()
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "page.jpg").write_text("<!doctype html><p>404")
    (folder / "drawing.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "document.jpeg").write_bytes(b"%PDF-1.4 ...")
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "flipped.png").write_bytes(good[:60] + bytes(40) + good[100:])
    (folder / "bomb.png").write_bytes(bomb_png())
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    (folder / "secret.png").write_bytes(good)
    (folder / "secret.png").chmod(0)
    os.mkfifo(folder / "pipe.png")
    (folder / "closed").mkdir(mode=0)
    return {
        "zero.png": "zero bytes", "text.jpg": "not a picture", "page.jpg": "HTML", "drawing.png": "SVG",
        "document.jpeg": "PDF", "cut.png": "truncated", "flipped.png": "damaged", "bomb.png": "too large",
        "link.png": "No such file", "secret.png": "Permission", "pipe.png": "not a regular file",
        "closed/": "cannot be listed",
    }  # fmt: skip


def test_damaged_pictures_are_listed_with_reasons_and_the_run_goes_on(open_folder: Path) -> None:
    folder = make_pictures(open_folder / "in", 12)
    expected = damage(folder)
    vanishing = make_picture(folder / "vanishing.png")

    def vanish(progress: Progress) -> None:
        vanishing.unlink(missing_ok=True)

    progress = run(folder, open_folder / "out", on_progress=vanish)
    with Store.read(open_folder / "out") as store:
        failed = {row.key: row.error for row in store.pictures("failed")}
        expected["vanishing.png"] = "No such file"
        assert {key: reason for key, reason in failed.items() if expected.get(key, "?") not in reason} == {}
        assert set(failed) == set(expected)
        assert store.count("done") == 13
    assert (progress.done, progress.failed, progress.exit_code) == (13, 13, SOME_FAILED)
    (folder / "secret.png").chmod(stat.S_IRUSR)
    again = run(folder, open_folder / "out")  # the vanished one is no longer there to ask
    assert (again.done, again.failed, again.failed_before, again.exit_code) == (0, 0, 12, SOME_FAILED)
    again = run(folder, open_folder / "out", retry_failed=True)
    assert (again.done, again.failed, again.failed_before) == (1, 11, 0)
    with Store.read(open_folder / "out") as store:
        assert [row.attempts for row in store.pictures("done") if row.key == "secret.png"] == [2]
    (folder / "closed").chmod(0o700)


def test_memory_is_flat_however_many_pictures(tmp_path: Path) -> None:
    most = alive = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def items(count: int) -> Iterator[Item]:
        nonlocal most, alive
        for i in range(count):
            rgb = scene((48, 64), {"red": (2 + i % 20, 4, 22 + i % 20, 30)})
            picture = Image(rgb, f"{i}", images.digest(rgb))
            weakref.finalize(picture, gone)
            alive += 1
            most = max(most, alive)
            yield Item(f"{i:05d}", f"memory{i}", picture)

    def peak(count: int) -> int:
        nonlocal most
        most = 0
        source = Source(f"{count}", lambda: items(count), countable=False)
        assert run(source, tmp_path / f"out{count}").done == count
        return most

    assert peak(120) <= peak(40) <= 8  # those read ahead, the one in work and the one just made


def test_limit_shards_and_resumption_do_every_picture_once(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 20), tmp_path / "out"
    first = run(pictures, out, limit=6)
    assert (first.done, first.total, first.exit_code) == (6, 20, GOOD)
    shards = [run(pictures, out, shard=Shard(i, 3)) for i in (1, 2, 3)]
    assert sum(one.done for one in shards) == 14
    assert sum(one.total or 0 for one in shards) == 20
    run(pictures, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_exit_codes(tmp_path: Path) -> None:
    assert run(make_pictures(tmp_path / "good", 2), tmp_path / "a").exit_code == GOOD
    (tmp_path / "bad").mkdir()
    assert run(tmp_path / "bad", tmp_path / "b").exit_code == NOTHING_DONE
    (tmp_path / "bad" / "zero.png").write_bytes(b"")
    assert run(tmp_path / "bad", tmp_path / "b").exit_code == NOTHING_DONE
    make_picture(tmp_path / "bad" / "good.png")
    assert run(tmp_path / "bad", tmp_path / "b").exit_code == SOME_FAILED


def test_a_picture_named_twice_is_labelled_once(tmp_path: Path) -> None:
    make_pictures(tmp_path, 3)
    (tmp_path / "list.txt").write_text("0001.png\n\n# a remark\n0001.png\n0002.png\n0001.png\n")
    assert run(tmp_path / "list.txt", tmp_path / "out").done == 2
    with Store.read(tmp_path / "out") as store:
        assert [row.attempts for row in store.pictures()] == [1, 1]


class Broken(FakeSegmenter):
    """Fails on some pictures with an error of its own."""

    def __init__(self, failing: range) -> None:
        super().__init__()
        self.failing = failing
        self.calls = 0

    def encode(self, image: Image) -> Embedding:
        """Fail now and then."""
        self.calls += 1
        if self.calls in self.failing:
            raise RuntimeError("out of memory")
        return super().encode(image)


def test_a_picture_that_the_models_cannot_bear_is_listed(tmp_path: Path) -> None:
    pipeline = fake_pipeline(segmenter=Broken(range(2, 4)))
    progress = run(make_pictures(tmp_path / "in", 5), tmp_path / "out", pipeline=pipeline)
    assert (progress.done, progress.failed) == (3, 2)
    with Store.read(tmp_path / "out") as store:
        assert {row.error for row in store.pictures("failed")} == {"RuntimeError: out of memory"}


def test_models_that_always_fail_end_the_run(tmp_path: Path) -> None:
    pipeline = fake_pipeline(segmenter=Broken(range(1, 99)))
    with pytest.raises(ModelError, match="25 pictures in a row failed in the models"):
        run(make_pictures(tmp_path / "in", 30), tmp_path / "out", pipeline=pipeline)
    with Store.read(tmp_path / "out") as store:
        assert store.count("failed") == 25
        assert store.runs()[-1].ended == "error"


def test_a_full_disk_is_a_clear_error_and_what_was_done_stays(tmp_path: Path) -> None:
    pictures, out, pipeline = make_pictures(tmp_path / "in", 30), tmp_path / "out", fake_pipeline()
    source = open_source(pictures)
    with Store.write(out) as store:
        begin(store, source, pipeline)
        writer: Any = store._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(DataError, match="the disk is full; every picture committed so far is safe"):
            label(LocalEngine(Labeller(pipeline, CLASSES)), source, store)
    with Store.read(out) as store:
        done = store.count("done")
        assert 0 < done < 30
        assert store.check() == []
    assert run(pictures, out).done == 30 - done


def test_progress_counts_and_tells_the_time_left(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(make_pictures(tmp_path / "in", 6), tmp_path / "out", on_progress=seen.append)
    assert [progress.tried for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].seconds_left == 0
    assert seen[0].per_second > 0
    assert Progress().seconds_left is None


def test_limit_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="expected at least 1 picture"):
        RunConfig(limit=0)
