"""SA-1B's files: one JSON a picture, with its masks as run lengths (Kirillov et al., 2023, section 5).

::

    {"image": {"image_id", "width", "height", "file_name"},
     "annotations": [{"id", "segmentation": COCO RLE, "bbox": [x, y, w, h], "area", "predicted_iou",
                      "stability_score", "crop_box": [x, y, w, h], "point_coords": [[x, y]]}]}

Masks that were named carry "label" and "label_score" beside SA-1B's own keys.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textseg import geometry
from textseg.errors import DataError, ShapeError
from textseg.everything.records import Everything
from textseg.types import Bool, Float

KEYS = ("segmentation", "bbox", "area", "predicted_iou", "stability_score", "crop_box", "point_coords")
"""What every annotation holds beside its id."""


@dataclass(frozen=True)
class Sa1b:
    """One picture's file.

    Attributes:
        image_id: the picture's number.
        size_hw: of the picture, pixels.
        file_name: of the picture.
        annotations: K of them, as in the file.
    """

    image_id: int
    size_hw: tuple[int, int]
    file_name: str
    annotations: tuple[dict[str, Any], ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.annotations)

    def mask(self, index: int) -> Bool:
        """Return one mask, bool (H, W)."""
        return geometry.decode_rle(self.annotations[index]["segmentation"])

    @property
    def masks(self) -> Bool:
        """bool (K, H, W)."""
        out = np.zeros((len(self), *self.size_hw), np.bool_)
        for k in range(len(self)):
            out[k] = self.mask(k)
        return out

    @property
    def boxes_xyxy(self) -> Float:
        """float32 (K, 4), far edges x + w and y + h."""
        xywh = np.array([one["bbox"] for one in self.annotations], np.float32).reshape(-1, 4)
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content."""
        height, width = self.size_hw
        picture = {"image_id": self.image_id, "width": width, "height": height, "file_name": self.file_name}
        return {"image": picture, "annotations": list(self.annotations)}


def from_everything(found: Everything, image_id: int, file_name: str, first_id: int = 1) -> Sa1b:
    """Return a picture's file.

    Args:
        found: its masks.
        image_id: its number.
        file_name: its name, without folders.
        first_id: number of the first annotation; the others follow.
    """
    records = [{"id": first_id + k, **record} for k, record in enumerate(found.records("coco_rle"))]
    return Sa1b(image_id, found.image.size_hw, file_name, tuple(records))


def write(content: Sa1b, path: str | Path) -> Path:
    """Write a file, whole or not at all: one that is there is complete.

    Raises:
        DataError: the folder cannot be made or written to.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content.to_dict(), ensure_ascii=False), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error}; choose another folder") from error
    return path


def read(path: str | Path) -> Sa1b:
    """Read a file, ours or SA-1B's own.

    Raises:
        DataError: missing, not JSON, a key is missing, or a mask does not have the picture's size.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    try:
        picture, annotations = values["image"], values["annotations"]
        size_hw = int(picture["height"]), int(picture["width"])
        for number, one in enumerate(annotations):
            _check(one, number, size_hw)
        name = str(picture["file_name"])
        return Sa1b(int(picture["image_id"]), size_hw, name, tuple(annotations))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a file of SA-1B: {type(error).__name__} {error}; expected {KEYS}") from error
    except (ShapeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def _check(one: dict[str, Any], number: int, size_hw: tuple[int, int]) -> None:
    for key in KEYS:
        if key not in one:
            raise KeyError(f"annotation {number} has no {key!r}")
    size = tuple(int(side) for side in one["segmentation"]["size"])
    if size != size_hw:
        raise ShapeError(f"annotation {number}: its mask is {size}, the picture {size_hw}")
    if len(one["bbox"]) != 4 or not all(math.isfinite(value) for value in one["bbox"]):
        raise ShapeError(f"annotation {number}: got bbox {one['bbox']}, expected x, y, width, height")
    pixels = int(geometry.decode_rle(one["segmentation"]).sum())
    if pixels != int(one["area"]):
        raise ShapeError(f"annotation {number}: its mask has {pixels} pixels, its area says {one['area']}: damaged")
