"""Labelled photographs in memory: one `Sample` per picture, whatever set it comes from."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from textseg import geometry
from textseg.colors import name_color
from textseg.errors import DataError
from textseg.train import nouns

logger = logging.getLogger(__name__)

FOLDERS: dict[str, str] = {
    "coco": "coco",
    "ccp": "ccp",
    "vehicles": "vehicles-openimages",
    "plates": "cars-openimages-plates",
    "fruit": "fruit-table",
    "bottles": "bottles-cups",
    "caltech": "caltech101",
}
"""Set name → its folder under the data root."""

BOX_CLASSES: dict[str, tuple[str, ...]] = {
    "vehicles": ("ambulance", "bus", "car", "motorcycle", "truck"),
    "plates": ("car", "license plate"),
    "fruit": ("apple", "banana", "orange", "pear", "peach", "lime"),
    "bottles": ("bottle", "cup"),
}
"""The classes of the sets that have boxes and no masks."""

WHOLE_PICTURE = frozenset({"caltech"})
"""Sets whose things, where they have no mask, have the whole picture for a box: only their middle is known."""

CALTECH_NOUNS: dict[str, str] = {
    "Faces": "face",
    "Faces_easy": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorcycle",
    "airplanes": "airplane",
    "car_side": "car",
    "cellphone": "cell phone",
    "cougar_body": "cougar",
    "cougar_face": "cougar face",
    "crocodile_head": "crocodile head",
    "flamingo_head": "flamingo head",
    "garfield": "cartoon cat",
    "snoopy": "cartoon dog",
    "rhino": "rhinoceros",
    "hawksbill": "sea turtle",
    "yin_yang": "yin yang symbol",
}
"""Caltech-101 folders whose noun is not simply the folder's name."""

VEHICLE_SETS = frozenset({"vehicles", "plates"})
"""The sets whose photographs show cars and the like: dark windows and tyres are no part of their colour."""

COLORLESS = frozenset({"person", "skin", "accessories", "license plate", "face"})
"""Nouns that nobody puts a colour word before."""
_BORDER_WHITE = 244
_OFTEN_BESIDE = frozenset({"face", "human face", "chair", "lamp", "cup", "car", "umbrella", "watch"})
"""Caltech's nouns that its pictures of something else may show too, without a label."""


@dataclass(frozen=True)
class LabelledObject:
    """One labelled thing in a picture; pixels of that picture."""

    name: str
    """Canonical noun, lower case."""
    names: frozenset[str]
    """Every noun it answers to, the canonical one included, lower case."""
    color: str | None
    """One of `colors.COLORS` where the thing is plain, else None (unknown or mixed)."""
    box_xyxy: NDArray[np.float32]
    """(4,) float32, pixels."""
    mask: NDArray[np.bool_] | None
    """(H, W) bool, visible pixels; None where only a box is known."""
    crowd: bool = False
    """A region of several things, or a thing hidden for the most part: neither positive nor negative."""


@dataclass(frozen=True)
class Sample:
    """One picture with what is known about it."""

    image_rgb: NDArray[np.uint8]
    """(H, W, 3) uint8."""
    objects: tuple[LabelledObject, ...]
    exhaustive: frozenset[str]
    """Nouns of which EVERY instance is labelled; elsewhere in the picture they are absent."""
    source: str
    """"scene", "coco", "ccp", "vehicles", "plates", "fruit", "bottles" or "caltech"."""


@dataclass(frozen=True)
class _Label:
    """A labelled object at rest: the mask as compressed RLE."""

    name: str
    names: frozenset[str]
    color: str | None
    box_xyxy: NDArray[np.float32]
    rle: dict[str, Any] | None
    crowd: bool


@dataclass(frozen=True)
class _Photo:
    image_rgb: NDArray[np.uint8]
    labels: tuple[_Label, ...]
    exhaustive: frozenset[str]


class PhotoSet:
    """A split of one set of photographs, decoded once and kept as uint8; masks stay RLE until asked for."""

    def __init__(self, name: str, photos: list[_Photo]) -> None:
        self.name = name
        self._photos = photos

    @classmethod
    def load(cls, root: str | Path, name: str, split: str, *, max_side: int | None = None) -> PhotoSet:
        """Read the `split` ("train" or "val") of set `name` (a key of `FOLDERS`) under `root`.

        "val" holds every tenth picture (`image_id % 10 == 0`; for caltech, every tenth of a
        folder). `max_side` shrinks larger pictures. "background" is caltech's folder of pictures
        without a subject. Raises ValueError for an unknown set or split, FileNotFoundError where
        the folder is missing.
        """
        if split not in {"train", "val"}:
            raise ValueError(f"split is {split!r}; choose 'train' or 'val'")
        root = Path(root)
        cutouts = nouns.cutout_names(root / "fluent" / "names.json")
        if name == "background":
            return cls(name, _load_background(root, split, cutouts, max_side))
        if name not in FOLDERS:
            raise ValueError(f"set is {name!r}; choose one of {', '.join([*FOLDERS, 'background'])}")
        folder = root / FOLDERS[name]
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: the pictures of set {name!r} belong there")
        if name == "caltech":
            return cls(name, _load_caltech(folder, split, cutouts, max_side))
        return cls(name, _load_annotated(folder, name, split, cutouts, max_side))

    def with_masks(self, masks: Mapping[tuple[int, int], dict[str, Any]]) -> PhotoSet:
        """The same photographs, some of their objects with a mask: (picture, label) → COCO RLE; see `pseudo_masks`.

        A thing that was known to fill its picture gets the mask's box. Raises DataError where a mask is not of its
        picture's size.
        """
        for (i, _), rle in masks.items():
            size_hw = list(self._photos[i].image_rgb.shape[:2]) if i < len(self._photos) else None
            if rle["size"] != size_hw:
                raise DataError(f"mask of picture {i} of {self.name}: size is {rle['size']}, expected {size_hw}")
        photos = []
        for i, photo in enumerate(self._photos):
            labels = (_masked(label, photo, masks.get((i, j))) for j, label in enumerate(photo.labels))
            photos.append(replace(photo, labels=tuple(labels)))
        return PhotoSet(self.name, photos)

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Sample:
        photo = self._photos[index]
        objects = tuple(_decode(label) for label in photo.labels)
        source = "caltech" if self.name == "background" else self.name
        return Sample(photo.image_rgb, objects, photo.exhaustive, source)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def places(self, *, least_side: float = 0.0) -> Iterator[tuple[int, int, str]]:
        """(picture, label, canonical noun) of every object but crowds and those under `least_side` pixels."""
        for i, photo in enumerate(self._photos):
            for j, label in enumerate(photo.labels):
                x0, y0, x1, y1 = label.box_xyxy
                if not label.crowd and min(x1 - x0, y1 - y0) >= least_side:
                    yield i, j, label.name

    def one(self, index: int, label: int) -> tuple[NDArray[np.uint8], LabelledObject]:
        """A picture and one of its objects, without decoding the other masks."""
        photo = self._photos[index]
        return photo.image_rgb, _decode(photo.labels[label])


def mask_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The tight box (4,) xyxy float32 of an (H, W) bool mask; zeros where the mask is empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return np.zeros(4, dtype=np.float32)
    edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return np.array(edges, dtype=np.float32)


def _masked(label: _Label, photo: _Photo, rle: dict[str, Any] | None) -> _Label:
    """Return a label with a mask, if there is one for it."""
    if rle is None:
        return label
    height, width = photo.image_rgb.shape[:2]
    box, whole = label.box_xyxy, (0, 0, width, height)
    return replace(label, rle=rle, box_xyxy=mask_box(geometry.decode_rle(rle)) if tuple(box) == whole else box)


def _decode(label: _Label) -> LabelledObject:
    mask = None if label.rle is None else geometry.decode_rle(label.rle)
    return LabelledObject(label.name, label.names, label.color, label.box_xyxy, mask, label.crowd)


def _read(path: Path, max_side: int | None) -> NDArray[np.uint8]:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"{path} is not a picture that can be read")
    height, width = bgr.shape[:2]
    if max_side is not None and max(height, width) > max_side:
        scale = max_side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _load_annotated(
    folder: Path,
    source: str,
    split: str,
    cutouts: dict[str, tuple[frozenset[str], int]],
    max_side: int | None,
) -> list[_Photo]:
    """Every picture of a folder with a COCO-like `annotations.json`."""
    table = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    classes = {c["id"]: c["name"] for c in table["categories"]}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in table["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    exhaustive = frozenset(classes.values()) if source in {"coco", "ccp"} else frozenset()
    if source == "ccp":
        exhaustive |= {"person"}
    absent = nouns.absent_nouns(cutouts, source)
    photos = []
    for entry in table["images"]:
        if (entry["id"] % 10 == 0) != (split == "val"):
            continue
        image = _read(folder / "images" / entry["file_name"], max_side)
        annotations = by_image.get(entry["id"], [])
        labels = [_label(a, classes[a["category_id"]], image, source, cutouts, entry) for a in annotations]
        if source == "ccp" and labels:
            labels.append(_person(labels))
        photos.append(_Photo(image, tuple(labels), _exhaustive(exhaustive, labels, absent)))
    return photos


def _exhaustive(classes: frozenset[str], labels: list[_Label], absent: dict[str, frozenset[str]]) -> frozenset[str]:
    """The set's own classes and their synonyms, and cut-out nouns that no label here might be."""
    synonyms = frozenset(s for c in classes for s in nouns.names_of(c) if s not in nouns.GENERIC)
    present = frozenset[str]().union(*(label.names for label in labels)) if labels else frozenset()
    other = {n for n, names in absent.items() if not any(nouns.may_be(m, present) for m in names)}
    return classes | synonyms | frozenset(other)


def _label(
    annotation: dict[str, Any],
    name: str,
    image_rgb: NDArray[np.uint8],
    source: str,
    cutouts: dict[str, tuple[frozenset[str], int]],
    entry: dict[str, Any],
) -> _Label:
    """One annotation, scaled to the picture as it was read, with its colour where plain."""
    height, width = image_rgb.shape[:2]
    scale = width / entry["width"]
    rle = annotation.get("segmentation")
    mask = None
    if rle:
        mask = geometry.decode_rle(rle).view(np.uint8)
        if mask.shape != (height, width):
            resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
            mask = np.asarray(resized, dtype=np.uint8)
            rle = geometry.encode_rle(mask.astype(bool))
    x, y, w, h = annotation["bbox"]
    box = np.array([x, y, x + w, y + h], dtype=np.float32) * np.float32(scale)
    crowd = bool(annotation.get("iscrowd", 0))
    color = None
    if name not in COLORLESS and not crowd:
        if mask is not None:
            color = name_color(image_rgb[mask.astype(bool)])
        else:
            color = ellipse_color(image_rgb, box, skip_dark=source in VEHICLE_SETS)
    return _Label(name, nouns.photo_names(name, cutouts), color, box, rle or None, crowd)


def ellipse_color(image_rgb: NDArray[np.uint8], box_xyxy: NDArray[np.float32], *, skip_dark: bool) -> str | None:
    """The colour word of the ellipse that fills 0.55 of a box's width and height, None if not plain.

    `skip_dark` leaves windows, tyres and shadows out where at least 45 % of the pixels remain.
    """
    height, width = image_rgb.shape[:2]
    x0, y0, x1, y1 = box_xyxy
    center_x, center_y = (x0 + x1) / 2, (y0 + y1) / 2
    half_w, half_h = 0.275 * (x1 - x0), 0.275 * (y1 - y0)
    left, right = int(max(0, center_x - half_w)), int(min(width, center_x + half_w + 1))
    top, bottom = int(max(0, center_y - half_h)), int(min(height, center_y + half_h + 1))
    if right - left < 4 or bottom - top < 4:
        return None
    grid_y, grid_x = np.mgrid[top:bottom, left:right]
    inside = ((grid_x - center_x) / half_w) ** 2 + ((grid_y - center_y) / half_h) ** 2 <= 1
    pixels = image_rgb[top:bottom, left:right][inside]
    if skip_dark and len(pixels):
        bright = pixels.max(axis=1) >= 56
        if bright.mean() >= 0.45:
            pixels = pixels[bright]
        return name_color(pixels, least_share=0.42, margin=0.18)
    return name_color(pixels)


def _person(labels: list[_Label]) -> _Label:
    """The union of a picture's garment, skin and hair masks, as one person without a colour."""
    rle = coco_mask.merge([label.rle for label in labels if label.rle is not None])
    x, y, w, h = coco_mask.toBbox(rle)
    box = np.array([x, y, x + w, y + h], dtype=np.float32)
    return _Label("person", nouns.names_of("person"), None, box, rle, False)


def caltech_nouns(folder: Path) -> dict[Path, str]:
    """The folders of objects in caltech's `folder`, in order, each with its noun; none where it is missing."""
    subs = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    kept = (sub for sub in subs if sub.name != "BACKGROUND_Google")
    return {sub: CALTECH_NOUNS.get(sub.name, sub.name.lower().replace("_", " ")) for sub in kept}


def _load_caltech(
    folder: Path,
    split: str,
    cutouts: dict[str, tuple[frozenset[str], int]],
    max_side: int | None,
) -> list[_Photo]:
    """One object per picture: the whole picture, or the cut-out where the border is white."""
    photos, folders = [], caltech_nouns(folder)
    others = frozenset(folders.values()) - _OFTEN_BESIDE | frozenset(nouns.absent_nouns(cutouts, "caltech"))
    for sub, noun in folders.items():
        names = nouns.photo_names(noun, cutouts)
        elsewhere = frozenset(n for n in others if not nouns.may_be(n, names))
        for index, path in enumerate(sorted(sub.glob("*.jpg"))):
            if (index % 10 == 0) != (split == "val"):
                continue
            image = _read(path, max_side)
            mask = white_border_mask(image)
            height, width = image.shape[:2]
            box = np.array([0, 0, width, height], np.float32) if mask is None else mask_box(mask)
            color = None if mask is None or noun in COLORLESS else name_color(image[mask])
            rle = None if mask is None else geometry.encode_rle(mask)
            label = _Label(noun, names, color, box, rle, False)
            photos.append(_Photo(image, (label,), elsewhere))
    return photos


def white_border_mask(image_rgb: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """(H, W) bool: what is not joined to a white border; None where the border is not white."""
    white = (image_rgb.min(axis=2) >= _BORDER_WHITE).astype(np.uint8)
    edge = np.concatenate([white[:2].ravel(), white[-2:].ravel(), white[:, :2].ravel(), white[:, -2:].ravel()])
    if edge.mean() < 0.9:
        return None
    padded = cv2.copyMakeBorder(white, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    _, regions = cv2.connectedComponents(padded, connectivity=4)
    thing = (regions != regions[0, 0])[1:-1, 1:-1].astype(np.uint8)
    thing = cv2.morphologyEx(thing, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    share = thing.mean()
    return thing.astype(bool) if 0.06 < share < 0.92 else None


def _load_background(
    root: Path,
    split: str,
    cutouts: dict[str, tuple[frozenset[str], int]],
    max_side: int | None,
) -> list[_Photo]:
    """Pictures without a subject: no labels, and every cut-out noun counts as absent."""
    folder = root / FOLDERS["caltech"] / "BACKGROUND_Google"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: background pictures belong there")
    everything = frozenset(n for names, _ in cutouts.values() for n in names)
    photos = []
    for index, path in enumerate(sorted(folder.glob("*.jpg"))):
        if (index % 10 == 0) == (split == "val"):
            photos.append(_Photo(_read(path, max_side), (), everything))
    return photos
