"""image.read: every kind of source, every kind of damage."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from textseg import image
from textseg.errors import ImageError

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def encoded(picture: PIL.Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """Return a picture's file as bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


PNG = encoded(PIL.Image.fromarray(RGB))


def noise_jpeg() -> bytes:
    """Return a JPEG of 64x64 random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encoded(PIL.Image.fromarray(pixels), "JPEG")


def test_every_source_gives_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "a picture ü.png"
    path.write_bytes(PNG)
    with path.open("rb") as file:
        sources: list[Any] = [path, str(path), PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), file, RGB]
        sources += [PIL.Image.fromarray(RGB), PIL.Image.open(path), RGB.astype(np.float32) / 255, RGB / 255]
        made = [image.read(source) for source in sources]
    assert {picture.digest for picture in made} == {image.digest(RGB)}
    for picture in made:
        np.testing.assert_array_equal(picture.rgb, RGB)
        assert picture.rgb.dtype == np.uint8
        assert not picture.rgb.flags.writeable
        assert picture.size_hw == (4, 6)
    assert image.read(made[0]) is made[0]
    assert made[0].source == str(path)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    chw = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
    for tensor in (chw, chw.float() / 255, (chw.double() / 255).requires_grad_()):
        np.testing.assert_array_equal(image.read(tensor).rgb, RGB)
    assert image.read(torch.zeros(5, 7)).size_hw == (5, 7)
    assert image.read(torch.ones(1, 5, 7, dtype=torch.bfloat16)).rgb.min() == 255
    with pytest.raises(ImageError, match=r"permute\(2, 0, 1\)"):
        image.read(torch.zeros(5, 7, 3))
    with pytest.raises(ImageError, match=r"tensor\[0\]"):
        image.read(torch.zeros(1, 3, 5, 7))
    with pytest.raises(ImageError, match="NaN"):
        image.read(torch.full((3, 5, 7), float("nan")))
    with pytest.raises(ImageError, match="int64"):
        image.read(torch.zeros((3, 5, 7), dtype=torch.int64))


def test_a_later_change_of_the_array_does_not_reach_the_picture() -> None:
    mine = RGB.copy()
    picture = image.read(mine)
    mine[:] = 0
    np.testing.assert_array_equal(picture.rgb, RGB)


def test_the_digest_tells_shapes_apart() -> None:
    flat = np.zeros((2, 6, 3), np.uint8)
    assert image.digest(flat) != image.digest(flat.reshape(6, 2, 3))


def test_gray_and_alpha_arrays() -> None:
    gray = RGB[..., 0]
    np.testing.assert_array_equal(image.read(gray).rgb, np.repeat(gray[..., None], 3, axis=2))
    np.testing.assert_array_equal(image.read(gray[..., None]).rgb, image.read(gray).rgb)
    rgba = np.dstack([RGB, np.full((4, 6), 255, np.uint8)])
    np.testing.assert_array_equal(image.read(rgba).rgb, RGB)
    rgba[0, 0, 3] = 0
    assert image.read(rgba).rgb[0, 0].tolist() == [255, 255, 255]
    assert image.read(np.zeros((1, 1, 4), np.uint8)).rgb.tolist() == [[[255, 255, 255]]]
    half = np.array([[[0, 100, 200, 128]]], np.uint8)
    assert image.read(half).rgb.tolist() == [[[127, 177, 227]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture = image.read(encoded(PIL.Image.fromarray(RGB), exif=exif))
    undo = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB),
    }
    np.testing.assert_array_equal(picture.rgb, undo[orientation])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "HSV", "PA", "RGBa"])
def test_pil_modes(mode: str) -> None:
    red = PIL.Image.new("RGB", (3, 2), (255, 0, 0))
    if mode in ("LA", "RGBa"):
        picture = red.convert("RGBA").convert(mode)
    elif mode == "PA":
        picture = red.convert("P").convert("PA")
    elif mode == "LAB":
        picture = PIL.Image.new("LAB", (3, 2), (128, 0, 0))
        assert image.read(picture).size_hw == (2, 3)
        return
    else:
        picture = red.convert(mode)
    rgb = image.read(picture).rgb
    assert rgb.shape == (2, 3, 3)
    if mode not in ("1", "L", "LA"):
        np.testing.assert_allclose(rgb[0, 0], (255, 0, 0), atol=4)


def test_cmyk_jpeg() -> None:
    data = encoded(PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    np.testing.assert_allclose(image.read(data).rgb[8, 8], (255, 0, 0), atol=4)


def test_palette_with_transparency() -> None:
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.putpixel((1, 0), 1)
    assert image.read(encoded(picture, transparency=0)).rgb.tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_animated_gives_the_first_frame() -> None:
    frames = [PIL.Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert image.read(data).rgb[0, 0].tolist() == [255, 0, 0]


def test_sixteen_bit() -> None:
    wide = np.array([[0, 257, 65535]], np.uint16)
    assert image.read(encoded(PIL.Image.fromarray(wide))).rgb[0, :, 0].tolist() == [0, 1, 255]
    assert image.read(encoded(PIL.Image.fromarray(wide), "TIFF")).rgb[0, :, 0].tolist() == [0, 1, 255]
    swapped = PIL.Image.frombytes("I;16B", (3, 1), wide.astype(">u2").tobytes())
    assert image.read(swapped).rgb[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("values", [(0, 0.5, 1), (0, 127.5, 255), (0, 32767.5, 65535)])
def test_float_tiff(values: tuple[float, ...]) -> None:
    data = encoded(PIL.Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert image.read(data).rgb[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("values", [(0, np.nan), (-5, 1), (0, 1e9)])
def test_float_tiff_out_of_range(values: tuple[float, ...]) -> None:
    data = encoded(PIL.Image.fromarray(np.array([values], np.float32)), "TIFF")
    with pytest.raises(ImageError, match="32-bit values"):
        image.read(data)


def test_int32_picture() -> None:
    assert image.read(PIL.Image.fromarray(np.array([[0, 200]], np.int32))).rgb[0, :, 0].tolist() == [0, 200]


@pytest.mark.parametrize("size_hw", [(1, 1), (17, 3000), (3000, 1)])
def test_odd_sizes(size_hw: tuple[int, int]) -> None:
    assert image.read(encoded(PIL.Image.new("RGB", size_hw[::-1]))).size_hw == size_hw


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "zero bytes"),
        (b"hello, world", "not a picture"),
        (b"\x00" * 500, "not a picture"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
        (PNG[: len(PNG) // 2], "damaged or truncated"),
        (PNG[:20], "damaged|not a picture"),
    ],
)
def test_bad_bytes(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        image.read(data)
    with pytest.raises(ImageError, match=says):
        image.read(io.BytesIO(data))


def test_truncated_jpeg_at_any_length() -> None:
    data = noise_jpeg()
    for length in range(1, len(data) - 2, 97):
        with pytest.raises(ImageError):
            image.read(data[:length])


def test_truncated_lazily_loaded_pil_image() -> None:
    with pytest.raises(ImageError, match="truncated"):
        image.read(PIL.Image.open(io.BytesIO(noise_jpeg()[:2000])))


def test_flipped_bytes_raise_nothing_else() -> None:
    rng = np.random.default_rng(1)
    for data in (
        PNG,
        noise_jpeg(),
        encoded(PIL.Image.fromarray(RGB), "TIFF"),
        encoded(PIL.Image.fromarray(RGB), "GIF"),
    ):
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                damaged[place] = int(rng.integers(0, 256))
            with contextlib.suppress(ImageError):  # either outcome is right, another exception is not
                image.read(bytes(damaged))


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        image.read(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="folder"):
        image.read(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        image.read("a\x00b.png")
    with pytest.raises(ImageError, match=r"cannot be read|no such file"):
        image.read("x" * 5000)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: zero bytes"):
        image.read(tmp_path / "empty.png")


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "HTTP://x", "s3://b/k", "data:image/png;base64,AAAA"])
def test_urls_are_refused(url: str) -> None:
    with pytest.raises(ImageError, match="URLs are not fetched: download it first"):
        image.read(url)


def test_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(PIL.Image.new("1", (3000, 3000)))
    with pytest.raises(ImageError, match=r"3000x3000 is 9\.0 Mpx, more than the limit of 5 Mpx"):
        image.read(data, max_pixels=5_000_000)
    assert image.read(data, max_pixels=9_000_000).size_hw == (3000, 3000)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="too large"):
        image.read(data)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 4, 6), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 6, 3), np.uint8), "batch"),
        (np.zeros((4,), np.uint8), "shape"),
        (np.zeros((4, 6, 2), np.uint8), "shape"),
        (np.zeros((0, 6, 3), np.uint8), "no pixels"),
        (np.zeros((4, 6, 3), np.int64), "int64"),
        (np.zeros((4, 6, 3), np.uint16), "divide 16-bit values by 257"),
        (np.zeros((4, 6, 3), bool), "bool"),
        (np.zeros((4, 6, 3), object), "object"),
        (np.full((4, 6, 3), np.nan), "72 of 72 values are NaN"),
        (np.full((4, 6, 3), np.inf), "infinite"),
        (np.full((4, 6, 3), 200.0), "divide by 255"),
        (np.full((4, 6, 3), -2.0), "normalisation"),
        (np.full((4, 6, 3), 1e6), "scale it"),
    ],
)
def test_bad_arrays(array: Any, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        image.read(array)


@pytest.mark.parametrize("thing", [None, 5, [[1, 2]], {"a": 1}, object()])
def test_other_things(thing: Any) -> None:
    with pytest.raises(ImageError, match="expected a path"):
        image.read(thing)


def test_text_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="mode 'rb'"):
        image.read(io.StringIO("text"))
    closed = io.BytesIO(PNG)
    closed.close()
    with pytest.raises(ImageError, match="closed"):
        image.read(closed)
