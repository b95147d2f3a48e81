"""What a figure was measured on: the machine, the versions, and the weights by their hashes."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import textseg
from textseg.build import resolve
from textseg.config import Preset
from textseg.protocols import ROLES

_LIBRARIES = ("torch", "transformers", "open_clip_torch", "numpy", "opencv-python-headless")


def machine_info() -> dict[str, Any]:
    """Return JSON-ready facts: processor, cores that may be used, memory, Python and library versions."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "vectors": _vectors(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "textseg": textseg.__version__,
        "libraries": versions,
    }


def machine_line() -> str:
    """Return the same in one line, for the head of a table."""
    info = machine_info()
    torch = info["libraries"].get("torch", "none")
    memory = f", {info['memory_gib']} GiB" if info["memory_gib"] else ""
    cores = f"{info['processor']} ({info['vectors']}), {info['cores']} cores"
    return f"{cores}{memory}, Python {info['python']}, torch {torch}"


def weights_hashes(preset: Preset) -> dict[str, str]:
    """Return role/file → SHA-256 (first 16 hex digits) of every weights file that lies on this disk.

    A model that is loaded from the hub is given by its id.
    """
    found: dict[str, str] = {}
    for role in sorted(ROLES):
        model = getattr(preset, role)
        if model is None:
            continue
        place = Path(resolve(model.model))
        if not place.exists():
            found[role] = model.model
            continue
        files = sorted(place.rglob("*.safetensors")) if place.is_dir() else [place]
        for file in files:
            found[f"{role}/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return found


def peak_mib(pid: int | None = None) -> float:
    """Return the most memory that a process has held so far, MiB; of this one where there is no ``pid``.

    On Linux what ``getrusage`` says counts what the process was forked from, too, a benchmark with all its models.
    Another system tells it of this process alone. 0 of a process that has ended.
    """
    status = Path(f"/proc/{'self' if pid is None else pid}/status")
    if pid is not None or status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _vectors() -> str:
    """Return what torch's products are made with, for two processors of one name may differ by it: "AVX2" …"""
    import torch

    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{kind} with bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else kind


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
