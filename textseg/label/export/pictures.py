"""The pictures of an export: copied, hard-linked or referenced, and always in the frame of the masks.

Masks are in the frame of the *upright* picture, and readers differ in whether they apply a camera's rotation tag. So
a picture that is tagged as rotated is never copied as it is: it is decoded, turned upright and written as PNG, without
loss. The same goes for video frames and for file types that training code does not read.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image

from textseg.errors import DataError, ImageError
from textseg.label.items import FRAME, ZIP, read_bytes, read_uri

logger = logging.getLogger(__name__)

Mode = Literal["copy", "hardlink", "reference"]
MODES: tuple[Mode, ...] = ("copy", "hardlink", "reference")

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
_ORIENTATION = 0x0112


@dataclass
class PictureFile:
    """One picture on its way into exports; what had to be encoded is kept for the next format.

    Attributes:
        uri: where its pixels are.
        stem: its file name without suffix.
        suffix: of the exported file.
        path: the file, where it can be taken as it is; None where it has to be written.
        data: the encoded picture, where it was read or written already.
    """

    uri: str
    stem: str
    suffix: str
    path: Path | None
    data: bytes | None = field(default=None, repr=False)

    def put(self, folder: Path, mode: Mode, suffix: str | None = None) -> str:
        """Put the picture into a folder and return its name there; ``suffix`` replaces its own.

        Where linking is asked for and cannot be done (another disk, a picture that must be turned), it is copied.
        """
        name = self.stem + (suffix or self.suffix)
        target = folder / name
        if self.path is not None and mode != "copy" and _link(self.path, target, mode):
            return name
        if self.path is not None:
            shutil.copyfile(self.path, target)
        else:
            target.write_bytes(self._encoded())
        return name

    def _encoded(self) -> bytes:
        if self.data is None:
            self.data = _png(self.uri)
        return self.data


def open_picture(uri: str, stem: str, size_hw: tuple[int, int]) -> PictureFile:
    """Return the picture behind a store's ``uri``, after a look at its header (its pixels, for a video's frame).

    Raises:
        ImageError: it is missing, damaged, or no longer of the size that was labelled.
        DataError: it needs a package that is not installed.
    """
    path = Path(uri) if "://" not in uri and FRAME not in uri else None
    if FRAME in uri and path is None:
        return _frame(uri, stem, size_hw)
    data = None if path is not None else _bytes(uri)
    try:
        with PIL.Image.open(path if data is None else io.BytesIO(data)) as opened:  # type: ignore[arg-type]
            kind, (width, height) = opened.format or "", opened.size
            turned = int(opened.getexif().get(_ORIENTATION, 1) or 1)
    except Exception as error:  # Pillow raises almost anything on damaged files
        raise ImageError(f"{uri}: cannot be read: {error or type(error).__name__}") from error
    found = (width, height) if turned in (5, 6, 7, 8) else (height, width)
    if found != size_hw:
        raise ImageError(f"{uri}: is {found[1]}x{found[0]} now, was {size_hw[1]}x{size_hw[0]} when it was labelled")
    known = _SUFFIXES.get(kind, ())
    if not known or turned != 1:
        return PictureFile(uri, stem, ".png", None)
    suffix = Path(uri).suffix.lower()
    return PictureFile(uri, stem, suffix if suffix in known else known[0], path, data)


def _frame(uri: str, stem: str, size_hw: tuple[int, int]) -> PictureFile:
    made = PictureFile(uri, stem, ".png", None, _png(uri))
    with PIL.Image.open(io.BytesIO(made.data or b"")) as opened:
        if opened.size != (size_hw[1], size_hw[0]):
            raise ImageError(f"{uri}: its frames have another size than when it was labelled")
    return made


def _bytes(uri: str) -> bytes:
    if uri.startswith(ZIP):
        inner, archive = uri.removeprefix(ZIP).rsplit("::", 1)
        try:
            with zipfile.ZipFile(archive) as opened:
                return opened.read(inner)
        except Exception as error:  # zipfile and zlib raise almost anything on damaged archives
            raise ImageError(f"{uri}: cannot be read: {error or type(error).__name__}") from error
    return read_bytes(uri)


def _png(uri: str) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(np.asarray(read_uri(uri).rgb)).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _link(source: Path, target: Path, mode: Mode) -> bool:
    try:
        if mode == "hardlink":
            os.link(source.resolve(), target)
        else:
            target.symlink_to(source.resolve())
    except OSError as error:
        logger.debug("%s: cannot be linked (%s), copied instead", source, error)
        return False
    return True


def check_mode(mode: str) -> Mode:
    """Return the mode.

    Raises:
        DataError: not one of ``MODES``.
    """
    for known in MODES:
        if mode == known:
            return known
    raise DataError(f"pictures: got {mode!r}, expected one of {', '.join(MODES)}")
