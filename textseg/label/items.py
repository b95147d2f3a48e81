"""One picture to be labelled, and reading its pixels from wherever it is."""

from __future__ import annotations

import io
import os
import stat
import urllib.parse
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from textseg import image as images
from textseg.errors import DataError, ImageError
from textseg.types import Image

MAX_BYTES = 1 << 30
"""Larger files are not read: no picture is that big, and one that claims to be would fill the memory."""

ZIP = "zip://"
FRAME = "#pts="
FSSPEC_ADVICE = "pip install fsspec and the package of that protocol (s3fs, gcsfs …)"


@dataclass(frozen=True)
class GivenBox:
    """A box that is known already and wants a mask.

    Attributes:
        label: its class.
        box_xyxy: pixels of the original picture.
        origin: the id of its annotation.
    """

    label: str
    box_xyxy: tuple[float, float, float, float]
    origin: str


@dataclass(frozen=True)
class Item:
    """One picture of a source.

    Attributes:
        key: its name within the source; the same in every run, whatever the order.
        uri: where its pixels are: a path, ``zip://inner.jpg::/archive.zip``, ``/video.mp4#pts=512`` or an
            address that fsspec opens.
        image: the pixels, where the source had to decode them anyway (video); None reads ``uri``.
        boxes: boxes to be turned into masks; None where the phrases are to be looked for.
        labels: the only classes to look for; None for all.
        problem: why this one cannot be read, where the source knows already (a folder that cannot be listed).
    """

    key: str
    uri: str
    image: Image | None = field(default=None, repr=False)
    boxes: tuple[GivenBox, ...] | None = None
    labels: tuple[str, ...] | None = None
    problem: str = ""

    def read(self) -> Image:
        """Return the picture.

        Raises:
            ImageError: it is missing, empty, damaged, too large or not a picture.
        """
        if self.problem:
            raise ImageError(self.problem)
        return read_uri(self.uri) if self.image is None else self.image


def safe_key(name: str) -> str:
    """Return a name with forward slashes that UTF-8 can hold; undecodable bytes become ``\\\\udcff`` and the like."""
    return name.replace(os.sep, "/").encode("utf-8", "backslashreplace").decode("utf-8")


def path_uri(path: Path) -> str:
    """Return the absolute path, or a ``file://`` address where UTF-8 cannot hold it."""
    absolute = Path(os.path.abspath(path))  # links stay: a folder of links is labelled under the links' names
    try:
        str(absolute).encode("utf-8")
    except UnicodeEncodeError:
        return absolute.as_uri()
    return str(absolute)


def read_uri(uri: str) -> Image:
    """Return the picture behind a ``uri`` of an item or of the store, upright, RGB.

    Raises:
        ImageError: it is missing, empty, damaged, too large or not a picture.
        DataError: it needs a package that is not installed.
    """
    if uri.startswith(ZIP):
        return _read_zip(uri)
    if FRAME in uri:
        from textseg.label.video import read_frame

        path, pts = uri.rsplit(FRAME, 1)
        return read_frame(path, int(pts))
    if uri.startswith("file://"):
        return _read_file(os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix("file://"))))
    if "://" in uri:
        return _from_bytes(read_bytes(uri), uri)
    return _read_file(uri)


def read_bytes(uri: str) -> bytes:
    """Return what an fsspec address holds.

    Raises:
        ImageError: it cannot be fetched. DataError: its protocol needs a package that is not installed.
    """
    try:
        import fsspec

        with fsspec.open(uri, "rb") as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except ImportError as error:
        raise DataError(f"{uri}: {error}; {FSSPEC_ADVICE}") from error
    except Exception as error:  # every file system has errors of its own
        raise ImageError(f"{uri}: cannot be read: {error or type(error).__name__}") from error
    return data


def _read_file(path: str) -> Image:
    """Read a regular file; pipes and devices, which could block or never end, are refused."""
    try:
        about = os.stat(path)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error
    if not stat.S_ISREG(about.st_mode):
        raise ImageError(f"{path}: not a regular file, expected a picture file")
    if about.st_size > MAX_BYTES:
        raise ImageError(f"{path}: {about.st_size / 1e9:.1f} GB, expected at most {MAX_BYTES / 1e9:.1f} GB")
    return images.read(Path(path))


def _read_zip(uri: str) -> Image:
    inner, archive = uri.removeprefix(ZIP).rsplit("::", 1)
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(inner) as file:  # read() checks the CRC
            return _from_bytes(file.read(MAX_BYTES + 1), uri)
    except ImageError:
        raise
    except Exception as error:  # zipfile and zlib raise almost anything on damaged or encrypted archives
        raise ImageError(f"{uri}: cannot be read: {error or type(error).__name__}") from error


def _from_bytes(data: bytes, uri: str) -> Image:
    if len(data) > MAX_BYTES:
        raise ImageError(f"{uri}: more than {MAX_BYTES / 1e9:.1f} GB, expected a picture")
    file = io.BytesIO(data)
    file.name = uri  # images.read names it in its messages
    return replace(images.read(file), source=uri)
