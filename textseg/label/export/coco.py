"""COCO: ``annotations/instances[_train].json`` and ``images/``. Masks as RLE, or as polygons.

The polygons follow the pixels' edges, and a hole is joined to its outline by a seam, so pycocotools reads back the
mask itself. Readers that fill polygons in another way (OpenCV counts the border in) get a mask one pixel larger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textseg.label import outline
from textseg.label.export.base import Entry, Job, JsonList, Loss, write_json, xywh


class CocoWriter:
    """Writes one JSON a split; each picture's entry also carries its key in the store as "textseg_key"."""

    def __init__(self, job: Job, polygons: bool = False) -> None:
        self.loss: Loss | None = Loss()
        self._job = job
        self._polygons = polygons
        folder = job.made("annotations")
        job.made("images")
        self._files = {split: _Spool(job, folder / f"{_name(split)}.json") for split in job.splits}
        self._next = 1

    def add(self, entry: Entry) -> None:
        """Write one picture with its masks."""
        height, width = entry.size_hw
        name = self._job.located(entry, "images")
        spool = self._files[entry.split]
        image = {"id": entry.number, "file_name": name, "width": width, "height": height, "textseg_key": entry.key}
        spool.images.add(image)
        for row, mask in zip(entry.rows, entry.masks, strict=True):
            segmentation: Any = row.rle
            if self._polygons:
                lines = outline.edge_polygons(mask)
                segmentation = [[float(v) for v in line.ravel()] for line in lines]
                back = outline.fill_edges(lines, entry.size_hw)
            if self.loss is not None:
                self.loss.add(outline.iou(back, mask) if self._polygons else 1.0)
            annotation: dict[str, Any] = {
                "id": self._next,
                "image_id": entry.number,
                "category_id": row.class_id + 1,
                "segmentation": segmentation,
                "area": row.area,
                "bbox": xywh(row),
                "iscrowd": 0,
                "score": row.score,
                "score_parts": row.parts,
                "source": row.source,
            }
            spool.annotations.add(annotation)
            self._next += 1

    def close(self) -> None:
        """Put the files together."""
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self._job.class_names)]
        info = {"description": "made by textseg", "version": self._job.about.get("textseg", "")}
        for spool in self._files.values():
            spool.close(info, categories)


class _Spool:
    def __init__(self, job: Job, path: Path) -> None:
        self.path = path
        self.images = JsonList(job, path.with_suffix(".images.part"))
        self.annotations = JsonList(job, path.with_suffix(".annotations.part"))

    def close(self, info: dict[str, Any], categories: list[dict[str, Any]]) -> None:
        self.images.close()
        self.annotations.close()
        write_json(self.path, {"info": info, "licenses": [], "categories": categories})
        text = self.path.read_text("utf-8").rstrip().removesuffix("}").rstrip()
        with self.path.open("w", encoding="utf-8") as file:
            file.write(f'{text},\n "images": ')
            self.images.move_into(file)
            file.write(',\n "annotations": ')
            self.annotations.move_into(file)
            file.write("\n}\n")


def _name(split: str) -> str:
    return f"instances_{split}" if split else "instances"
