"""Long work in a thread of its own, so that a page can show how far it is and stop it half-way."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")

Told = Callable[[int, int], None]
"""Is called with (done, of how many); raises ``Stopped`` when nobody waits any more."""

_LOOK_SECONDS = 0.25


class Stopped(Exception):
    """Nobody waits for the work any more."""


class _Work(threading.Thread, Generic[Value]):
    def __init__(self, work: Callable[[Told], Value]) -> None:
        super().__init__(name="textseg-work", daemon=True)
        self._work = work
        self.stop = threading.Event()
        self.told: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self.value: Value | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self._work(self._tell)
        except Stopped:
            pass
        except BaseException as error:  # raised again where the work is waited for
            self.error = error

    def _tell(self, done: int, total: int) -> None:
        if self.stop.is_set():
            raise Stopped
        self.told.put((done, total))


def in_background(work: Callable[[Told], Value]) -> Iterator[tuple[int, int] | Value]:
    """Yield (done, of how many) while the work goes on, then what it returned.

    Closing the iterator stops the work at its next word; whatever it raises is raised here.
    """
    thread = _Work(work)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_LOOK_SECONDS)
            latest = None
            while not thread.told.empty():
                latest = thread.told.get()
            if latest is not None and thread.is_alive():
                yield latest
        if thread.error is not None:
            raise thread.error
        assert thread.value is not None  # it was not stopped: nobody closed this
        yield thread.value
    finally:
        thread.stop.set()
