"""What SAM is bad at, measured on validation photographs: fine edges, crumbs, small objects; and nano's thresholds.

    python benchmarks/hard_cases.py DATA [--pictures 20] [--only thresholds,refine,regions,tiles,text]

DATA is a folder with ``coco`` (and ``ccp`` for thresholds), each with ``annotations.json`` in COCO's format. Only
pictures whose id is a multiple of ten count: nothing was trained on them. Parts that are measured replace those of
earlier runs in ``results/hard_cases.json`` and ``.md``.

- ``thresholds``: nano's own for "everything". An object counts as found if a mask reaches IoU 0.5 with it.
- ``refine``: the segmenter's masks from true boxes, before and after each way of ``textseg.refine``, the mask
  refiner's among them: boundary IoU, mask IoU.
- ``regions``: the same masks without holes and islands of fewer pixels.
- ``tiles``: everything by the whole picture and by tiles: recall of objects of fewer than 32² pixels.
- ``text``: the same with the picture's class names.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from textseg import geometry, refine, tiles
from textseg import image as images
from textseg.build import load
from textseg.errors import DataError
from textseg.evaluate.machine import machine_info, machine_line
from textseg.everything import Everything, EverythingOptions, generate
from textseg.pipeline import Pipeline
from textseg.refine import RefineOptions
from textseg.types import Bool, Image

logger = logging.getLogger("hard_cases")
RESULTS = Path(__file__).resolve().parent / "results"
SMALL = 32 * 32
KEPT = 0.6
"""Share of the objects that would be found without thresholds, which nano's thresholds keep."""


@dataclass(frozen=True)
class Truth:
    """A picture with its objects: K masks as RLE, their classes and areas."""

    image: Image
    rles: list[Any]
    names: list[str]
    areas: np.ndarray

    def masks(self, keep: np.ndarray) -> Bool:
        """Return bool (n, H, W) of the objects at some indices."""
        out = np.zeros((len(keep), *self.image.size_hw), np.bool_)
        for row, k in enumerate(keep):
            out[row] = geometry.decode_rle(self.rles[k])
        return out


def truths(folder: Path, most: int) -> Iterator[Truth]:
    """Yield at most so many validation pictures that have objects."""
    path = folder / "annotations.json"
    if not path.is_file():
        raise DataError(f"{path} is missing; expected COCO's annotations beside the pictures")
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in content["categories"]}
    files = {file.name: file for file in folder.rglob("*") if file.suffix in (".jpg", ".png")}
    done = 0
    for picture in content["images"]:
        objects = [a for a in content["annotations"] if a["image_id"] == picture["id"] and not a.get("iscrowd")]
        if picture["id"] % 10 or not objects or done >= most:
            continue
        done += 1
        rles = [one["segmentation"] for one in objects]
        areas = np.array([int(geometry.decode_rle(rle).sum()) for rle in rles])
        image = images.read(files[Path(picture["file_name"]).name])
        yield Truth(image, rles, [names[one["category_id"]] for one in objects], areas)


def best_iou(found: list[Any], truth: Truth) -> np.ndarray:
    """Return float (K,), each object's IoU with the best of the found masks (RLEs)."""
    if not found:
        return np.zeros(len(truth.rles))
    return np.asarray(coco.iou(_packed(found), _packed(truth.rles), [0] * len(truth.rles))).max(axis=0)


def _packed(rles: list[Any]) -> list[Any]:
    return [{**rle, "counts": str(rle["counts"]).encode()} for rle in rles]


# ---------------------------------------------------------------- thresholds


def measure_thresholds(pipeline: Pipeline, data: Path, most: int) -> dict[str, Any]:
    """Return recall and number of masks by threshold, and the strictest pair that keeps 60 % of the objects."""
    pictures = [*truths(data / "coco", most * 2 // 3), *truths(data / "ccp", most - most * 2 // 3)]
    loose = EverythingOptions(pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)
    steps = list(product(np.arange(0, 0.96, 0.05).round(2), [0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]))
    hits, masks, objects = np.zeros(len(steps)), np.zeros(len(steps)), 0
    for number, truth in enumerate(pictures):
        found = generate(pipeline.segmenter, truth.image, loose)
        big = truth.areas >= 100
        objects += int(big.sum())
        for step, (iou, stability) in enumerate(steps):
            kept = np.flatnonzero((found.predicted_iou > iou) & (found.stability_score >= stability))
            kept = kept[geometry.nms(found.boxes_xyxy[kept], found.predicted_iou[kept], 0.7)]
            hits[step] += int((best_iou([found.rles[k] for k in kept], truth)[big] >= 0.5).sum())
            masks[step] += len(kept)
        logger.info("thresholds: %d of %d pictures", number + 1, len(pictures))
    rows = [
        {"pred_iou": float(i), "stability": float(s), "recall": hit / objects, "masks a picture": n / len(pictures)}
        for (i, s), hit, n in zip(steps, hits, masks, strict=True)
    ]
    enough = [row for row in rows if row["recall"] >= KEPT * rows[0]["recall"]]
    metas = {"pred_iou": 0.85, "stability": 0.95}
    return {
        "pictures": len(pictures),
        "objects": objects,
        "none dropped": rows[0],
        "chosen": min(enough, key=lambda row: row["masks a picture"]),
        "near Meta's": next(row for row in rows if metas.items() <= row.items()),
        "all": rows,
    }


# ---------------------------------------------------------------- refinement and small regions


def prompted(pipeline: Pipeline, truth: Truth, keep: np.ndarray) -> Bool:
    """Return bool (n, H, W): the masks of the objects' true boxes."""
    boxes = geometry.mask_boxes(truth.masks(keep))
    picture = pipeline.open(truth.image)
    return np.stack([picture.segment(box=box).masks[0] for box in boxes])


def measure_refine(pipeline: Pipeline, data: Path, most: int) -> dict[str, Any]:
    """Return boundary IoU (of bands of 2 % and of 0.5 % of the diagonal), mask IoU and seconds, by way and size."""
    ways = {
        "before": None,
        "zoom": RefineOptions(snap=0),
        "snap 3": RefineOptions(rounds=0, snap=3),
        "snap 6": RefineOptions(rounds=0, snap=6),
        "snap 10": RefineOptions(rounds=0, snap=10),
        "zoom, snap 6": RefineOptions(snap=6),
        "drawn again": RefineOptions(snap=0, agree_iou=0.0),
        "drawn again, snap 3": RefineOptions(snap=3, agree_iou=0.0),
    }
    plain, refiner = pipeline.with_parts(refiner=None, own_refiner=None), pipeline.refiner_for(bounded=True)
    rows: dict[str, list[tuple[float, ...]]] = {way: [] for way in ways}
    for truth in truths(data / "coco", most):
        keep = np.flatnonzero(truth.areas >= 100)
        if not len(keep):
            continue
        before, true = prompted(plain, truth, keep), truth.masks(keep)
        for way, options in ways.items():
            start, masks = time.perf_counter(), before
            if options is not None:
                by = refiner if way.startswith("drawn") else None
                masks = refine.refine(by or pipeline.segmenter, truth.image, before, options).masks
            seconds = (time.perf_counter() - start) / len(keep)
            for area, mask, right in zip(truth.areas[keep], masks, true, strict=True):
                edges = (refine.boundary_iou(mask, right), refine.boundary_iou(mask, right, 0.005))
                iou = float(geometry.mask_iou(mask[None], right[None])[0, 0])
                rows[way].append((float(area), *edges, iou, seconds))
    names = ("boundary IoU", "boundary IoU 0.5 %", "IoU", "seconds a mask")
    out: dict[str, Any] = {}
    for way, values in rows.items():
        table = np.array(values)
        for size, low, high in (("all", 0, np.inf), ("under 32² px", 0, SMALL), ("over 96² px", 9 * SMALL, np.inf)):
            these = table[(table[:, 0] >= low) & (table[:, 0] < high)]
            out[f"{way}, {size}"] = {"objects": len(these)} | dict(
                zip(names, these[:, 1:].mean(axis=0).tolist(), strict=True)
            )
    return out


def measure_regions(pipeline: Pipeline, data: Path, most: int) -> dict[str, Any]:
    """Return boundary IoU, mask IoU and microseconds with holes and islands of fewer pixels removed."""
    limits = (0, 20, 50, 100, 200)
    rows: dict[int, list[tuple[float, float, float]]] = {limit: [] for limit in limits}
    for truth in truths(data / "coco", most):
        keep = np.flatnonzero(truth.areas >= 100)
        if not len(keep):
            continue
        for mask, true in zip(prompted(pipeline, truth, keep), truth.masks(keep), strict=True):
            for limit in limits:
                start = time.perf_counter()
                tidy = mask
                if limit:
                    tidy = geometry.remove_small_regions(mask, limit, "holes")
                    tidy = geometry.remove_small_regions(tidy, limit, "islands")
                seconds = time.perf_counter() - start
                iou = float(geometry.mask_iou(tidy[None], true[None])[0, 0])
                rows[limit].append((refine.boundary_iou(tidy, true), iou, seconds))
    return {
        f"fewer than {limit} px": dict(
            zip(("boundary IoU", "IoU", "seconds a mask"), np.mean(values, axis=0).tolist(), strict=True)
        )
        | {"objects": len(values)}
        for limit, values in rows.items()
    }


# ---------------------------------------------------------------- small objects


def measure_tiles(pipeline: Pipeline, data: Path, most: int) -> dict[str, Any]:
    """Return recall by size of object, masks and seconds: the whole picture against tiles."""
    base = pipeline.config.everything
    cut, fine = tiles.TileOptions(side=224, overlap=64), tiles.TileOptions(side=112, overlap=32)
    few, sparse, dense = (replace(base, points_per_side=side) for side in (8, 16, 32))
    ways: dict[str, Callable[[Image], Everything]] = {
        "whole, 16 × 16": lambda image: generate(pipeline.segmenter, image, sparse),
        "whole, 32 × 32": lambda image: generate(pipeline.segmenter, image, dense),
        "tiles of 224, 16 × 16 each": lambda image: tiles.everything(pipeline, image, cut, sparse),
        "tiles of 112, 8 × 8 each": lambda image: tiles.everything(pipeline, image, fine, few),
    }
    return _recalls(with_small(data, most), {name: lambda t, way=way: way(t.image) for name, way in ways.items()})


def measure_text(pipeline: Pipeline, data: Path, most: int) -> dict[str, Any]:
    """Return the same for the classes that are in the picture, asked for by name."""
    cut, fine = tiles.TileOptions(side=224, overlap=64), tiles.TileOptions(side=112, overlap=32)

    def whole(truth: Truth) -> list[Any]:
        answer = pipeline.open(truth.image).segment(sorted(set(truth.names)))
        return [geometry.encode_rle(mask) for mask in answer.masks]

    def tiled(truth: Truth, cut: tiles.TileOptions) -> Everything:
        return tiles.segment(pipeline, truth.image, sorted(set(truth.names)), cut)

    ways = {"whole": whole, "tiles of 224": partial(tiled, cut=cut), "tiles of 112": partial(tiled, cut=fine)}
    return _recalls(with_small(data, most), ways)


def with_small(data: Path, most: int) -> list[Truth]:
    """Return validation pictures with objects of 64 to 1,023 pixels."""
    found = (truth for truth in truths(data / "coco", 10**6) if ((truth.areas >= 64) & (truth.areas < SMALL)).any())
    return [truth for truth, _ in zip(found, range(most), strict=False)]


def _recalls(pictures: list[Truth], ways: dict[str, Callable[[Truth], Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"pictures": len(pictures)}
    for name, way in ways.items():
        small, large, masks, start = [], [], 0, time.perf_counter()
        for truth in pictures:
            found = way(truth)
            rles = list(found.rles) if isinstance(found, Everything) else found
            iou = best_iou(rles, truth)
            small += iou[(truth.areas >= 64) & (truth.areas < SMALL)].tolist()
            large += iou[truth.areas >= SMALL].tolist()
            masks += len(rles)
        out[name] = {
            "recall under 32² px": float((np.array(small) >= 0.5).mean()),
            "recall of larger": float((np.array(large) >= 0.5).mean()) if large else float("nan"),
            "masks a picture": masks / len(pictures),
            "seconds a picture": (time.perf_counter() - start) / len(pictures),
        }
        out["objects"] = [len(small), len(large)]
        logger.info("%s: %s", name, out[name])
    return out


PARTS: dict[str, Callable[[Pipeline, Path, int], dict[str, Any]]] = {
    "thresholds": measure_thresholds,
    "refine": measure_refine,
    "regions": measure_regions,
    "tiles": measure_tiles,
    "text": measure_text,
}


def table(values: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| part | what | figures |", "|---|---|---|"]
    for title in PARTS:
        for name, figure in values.get(title, {}).items():
            if name != "all" or title != "thresholds":
                text = (
                    json.dumps(figure)
                    if not isinstance(figure, dict)
                    else ", ".join(f"{what} {value:.4g}" for what, value in figure.items())
                )
                lines.append(f"| {title} | {name} | {text} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "hard_cases.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    pipeline = load("nano")
    for name in given.only.split(","):
        values[name] = PARTS[name](pipeline, given.data, given.pictures) | {"load": round(os.getloadavg()[0], 1)}
        logger.info("%s: %s", name, json.dumps({k: v for k, v in values[name].items() if k != "all"}, indent=1))
        values["machine"] = machine_info()
        path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
        path.with_suffix(".md").write_text(f"{machine_line()}\n\n{table(values)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
