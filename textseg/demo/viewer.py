"""The picture with its masks as layers in the browser: rows that light up their mask, clicks, boxes, the keyboard.

The page gets the small picture once, each mask as a palette PNG in its phrase's colour, and the rows of the table;
``viewer.js`` stacks them. Every text arrives as JSON and is set as text.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import cv2
import gradio as gr
import numpy as np
import PIL.Image

from textseg import describe, draw
from textseg.demo.answer import Mark
from textseg.result import Result
from textseg.types import Bool, Image, Segments, UInt8

SIDE = 1200
"""Longer side in pixels of what the browser shows; the files that are taken away have the picture's own size."""

MAX_LAYERS = 100
_FILL, _EDGE = 115, 255  # alpha


def viewer(label: str, *, elem_id: str, tools: bool = False) -> gr.HTML:
    """Return the component; ``tools`` lets people point (events: point, box, choose)."""
    folder = resources.files("textseg.demo")
    return gr.HTML(
        value="",
        label=label,
        html_template=folder.joinpath("viewer.html").read_text("utf-8"),
        js_on_load=folder.joinpath("viewer.js").read_text("utf-8"),
        elem_id=elem_id,
        elem_classes=["ts-viewer"],
        apply_default_css=False,
        title=label,
        tools=tools,
    )


def show(
    image: Image,
    result: Result | None,
    *,
    chosen: int | None = None,
    lit: bool = False,
    marks: Sequence[Mark] = (),
    corner: tuple[float, float] | None = None,
) -> str:
    """Return the component's value, JSON.

    Args:
        image: the picture.
        result: its masks; None shows the picture alone.
        chosen: the accepted mask that is being mended.
        lit: whether that mask stands out from the others.
        marks: what was pointed at for it.
        corner: the first corner of a box that waits for the second, xy.
    """
    height, width = image.size_hw
    values: dict[str, Any] = {
        "picture": _data_uri(_small(image.rgb), "WEBP", quality=88),
        "width": width,
        "height": height,
        "heads": [] if result is None else ["phrase", *heads(result)],
        "masks": [] if result is None else _layers(result),
        "chosen": -1 if chosen is None else chosen,
        "lit": lit,
        "marks": [{"kind": mark.kind, "xy": [round(v, 1) for v in mark.xy]} for mark in marks],
        "corner": corner,
    }
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # no tag anywhere, whatever the phrases are


def heads(result: Result) -> list[str]:
    """Return the heads of the columns that ``cells`` fills."""
    return ["score", *_parts(result), "box", "area"]


def cells(segments: Segments, result: Result, k: int) -> list[str]:
    """Return what a table says of mask ``k``: score, the parts in the columns' order, box, share of the picture."""
    pixels = np.prod(result.image.size_hw)
    return [
        f"{segments.scores[k]:.2f}",
        *(_part(segments, name, k) for name in _parts(result)),
        describe.box_text(segments.boxes_xyxy[k]),
        f"{segments.masks[k].sum() / pixels:.1%}",
    ]


def spoken(label: str) -> str:
    """Return a mask's label; what was pointed at without words says so."""
    return label or "(pointed at)"


def _parts(result: Result) -> list[str]:
    return [name for name in result.config.weights if name != "bias"]


def _part(segments: Segments, name: str, k: int) -> str:
    values = segments.parts.get(name)
    return "–" if values is None or np.isnan(values[k]) else f"{values[k]:.2f}"


def _layers(result: Result) -> list[dict[str, Any]]:
    found = result.accepted
    return [
        {
            "label": spoken(found.labels[k]),
            "score": f"{found.scores[k]:.2f}",
            "color": draw.color_hex(int(found.phrase_index[k])),
            "cells": cells(found, result, k),
            "box": [round(float(v), 1) for v in found.boxes_xyxy[k]],
            "png": _layer(found.masks[k], draw.color_hex(int(found.phrase_index[k]))) if k < MAX_LAYERS else "",
        }
        for k in range(len(found))
    ]


def _layer(mask: Bool, color_hex: str) -> str:
    """Return a mask as a PNG: clear outside, tinted inside, its edge solid."""
    small = _small(mask.astype(np.uint8) * 255) >= 128
    inner = cv2.erode(small.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
    thick = cv2.erode(inner, np.ones((3, 3), np.uint8), borderValue=0) if max(small.shape) > 600 else inner
    picture = PIL.Image.fromarray(small.astype(np.uint8) + (small & (thick == 0)).astype(np.uint8)).convert("P")
    color = [int(color_hex[i : i + 2], 16) for i in (1, 3, 5)]
    picture.putpalette([0, 0, 0, *color, *color])
    return _data_uri(picture, "PNG", transparency=bytes([0, _FILL, _EDGE]), optimize=True)


def _small(pixels: UInt8) -> UInt8:
    """Return the pixels (H, W) or (H, W, 3) at no more than ``SIDE``."""
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return pixels if scale == 1.0 else np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _data_uri(picture: PIL.Image.Image | UInt8, kind: str, **options: Any) -> str:
    made = picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)
    out = io.BytesIO()
    made.save(out, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
