"""LabelMe: a JSON beside each picture. Shapes are masks (exact, LabelMe 5.3 and later) or polygons (any version).

A "mask" shape holds its box (both corners inside) and a PNG of what is in it. As polygons, an object of several parts
is several shapes with one ``group_id``; a hole is joined to its outline by a seam.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import PIL.Image

from textseg.label import outline
from textseg.label.export.base import Entry, Job, Loss, write_json
from textseg.label.records import MaskRow
from textseg.types import Bool

VERSION = "5.4.1"


class LabelmeWriter:
    """Writes a folder that LabelMe opens, one for each split."""

    def __init__(self, job: Job, polygons: bool = False) -> None:
        self.loss: Loss | None = Loss()
        self._job = job
        self._polygons = polygons

    def add(self, entry: Entry) -> None:
        """Write one picture and its JSON."""
        name = self._job.place(entry, entry.split)
        shapes: list[dict[str, Any]] = []
        for k, (row, mask) in enumerate(zip(entry.rows, entry.masks, strict=True)):
            shapes += self._as_polygons(row, mask, k + 1) if self._polygons else [self._as_mask(row, mask)]
        height, width = entry.size_hw
        values: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
            "textseg_key": entry.key,
        }
        write_json(self._job.made(entry.split) / f"{entry.stem}.json", values)

    def _as_mask(self, row: MaskRow, mask: Bool) -> dict[str, Any]:
        x0, y0, x1, y1 = (round(v) for v in row.box_xyxy)
        file = io.BytesIO()
        PIL.Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8)).save(file, "PNG")
        if self.loss is not None:
            self.loss.add(1.0)
        shape = _shape(row, [[x0, y0], [x1 - 1, y1 - 1]], "mask", None)
        return {**shape, "mask": base64.b64encode(file.getvalue()).decode("ascii")}

    def _as_polygons(self, row: MaskRow, mask: Bool, group: int) -> list[dict[str, Any]]:
        lines = outline.centre_polygons(mask)
        if self.loss is not None:
            height, width = mask.shape
            self.loss.add(outline.iou(outline.fill_centres(lines, (height, width)), mask))
        several = group if len(lines) > 1 else None
        return [_shape(row, line.tolist(), "polygon", several) for line in lines]

    def close(self) -> None:
        """Write the class names, for ``labelme --labels``."""
        text = "".join(f"{name}\n" for name in ("__ignore__", *self._job.class_names))
        (self._job.folder / "labels.txt").write_text(text, encoding="utf-8")


def _shape(row: MaskRow, points: list[list[int]], kind: str, group: int | None) -> dict[str, Any]:
    return {
        "label": row.label,
        "points": [[float(x), float(y)] for x, y in points],
        "group_id": group,
        "description": f"score {row.score:.3f}",
        "shape_type": kind,
        "flags": {},
    }
