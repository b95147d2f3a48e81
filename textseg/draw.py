"""Pictures of a result: overlay, cut-out, and panels side by side. Drawn by supervision's annotators."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import supervision as sv

from textseg import geometry
from textseg.errors import ConfigError, ShapeError
from textseg.types import Bool, Int, UInt8

if TYPE_CHECKING:
    from textseg.result import Result

COLORS_HEX = (
    "#E6194B", "#1E88E5", "#FFB000", "#2EAD4F", "#8E44AD", "#00B8C4", "#FF6D00", "#D81B9A", "#7CB518", "#5C6BC0",
)  # fmt: skip
"""One colour a phrase, in the order asked; the eleventh phrase starts again."""

LABEL_CHARACTERS = 40
"""Longer labels are cut in the drawing (never in the data)."""


def color_hex(phrase_index: int) -> str:
    """Return the colour of a phrase, as ``"#RRGGBB"``."""
    return COLORS_HEX[phrase_index % len(COLORS_HEX)]


def overlay(result: Result, *, opacity: float = 0.45, only: Sequence[int] | None = None, labels: bool = True) -> UInt8:
    """Return the picture with every accepted mask in its phrase's colour, outlined and labelled with its score.

    Args:
        result: what to draw; with K = 0 the picture comes back unchanged.
        opacity: of the masks, 0..1.
        only: indices of the accepted masks to draw; None draws all.
        labels: whether to write the phrase and the score at each mask.

    Returns:
        uint8 (H, W, 3), RGB, a copy.

    Raises:
        ConfigError: the opacity is out of range, or there is no mask of such an index.
    """
    if not 0.0 <= opacity <= 1.0:
        raise ConfigError(f"opacity: got {opacity}, expected a number in 0..1")
    shown = list(range(len(result))) if only is None else [check_index(result, i) for i in only]
    index = np.array(shown, np.int64)
    texts = [f"{shorten(result.labels[i])} {result.scores[i]:.2f}" for i in shown] if labels else None
    return paint(result.image.rgb, result.masks[index], result.phrase_index[index], texts, opacity=opacity)


def paint(
    rgb: UInt8, masks: Bool, color_index: Sequence[int] | Int, texts: Sequence[str] | None, *, opacity: float = 0.45
) -> UInt8:
    """Return a picture with masks in colours, outlined and labelled.

    Args:
        rgb: uint8 (H, W, 3).
        masks: bool (K, H, W); with K = 0 the picture comes back unchanged.
        color_index: (K,), which of ``COLORS_HEX`` each mask gets.
        texts: K labels, or None for none.
        opacity: of the masks, 0..1.

    Returns:
        uint8 (H, W, 3), RGB, a copy.
    """
    bgr = np.ascontiguousarray(rgb[..., ::-1])  # the annotators draw on OpenCV's order
    if len(masks):
        size_hw = (rgb.shape[0], rgb.shape[1])
        found = sv.Detections(
            xyxy=geometry.mask_boxes(masks), mask=np.array(masks), class_id=np.asarray(color_index).astype(int)
        )
        thickness = max(1, round(max(size_hw) / 350))
        palette = sv.ColorPalette.from_hex(list(COLORS_HEX))
        bgr = sv.MaskAnnotator(palette, opacity=opacity).annotate(bgr, found)
        bgr = sv.PolygonAnnotator(palette, thickness=thickness).annotate(bgr, found)
        if texts is not None:
            bgr = _labeller(size_hw, palette, len(masks)).annotate(bgr, found, list(texts))
    return np.ascontiguousarray(bgr[..., ::-1])


def cutout(result: Result, index: int | None = None) -> UInt8:
    """Return one accepted mask (or all together) on a transparent ground.

    Args:
        result: the masks.
        index: which accepted mask; None takes the union (nothing where K = 0).

    Returns:
        uint8 (H, W, 4), RGBA: alpha 255 inside and 0 outside, where the colour is 0 too.

    Raises:
        ConfigError: there is no mask of that index.
    """
    chosen = result.masks if index is None else result.masks[[check_index(result, index)]]  # (K or 1, H, W)
    inside: Bool = np.asarray(chosen.any(axis=0), np.bool_)
    out = np.zeros((*result.image.size_hw, 4), np.uint8)
    out[inside, :3] = result.image.rgb[inside]
    out[inside, 3] = 255
    return out


def blur_background(result: Result, radius: float | None = None) -> UInt8:
    """Return the picture, sharp inside the accepted masks and blurred outside.

    Args:
        result: the masks; with K = 0 all is blurred.
        radius: standard deviation of the blur in pixels; a fortieth of the longer side when None.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ConfigError: the radius is not above 0.
    """
    sigma = max(1.0, max(result.image.size_hw) / 40) if radius is None else radius
    if not sigma > 0:
        raise ConfigError(f"radius: got {radius}, expected more than 0 pixels")
    return _inside(result, np.asarray(cv2.GaussianBlur(np.asarray(result.image.rgb), (0, 0), sigma), np.uint8))


def plain_background(result: Result, color_hex: str = "#FFFFFF") -> UInt8:
    """Return the accepted masks on a ground of one colour, uint8 (H, W, 3), RGB; with K = 0 nothing else is there."""
    color = np.array(sv.Color.from_hex(color_hex).as_rgb(), np.uint8)
    return _inside(result, np.broadcast_to(color, result.image.rgb.shape))


def _inside(result: Result, ground: UInt8) -> UInt8:
    """Return the picture inside the accepted masks and ``ground`` (H, W, 3) outside."""
    inside = np.asarray(result.masks.any(axis=0), np.bool_)[..., None]  # (H, W, 1)
    return np.where(inside, result.image.rgb, ground)


def panel(pictures: Sequence[UInt8], titles: Sequence[str], *, height: int = 480, gap: int = 8) -> UInt8:
    """Return pictures side by side at one height, each under its title: for comparing.

    Args:
        pictures: N arrays uint8 (h, w, 3), at least one.
        titles: N texts.
        height: of the pictures in the panel, pixels.
        gap: white pixels between and around them.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ShapeError: no picture, or another number of titles.
    """
    if not pictures or len(pictures) != len(titles):
        raise ShapeError(f"panel: got {len(pictures)} pictures and {len(titles)} titles, expected one title each")
    letters = font(max(12, height // 24))
    head = round(1.8 * letters.size)
    scaled = [_to_height(picture, height) for picture in pictures]
    width = gap + sum(picture.width + gap for picture in scaled)
    canvas = PIL.Image.new("RGB", (width, head + height + gap), "white")
    pen = PIL.ImageDraw.Draw(canvas)
    left = gap
    for picture, title in zip(scaled, titles, strict=True):
        pen.text((left, head // 6), _fit(title, letters, picture.width), fill="black", font=letters)
        canvas.paste(picture, (left, head))
        left += picture.width + gap
    return np.asarray(canvas, dtype=np.uint8)


def check_index(result: Result, index: int) -> int:
    """Return the index of an accepted mask, or raise ConfigError."""
    if not 0 <= index < len(result):
        have = f"0..{len(result) - 1}" if len(result) else "none: this result has no mask"
        raise ConfigError(f"mask index: got {index}, expected {have}")
    return int(index)


def shorten(text: str, characters: int = LABEL_CHARACTERS) -> str:
    """Return the text on one line, cut with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def font(size: int) -> PIL.ImageFont.FreeTypeFont:
    """Return DejaVu Sans (Latin, Greek, Cyrillic …), which comes with matplotlib; Pillow's own without it."""
    path = font_path()
    if path is None:
        built_in = PIL.ImageFont.load_default(size)
        assert isinstance(built_in, PIL.ImageFont.FreeTypeFont)
        return built_in
    return PIL.ImageFont.truetype(path, size)


@functools.cache
def font_path() -> str | None:
    """Return the path of DejaVu Sans, or None where matplotlib (a dependency of supervision) lacks it."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return str(path) if path.is_file() else None


def _labeller(size_hw: tuple[int, int], palette: sv.ColorPalette, count: int) -> sv.RichLabelAnnotator:
    size = int(np.clip(max(size_hw) / 42, 9, 48))
    return sv.RichLabelAnnotator(
        palette,
        text_color=sv.Color.WHITE,
        font_path=font_path(),
        font_size=size,
        text_padding=max(2, size // 3),
        border_radius=size // 4,
        smart_position=count <= 30,  # moves labels apart and into the picture; slow with very many
    )


def _to_height(rgb: UInt8, height: int) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(rgb)
    width = max(1, round(picture.width * height / picture.height))
    return picture.resize((width, height), PIL.Image.Resampling.LANCZOS)


def _fit(text: str, letters: PIL.ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text cut until it is at most ``width`` pixels wide."""
    characters = len(text)
    while characters > 1 and letters.getlength(shorten(text, characters)) > width:
        characters -= 1
    return shorten(text, max(1, characters))
