"""``textseg doctor``: what is installed, and which presets can run here."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from textseg import __version__
from textseg.cli import show

DEPENDENCIES = (
    "torch", "torchvision", "transformers", "open_clip_torch", "timm", "tokenizers", "safetensors",
    "huggingface_hub", "numpy", "pillow", "opencv-python-headless", "pycocotools", "supervision", "gradio",
    "typer", "rich", "PyYAML",
)  # fmt: skip


def doctor() -> None:
    """Say what is installed, which devices there are, and which presets can run here."""
    table = show.simple_table("what", "here")
    table.add_row("textseg", f"{__version__} in {Path(__file__).resolve().parents[1]}")
    table.add_row("Python", f"{platform.python_version()} ({sys.executable})")
    table.add_row("system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores")
    table.add_row("memory", memory())
    table.add_row("disk", f"{shutil.disk_usage(Path.home()).free / 1e9:.0f} GB free")
    table.add_row("devices", devices())
    for name in DEPENDENCIES:
        table.add_row(name, installed(name))
    table.add_row("openvino", installed("openvino", "none: torch answers nano's phrases, in a longer time"))
    show.console().print(table)
    _presets()


def installed(name: str, otherwise: str | None = None) -> str:
    """Return the version of a distribution; of one that is missing ``otherwise``, or "MISSING"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return otherwise or f"MISSING: pip install {name}"


def memory() -> str:
    """Return how much memory the machine has, where the system tells."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{total / 1e9:.0f} GB"


def devices() -> str:
    """Return the devices that torch can use."""
    try:
        import torch
    except ImportError as error:
        return f"torch does not load: {error}"
    found = ["cpu"]
    found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(found)


def _presets() -> None:
    from textseg import downloads
    from textseg.config import preset_names, read_preset
    from textseg.errors import ConfigError

    table = show.simple_table("preset", "device", "can it run here?")
    for name in preset_names():
        try:
            preset = read_preset(name)
            table.add_row(name, preset.device, downloads.summary(preset))
        except ConfigError as error:
            table.add_row(name, "–", str(error))
    show.console().print(table)
