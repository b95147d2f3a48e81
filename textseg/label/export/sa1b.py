"""SA-1B: a JSON a picture with its masks as COCO RLE, beside the picture; the class is "label", as ``textseg.sa1b``.

SA-1B's masks were asked for with a point, which its readers expect; here phrases and boxes ask, so the mask's
innermost pixel stands in for the point that would have asked for it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from textseg import sa1b
from textseg.label.export.base import Entry, Job, Loss, xywh
from textseg.label.records import MaskRow
from textseg.types import Bool


class Sa1bWriter:
    """Writes a folder for each split. Score parts that a mask lacks (a person drew it) take its score."""

    def __init__(self, job: Job) -> None:
        self.loss: Loss | None = Loss()
        self._job = job
        self._next = 1

    def add(self, entry: Entry) -> None:
        """Write one picture and its JSON."""
        name = self._job.place(entry, entry.split)
        records = []
        for row, mask in zip(entry.rows, entry.masks, strict=True):
            records.append({"id": self._next, **_record(row, mask)})
            self._next += 1
            if self.loss is not None:
                self.loss.add(1.0)
        content = sa1b.Sa1b(entry.number, entry.size_hw, name, tuple(records))
        sa1b.write(content, self._job.made(entry.split) / f"{entry.stem}.json")

    def close(self) -> None:
        """Nothing is left to be written."""


def _record(row: MaskRow, mask: Bool) -> dict[str, Any]:
    def part(name: str) -> float:
        value = row.parts.get(name)
        return row.score if value is None else value

    return {
        "segmentation": row.rle,
        "bbox": xywh(row),
        "area": row.area,
        "predicted_iou": part("sam_iou"),
        "stability_score": part("stability"),
        "crop_box": [0, 0, row.size_hw[1], row.size_hw[0]],
        "point_coords": [innermost(mask)],
        "label": row.label,
        "label_score": row.score,
    }


def innermost(mask: Bool) -> list[float]:
    """Return x, y of the pixel of a bool (H, W) mask that is farthest from its edge, the picture's edge included."""
    framed = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    return [float(x), float(y)]
