"""SA-1B: a JSON a picture with its masks as COCO RLE, beside the picture; the class is "label", as ``textseg.sa1b``."""

from __future__ import annotations

from typing import Any

from textseg import sa1b
from textseg.label.export.base import Entry, Job, Loss, xywh
from textseg.label.records import MaskRow


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
        for row in entry.rows:
            records.append({"id": self._next, **_record(row, entry.size_hw)})
            self._next += 1
            if self.loss is not None:
                self.loss.add(1.0)
        content = sa1b.Sa1b(entry.number, entry.size_hw, name, tuple(records))
        sa1b.write(content, self._job.made(entry.split) / f"{entry.stem}.json")

    def close(self) -> None:
        """Nothing is left to be written."""


def _record(row: MaskRow, size_hw: tuple[int, int]) -> dict[str, Any]:
    def part(name: str) -> float:
        value = row.parts.get(name)
        return row.score if value is None else value

    return {
        "segmentation": row.rle,
        "bbox": xywh(row),
        "area": row.area,
        "predicted_iou": part("sam_iou"),
        "stability_score": part("stability"),
        "crop_box": [0, 0, size_hw[1], size_hw[0]],
        "point_coords": [],
        "label": row.label,
        "label_score": row.score,
    }
