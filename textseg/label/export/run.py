"""One pass over a store's pictures that feeds every format; each export appears whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textseg import __version__
from textseg.errors import ConfigError, DataError, TextsegError, nearest
from textseg.label import queue
from textseg.label.export import coco, hf, labelme, labelstudio, masks, sa1b, split, voc, yolo
from textseg.label.export.base import Entry, Job, Options, Writer, write_json
from textseg.label.export.names import Names
from textseg.label.export.pictures import PictureFile, open_picture
from textseg.label.records import MaskRow, PictureRow
from textseg.label.store import Store

logger = logging.getLogger(__name__)

PROVENANCE = "provenance.json"
"""Written into every export; a folder that has one may be replaced by a later export."""

_WRITERS: dict[str, Callable[[Job], Writer]] = {
    "coco": coco.CocoWriter,
    "coco-polygons": functools.partial(coco.CocoWriter, polygons=True),
    "yolo-seg": yolo.YoloWriter,
    "yolo-boxes": functools.partial(yolo.YoloWriter, boxes=True),
    "voc": voc.VocWriter,
    "labelme": labelme.LabelmeWriter,
    "labelme-polygons": functools.partial(labelme.LabelmeWriter, polygons=True),
    "masks": masks.MasksWriter,
    "labelstudio": labelstudio.LabelStudioWriter,
    "sa1b": sa1b.Sa1bWriter,
    "hf": hf.HfWriter,
}

FORMATS: tuple[str, ...] = tuple(_WRITERS)
_LISTED = 100  # pictures left out that the report names


@dataclass(frozen=True)
class Report:
    """What one format's export holds.

    Attributes:
        format: its name.
        folder: where it is.
        pictures: how many, with those without objects.
        without_objects: how many of them have none.
        masks: how many.
        splits: part → pictures; empty where no split was asked for.
        left_out: key → why a picture is not there, the first hundred.
        left_out_count: how many are not there.
        loss: "masks", "inexact", "mean_iou", "min_iou" as a reader gets them back; None for a format without masks.
    """

    format: str
    folder: Path
    pictures: int
    without_objects: int
    masks: int
    splits: dict[str, int]
    left_out: dict[str, str]
    left_out_count: int
    loss: dict[str, Any] | None

    def loss_text(self) -> str:
        """Return the loss in words: "exact", or the mean and the least IoU."""
        if self.loss is None:
            return "boxes only"
        if not self.loss["inexact"]:
            return "exact"
        mean, least = self.loss["mean_iou"], self.loss["min_iou"]
        return f"{self.loss['inexact']} of {self.loss['masks']} masks changed: IoU {mean:.4f} mean, {least:.4f} least"


def export(store: Store, formats: Sequence[str], out: Path, options: Options | None = None) -> list[Report]:
    """Write a store in several formats, each into its own folder ``out/<format>``.

    Args:
        store: open to read or to write; it may be written meanwhile, a snapshot is exported.
        formats: of ``FORMATS``.
        out: the folder; an earlier export of the same format there is replaced once the new one is complete.
        options: split, pictures, what is left out.

    Returns:
        One report a format.

    Raises:
        ConfigError: an unknown format. DataError: nothing to export, the disk is full or read-only, or ``out`` holds
            a folder of that name that is no export.
    """
    options = options or Options()
    wanted = list(dict.fromkeys(formats))
    for name in wanted:
        if name not in _WRITERS:
            raise ConfigError(f"export: unknown format {name!r}; {nearest(name, FORMATS)}")
    out = Path(out)
    for name in wanted:
        _check_target(out / name)
    with store.snapshot(), contextlib.ExitStack() as stack, _told(out):
        if not store.count("done"):
            raise DataError(f"{store.path}: no picture is labelled yet; nothing to export")
        parts = {name: stack.enter_context(_part(out / name)) for name in wanted}
        about = provenance(store, options)
        waiting = queue.waiting(store, options.confident) if options.confident is not None else {}
        run = _Run(store, options, waiting)
        files = stack.enter_context(contextlib.ExitStack())
        writers = {name: _WRITERS[name](run.job(parts[name], about, files)) for name in wanted}
        for entry in run.entries():
            for writer in writers.values():
                writer.add(entry)
        reports = []
        for name, writer in writers.items():
            writer.close()
            report = run.report(name, out / name, None if writer.loss is None else writer.loss.to_dict())
            write_json(parts[name] / PROVENANCE, {**about, "export": _summary(report)})
            reports.append(report)
        for name in wanted:
            _replace(parts[name], out / name)
    for report in reports:
        _log(report)
    return reports


class _Run:
    """The loop's state: numbers, names, the split and what was left out."""

    def __init__(self, store: Store, options: Options, waiting: dict[str, str]) -> None:
        self._store, self._options, self._waiting = store, options, waiting
        self._names = Names()
        self._left_out: dict[str, str] = {}
        self._left_out_count = 0
        self._count: Counter[str] = Counter()
        self._parts: Counter[str] = Counter()
        self._split: dict[str, str] = {}
        if options.split is not None:
            rows = ((picture.key, frozenset(row.class_id for row in rows)) for picture, rows in self._kept())
            self._split = split.assign(rows, options.split, options.seed)

    def job(self, folder: Path, about: dict[str, Any], files: contextlib.ExitStack) -> Job:
        shares = self._options.split
        splits = ("",) if shares is None else tuple(p for p, s in zip(split.PARTS, shares, strict=False) if s > 0)
        return Job(folder, self._store.classes(), self._options, splits, about, files)

    def entries(self) -> Iterator[Entry]:
        """Yield the pictures that are exported; those that cannot be read any more are left out and told."""
        for picture, rows in self._kept(note=True):
            name = self._names(picture.key)
            try:
                file = self._file(picture, name)
            except TextsegError as error:
                self._leave_out(picture.key, str(error))
                continue
            part = self._split.get(picture.key, "")
            self._count.update(pictures=1, masks=len(rows), without=not rows)
            self._parts[part] += 1
            number = self._count["pictures"]
            yield Entry(number, picture.key, part, picture.size_hw, tuple(rows), file)

    def _kept(self, note: bool = False) -> Iterator[tuple[PictureRow, list[MaskRow]]]:
        for picture, rows in self._store.labelled():
            if picture.key in self._waiting:
                if note:
                    self._leave_out(picture.key, f"waits for a person: {self._waiting[picture.key]}")
                continue
            yield picture, [row for row in rows if self._options.rejected or row.verdict != "reject"]

    @staticmethod
    def _file(picture: PictureRow, name: str) -> PictureFile:
        return open_picture(picture.uri, name, picture.size_hw)

    def _leave_out(self, key: str, why: str) -> None:
        self._left_out_count += 1
        if len(self._left_out) < _LISTED:
            self._left_out[key] = why

    def report(self, name: str, folder: Path, loss: dict[str, Any] | None) -> Report:
        count = self._count
        parts = {} if self._options.split is None else {p: self._parts[p] for p in split.PARTS if p in self._parts}
        return Report(
            name, folder, count["pictures"], count["without"], count["masks"], parts, dict(self._left_out),
            self._left_out_count, loss,
        )  # fmt: skip


def provenance(store: Store, options: Options) -> dict[str, Any]:
    """Return where the labels come from: every run's models, settings and their hash, and how they are exported."""
    runs = [
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(run.started)),
            "ended": run.ended,
            "settings_hash": run.settings_hash,
            "settings": run.settings,
            "models": run.models,
            "textseg": run.version,
        }
        for run in store.runs()
    ]
    how = {"split": options.split, "seed": options.seed, "pictures": options.pictures, "confident": options.confident,
           "rejected": options.rejected}  # fmt: skip
    return {"textseg": __version__, "classes": list(store.classes()), "options": how, "runs": runs}


def _summary(report: Report) -> dict[str, Any]:
    return {
        "format": report.format,
        "pictures": report.pictures,
        "without_objects": report.without_objects,
        "masks": report.masks,
        "splits": report.splits,
        "left_out": report.left_out,
        "left_out_count": report.left_out_count,
        "read_back": report.loss,
    }


def _log(report: Report) -> None:
    counts = f"{report.pictures} pictures, {report.masks} masks"
    logger.info("%s: %s in %s (%s)", report.format, counts, report.folder, report.loss_text())
    if report.loss is not None and report.loss["inexact"]:
        logger.warning("%s cannot hold every mask exactly: %s", report.format, report.loss_text())


# ---------------------------------------------------------------- folders


def _check_target(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not (folder / PROVENANCE).is_file()):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            return
        raise DataError(f"{folder} is there and is no export of textseg; move it away or choose another folder")


@contextlib.contextmanager
def _part(target: Path) -> Iterator[Path]:
    """Give an empty folder beside the target; it is removed unless it was moved to its place."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(part: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot export to {out}: {error}; an earlier export there is unchanged") from error
