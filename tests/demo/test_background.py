"""Work in the background: it tells how far it is, ends early when nobody waits, and raises where it is waited for."""

from __future__ import annotations

import threading
import time

import pytest

from textseg.demo.background import Told, in_background


def test_progress_then_the_value() -> None:
    seen = threading.Event()

    def work(tell: Told) -> str:
        tell(1, 2)
        seen.wait(10)
        return "done"

    steps = in_background(work)
    assert next(steps) == (1, 2)
    seen.set()
    assert list(steps)[-1] == "done"


def test_closing_stops_the_work() -> None:
    ended = threading.Event()
    told: list[int] = []

    def work(tell: Told) -> str:
        try:
            for n in range(10_000):
                told.append(n)
                tell(n, 10_000)
                time.sleep(0.01)
        finally:
            ended.set()
        return "never"

    steps = in_background(work)
    next(steps)
    steps.close()
    assert ended.wait(10)
    assert len(told) < 10_000


def test_errors_arrive() -> None:
    def work(tell: Told) -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(in_background(work))
