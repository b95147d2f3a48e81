"""Hugging Face ``datasets``: an image folder with ``metadata.jsonl``; masks as COCO RLE, exact.

>>> from datasets import load_dataset                                  # doctest: +SKIP
>>> rows = load_dataset("imagefolder", data_dir="labels/hf")["train"]  # doctest: +SKIP
>>> rows[0]["image"], rows[0]["objects"]["label"]                      # doctest: +SKIP
"""

from __future__ import annotations

import json
from typing import IO

import yaml

from textseg.label.export.base import Entry, Job, Loss, xywh

SPLITS = {"": "train", "train": "train", "val": "validation", "test": "test"}


class HfWriter:
    """Writes a folder for each split; an entry's objects are columns of equal length, empty where there is none."""

    def __init__(self, job: Job) -> None:
        self.loss: Loss | None = Loss()
        self._job = job
        self._files: dict[str, IO[str]] = {}

    def add(self, entry: Entry) -> None:
        """Write one picture and its line."""
        split = SPLITS[entry.split]
        name = self._job.place(entry, split)
        if split not in self._files:  # a part without pictures gets no file: the reader stumbles over empty ones
            self._files[split] = self._job.open(self._job.made(split) / "metadata.jsonl")
        height, width = entry.size_hw
        objects = {
            "label": [row.label for row in entry.rows],
            "class_id": [row.class_id for row in entry.rows],
            "bbox": [xywh(row) for row in entry.rows],
            "area": [row.area for row in entry.rows],
            "score": [row.score for row in entry.rows],
            "rle_counts": [row.counts for row in entry.rows],
        }
        line = {"file_name": name, "key": entry.key, "width": width, "height": height, "objects": objects}
        self._files[split].write(json.dumps(line, ensure_ascii=False) + "\n")
        if self.loss is not None:
            for _ in entry.rows:
                self.loss.add(1.0)

    def close(self) -> None:
        """End the files and write the data set's card."""
        for file in self._files.values():
            file.close()
        head = yaml.safe_dump({"task_categories": ["image-segmentation"], "tags": ["textseg"]}, sort_keys=False)
        classes = "".join(f"- {i}: {name}\n" for i, name in enumerate(self._job.class_names))
        text = (
            f"---\n{head}---\n\nLabelled by textseg {self._job.about.get('textseg', '')}; see `provenance.json`.\n\n"
            "A mask is `pycocotools.mask.decode({'size': [height, width], 'counts': rle_counts[i]})`; `bbox` is "
            f"x, y, width, height in pixels.\n\nClasses:\n\n{classes}"
        )
        (self._job.folder / "README.md").write_text(text, encoding="utf-8")
