"""Plain PNGs: ``masks/<picture>/000_car.png`` (0 and 255, one an object, overlaps kept) and ``index.jsonl``."""

from __future__ import annotations

import json

import PIL.Image

from textseg.export import slug
from textseg.label.export.base import Entry, Job, Loss, as_bytes


class MasksWriter:
    """Writes a PNG a mask; the index has a line a picture, also for those without objects."""

    def __init__(self, job: Job) -> None:
        self.loss: Loss | None = Loss()
        self._job = job
        self._index = job.open(job.folder / "index.jsonl")

    def add(self, entry: Entry) -> None:
        """Write one picture's masks and its line."""
        name = self._job.located(entry, "images")
        folder = self._job.made("masks", entry.stem)
        objects = []
        for k, (row, mask) in enumerate(zip(entry.rows, entry.masks, strict=True)):
            file = f"{k:03d}_{slug(row.label)}.png"
            PIL.Image.fromarray(as_bytes(mask)).convert("1").save(folder / file)
            if self.loss is not None:
                self.loss.add(1.0)
            about = {"mask": f"masks/{entry.stem}/{file}", "class_id": row.class_id, "label": row.label}
            objects.append({**about, "score": row.score, "box_xyxy": list(row.box_xyxy), "area": row.area})
        height, width = entry.size_hw
        picture = {"picture": name, "key": entry.key, "split": entry.split, "width": width, "height": height}
        self._index.write(json.dumps({**picture, "objects": objects}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """End the index; the class names go to ``classes.txt``, one a line, from id 0."""
        self._index.close()
        text = "".join(f"{name}\n" for name in self._job.class_names)
        (self._job.folder / "classes.txt").write_text(text, encoding="utf-8")
