"""A run in a process of its own: killed, interrupted, started twice."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.label.helpers import content, make_pictures, run
from textseg.errors import DataError
from textseg.label.store import Store

ROOT = Path(__file__).resolve().parents[2]


def start(pictures: Path, out: Path, seconds: float = 0.02) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.label.worker", str(pictures), str(out), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(out: Path, pictures: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many pictures are committed, as another reader sees it."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with Store.read(out) as store:
                if store.count() >= pictures:
                    return
        except DataError:  # not made yet
            pass
        time.sleep(0.005)
    message = process.stderr.read() if process.stderr is not None and process.poll() is not None else "too slow"
    raise AssertionError(f"the run ended before {pictures} pictures: {message}")


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_at_random_moments_nothing_is_lost_and_nothing_is_done_twice(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 60), tmp_path / "out"
    chance = random.Random(5)
    for kill in range(5):
        process = start(pictures, out)
        wait_for(out, 5 + 10 * kill, process)
        time.sleep(chance.random() * 0.06)
        process.kill()
        finish(process)
        with Store.read(out) as store:
            assert store.check() == []
    assert finish(start(pictures, out, 0.0)) == (0, "")
    run(pictures, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    with Store.read(out) as store:
        assert store.check() == []
        assert [picture.attempts for picture in store.pictures("done")] == [1] * 60
        assert [entry.ended for entry in store.runs()] == [""] * 5 + ["done"]
    found = sqlite3.connect(out / "labels.sqlite")
    assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    found.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for another process")
def test_ctrl_c_ends_after_the_current_picture_and_a_second_run_goes_on(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 30), tmp_path / "out"
    process = start(pictures, out)
    wait_for(out, 4, process)
    process.send_signal(signal.SIGINT)
    code, errors = finish(process)
    assert (code, "Traceback" in errors) == (130, False)
    with Store.read(out) as store:
        before = store.count("done")
        assert 4 <= before < 30
        assert store.runs()[-1].ended == "interrupted"
    progress = run(pictures, out)
    assert (progress.done, progress.done_before, progress.exit_code) == (30 - before, before, 0)


def test_a_second_run_on_the_same_store_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 30), tmp_path / "out"
    process = start(pictures, out, 0.1)
    try:
        wait_for(out, 2, process)
        with pytest.raises(DataError, match=rf"another run is writing.*process {process.pid} on"):
            run(pictures, out)
        with Store.read(out) as store:
            with store.snapshot():
                seen = store.count("done")
                wait_for(out, seen + 2, process)  # another reader sees more, this one does not
                assert len(list(store.labelled())) == seen == store.count("done")
            assert store.count("done") >= seen + 2
    finally:
        process.kill()
        finish(process)
    assert run(pictures, out).exit_code == 0  # the lock died with its process
