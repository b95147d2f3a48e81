"""Cut-outs: things without their background, from a folder or from labelled photographs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from textseg.colors import name_color
from textseg.train import nouns
from textseg.train.data import COLORLESS, VEHICLE_SETS, LabelledObject, Sample, mask_box

logger = logging.getLogger(__name__)

_PICTURES = frozenset({".webp", ".png"})


@dataclass(frozen=True)
class Part:
    """A named part of a cut-out that is labelled too (a garment of a person)."""

    name: str
    names: frozenset[str]
    color: str | None
    mask: NDArray[np.bool_]
    """(h, w) bool, pixels of the cut-out."""


@dataclass(frozen=True)
class Cutout:
    """One thing without its background."""

    name: str
    names: frozenset[str]
    rgba: NDArray[np.uint8]
    """(h, w, 4) uint8, alpha not premultiplied."""
    color: str | None = None
    """Its own colour where plain."""
    parts: tuple[Part, ...] = ()
    clouds: frozenset[str] = frozenset()
    """Nouns that may be in this cut-out without a label, so no longer exhaustive beside it."""
    paintable: bool = True
    """Whether it may be given another colour: a face or a garment of a photograph would look like none."""


def load_cutouts(folder: str | Path, *, max_side: int = 192) -> list[Cutout]:
    """Read every RGBA picture (.webp, .png) of `folder` or its `images/`, cropped to what is visible.

    `names.json` beside them (a list of objects with `file_name`, `name`, optional `tags`, `group`)
    names them; without it a file's name is its noun. Entries of groups that are no things are left
    out. Raises FileNotFoundError where the folder holds no picture.
    """
    folder = Path(folder)
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    files = sorted(p for p in pictures.iterdir() if p.suffix.lower() in _PICTURES)
    if not files:
        raise FileNotFoundError(f"{pictures} holds no .webp or .png cut-outs")
    listed = _listed_names(folder / "names.json")
    cutouts = []
    for path in files:
        if listed is None:
            name = path.stem.replace("-", " ").replace("_", " ").lower()
            names = nouns.names_of(name)
        elif path.name in listed:
            name, names = listed[path.name]
        else:
            continue
        cutout = _read_cutout(path, name, names, max_side)
        if cutout is not None:
            cutouts.append(cutout)
    return cutouts


def _listed_names(names_json: Path) -> dict[str, tuple[str, frozenset[str]]] | None:
    if not names_json.is_file():
        return None
    listed = {}
    grouped = nouns.cutout_names(names_json)
    for entry in json.loads(names_json.read_text(encoding="utf-8")):
        name = entry["name"].lower()
        if name in grouped:
            listed[entry["file_name"]] = (name, grouped[name][0])
    return listed


def _read_cutout(path: Path, name: str, names: frozenset[str], max_side: int) -> Cutout | None:
    bgra = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if bgra is None or bgra.ndim != 3 or bgra.shape[2] != 4:
        logger.warning("%s has no alpha channel and is left out", path.name)
        return None
    rgba = _trim(np.asarray(cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA), dtype=np.uint8), max_side)
    if rgba is None:
        return None
    return Cutout(name, names, rgba, name_color(rgba[..., :3][rgba[..., 3] > 128]))


def _trim(rgba: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8] | None:
    """Crop to the visible part and shrink to `max_side`; None where fewer than 16 pixels show."""
    visible = rgba[..., 3] > 16
    if visible.sum() < 16:
        return None
    x0, y0, x1, y1 = mask_box(visible).astype(int)
    rgba = np.ascontiguousarray(rgba[y0:y1, x0:x1])
    scale = max_side / max(rgba.shape[:2])
    if scale < 1:
        size = (max(1, round(rgba.shape[1] * scale)), max(1, round(rgba.shape[0] * scale)))
        rgba = np.asarray(cv2.resize(rgba, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return rgba


def photo_cutouts(samples: Iterable[Sample], *, least_side: int = 40, max_side: int = 224) -> list[Cutout]:
    """Things cut out of photographs by their masks: coco instances, whole ccp persons, caltech objects, vehicles.

    Garments of a ccp person come along as parts; vehicles may be given another colour. Instances smaller than
    `least_side` pixels, crowds and those cut by more than two of the picture's edges are left out.
    """
    found = []
    for sample in samples:
        for thing in sample.objects:
            if thing.mask is None or thing.crowd:
                continue
            if sample.source == "ccp" and thing.name != "person":
                continue
            cutout = _photo_cutout(sample, thing, least_side, max_side)
            if cutout is not None:
                found.append(cutout)
    return found


def _photo_cutout(sample: Sample, thing: LabelledObject, least_side: int, max_side: int) -> Cutout | None:
    assert thing.mask is not None
    x0, y0, x1, y1 = mask_box(thing.mask).astype(int)
    height, width = thing.mask.shape
    edges = (x0 <= 1) + (y0 <= 1) + (x1 >= width - 1) + (y1 >= height - 1)
    if min(x1 - x0, y1 - y0) < least_side or edges > 2:
        return None
    mask = thing.mask[y0:y1, x0:x1]
    alpha = cv2.GaussianBlur(mask.astype(np.uint8) * 255, (3, 3), 0)
    alpha[~mask] = np.minimum(alpha[~mask], 110)
    rgba = np.dstack([sample.image_rgb[y0:y1, x0:x1], alpha])
    scale = min(1.0, max_side / max(rgba.shape[:2]))
    size = (max(1, round(rgba.shape[1] * scale)), max(1, round(rgba.shape[0] * scale)))
    rgba = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA)
    parts: tuple[Part, ...] = ()
    clouds: frozenset[str] = frozenset({"person", "human", "people"} - thing.names)
    if sample.source == "ccp":
        others = [o for o in sample.objects if o is not thing and o.mask is not None]
        parts = tuple(
            Part(o.name, o.names, o.color, _shrink(o.mask[y0:y1, x0:x1], size)) for o in others if o.mask is not None
        )
        clouds = frozenset({"clothing", "clothes"})
    paintable = sample.source in VEHICLE_SETS and thing.name not in COLORLESS
    return Cutout(thing.name, thing.names, np.ascontiguousarray(rgba), thing.color, parts, clouds, paintable)


def _shrink(mask: NDArray[np.bool_], size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    return cv2.resize(mask.astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST) > 0
