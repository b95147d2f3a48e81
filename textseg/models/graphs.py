"""Networks as ONNX graphs that OpenVINO runs, one input at a time: what a phrase costs.

Of a single crop or prompt torch takes longer to get from one small operation to the next than to compute it. A graph
that is compiled once has no such ways (``benchmarks/quick_ways.py``).

The files hold no weights: their tensors are places in the safetensors file beside them (``train.graphs`` writes them
so). Where OpenVINO is missing, or a folder has no graph of its weights, torch answers, to rounding the same.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textseg.errors import ModelError, WeightsError

logger = logging.getLogger(__name__)

FLOAT32, BFLOAT16 = "float32", "bfloat16"
"""What a graph is computed in; the latter only by processors that multiply it themselves."""

SPIN_COUNT = "20000"
"""How often a thread of torch's looks whether there is more to do before it sleeps."""

_finding = threading.Lock()
_kept: dict[tuple[object, ...], Graph] = {}


def find(folder: str | Path, name: str) -> Graph | None:
    """Return a folder's graph, which is compiled in the background; None where there is none that can be used.

    Pipelines of one process share it.

    Args:
        folder: with ``<name>.onnx`` and the safetensors file of its weights.
        name: of the graph.
    """
    path = Path(folder) / f"{name}.onnx"
    if not path.is_file() or not is_installed():
        return None
    content = path.read_bytes()
    for weights in sorted(path.parent.glob("*.safetensors")):
        layout = layout_of(weights)
        for precision in (FLOAT32, BFLOAT16):
            if graph_name(precision, layout).encode() in content:
                changed = (file.stat().st_mtime_ns for file in (path, weights))
                key = path.resolve(), weights.name, *changed
                with _finding:  # it begins to compile when it is made, and that once
                    if key not in _kept:
                        _kept[key] = Graph(path, rounded=precision == BFLOAT16)
                    return _kept[key]
    logger.warning("%s is not of the weights beside it, and not used: write it again (textseg.train.graphs)", path)
    return None


def begin(folder: str | Path) -> None:
    """Begin to compile all of a folder's graphs, before torch is imported: that keeps one core busy, and this another.

    torch's threads wait busily for more when they have done something, for a hundredth of a second and longer, and keep
    the cores from those of the graphs. Where nobody has said how long, it is a thousandth from now on.
    """
    paths = sorted(Path(folder).glob("*.onnx")) if Path(folder).is_dir() else []
    for path in paths:
        if find(folder, path.stem) is not None and "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read once, when torch is imported


def graph_name(precision: str, layout: str) -> str:
    """Return what a graph is called inside its file: what it is computed in, and of which weights' layout it is."""
    return f"{precision} of {layout}"


def layout_of(weights: Path) -> str:
    """Return 16 hex digits of the names, shapes, dtypes and places of a safetensors file's tensors; "" of a damaged."""
    size, header = header_of(weights)
    return hashlib.sha256(size + header).hexdigest()[:16] if header.startswith(b"{") else ""


def header_of(weights: Path) -> tuple[bytes, bytes]:
    """Return the eight bytes that a safetensors file begins with, and the JSON whose length they tell."""
    with weights.open("rb") as file:
        size = file.read(8)
        return size, file.read(int.from_bytes(size, "little")) if len(size) == 8 else b""


@cache
def is_installed() -> bool:
    """Whether there is an OpenVINO."""
    return importlib.util.find_spec("openvino") is not None


class Graph:
    """A network for one input at a time, compiled in the background. Threads may share it.

    Args:
        path: the ONNX file.
        rounded: compute in bfloat16 where the processor multiplies it itself; else in float32.
    """

    def __init__(self, path: Path, *, rounded: bool) -> None:
        self.path, self.rounded = path, rounded
        self._compiled = _pool().submit(self._compile)
        self._own = threading.local()
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __call__(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the outputs for one set of inputs, in the file's order.

        Raises:
            WeightsError: the file, or that of the weights, is damaged.
        """
        if not hasattr(self._own, "request"):
            self._own.request = self.ready().create_infer_request()
        request, tensor = self._own.request, _openvino().Tensor
        laid_out = [np.ascontiguousarray(one) for one in inputs]  # read where they lie
        for i, one in enumerate(laid_out):  # to hand them to the call takes a tenth of a millisecond longer
            request.set_input_tensor(i, tensor(one, shared_memory=True))
        return list(request.infer().values())

    def each(self, *batches: NDArray[Any], shared: Sequence[NDArray[Any]] = ()) -> list[NDArray[Any]]:
        """Return the outputs for N inputs asked one after the other, each (N, …).

        Args:
            batches: the inputs, each (N, …), N at least 1.
            shared: those that come before them and are the same for all, each (1, …).

        Raises:
            WeightsError: as for a call.
        """
        answers = [self(*shared, *(batch[i : i + 1] for batch in batches)) for i in range(len(batches[0]))]
        return [np.concatenate(output) for output in zip(*answers, strict=True)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the input of that name, which must not have free axes."""
        if name not in self._shapes:
            self._shapes[name] = tuple(self.ready().input(name).shape)
        return self._shapes[name]

    def ready(self) -> Any:
        """Wait until it is compiled; return OpenVINO's compiled model.

        Raises:
            WeightsError: as for a call. ModelError: OpenVINO cannot be loaded.
        """
        return self._compiled.result()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are found again: what is compiled cannot be copied."""
        return find, (self.path.parent, self.path.stem)

    def _compile(self) -> Any:
        try:
            core = _core()
        except (ImportError, OSError) as error:
            raise ModelError(
                f"OpenVINO cannot be loaded ({error}): install it again, or uninstall it, and torch answers"
            ) from error
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.rounded and _multiplies_bfloat16() else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # torch's threads are not pinned either
        }
        if os.environ.get("OMP_NUM_THREADS", "").isdecimal():  # as torch's
            settings["INFERENCE_NUM_THREADS"] = int(os.environ["OMP_NUM_THREADS"])
        try:
            return core.compile_model(core.read_model(str(self.path)), "CPU", settings)
        except RuntimeError as error:
            raise WeightsError(f"{self.path} is damaged ({error}); install the weights again") from error


@cache
def _pool() -> ThreadPoolExecutor:
    """One thread: compiling takes the time that a process needs to import torch, on another core."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="textseg-graphs")


@cache
def _openvino() -> Any:
    return importlib.import_module("openvino")


@cache
def _core() -> Any:
    return _openvino().Core()


@cache
def _multiplies_bfloat16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
