"""What every format gets and gives: one picture with its masks at a time, and a measured loss at the end."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from textseg.errors import ConfigError
from textseg.label.export.pictures import Mode, PictureFile, check_mode
from textseg.label.export.split import check
from textseg.label.records import MaskRow
from textseg.types import Bool, UInt8


@dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
        split: shares of train, val and test, such as (0.8, 0.1, 0.1); None makes no split.
        seed: of the split.
        pictures: "copy" them, "hardlink" them (no space, but editing one edits the original), or "reference" them
            (symbolic links; formats that can name a file anywhere name the original).
        confident: 0.5..1, or None. Pictures in which anything is less certain and undecided wait for a person and
            are left out (``queue``).
        rejected: whether masks that a person rejected are exported, too.
    """

    split: tuple[float, ...] | None = None
    seed: int = 0
    pictures: Mode = "copy"
    confident: float | None = None
    rejected: bool = False

    def __post_init__(self) -> None:
        check_mode(self.pictures)
        if self.split is not None:
            object.__setattr__(self, "split", check(self.split))
        if self.confident is not None and not 0.5 <= self.confident <= 1:
            raise ConfigError(f"confident: got {self.confident}, expected a number in 0.5..1")


@dataclass(frozen=True)
class Entry:
    """One picture on its way out.

    Attributes:
        number: from 1, without gaps, in the order of the keys.
        key: the store's.
        split: "train", "val", "test", or "" where no split was asked for.
        size_hw: height and width in pixels, upright.
        rows: its masks.
        picture: its file.
    """

    number: int
    key: str
    split: str
    size_hw: tuple[int, int]
    rows: tuple[MaskRow, ...]
    picture: PictureFile

    @property
    def stem(self) -> str:
        """File name without suffix, unique in the export."""
        return self.picture.stem

    @cached_property
    def masks(self) -> list[Bool]:
        """The masks, bool (H, W) each; decoded once for all formats."""
        return [row.mask() for row in self.rows]


@dataclass
class Loss:
    """IoU of what a reader gets back with what the store holds, over all masks of a format.

    Attributes:
        masks: how many were measured.
        inexact: how many did not come back exactly.
        lowest: the least IoU; 1 where nothing was measured.
    """

    masks: int = 0
    inexact: int = 0
    lowest: float = 1.0
    _sum: float = 0.0

    def add(self, iou: float) -> None:
        """Count one mask."""
        self.masks += 1
        self.inexact += iou < 1.0
        self.lowest = min(self.lowest, iou)
        self._sum += iou

    @property
    def mean(self) -> float:
        """Mean IoU; 1 where nothing was measured."""
        return self._sum / self.masks if self.masks else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"masks": self.masks, "inexact": self.inexact, "mean_iou": self.mean, "min_iou": self.lowest}


class Writer(Protocol):
    """One format being written. ``loss`` is None for a format that holds no masks at all."""

    loss: Loss | None

    def add(self, entry: Entry) -> None:
        """Write one picture with its masks."""

    def close(self) -> None:
        """Write what can only be written at the end."""


@dataclass(frozen=True)
class Job:
    """What a format's writer is made from.

    Attributes:
        folder: an empty folder.
        class_names: index is the class's id.
        options: as given.
        splits: the parts there are; ("",) where no split was asked for.
        about: JSON-ready provenance.
        files: closes what was opened by ``open``, also when the export fails in the middle.
    """

    folder: Path
    class_names: tuple[str, ...]
    options: Options
    splits: tuple[str, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    files: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def open(self, path: Path) -> IO[str]:
        """Open a text file to write."""
        return self.files.enter_context(path.open("w", encoding="utf-8"))

    def made(self, *parts: str) -> Path:
        """Return a folder inside, made if need be; empty names are left out."""
        path = self.folder.joinpath(*(part for part in parts if part))
        path.mkdir(parents=True, exist_ok=True)
        return path

    def place(self, entry: Entry, *parts: str, suffix: str | None = None) -> str:
        """Put a picture into a folder inside and return its name there; ``suffix`` replaces its own."""
        return entry.picture.put(self.made(*parts), self.options.pictures, suffix)

    def located(self, entry: Entry, *parts: str) -> str:
        """As ``place`` for formats that can name a file anywhere: a picture that is referenced is left where it is."""
        if self.options.pictures == "reference" and entry.picture.path is not None:
            return str(entry.picture.path)
        return self.place(entry, *parts)


class JsonList:
    """A JSON list that is written entry by entry, so that its length does not matter to the memory."""

    def __init__(self, job: Job, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file = job.open(path)

    def add(self, value: Any) -> None:
        """Append one entry."""
        self._file.write(("[\n" if not self.count else ",\n") + json.dumps(value, ensure_ascii=False))
        self.count += 1

    def close(self) -> None:
        """End the list."""
        self._file.write("\n]" if self.count else "[]")
        self._file.close()

    def move_into(self, target: IO[str]) -> None:
        """Append the closed list to an open file and delete its own."""
        with self.path.open(encoding="utf-8") as file:
            shutil.copyfileobj(file, target, 1 << 20)
        self.path.unlink()


def write_json(path: Path, values: Any) -> None:
    """Write a small JSON file for people to read."""
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def xywh(row: MaskRow) -> list[float]:
    """Return the box as x, y, width, height in pixels."""
    x0, y0, x1, y1 = row.box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]


def as_bytes(mask: Bool) -> UInt8:
    """Return uint8 (H, W), 0 and 255."""
    return np.asarray(mask, np.uint8) * np.uint8(255)
