"""A tiny data root in the layout of the real one: plain coloured shapes on gray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.fakes import PALETTE
from textseg.geometry import encode_rle

SIZE = (96, 128)
NOUNS = ("car", "cup", "dog", "key")


def picture(boxes: list[tuple[str, tuple[int, int, int, int]]]) -> np.ndarray:
    """Return uint8 (96, 128, 3) RGB: plain boxes on gray."""
    rgb = np.full((*SIZE, 3), PALETTE["gray"], np.uint8)
    for color, (x0, y0, x1, y1) in boxes:
        rgb[y0:y1, x0:x1] = PALETTE[color]
    return rgb


def write_set(folder: Path, pictures: dict[int, list[tuple[str, str, tuple[int, int, int, int]]]]) -> None:
    """Write ``annotations.json`` and ``images/`` of pictures: id → (class, colour, box)."""
    (folder / "images").mkdir(parents=True)
    classes = sorted({name for things in pictures.values() for name, _, _ in things})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, things in pictures.items():
        file = f"{number}.png"
        rgb = picture([(color, box) for _, color, box in things])
        cv2.imwrite(str(folder / "images" / file), rgb[..., ::-1])
        images.append({"id": number, "file_name": file, "width": SIZE[1], "height": SIZE[0]})
        for name, _, (x0, y0, x1, y1) in things:
            mask = np.zeros(SIZE, np.bool_)
            mask[y0:y1, x0:x1] = True
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": classes.index(name) + 1}
            rle = None if folder.name in ("vehicles-openimages", "cars-openimages-plates") else encode_rle(mask)
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append({**entry, "bbox": box, "segmentation": rle, "iscrowd": 0, "area": int(mask.sum())})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    table = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(table), encoding="utf-8")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with coco, ccp, two car folders, two folders of objects, backgrounds and four cut-outs."""
    root = tmp_path_factory.mktemp("data")
    left, right, low = (10, 20, 50, 70), (70, 30, 120, 60), (10, 76, 60, 92)
    write_set(root / "coco", {10: [("cup", "red", left), ("dog", "blue", right)], 20: [("cup", "green", left)]})
    worn = [("boots", "black", left), ("skirt", "red", right)]
    write_set(root / "ccp", {10: worn, 20: [("skirt", "blue", left), ("hair", "yellow", low)]})
    cars = {10: [("car", "red", left), ("car", "blue", right)], 20: [("car", "blue", left)], 30: [("car", "red", left)]}
    write_set(root / "vehicles-openimages", cars)
    write_set(root / "cars-openimages-plates", {10: [("car", "green", (10, 10, 100, 80))]})
    grounds = root / "caltech101" / "BACKGROUND_Google"
    grounds.mkdir(parents=True)
    for i in range(11):
        cv2.imwrite(str(grounds / f"{i:02d}.jpg"), picture([]))
    for noun, ground in (("pagoda", "white"), ("sloth", "gray")):
        (root / "caltech101" / noun).mkdir()
        rgb = np.full((96, 128, 3), PALETTE[ground], np.uint8)
        rgb[30:70, 40:100] = PALETTE["red"]
        for i in range(11):
            cv2.imwrite(
                str(root / "caltech101" / noun / f"{i:02d}.jpg"), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100]
            )
    (root / "fluent" / "images").mkdir(parents=True)
    names = []
    for i, noun in enumerate(NOUNS):
        bgra = np.zeros((64, 64, 4), np.uint8)
        bgra[8:56, 8:56] = (*list(PALETTE.values())[i % 4][::-1], 255)
        cv2.imwrite(str(root / "fluent" / "images" / f"{noun}.png"), bgra)
        names.append({"file_name": f"{noun}.png", "name": noun, "tags": [], "group": 7, "subgroup": 50})
    (root / "fluent" / "names.json").write_text(json.dumps(names), encoding="utf-8")
    return root
