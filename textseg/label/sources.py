"""Where the pictures come from: each source is a lazy stream of items with keys that stay the same."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from textseg.errors import ConfigError, DataError
from textseg.label import coco_source, video
from textseg.label.items import FSSPEC_ADVICE, ZIP, Item, path_uri, safe_key

logger = logging.getLogger(__name__)

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif", ".jp2",
    ".ico", ".pcx", ".ppm", ".pgm", ".pbm", ".tga", ".mpo", ".heic", ".heif",
)  # fmt: skip
"""Files with these endings are taken for pictures; what then cannot be read is listed as failed, never passed over."""

LISTS = (".txt", ".lst", ".list")


@dataclass(frozen=True)
class Source:
    """Pictures to be labelled.

    Attributes:
        name: what it is, spelled the same in every run; part of the settings.
        items: makes a fresh stream of items, in a fixed order.
        countable: whether going through ``items`` is cheap, so that the time left can be told.
        class_names: the classes that the source itself names (COCO), else empty.
        options: what else decides which pictures there are; part of the settings.
    """

    name: str
    items: Callable[[], Iterator[Item]]
    countable: bool = True
    class_names: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, from 1: every picture is in exactly one part, on any machine.

    Raises:
        ConfigError: not 1 ≤ index ≤ count.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(f"shard: got {self.index}/{self.count}, expected such as 3/8 (from 1/8 to 8/8)")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of ``"3/8"``."""
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if match is None:
            raise ConfigError(f"shard: got {text!r}, expected such as 3/8")
        return cls(int(match[1]), int(match[2]))

    def __contains__(self, key: str) -> bool:
        digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


def open_source(what: str | Path, *, every_seconds: float = 1.0, leave_out: Sequence[Path] = ()) -> Source:
    """Return the source behind a path.

    Args:
        what: a folder (all pictures below it), a glob (``"photos/**/*.jpg"``, quoted from the shell), a text file
            with one path a line, a ZIP, a COCO JSON, a video, a single picture, or an fsspec address
            (``"s3://bucket/photos"``, also with ``*``).
        every_seconds: between two frames of a video.
        leave_out: folders that are not entered, such as the output.

    Raises:
        DataError: there is nothing there, or it is none of these.
    """
    text = os.fspath(what)
    if "://" in text:
        return Source(text, partial(_address, text))
    path = Path(text).expanduser()
    if path.is_dir():
        left_out = frozenset(os.path.abspath(folder) for folder in leave_out)
        return Source(path_uri(path), partial(_folder, path, left_out))
    if not path.exists():
        if glob.has_magic(text):
            return Source(path_uri(path), partial(_glob, os.path.expanduser(text)))
        raise DataError(f"{text!r}: no such file or folder; check the path (working folder: {Path.cwd()})")
    return _file(path, every_seconds)


def _file(path: Path, every_seconds: float) -> Source:
    name, suffix = path_uri(path), path.suffix.lower()
    if suffix == ".zip":
        _check_zip(path)
        return Source(name, partial(_zip, path))
    if suffix == ".json":
        coco = coco_source.read(path)
        return Source(name, coco.items, class_names=coco.class_names)
    if suffix in LISTS:
        return Source(name, partial(_list, path))
    if suffix in video.SUFFIXES:
        options = (("every_seconds", every_seconds),)
        return Source(name, partial(video.frames, path, every_seconds), countable=False, options=options)
    if suffix in SUFFIXES:
        return Source(name, partial(_single, path))
    raise DataError(
        f"{path}: expected a folder, a glob, a list ({', '.join(LISTS)}), a .zip, a COCO .json, a video or a picture"
    )


def is_picture(name: str) -> bool:
    """Return whether a file's name is that of a picture; hidden files (``._photo.jpg``) are not."""
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")


def _single(path: Path) -> Iterator[Item]:
    yield Item(safe_key(path.name), path_uri(path))


def _folder(root: Path, left_out: frozenset[str]) -> Iterator[Item]:
    """Yield the pictures below a folder, folder by folder, names in order; links to folders are not followed."""
    unlisted: list[OSError] = []
    for folder, subfolders, names in os.walk(root, onerror=unlisted.append):
        while unlisted:
            yield _unlisted(root, unlisted.pop())
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and os.path.abspath(os.path.join(folder, name)) not in left_out
        )
        pictures = sorted(filter(is_picture, names))
        if not pictures and not subfolders and folder != str(root) and is_picture(os.path.basename(folder)):
            yield _no_picture(root, folder)
        for name in pictures:
            path = Path(folder, name)
            yield Item(safe_key(os.path.relpath(path, root)), path_uri(path))
    while unlisted:
        yield _unlisted(root, unlisted.pop())


def _unlisted(root: Path, error: OSError) -> Item:
    folder = str(error.filename or root)
    key = safe_key(os.path.relpath(folder, root)) + "/"
    return Item(key, path_uri(Path(folder)), problem=f"{folder}: the folder cannot be listed: {error.strerror}")


def _no_picture(root: Path, folder: str) -> Item:
    """Return what lists a folder that is called like a picture and holds none: something went wrong there."""
    key = safe_key(os.path.relpath(folder, root)) + "/"
    return Item(key, path_uri(Path(folder)), problem=f"{folder}: a folder without pictures, expected a picture file")


def _glob(pattern: str) -> Iterator[Item]:
    """Yield what a glob matches; keys are relative to the part before the first wildcard."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    root = Path(*parts[:fixed]) if fixed else Path()
    for name in sorted(set(glob.iglob(pattern, recursive=True))):
        if is_picture(name.replace(os.sep, "/")) and not os.path.isdir(name):
            yield Item(safe_key(os.path.relpath(name, root)), path_uri(Path(name)))


def _list(path: Path) -> Iterator[Item]:
    """Yield a list's lines: paths (relative to the list's folder) or addresses; blank and ``#`` lines are no items."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                name = line.strip()
                if not name or name.startswith("#"):
                    continue
                uri = name if "://" in name else path_uri(path.parent / Path(name).expanduser())
                yield Item(safe_key(name), uri)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path):
            pass
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be opened as a ZIP: {error}; get the file again") from error


def _zip(path: Path) -> Iterator[Item]:
    archive = path_uri(path)
    with zipfile.ZipFile(path) as opened:
        names = sorted({info.filename for info in opened.infolist() if not info.is_dir()})
    for name in names:
        if is_picture(name) and not name.startswith("__MACOSX/"):
            yield Item(safe_key(name), f"{ZIP}{name}::{archive}")


def _address(url: str) -> Iterator[Item]:
    """Yield the pictures below an fsspec address, or those that match its wildcards."""
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(url)
        wild = glob.has_magic(root)
        names = system.glob(root) if wild else system.find(root)
        if wild:
            root = re.split(r"[*?\[]", root, maxsplit=1)[0].rpartition("/")[0]
        found = [(name, system.unstrip_protocol(name)) for name in sorted(names) if is_picture(name)]
    except ImportError as error:
        raise DataError(f"{url}: {error}; {FSSPEC_ADVICE}") from error
    except Exception as error:  # every file system has errors of its own
        raise DataError(f"{url}: cannot be listed: {error or type(error).__name__}") from error
    for name, address in found:
        yield Item(safe_key(name.removeprefix(root).lstrip("/") or name.rsplit("/", 1)[-1]), address)
