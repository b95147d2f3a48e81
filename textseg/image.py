"""Reading a picture from whatever a caller has: always upright 8-bit RGB, or a clear ``ImageError``."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps

from textseg.errors import ImageError
from textseg.types import Image, UInt8

MAX_PIXELS = 100_000_000
"""Pictures of more pixels are refused before they are decoded, unless ``read`` is told another limit."""

FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""File formats that are decoded; Pillow's others (PostScript, which runs a program, and the exotic ones) are not."""

_URL = re.compile(r"^(?:[a-z][a-z0-9+.\-]+://|data:)", re.IGNORECASE)
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ROUNDING = 1e-3  # how far beyond 0..1 a float picture may stray, as resampling makes it


def read(source: Any, max_pixels: int = MAX_PIXELS) -> Image:
    """Return the picture as upright RGB uint8 (H, W, 3), read-only.

    Args:
        source: a path (str or Path); an encoded file's bytes or an open binary file; a PIL image; a numpy
            array, RGB order: uint8 or float in 0..1, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); a torch
            tensor of the same dtypes, (H, W) or (C, H, W); or an ``Image``, which is returned as it is.
            EXIF orientation is applied, transparency is laid on white, an animation gives its first frame
            (a PIL image the frame that it is at), 16-bit values are scaled to 8 bits.
        max_pixels: larger files are refused before decoding.

    Raises:
        ImageError: the file is missing, empty, damaged, too large or not a picture; a URL; an array of another
            shape, dtype or range, or with NaN.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, str | os.PathLike):
        return _from_path(source, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), "bytes", max_pixels)
    if isinstance(source, PIL.Image.Image):
        name = str(getattr(source, "filename", "") or "PIL image")
        return _make(_decode(source, name, max_pixels), name)
    if isinstance(source, np.ndarray):
        return _make(_from_array(source, "array"), "array")
    torch = sys.modules.get("torch")  # a tensor can only come from a program that has imported torch
    if torch is not None and isinstance(source, torch.Tensor):
        return _make(_from_array(_tensor_to_array(source), "tensor"), "tensor")
    if callable(getattr(source, "read", None)):
        return _from_file(source, max_pixels)
    raise ImageError(
        f"picture: got {type(source).__name__}, expected a path, bytes, a binary file, a PIL image, "
        "a numpy array (H, W, 3) or a torch tensor (3, H, W)"
    )


def digest(rgb: UInt8) -> str:
    """Return the hex SHA-256 of uint8 (H, W, 3) pixels and their shape."""
    sha = hashlib.sha256(repr(rgb.shape).encode())
    sha.update(np.ascontiguousarray(rgb).data)
    return sha.hexdigest()


def _make(rgb: UInt8, source: str) -> Image:
    rgb = np.array(rgb, np.uint8, order="C")  # a copy: the caller may change theirs
    rgb.flags.writeable = False
    return Image(rgb, source, digest(rgb))


# ---------------------------------------------------------------- files


def _from_path(source: str | os.PathLike[str], max_pixels: int) -> Image:
    name = os.fspath(source)
    if _URL.match(name):
        raise ImageError(f"{name[:200]!r} is a URL; URLs are not fetched: download it first, then pass the file's path")
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            raise ImageError(f"{name!r} is a folder, expected a picture; use 'textseg label' or batch() for many")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{name!r}: no such file; check the path (working folder: {Path.cwd()})") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(f"{name[:200]!r} cannot be read: {error}") from error
    return _from_bytes(data, name, max_pixels)


def _from_file(file: Any, max_pixels: int) -> Image:
    name = str(getattr(file, "name", "file object"))
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read: {error}") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: read() gave {type(data).__name__}, expected bytes; open the file with mode 'rb'")
    return _from_bytes(data, name, max_pixels)


def _from_bytes(data: bytes, name: str, max_pixels: int) -> Image:
    if not data:
        raise ImageError(f"{name}: zero bytes, expected an encoded picture; if a file object, rewind it with seek(0)")
    PIL.Image.init()
    try:
        with PIL.Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in PIL.Image.OPEN]) as picture:
            return _make(_decode(picture, name, max_pixels), name)
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{name}: {_what_it_is(data)}; expected JPEG, PNG, WebP, TIFF, GIF or BMP") from error
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name}: too large ({error}); raise PIL.Image.MAX_IMAGE_PIXELS as well as max_pixels to trust such files"
        ) from error
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise ImageError(f"{name}: damaged or truncated picture ({error}); get the file again") from error


def _what_it_is(data: bytes) -> str:
    head = data[:2048].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing, which has no pixels: export it as PNG first"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not a picture (was a web page saved in place of the picture?)"
    if head.startswith(b"%pdf"):
        return "a PDF document, not a picture: export the page as PNG first"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "a HEIC picture, which Pillow cannot read: convert it to JPEG first"
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")):
        return "a damaged or truncated picture: get the file again"
    return f"not a picture that can be read (it starts with {data[:12]!r})"


# ---------------------------------------------------------------- PIL


def _decode(picture: PIL.Image.Image, name: str, max_pixels: int) -> UInt8:
    """Return uint8 (H, W, 3) of a PIL image; its size is checked before its pixels are decoded."""
    w, h = picture.size
    if w * h == 0:
        raise ImageError(f"{name}: {w}x{h} pixels, expected at least 1x1")
    if w * h > max_pixels:
        raise ImageError(
            f"{name}: {w}x{h} is {w * h / 1e6:.1f} Mpx, more than the limit of {max_pixels / 1e6:g} Mpx; "
            "shrink it, or pass a larger max_pixels if you trust it"
        )
    try:
        picture.load()
        upright = PIL.ImageOps.exif_transpose(picture)
        return _pil_to_rgb(upright, name)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise ImageError(f"{name}: damaged or truncated picture ({error}); get the file again") from error


def _pil_to_rgb(picture: PIL.Image.Image, name: str) -> UInt8:
    if picture.mode in _SIXTEEN_BIT:
        wide = np.asarray(picture).astype(np.float32)
        return _gray_to_rgb(wide / 257)
    if picture.mode in ("I", "F"):
        return _gray_to_rgb(_range_to_255(np.asarray(picture, np.float64), name))
    if picture.has_transparency_data:
        return _over_white(np.asarray(picture.convert("RGBA")))
    return np.asarray(picture.convert("RGB"))


def _range_to_255(values: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
    """Scale the 32-bit values of a file, whose range nothing tells: 0..1, 0..255 or 0..65535."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(values).all() or low < 0 or high > 65535:
        raise ImageError(f"{name}: 32-bit values from {low:g} to {high:g}, expected 0..1, 0..255 or 0..65535: scale it")
    if high <= 1:
        return values * 255
    return values if high <= 255 else values / 257


def _gray_to_rgb(values: npt.NDArray[np.floating[Any]]) -> UInt8:
    gray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)  # (H, W) → (H, W, 3)


def _over_white(rgba: UInt8) -> UInt8:
    """Lay uint8 (H, W, 4) on white → uint8 (H, W, 3)."""
    alpha = rgba[..., 3:].astype(np.uint16)
    mixed = rgba[..., :3] * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


# ---------------------------------------------------------------- arrays


def _from_array(array: npt.NDArray[Any], name: str) -> UInt8:
    """Return uint8 (H, W, 3) of an RGB, RGBA or gray array, or raise ImageError."""
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: got shape {shape}, expected (H, W, 3), (H, W, 4) or (H, W){_shape_hint(shape)}")
    if array.size == 0:
        raise ImageError(f"{name}: got shape {shape}, which has no pixels; expected at least 1x1")
    pixels = _to_uint8(array, name)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]  # (H, W) → (H, W, 1)
    if pixels.shape[2] == 4:
        return _over_white(pixels)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _to_uint8(array: npt.NDArray[Any], name: str) -> UInt8:
    if array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    if array.dtype.kind != "f":
        hint = "; divide 16-bit values by 257" if array.dtype == np.uint16 else ""
        raise ImageError(f"{name}: got dtype {array.dtype}, expected uint8 (0..255) or float (0..1){hint}")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ImageError(f"{name}: {bad} of {array.size} values are NaN or infinite; expected floats in 0..1")
    low, high = float(array.min()), float(array.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        if low < 0:
            fix = "undo its normalisation (mean and standard deviation)"
        else:
            fix = "divide by 255, or convert to uint8" if high <= 255 else "scale it"
        raise ImageError(f"{name}: float values from {low:g} to {high:g}, expected 0..1; {fix}")
    return np.asarray(np.rint(np.clip(array, 0, 1).astype(np.float32) * 255), np.uint8)


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return "; if it is (C, H, W), pass array.transpose(1, 2, 0)"
    if len(shape) == 4:
        return "; pass the pictures of a batch one at a time, or use batch()"
    return ""


def _tensor_to_array(tensor: Any) -> npt.NDArray[Any]:
    """Return a torch (H, W) or (C, H, W) tensor as a numpy (H, W) or (H, W, C) array."""
    shape = tuple(tensor.shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3, 4)):
        hint = "; if it is (H, W, C), pass tensor.permute(2, 0, 1)" if len(shape) == 3 else ""
        hint = "; pass tensor[0], one picture at a time" if len(shape) == 4 else hint
        raise ImageError(f"tensor: got shape {shape}, expected (3, H, W), (4, H, W), (1, H, W) or (H, W){hint}")
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    array: npt.NDArray[Any] = tensor.numpy()
    return array if array.ndim == 2 else array.transpose(1, 2, 0)  # (C, H, W) → (H, W, C)
