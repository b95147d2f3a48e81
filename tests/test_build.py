"""From a preset to a pipeline: what loading leaves as it was."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import textseg
from tests.fakes import fake_pipeline
from textseg.build import collector_paused, load_rest
from textseg.errors import ConfigError


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    running = gc.isenabled()
    yield
    (gc.enable if running else gc.disable)()


@pytest.mark.parametrize("running", [True, False])
def test_the_collector_is_left_as_it_was(running: bool) -> None:
    (gc.enable if running else gc.disable)()
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled() is running


def test_what_was_loaded_counts_as_old_and_what_was_frozen_stays_so() -> None:
    gc.enable()
    with collector_paused():
        loaded = [[] for _ in range(5000)]
    assert not gc.get_freeze_count()
    assert any(one is loaded for one in gc.get_objects(generation=2))
    gc.freeze()
    try:
        with collector_paused():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_the_collector_runs_again_after_a_load_that_failed() -> None:
    gc.enable()
    with pytest.raises(ConfigError, match="nanoo"):
        textseg.load("nanoo")
    assert gc.isenabled()


def test_nano_leaves_what_phrases_do_not_need_for_later_and_loads_it_when_told() -> None:
    pytest.importorskip("openvino")
    command = (
        "import sys, textseg\n"
        "seg = textseg.load('nano')\n"
        "assert len(seg(sys.argv[1], 'the red car')) == 1 and not len(seg(sys.argv[1], 'zebra'))\n"
        "assert not {'transformers', 'open_clip'} & set(sys.modules)\n"
        "from textseg.build import load_rest\n"
        "load_rest(seg)\n"
        "assert 'transformers' in sys.modules\n"
        "assert len(seg.open(sys.argv[1]).segment(box=(60, 230, 370, 440))) == 1\n"
    )
    street = Path(__file__).resolve().parents[1] / "examples" / "street.jpg"
    done = subprocess.run([sys.executable, "-c", command, str(street)], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_a_pipeline_that_is_whole_has_no_rest() -> None:
    load_rest(fake_pipeline())
