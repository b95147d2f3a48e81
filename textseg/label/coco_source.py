"""A COCO file as a source: its boxes become masks, or its class names are looked for."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textseg.errors import DataError
from textseg.label.items import GivenBox, Item, path_uri, safe_key

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoFile:
    """What is taken from a COCO file.

    Attributes:
        path: the file.
        images: (id, file_name) of each picture, in the file's order.
        class_names: the categories' names, by id.
        boxes: image id → its boxes; None where the file has no boxes at all.
        labels: image id → its class names; None where the file has boxes or no annotations.
        pictures: the folder that the file names are relative to.
    """

    path: Path
    images: tuple[tuple[int, str], ...]
    class_names: tuple[str, ...]
    boxes: dict[int, list[GivenBox]] | None
    labels: dict[int, set[str]] | None
    pictures: Path

    def items(self) -> Iterator[Item]:
        """Yield a picture at a time; with boxes, one without any is a picture without objects."""
        for number, name in self.images:
            boxes = None if self.boxes is None else tuple(self.boxes.get(number, ()))
            labels = None if self.labels is None else tuple(sorted(self.labels.get(number, ())))
            yield Item(safe_key(name), path_uri(self.pictures / name), boxes=boxes, labels=labels)


def read(path: Path, pictures: Path | None = None) -> CocoFile:
    """Read a COCO JSON.

    Args:
        path: the file. Annotations with boxes: each box gets a mask (crowds are left out). Annotations with a
            category alone: the picture's classes, which are looked for. No annotations: every picture is asked
            for every category.
        pictures: the folder of the pictures; None tries the file's own folder, then ``images`` beside it or
            one level up.

    Raises:
        DataError: not readable, not COCO, or an annotation that points to nothing; the message names it.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("images"), list):
        raise DataError(f"{path}: expected a COCO file: an object with 'images', 'categories' and 'annotations'")
    try:
        names = {int(c["id"]): str(c["name"]) for c in values.get("categories", [])}
        images = tuple((int(i["id"]), str(i["file_name"])) for i in values["images"])
        boxes, labels = _annotations(values.get("annotations") or [], names, {number for number, _ in images}, path)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not as COCO has it: {type(error).__name__}: {error}") from error
    class_names = tuple(names[i] for i in sorted(names))
    return CocoFile(path, images, class_names, boxes, labels, pictures or _pictures(path, images))


def _annotations(
    annotations: list[Any], names: dict[int, str], images: set[int], path: Path
) -> tuple[dict[int, list[GivenBox]] | None, dict[int, set[str]] | None]:
    boxes: dict[int, list[GivenBox]] = defaultdict(list)
    labels: dict[int, set[str]] = defaultdict(set)
    with_box = any(a.get("bbox") for a in annotations)
    left_out: Counter[str] = Counter()
    for entry in annotations:
        image, category = int(entry["image_id"]), int(entry["category_id"])
        if image not in images or category not in names:
            raise DataError(f"{path}: annotation {entry.get('id')}: no image {image} or no category {category} there")
        if not with_box:
            labels[image].add(names[category])
        elif entry.get("iscrowd"):
            left_out["crowds"] += 1
        elif not entry.get("bbox"):
            left_out["annotations without a box"] += 1
        else:
            x, y, w, h = (float(v) for v in entry["bbox"])
            boxes[image].append(GivenBox(names[category], (x, y, x + w, y + h), str(entry.get("id", ""))))
    for what, count in left_out.items():
        logger.warning("%s: %d %s left out", path, count, what)
    return (dict(boxes) if with_box else None, dict(labels) if annotations and not with_box else None)


def _pictures(path: Path, images: tuple[tuple[int, str], ...]) -> Path:
    """Return the folder in which the first picture is found."""
    folders = (path.parent, path.parent / "images", path.parent.parent / "images", path.parent.parent)
    first = images[0][1] if images else ""
    return next((folder for folder in folders if (folder / first).is_file()), path.parent)
