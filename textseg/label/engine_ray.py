"""The same work on a Ray cluster: a pool of actors with the models, one store written by the driver.

The driver hands out pictures as they are listed, a few ahead per worker, and commits what comes back, so a killed
worker, a killed driver and a killed cluster all resume like a local run: nothing lost, nothing twice. A worker that
dies is started anew and its pictures are given out again; a picture that kills its worker every time is listed as
failed. Workers read the pictures themselves: on several machines the source must be on a shared disk or an address
that fsspec opens.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from textseg.errors import UnsupportedError
from textseg.label.items import Item
from textseg.label.records import Failed, Outcome
from textseg.label.work import Labeller, attempt, failure

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0  # so that Ctrl-C is heard while the workers are busy


class _Worker:
    """Runs in the actor: one picture in the models while the next is being decoded."""

    def __init__(self, make: Callable[[], Labeller]) -> None:
        self._labeller = make()
        self._models = threading.Lock()

    def work(self, item: Item) -> Outcome:
        """Return the item's outcome; wrong settings are raised."""
        try:
            image = item.read()
        except Exception as error:
            return failure(item, error)
        with self._models:
            return attempt(self._labeller, item, image)


@dataclass(frozen=True)
class RayEngine:
    """An ``Engine`` on Ray: the cluster of ``RAY_ADDRESS`` if that is set, else one on this machine.

    Attributes:
        make: builds the labeller inside each worker; must be picklable.
        workers: how many.
        gpus: of each worker; fractions let several share one.
        ahead: pictures handed to each worker at a time.
        retries: how often a picture is given out again after its worker died.
    """

    make: Callable[[], Labeller]
    workers: int = 2
    gpus: float = 0.0
    ahead: int = 2
    retries: int = 2

    def __call__(self, items: Iterator[Item]) -> Generator[Outcome, None, None]:
        """Yield the outcomes as they come.

        Raises:
            UnsupportedError: Ray is not installed, or does not start.
        """
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports home unless told not to
            _start(ray)
        options = {"max_restarts": -1, "max_task_retries": self.retries, "max_concurrency": 2, "num_gpus": self.gpus}
        pool = [ray.remote(**options)(_Worker).remote(self.make) for _ in range(self.workers)]
        try:
            yield from self._work(ray, pool, items)
        finally:
            for actor in pool:
                ray.kill(actor)
            if ours:
                ray.shutdown()

    def _work(self, ray: Any, pool: list[Any], items: Iterator[Item]) -> Generator[Outcome, None, None]:
        free = [actor for _ in range(self.ahead) for actor in pool]
        busy: dict[Any, tuple[Item, Any]] = {}
        more = True
        while more or busy:
            while more and free:
                item = next(items, None)
                if item is None:
                    more = False
                    break
                actor = free.pop(0)
                busy[actor.work.remote(item)] = (item, actor)
            ready, _ = ray.wait(list(busy), num_returns=1, timeout=_POLL_SECONDS) if busy else ([], [])
            for reference in ready:
                item, actor = busy.pop(reference)
                free.append(actor)
                yield _result(ray, reference, item)


def _result(ray: Any, reference: Any, item: Item) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayActorError as error:
        logger.debug("%s", item.key, exc_info=True)
        reason = f"its worker died each time: {str(error).splitlines()[0]}"
        return Failed(item.key, item.uri, "WorkerDied", reason, models=True)
    return outcome


def _start(ray: Any) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start one on this machine."""
    try:
        ray.init(log_to_driver=False, include_dashboard=False)
    except Exception as error:  # Ray raises almost anything, a plain Exception where the machine is too busy
        raise UnsupportedError(
            f"Ray does not start here: {str(error).strip() or type(error).__name__}; try again when the machine is "
            "less busy, start it with 'ray start --head' and set RAY_ADDRESS=auto, or leave --engine ray out"
        ) from error


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UnsupportedError("--engine ray needs Ray: pip install 'textseg[ray]'") from error
