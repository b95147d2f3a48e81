"""The runner: pictures are decoded ahead in threads, labelled, and written beside; memory stays flat.

Ctrl-C (or SIGTERM) ends after the current picture; a second Ctrl-C at once. Either way, and after ``kill -9`` too, the
same command goes on where this one stopped.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from textseg.errors import ConfigError, ModelError
from textseg.label.items import Item
from textseg.label.records import Failed, Outcome
from textseg.label.sources import Shard, Source
from textseg.label.store import Store
from textseg.label.work import Labeller, attempt, failure
from textseg.types import Image

logger = logging.getLogger(__name__)

GOOD, SOME_FAILED, NOTHING_DONE, INTERRUPTED = 0, 3, 4, 130
"""Exit codes: every picture is labelled; some could not be; none is; stopped by Ctrl-C."""

MAX_MODEL_FAILURES = 25
"""So many pictures in a row that fail in the models, not in reading, are the models' fault: the run ends."""

_UNWRITTEN = 8  # pictures that may wait for the disk


@dataclass(frozen=True)
class RunConfig:
    """What a run does of the work; none of it decides the labels.

    Attributes:
        shard: the part of the pictures that is this run's.
        limit: most pictures tried in this run; None for all.
        retry_failed: try those again that failed earlier.
    """

    shard: Shard = field(default_factory=Shard)
    limit: int | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit: got {self.limit}, expected at least 1 picture")


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done, failed: pictures labelled, and not labelled, in this run.
        done_before, failed_before: those that earlier runs left so.
        total: pictures of this run's part, or None where counting would cost too much (video).
        seconds: since the run began.
        last: key of the last picture committed.
        interrupted: whether the run was asked to stop.
    """

    done: int = 0
    failed: int = 0
    done_before: int = 0
    failed_before: int = 0
    total: int | None = None
    seconds: float = 0.0
    last: str = ""
    interrupted: bool = False

    @property
    def tried(self) -> int:
        """Pictures finished in this run, well or not."""
        return self.done + self.failed

    @property
    def per_second(self) -> float:
        """Pictures a second in this run; 0 before the first."""
        return self.tried / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time left, or None where it cannot be told yet."""
        if self.total is None or not self.tried:
            return None
        return max(0, self.total - self.tried - self.done_before - self.failed_before) / self.per_second

    @property
    def exit_code(self) -> int:
        """``GOOD``, ``SOME_FAILED``, ``NOTHING_DONE`` or ``INTERRUPTED``."""
        if self.interrupted:
            return INTERRUPTED
        if not self.done + self.done_before:
            return NOTHING_DONE
        return SOME_FAILED if self.failed + self.failed_before else GOOD


class Engine(Protocol):
    """Does the work of a stream of items, in any order; takes them lazily, a bounded number ahead."""

    def __call__(self, items: Iterator[Item]) -> Generator[Outcome, None, None]:
        """Yield one outcome an item; closing the generator stops the work."""
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Models in this thread, decoding in others.

    A picture's prompts and crops go through the models in batches; its encoding does not wait for other pictures':
    on a processor, batches of them gain 2% of a run with ten classes (``benchmarks/label_batch.py``).

    Attributes:
        labeller: does the work.
        readers: threads that read and decode.
        ahead: most pictures decoded and waiting.
    """

    labeller: Labeller
    readers: int = 2
    ahead: int = 4

    def __call__(self, items: Iterator[Item]) -> Generator[Outcome, None, None]:
        """Yield the outcomes in the order of the items."""
        waiting: deque[tuple[Item, Future[Image]]] = deque()
        with ThreadPoolExecutor(self.readers, "textseg-read") as pool:
            try:
                for item in items:
                    waiting.append((item, pool.submit(item.read)))
                    if len(waiting) > self.ahead:
                        yield self._one(*waiting.popleft())
                while waiting:
                    yield self._one(*waiting.popleft())
            finally:
                for _, future in waiting:
                    future.cancel()

    def _one(self, item: Item, reading: Future[Image]) -> Outcome:
        try:
            image = reading.result()
        except Exception as error:
            return failure(item, error)
        return attempt(self.labeller, item, image)


def label(
    engine: Engine,
    source: Source,
    store: Store,
    config: RunConfig | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Label a source's pictures into a store in which a run was begun; return how it ended.

    Args:
        engine: ``LocalEngine`` or another.
        source: the pictures.
        store: open to write; ``Store.begin`` was called.
        config: shard, limit, whether failed ones are tried again.
        on_progress: called in this thread after every picture that is safely committed.

    Raises:
        DataError: the store cannot be written; what was committed stays.
        ModelError: ``MAX_MODEL_FAILURES`` pictures in a row failed in the models. ConfigError: wrong settings.
    """
    run = _Run(source, store, config or RunConfig(), on_progress)
    ended = "error"
    try:
        with _stop_on_signals(run.stop):
            run.work(engine)
        ended = "interrupted" if run.progress.interrupted else "done"
    finally:
        if ended != "error":
            store.finish(ended)
        else:  # the disk may be full: the reason is already on its way up
            with contextlib.suppress(Exception):
                store.finish(ended)
    return run.progress


class _Run:
    """The state of one run; everything but the writes happens in one thread."""

    def __init__(
        self, source: Source, store: Store, config: RunConfig, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.source, self.store, self.config = source, store, config
        self.on_progress = on_progress or (lambda progress: None)
        self.stop = threading.Event()
        self.started = time.perf_counter()
        self.progress = Progress(total=self._total())
        self.in_flight: set[str] = set()
        self.failures_in_a_row = 0

    def _total(self) -> int | None:
        if not self.source.countable:
            return None
        return sum(item.key in self.config.shard for item in self.source.items())

    def work(self, engine: Engine) -> None:
        """Pull outcomes from the engine, hand them to the writer, count them once they are committed."""
        writing: deque[tuple[Outcome, Future[None]]] = deque()
        outcomes = engine(self._todo())
        with ThreadPoolExecutor(1, "textseg-write") as writer:
            try:
                for outcome in outcomes:
                    writing.append((outcome, writer.submit(self.store.record, outcome)))
                    while writing and (len(writing) > _UNWRITTEN or writing[0][1].done()):
                        self._written(*writing.popleft())
                    self._count_failures(outcome)
                    if self.stop.is_set():
                        break
            finally:
                outcomes.close()
                while writing:
                    self._written(*writing.popleft())
        if self.stop.is_set():
            self.progress = replace(self.progress, interrupted=True)

    def _todo(self) -> Iterator[Item]:
        """Yield the items that this run has to do."""
        taken = 0
        for item in self.source.items():
            if self.stop.is_set() or (self.config.limit is not None and taken >= self.config.limit):
                return
            if item.key not in self.config.shard or item.key in self.in_flight:
                continue
            status = self.store.status(item.key)
            if status == "done":
                self._before(done_before=self.progress.done_before + 1)
            elif status == "failed" and not self.config.retry_failed:
                self._before(failed_before=self.progress.failed_before + 1)
            else:
                taken += 1
                self.in_flight.add(item.key)
                yield item

    def _before(self, **counts: int) -> None:
        self.progress = replace(self.progress, **counts)  # type: ignore[arg-type]

    def _written(self, outcome: Outcome, writing: Future[None]) -> None:
        writing.result()
        self.in_flight.discard(outcome.key)
        failed = isinstance(outcome, Failed)
        if isinstance(outcome, Failed):
            logger.info("%s: %s", outcome.key, outcome.reason)
        self.progress = replace(
            self.progress,
            done=self.progress.done + (not failed),
            failed=self.progress.failed + failed,
            seconds=time.perf_counter() - self.started,
            last=outcome.key,
        )
        self.on_progress(self.progress)

    def _count_failures(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Failed):
            self.failures_in_a_row = 0
        elif outcome.models:
            self.failures_in_a_row += 1
            if self.failures_in_a_row >= MAX_MODEL_FAILURES:
                raise ModelError(
                    f"{self.failures_in_a_row} pictures in a row failed in the models, the last with: "
                    f"{outcome.reason}; mend that, then run again with --retry-failed"
                )


@contextlib.contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` on the first Ctrl-C or SIGTERM; the second Ctrl-C raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change handlers
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        logger.warning("stopping after the current picture; the same command goes on later")
        stop.set()

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
