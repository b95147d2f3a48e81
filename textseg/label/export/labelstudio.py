"""Label Studio pre-annotations: ``tasks.json`` (brush masks, exact), ``config.xml`` and ``images/``.

Brush masks are Label Studio's run lengths over the flattened RGBA picture, as its converter documents them: 32 bits
for the number of values, 5 for the word size less one, four times 4 for the sizes of the run-length field less one,
then runs: a bit that says "repeated", 2 bits for the field's size, the length less one, the value.

Serve the export's folder as local storage (``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``), import ``tasks.json`` into a
project with the labelling set-up ``config.xml``.
"""

from __future__ import annotations

import urllib.parse
from typing import Any
from xml.etree import ElementTree

import numpy as np

from textseg.draw import color_hex
from textseg.label.export.base import Entry, Job, JsonList, Loss
from textseg.label.records import MaskRow
from textseg.types import Bool

_FIELDS = (3, 4, 8, 16)  # bits of the run-length field, by its 2-bit index
_CHANNELS = 4
_LONGEST = 1 << 16


class LabelStudioWriter:
    """Writes tasks with predictions; the part of the split is in the task's data."""

    def __init__(self, job: Job) -> None:
        self.loss: Loss | None = Loss()
        self._job = job
        self._tasks = JsonList(job, job.folder / "tasks.json")

    def add(self, entry: Entry) -> None:
        """Write one task."""
        name = self._job.place(entry, "images")
        results = [
            _result(row, mask, f"m{k:04d}") for k, (row, mask) in enumerate(zip(entry.rows, entry.masks, strict=True))
        ]
        if self.loss is not None:
            for _ in results:
                self.loss.add(1.0)
        score = float(np.mean([row.score for row in entry.rows])) if entry.rows else 0.0
        data = {"image": f"/data/local-files/?d=images/{urllib.parse.quote(name)}", "key": entry.key}
        prediction = {"model_version": self._version(), "score": score, "result": results}
        self._tasks.add({"id": entry.number, "data": {**data, "split": entry.split}, "predictions": [prediction]})

    def _version(self) -> str:
        return f"textseg {self._job.about.get('textseg', '')}".strip()

    def close(self) -> None:
        """End the tasks and write the labelling set-up."""
        self._tasks.close()
        view = ElementTree.Element("View")
        ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
        labels = ElementTree.SubElement(view, "BrushLabels", name="label", toName="image")
        for i, name in enumerate(self._job.class_names):
            ElementTree.SubElement(labels, "Label", value=name, background=color_hex(i))
        ElementTree.indent(view, space=" ")
        ElementTree.ElementTree(view).write(self._job.folder / "config.xml", encoding="utf-8")


def _result(row: MaskRow, mask: Bool, name: str) -> dict[str, Any]:
    height, width = row.size_hw
    return {
        "id": name,
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": row.score,
        "value": {"format": "rle", "rle": brush_rle(mask), "brushlabels": [row.label]},
    }


def brush_rle(mask: Bool) -> list[int]:
    """Return Label Studio's brush run lengths of a bool (H, W) mask, as bytes 0..255."""
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([starts, [flat.size]])) * _CHANNELS
    bits = [f"{flat.size * _CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in _FIELDS)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        while length:
            now = min(length, _LONGEST)
            index = next(i for i, size in enumerate(_FIELDS) if now <= 1 << size)
            bits.append(f"1{index:02b}{now - 1:0{_FIELDS[index]}b}{value}")
            length -= now
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
