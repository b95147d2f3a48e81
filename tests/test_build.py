"""From a preset to a pipeline: what loading leaves as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import textseg
from textseg.build import collector_paused
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
