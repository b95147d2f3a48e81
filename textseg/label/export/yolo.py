"""YOLO: ``images/train/``, ``labels/train/*.txt``, ``data.yaml``; a line an object, in shares of the picture.

Segmentation has one polygon an object. Holes are joined to the outline by a seam and come back exactly; several parts
are joined by bridges, which add thin lines of pixels: that loss is measured. Vertices lie a quarter pixel beyond the
pixels' centres as counted from 0, so readers that round and readers that cut off find the same pixels.
"""

from __future__ import annotations

import yaml

from textseg.label import outline
from textseg.label.export.base import Entry, Job, Loss, xywh
from textseg.types import Bool

_INSIDE = 0.25


class YoloWriter:
    """Writes segments, or boxes."""

    def __init__(self, job: Job, boxes: bool = False) -> None:
        self.loss: Loss | None = None if boxes else Loss()
        self._job = job
        self._boxes = boxes
        for split in job.splits:
            job.made("images", split or "train")
            job.made("labels", split or "train")

    def add(self, entry: Entry) -> None:
        """Write one picture and its label file, which is empty where there is no object."""
        split = entry.split or "train"
        self._job.place(entry, "images", split)
        if self._boxes:
            lines = [f"{row.class_id} {_box(xywh(row), entry.size_hw)}" for row in entry.rows]
        else:
            pairs = zip(entry.rows, entry.masks, strict=True)
            lines = [f"{row.class_id} {self._segment(mask)}" for row, mask in pairs]
        path = self._job.made("labels", split) / f"{entry.stem}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def _segment(self, mask: Bool) -> str:
        line = outline.joined(outline.centre_polygons(mask))
        height, width = mask.shape
        if self.loss is not None:
            self.loss.add(outline.iou(outline.fill_centres([line], (height, width)), mask))
        return " ".join(f"{(x + _INSIDE) / width:.7f} {(y + _INSIDE) / height:.7f}" for x, y in line.tolist())

    def close(self) -> None:
        """Write ``data.yaml``; without a val part the reader is given the training pictures in its place."""
        splits = [split or "train" for split in self._job.splits]
        values: dict[str, object] = {split: f"images/{split}" for split in splits}
        values.setdefault("val", "images/train")
        values["nc"] = len(self._job.class_names)
        values["names"] = dict(enumerate(self._job.class_names))
        text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
        (self._job.folder / "data.yaml").write_text(text, encoding="utf-8")


def _box(box: list[float], size_hw: tuple[int, int]) -> str:
    x, y, w, h = box
    height, width = size_hw
    return f"{(x + w / 2) / width:.9f} {(y + h / 2) / height:.9f} {w / width:.9f} {h / height:.9f}"
