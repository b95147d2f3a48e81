"""Runs of ``textseg label`` in processes of their own, and what their stores hold: for ``label_robustness.py``."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from textseg.errors import DataError
from textseg.label.store import Store

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def photographs(
    data: Path, count: int, seed: int = 0, folders: str = "coco,ccp,caltech101,vehicles-openimages"
) -> list[Path]:
    """Return ``count`` pictures drawn at random from the folders of ``data`` that are there."""
    roots = [data / name for name in folders.split(",") if (data / name).is_dir()] or [data]
    found = sorted(path for root in roots for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < count:
        raise SystemExit(f"{data}: {len(found)} pictures, {count} are needed")
    return random.Random(seed).sample(found, count)


def linked(pictures: list[Path], folder: Path) -> Path:
    """Return a folder with a link to each picture, numbered."""
    folder.mkdir(parents=True)
    for i, path in enumerate(pictures):
        (folder / f"{i:05d}{path.suffix.lower()}").symlink_to(path.resolve())
    return folder


def words(pictures: Path, out: Path, *more: str) -> list[str]:
    """Return the command line after ``textseg``."""
    return ["label", str(pictures), "--classes", "car", "-o", str(out), *more]


def start(arguments: list[str], *, log: Path | None = None, plain: bool = False) -> subprocess.Popen[str]:
    """Start ``textseg …`` in a process of its own.

    Args:
        arguments: what follows ``textseg``.
        log: where its output goes; None keeps it for ``communicate``.
        plain: without root's power over file permissions, so that they hold whoever runs this.
    """
    command = [sys.executable, "-m", "textseg.cli", *arguments]
    if plain and os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    out: Any = subprocess.PIPE if log is None else log.open("w")
    return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait; return the exit code and the last line that was printed."""
    text, _ = process.communicate()
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return process.returncode, lines[-1] if lines else ""


def rows(out: Path) -> dict[str, str]:
    """Return key → hash of everything the store holds of a picture that is done; {} where there is no store yet."""
    try:
        with Store.read(out) as store, store.snapshot():
            return {p.key: hashlib.sha256(repr((p, masks)).encode()).hexdigest() for p, masks in store.labelled()}
    except DataError:
        return {}


def labels(out: Path) -> dict[str, list[tuple[str, str, float]]]:
    """Return key → class, pixels and score of each mask."""
    with Store.read(out) as store:
        return {p.key: [(m.label, m.counts, m.score) for m in masks] for p, masks in store.labelled()}


def sound(out: Path) -> list[str]:
    """Return what SQLite finds wrong with a store; nothing where there is none yet."""
    try:
        with Store.read(out) as store:
            return store.check()
    except DataError as error:
        return [] if "missing" in str(error) or "is empty" in str(error) else [str(error)]


def count(out: Path) -> int:
    """Return how many pictures are finished, well or not."""
    try:
        with Store.read(out) as store:
            return store.count()
    except DataError:
        return 0
