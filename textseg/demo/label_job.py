"""One labelling job: uploads in, a data set out, by the store, the runner and the exporters of ``textseg label``."""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from textseg import draw
from textseg import image as images
from textseg.demo.background import Told
from textseg.demo.limits import Limits, new_folder, without_folders
from textseg.errors import DataError, TextsegError
from textseg.label import ontology, settings
from textseg.label.export import export
from textseg.label.items import ZIP, Item, read_uri
from textseg.label.records import MaskRow, PictureRow
from textseg.label.run import LocalEngine, Progress, RunConfig
from textseg.label.run import label as run
from textseg.label.sources import Source, open_source
from textseg.label.store import Store
from textseg.label.work import Labeller
from textseg.pipeline import Pipeline
from textseg.types import UInt8

logger = logging.getLogger(__name__)

GALLERY = 60
"""So many pictures are shown; the data set has all."""

THUMBNAIL = 480  # longer side, pixels


@dataclass(frozen=True)
class Labels:
    """What became of a job.

    Attributes:
        data_set: the ZIP with one folder a format.
        done, failed: pictures labelled, and not labelled.
        masks: how many.
        per_class: class → masks.
        failures: (picture, reason) of what failed.
        left_over: pictures beyond the limit, which were not tried.
        gallery: (overlay uint8 (h, w, 3), caption) of the first pictures.
    """

    data_set: Path
    done: int
    failed: int
    masks: int
    per_class: dict[str, int]
    failures: tuple[tuple[str, str], ...]
    left_over: int
    gallery: tuple[tuple[UInt8, str], ...]

    def sentence(self) -> str:
        """Return the counts in words, and what failed."""
        counts = ", ".join(f"{count} {name}" for name, count in self.per_class.items())
        lines = [f"{self.done} pictures labelled, {self.masks} masks: {counts}"]
        lines += [f"not labelled: {key}: {reason}" for key, reason in self.failures]
        if self.left_over:
            lines.append(f"{self.left_over} more pictures were not tried: this page labels a limited number at once")
        return "\n".join(lines)


def label(
    pipeline: Pipeline,
    uploads: Sequence[str],
    classes: str,
    threshold: float | None,
    formats: Sequence[str],
    limits: Limits,
    tell: Told,
) -> Labels:
    """Label pictures and export them.

    Args:
        pipeline: the models.
        uploads: picture files, or one ZIP.
        classes: names, as in ``textseg label --classes``.
        threshold: least score, 0..1; None takes the preset's.
        formats: of ``textseg.label.export.FORMATS``.
        limits: how many pictures, how large.
        tell: is called with (pictures tried, pictures in all) after every picture.

    Raises:
        DataError: no picture came, the ZIP is damaged, or no picture could be labelled.
        ConfigError: the classes, the threshold or a format is unusable.
    """
    names = ontology.from_names(classes or "")
    labeller = Labeller(pipeline, names, threshold)
    folder = new_folder()
    try:
        source = _source(uploads, folder / "pictures", limits)
        decided = settings.make(pipeline, names, source="upload", threshold=threshold)
        with Store.write(folder / "labels") as store:
            store.begin(decided, names.names)
            progress = run(
                LocalEngine(labeller, readers=1, ahead=2),
                source,
                store,
                RunConfig(limit=limits.max_files),
                lambda one: tell(one.tried, min(one.total or 0, limits.max_files)),
            )
            if not progress.done:
                raise DataError(f"no picture could be labelled: {_first_failure(store)}")
            export(store, list(formats), folder / "data_set")
            return _labels(store, progress, _zipped(folder / "data_set"))
    finally:
        for part in ("pictures", "labels", "data_set"):
            shutil.rmtree(folder / part, ignore_errors=True)


def _source(uploads: Sequence[str], folder: Path, limits: Limits) -> Source:
    """Return the uploads as a source of the labeller; what is too large is a failed item, not an error."""
    paths = [Path(path) for path in uploads or ()]
    if not paths:
        raise DataError("no picture: choose some, or one ZIP, first")
    zips = [path for path in paths if path.suffix.lower() == ".zip"]
    if zips and len(paths) > 1:
        raise DataError(f"got {len(zips)} ZIP and {len(paths)} files in all, expected pictures or one ZIP alone")
    if zips:
        source = open_source(zips[0])
    else:
        folder.mkdir()
        for number, path in enumerate(paths):
            name = path.name if not (folder / path.name).exists() else f"{path.stem}-{number}{path.suffix}"
            (folder / name).symlink_to(path)
        source = open_source(folder)
    count = sum(1 for _ in source.items())
    if not count:
        raise DataError("no picture among the files: expected JPEG, PNG, WebP … or a ZIP of such")
    return replace(source, items=lambda: _checked(source, limits))


def _checked(source: Source, limits: Limits) -> Iterator[Item]:
    for item in source.items():
        problem = _problem(item, limits)
        yield replace(item, problem=problem) if problem else item


def _problem(item: Item, limits: Limits) -> str:
    """Return what is wrong with a picture's size, told from its head; "" where nothing is."""
    try:
        if not item.uri.startswith(ZIP):
            return _head_problem(item.key, item.uri, limits)
        inner, archive = item.uri.removeprefix(ZIP).rsplit("::", 1)
        with zipfile.ZipFile(archive) as opened:
            size = opened.getinfo(inner).file_size
            if size > limits.max_file_bytes:
                return f"{item.key}: {size / 1e6:.0f} MB unpacked, more than the limit of {limits.max_file_mb} MB"
            with opened.open(inner) as file:
                return _head_problem(item.key, file, limits)
    except Exception as error:  # reading it will tell what is wrong
        logger.debug("%s: %s", item.key, error)
        return ""


def _head_problem(key: str, file: object, limits: Limits) -> str:
    with PIL.Image.open(file, formats=[f for f in images.FORMATS if f in PIL.Image.OPEN]) as picture:  # type: ignore[arg-type]
        width, height = picture.size
    if width * height <= limits.max_pixels:
        return ""
    return f"{key}: {width}x{height} is {width * height / 1e6:.0f} Mpx, more than {limits.max_pixels / 1e6:g} Mpx"


def _first_failure(store: Store) -> str:
    row = next(store.pictures("failed"), None)
    return "nothing was tried" if row is None else without_folders(row.error)


def _zipped(folder: Path) -> Path:
    target = folder.with_name("textseg_labels")
    return Path(shutil.make_archive(str(target), "zip", folder))


def _labels(store: Store, progress: Progress, data_set: Path) -> Labels:
    per_class = dict.fromkeys(store.classes(), 0)
    gallery: list[tuple[UInt8, str]] = []
    for picture, rows in store.labelled():
        for row in rows:
            per_class[row.label] += 1
        if len(gallery) < GALLERY:
            try:
                gallery.append((_overlay(picture, rows), f"{picture.key}: {len(rows)} masks"))
            except TextsegError as error:
                logger.warning("%s: %s", picture.key, error)
    return Labels(
        data_set,
        progress.done,
        progress.failed,
        sum(per_class.values()),
        per_class,
        tuple((row.key, without_folders(row.error)) for row in store.pictures("failed")),
        max(0, (progress.total or 0) - progress.tried),
        tuple(gallery),
    )


def _overlay(picture: PictureRow, rows: Sequence[MaskRow]) -> UInt8:
    """Return a small picture with the masks of the store."""
    height, width = picture.size_hw
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(np.asarray(read_uri(picture.uri).rgb), size, interpolation=cv2.INTER_AREA)
    masks = np.zeros((len(rows), size[1], size[0]), np.bool_)
    for k, row in enumerate(rows):
        masks[k] = cv2.resize(row.mask().astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    texts = [f"{draw.shorten(row.label)} {row.score:.2f}" for row in rows]
    seen = [int(k) for k in np.flatnonzero(masks.any(axis=(1, 2)))]
    return draw.paint(
        np.asarray(small, np.uint8), masks[seen], [rows[k].class_id for k in seen], [texts[k] for k in seen]
    )
