"""What every trainer shares: checkpoints, weight averaging, learning rates, seeds, metrics.

Nothing here knows a model or a data set, so the CLIP, detector and SAM trainers all use it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

logger = logging.getLogger(__name__)
T = TypeVar("T")


def worker_generator(seed: int) -> np.random.Generator:
    """Return the generator of the process that makes batches; in the background it yields to the training."""
    info = torch.utils.data.get_worker_info()
    if info is not None:
        os.nice(2)
    return np.random.default_rng((seed, 0 if info is None else info.id))


def start_workers(stream: IterableDataset[T], workers: int) -> Iterator[T]:
    """Return an endless stream's batches, made in the background; forks, so call it before any threads start."""
    more: dict[str, Any] = {"prefetch_factor": 6, "timeout": 300} if workers else {}
    return iter(DataLoader(stream, batch_size=None, num_workers=workers, **more))


def seed_everything(seed: int) -> np.random.Generator:
    """Seed Python, NumPy and torch; return a fresh NumPy generator made from the same seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (for libraries that draw from the global state)
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def cosine_rate(step: int, total: int, *, peak: float, warmup: int, floor: float = 0.0) -> float:
    """Learning rate at `step`: linear from 0 to `peak` over `warmup` steps, then a half cosine to `floor`.

    Steps beyond `total` stay at `floor`. Loshchilov and Hutter, "SGDR", 2017.
    """
    if step < warmup:
        return peak * (step + 1) / max(1, warmup)
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + 0.5 * (peak - floor) * (1.0 + math.cos(math.pi * share))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, times the group's own `rate_scale` (1 where absent)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_scale", 1.0)


def weight_decay_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Two optimizer groups: matrices and kernels decay; biases, norms and scalars do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


class Ema:
    """An exponential moving average of a model's weights and float buffers.

    The decay grows with the number of updates, `min(decay, (1 + n) / (10 + n))`, so that an
    average taken early is not dominated by the random start.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged: list[Tensor] = []
        present: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.shadow[name])
                present.append(value.detach())
            else:
                self.shadow[name].copy_(value)
        torch._foreach_lerp_(averaged, present, 1.0 - decay)

    def copy_to(self, model: nn.Module) -> None:
        """Load the averaged weights into `model`."""
        model.load_state_dict(self.shadow)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Give `model` the averaged weights inside the `with` block, its own afterwards."""
        kept = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.copy_to(model)
        try:
            yield model
        finally:
            model.load_state_dict(kept)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers, for `save_checkpoint`."""
        return {"shadow": self.shadow, "updates": self.updates, "decay": self.decay}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.shadow = {k: v.clone() for k, v in state["shadow"].items()}
        self.updates = int(state["updates"])
        self.decay = float(state["decay"])


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, dicts, lists) so that a crash leaves the old file whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(dict(state), partial)
    os.replace(partial, path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, tensors and plain values only.

    Raises FileNotFoundError where there is none and pickle.UnpicklingError where it holds code.
    """
    state: dict[str, Any] = torch.load(Path(path), map_location="cpu", weights_only=True)
    return state


class MetricsLog:
    """Metrics as JSON lines, one object per call of `write`; appended, so a resumed run goes on."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._start = time.monotonic()

    def write(self, **values: float | int | str) -> None:
        """Append one line; floats are rounded to six digits, `seconds` counts from this process's start."""
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
        rounded["seconds"] = round(time.monotonic() - self._start, 1)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        logger.info("%s", " ".join(f"{k}={v}" for k, v in rounded.items()))


class Bar:
    """A progress bar with one changing note; made by `progress_bar`."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress = progress
        self._task = task

    def advance(self, note: str = "", steps: int = 1) -> None:
        """Go `steps` further and show `note` (the loss, say)."""
        self._progress.update(self._task, advance=steps, note=note)


@contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A rich progress bar on stderr; silent where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task(title, total=total, completed=done, note=""))


class Clock:
    """Says when so many minutes of training have gone since it last said so.

    Args:
        minutes: how often.
        seconds: trained so far.
        due: seconds of training at which it first rings; None: ``minutes`` from now.
    """

    def __init__(self, minutes: float, seconds: float, due: float | None = None) -> None:
        self.period = 60 * minutes
        self.due = seconds + self.period if due is None else due

    def rings(self, seconds: float) -> bool:
        """Whether it is time; if so, the next time is set."""
        if seconds < self.due:
            return False
        self.due = seconds + self.period
        return True
