"""What a person has drawn, back into the store: COCO or LabelMe files replace the masks of the pictures they hold.

A picture that the file holds without objects loses its masks: the person says that there is nothing. Pictures that it
does not hold are left alone. New masks have the source "person" and score 1, and the picture waits for nobody any more.
Each picture is committed on its own; importing a file twice does no harm.
"""

from __future__ import annotations

import base64
import io
import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image

from textseg import geometry
from textseg.errors import DataError, nearest
from textseg.label import queue
from textseg.label.records import Labelled, NewMask
from textseg.label.score import load_coco, match_pictures
from textseg.label.settings import Settings
from textseg.label.store import Store
from textseg.types import Bool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """One picture as a person left it.

    Attributes:
        name: the picture's key or file name.
        size_hw: height and width in pixels.
        masks: (class, bool (H, W), id in the file) of each object.
        source: the file, for messages.
    """

    name: str
    size_hw: tuple[int, int]
    masks: tuple[tuple[str, Bool, str], ...]
    source: str


@dataclass(frozen=True)
class Corrected:
    """What an import did.

    Attributes:
        pictures: how many were replaced; masks: how many they have now; replaced: how many they had before.
        new_classes: classes that the store did not have.
        skipped: picture → why it was left alone.
    """

    pictures: int
    masks: int
    replaced: int
    new_classes: tuple[str, ...]
    skipped: dict[str, str]


def apply(store: Store, path: Path, *, new_classes: bool = False) -> Corrected:
    """Replace the masks of the pictures that a file holds.

    Args:
        store: opened with ``Store.write``.
        path: a COCO JSON, a LabelMe JSON, or a folder of LabelMe files.
        new_classes: whether classes that the store does not have are added; else they are an error, before anything
            is changed.

    Raises:
        DataError: the file cannot be read, has an unknown class, or none of its pictures is in the store.
    """
    drawn = list(_index(path))
    labels = sorted({label for one in drawn for label in one.labels})
    known = store.classes()
    added = tuple(label for label in labels if label not in known)
    if added and not new_classes:
        raise DataError(f"{path}: unknown class {added[0]!r}; {nearest(added[0], known)}; or allow new classes")
    keys = [picture.key for picture in store.pictures()]
    found = match_pictures({i: one.name for i, one in enumerate(drawn)}, keys)
    if not found:
        raise DataError(f"{path}: none of its {len(drawn)} pictures is in {store.path.parent} by that name")
    _begin(store, added)
    skipped = {one.name: "not in the store" for i, one in enumerate(drawn) if i not in found}
    pictures = masks = replaced = 0
    for i, key in found.items():
        problem, before, after = _replace(store, key, drawn[i], path)
        if problem:
            skipped[drawn[i].name] = problem
            continue
        pictures, masks, replaced = pictures + 1, masks + after, replaced + before
    store.finish("done")
    for name, reason in skipped.items():
        logger.warning("%s: left alone: %s", name, reason)
    return Corrected(pictures, masks, replaced, added, skipped)


def _begin(store: Store, added: tuple[str, ...]) -> None:
    """Begin a run with the last run's settings, so that the labeller still goes on with the store."""
    last = store.runs()[-1]
    store.begin(Settings(last.settings, last.models), added, override=True)


def _replace(store: Store, key: str, lazy: _Lazy, path: Path) -> tuple[str, int, int]:
    """Replace one picture's masks; return why not, how many there were, how many there are."""
    picture = store.picture(key)
    if picture is None or picture.status != "done":
        return "was never labelled: it failed", 0, 0
    try:
        drawn = lazy.read()
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        return f"cannot be read: {type(error).__name__}: {error}", 0, 0
    if drawn.size_hw != picture.size_hw:
        (h, w), (height, width) = drawn.size_hw, picture.size_hw
        return f"is {w}x{h} there, {width}x{height} in the store (upright)", 0, 0
    masks = tuple(_new_mask(*one) for one in drawn.masks if one[1].any())
    before = sum(1 for _ in store.masks(key))
    note = f"corrected by a person: {path.name}"
    store.record(
        Labelled(key, picture.uri, picture.digest, picture.size_hw, masks, picture.best, picture.seconds, note)
    )
    queue.mark(store, {key: "corrected"}, path.name)
    return "", before, len(masks)


def _new_mask(label: str, mask: Bool, origin: str) -> NewMask:
    x0, y0, x1, y1 = (float(v) for v in geometry.mask_boxes(mask[None])[0])
    counts = geometry.encode_rle(mask)["counts"]
    return NewMask(label, label, counts, (x0, y0, x1, y1), int(mask.sum()), 1.0, {}, queue.PERSON, origin)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Lazy:
    """A picture of a file: its name and its classes now, its masks when they are wanted."""

    name: str
    labels: frozenset[str]
    values: Any
    coco: Any
    source: str

    def read(self) -> Drawn:
        return _from_coco(self) if self.coco is not None else _from_labelme(self)


def _index(path: Path) -> Iterator[_Lazy]:
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*.json")) if file.name != "provenance.json"]
        if not files:
            raise DataError(f"{path}: no JSON file in it; expected LabelMe files, or a COCO file itself")
        for file in files:
            yield from _index(file)
        return
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if isinstance(values, dict) and "shapes" in values and "imagePath" in values:
        labels = frozenset(str(shape["label"]) for shape in values["shapes"])
        yield _Lazy(str(values.get("textseg_key") or values["imagePath"]), labels, values, None, str(path))
    elif isinstance(values, dict) and "images" in values and "annotations" in values:
        yield from _coco_pictures(path)
    else:
        raise DataError(f"{path}: neither COCO ('images', 'annotations') nor LabelMe ('shapes', 'imagePath')")


def _coco_pictures(path: Path) -> Iterator[_Lazy]:
    coco = load_coco(path)
    names = {int(c["id"]): str(c["name"]) for c in coco.dataset["categories"]}
    for number, entry in coco.imgs.items():
        annotations = coco.imgToAnns.get(number, [])
        try:
            labels = frozenset(names[int(a["category_id"])] for a in annotations)
        except KeyError as error:
            raise DataError(f"{path}: picture {entry.get('file_name')}: no category {error}") from error
        name = str(entry.get("textseg_key") or entry["file_name"])
        yield _Lazy(name, labels, (entry, annotations, names), coco, str(path))


def _from_coco(lazy: _Lazy) -> Drawn:
    entry, annotations, names = lazy.values
    size = int(entry["height"]), int(entry["width"])
    masks = []
    for one in annotations:
        mask = geometry.decode_rle(lazy.coco.annToRLE(one))
        masks.append((names[int(one["category_id"])], mask, str(one["origin"])))
    return Drawn(lazy.name, size, tuple(masks), lazy.source)


def _from_labelme(lazy: _Lazy) -> Drawn:
    """Return the objects of a LabelMe file; shapes of one class and one ``group_id`` are parts of one object."""
    values = lazy.values
    size = int(values["imageHeight"]), int(values["imageWidth"])
    groups: dict[tuple[str, Any], list[dict[str, Any]]] = defaultdict(list)
    for n, shape in enumerate(values["shapes"]):
        group = shape.get("group_id")
        groups[str(shape["label"]), f"shape {n}" if group is None else int(group)].append(shape)
    masks = []
    for (label, group), shapes in groups.items():
        mask = np.zeros(size, np.bool_)
        for shape in shapes:
            mask |= _shape_mask(shape, size)
        masks.append((label, mask, str(group)))
    return Drawn(lazy.name, size, tuple(masks), lazy.source)


def _shape_mask(shape: dict[str, Any], size_hw: tuple[int, int]) -> Bool:
    """Return bool (H, W) of one shape, borders included, as LabelMe draws it."""
    kind = shape.get("shape_type") or "polygon"
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    canvas = np.zeros(size_hw, np.uint8)
    whole = np.rint(points).astype(np.int32)
    if kind == "mask":
        return _png_mask(shape["mask"], whole, size_hw)
    if kind == "polygon" and len(points) > 2:
        cv2.fillPoly(canvas, [whole.reshape(-1, 1, 2)], 1)
    elif kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = whole.min(axis=0).tolist(), whole.max(axis=0).tolist()
        cv2.rectangle(canvas, (x0, y0), (x1, y1), 1, cv2.FILLED)
    elif kind == "circle" and len(points) == 2:
        x, y = whole[0].tolist()
        cv2.circle(canvas, (x, y), round(float(np.hypot(*(points[1] - points[0])))), 1, cv2.FILLED)
    else:
        raise ValueError(f"shape {kind!r} with {len(points)} points; expected mask, polygon, rectangle or circle")
    return canvas.astype(np.bool_)


def _png_mask(text: str, corners: Any, size_hw: tuple[int, int]) -> Bool:
    with PIL.Image.open(io.BytesIO(base64.b64decode(text))) as opened:
        inside = np.asarray(opened.convert("L")) > 0
    x0, y0 = corners[0].tolist()
    height, width = inside.shape
    out = np.zeros(size_hw, np.bool_)
    if x0 < 0 or y0 < 0 or y0 + height > size_hw[0] or x0 + width > size_hw[1]:
        raise ValueError(f"a mask of {width}x{height} at ({x0}, {y0}) lies outside the picture")
    out[y0 : y0 + height, x0 : x0 + width] = inside
    return out
