"""The Ray engine: the same labels as the local one, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.fakes import fake_pipeline
from tests.label.helpers import CLASSES, SlowSegmenter, begin, content, make_pictures, run
from textseg.errors import UnsupportedError
from textseg.label.engine_ray import RayEngine
from textseg.label.run import Progress, label
from textseg.label.sources import open_source
from textseg.label.store import Store
from textseg.label.work import Labeller

ROOT = Path(__file__).resolve().parents[2]


def make(folder: Path) -> Labeller:
    """Build a labeller on the fakes, and note the worker's process."""
    (folder / f"{os.getpid()}").touch()
    return Labeller(fake_pipeline(segmenter=SlowSegmenter(0.05)), CLASSES)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'textseg\[ray\]'"):
        list(RayEngine(partial(make, Path()))(iter([])))


def test_a_cluster_that_does_not_start_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    def fail(**options: object) -> None:
        raise Exception("The current node timed out during startup.")

    broken = types.SimpleNamespace(is_initialized=lambda: False, init=fail)
    monkeypatch.setitem(sys.modules, "ray", broken)
    with pytest.raises(UnsupportedError, match=r"Ray does not start here: The current node timed out.*RAY_ADDRESS"):
        list(RayEngine(partial(make, Path()))(iter([])))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_same_labels_as_the_local_engine_with_a_worker_killed_midway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    pictures, out, workers = make_pictures(tmp_path / "in", 24), tmp_path / "out", tmp_path / "workers"
    (pictures / "bad.png").write_bytes(b"")
    workers.mkdir()
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.tried == 6:
            killed.append(int(min(path.name for path in workers.iterdir())))
            os.kill(killed[0], signal.SIGKILL)

    source = open_source(pictures)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    try:
        with Store.write(out) as store:
            begin(store, source, fake_pipeline())
            progress = label(RayEngine(partial(make, workers), workers=2), source, store, on_progress=kill_one)
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert len(list(workers.iterdir())) == 3  # one was started anew
    assert (progress.done, progress.failed) == (24, 1)
    run(pictures, tmp_path / "local")
    assert content(out) == content(tmp_path / "local")
    with Store.read(out) as store:
        assert store.check() == []
