"""Small stores with the masks that exporters stumble over: holes, several parts, one pixel, overlaps, none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from textseg import geometry, image
from textseg.label.records import Failed, Labelled, NewMask
from textseg.label.settings import Settings
from textseg.label.store import Store
from textseg.types import Bool

CLASSES = ("red box", "交通灯/信号", 'a "b" <c> & d', "never seen")
SETTINGS = Settings({"preset": "tests"}, {"segmenter": "fake/sam sha256:abc"})

KEYS = ("sub/street scene.png", "sub/Street Scene.jpg", "street #1 [é].png", "空.png", "turned.jpg", "odd.bmp")
"""Keys with folders, spaces, clashes of case and of suffix, other scripts, a picture that a camera turned."""


def mask_of(size_hw: tuple[int, int], *boxes_xyxy: tuple[int, int, int, int]) -> Bool:
    """Return a mask of boxes; where two overlap there is a hole."""
    mask = np.zeros(size_hw, np.bool_)
    for x0, y0, x1, y1 in boxes_xyxy:
        mask[y0:y1, x0:x1] ^= True
    return mask


def new_mask(mask: Bool, label: str = CLASSES[0], score: float = 0.9) -> NewMask:
    """Return a mask ready to be stored."""
    x0, y0, x1, y1 = (float(v) for v in geometry.mask_boxes(mask[None])[0])
    counts = geometry.encode_rle(mask)["counts"]
    parts = {"sam_iou": 0.8, "stability": None}
    return NewMask(label, label, counts, (x0, y0, x1, y1), int(mask.sum()), score, parts, "detector")


def hard_masks() -> list[tuple[Bool, str]]:
    """Return masks of 37 x 53 pixels with their classes."""
    size = (37, 53)
    ring_and_part = mask_of(size, (2, 2, 20, 20), (6, 6, 10, 12), (12, 8, 16, 9), (30, 25, 45, 36))
    pixel = mask_of(size, (52, 36, 53, 37))
    overlapping = mask_of(size, (10, 10, 35, 30))
    diagonal = np.zeros(size, np.bool_)
    diagonal[np.arange(30), np.arange(30)] = True
    noise = np.random.default_rng(7).random(size) < 0.4
    everything = np.ones(size, np.bool_)
    return [
        (ring_and_part, CLASSES[0]),
        (pixel, CLASSES[1]),
        (overlapping, CLASSES[0]),
        (diagonal, CLASSES[2]),
        (noise, CLASSES[1]),
        (everything, CLASSES[2]),
    ]


def picture(path: Path, size_hw: tuple[int, int], seed: int = 0, turned: bool = False) -> Path:
    """Write a picture of noise; ``turned`` stores it lying, with the tag that makes it upright again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(seed).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    made = PIL.Image.fromarray(rgb)
    if not turned:
        made.save(path)
        return path
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    made.transpose(PIL.Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    return path


def fill(store: Store, pictures: Mapping[str, tuple[Path, Sequence[NewMask]]]) -> None:
    """Record pictures with their masks; sizes and digests are the files' own."""
    for key, (path, masks) in pictures.items():
        opened = image.read(path)
        best = {mask.label: mask.score for mask in masks}
        store.record(Labelled(key, str(path), opened.digest, opened.size_hw, tuple(masks), best, 0.1))


def make_store(folder: Path) -> Path:
    """Make the store of ``KEYS``: the first picture has all hard masks, the second none; return its folder."""
    hard = [new_mask(mask, label) for mask, label in hard_masks()]
    out = folder / "labels"
    pictures = {}
    for i, key in enumerate(KEYS):
        size = (37, 53) if i < 2 else (21 + i, 17)
        path = picture(folder / "in" / f"{i}{Path(key).suffix}", size, i, turned=key == "turned.jpg")
        masks = [hard, []][i] if i < 2 else [new_mask(mask_of(size, (1, 1, 5 + i, 9)), CLASSES[i % 3])]
        pictures[key] = (path, masks)
    with Store.write(out) as store:
        store.begin(SETTINGS, CLASSES)
        fill(store, pictures)
        store.record(Failed("broken.jpg", "/nowhere/broken.jpg", "ImageError", "zero bytes <b>"))
        store.finish("done")
    return out


def stored(out: Path) -> dict[str, list[tuple[str, Bool]]]:
    """Return key → (class, mask) of what a store holds."""
    with Store.read(out) as store:
        return {one.key: [(row.label, row.mask()) for row in rows] for one, rows in store.labelled()}
