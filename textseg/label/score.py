"""How good the labels are: a store against a COCO file of the truth.

Masks are matched as COCO does it (``pycocotools.COCOeval``, mask IoU): average precision over the thresholds 0.50 to
0.95, and at IoU 0.5 precision, recall and the mean IoU of what was matched, per class and by size (small below 32²
pixels, large from 96²). What lies in a region that the truth marks as a crowd counts neither way.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from textseg.errors import DataError
from textseg.label.store import Store

logger = logging.getLogger(__name__)

SIZES = ("all", "small", "medium", "large")
_MOST = 1000  # masks of one class in one picture


@dataclass(frozen=True)
class Row:
    """One line of the answer; NaN where there is nothing to divide by.

    Attributes:
        name: a class, or a size.
        truth: objects that there are; found: masks that were answered; matched: pairs at IoU 0.5 or more.
        precision, recall, f1: of them.
        mean_iou: mean over the matched pairs.
        ap, ap50: average precision over IoU 0.50 to 0.95, and at 0.50.
    """

    name: str
    truth: int
    found: int
    matched: int
    precision: float
    recall: float
    f1: float
    mean_iou: float
    ap: float
    ap50: float


@dataclass(frozen=True)
class Score:
    """How good the labels are.

    Attributes:
        total: over all classes; its "ap" is the mean over the classes that the truth has, as COCO's.
        classes: one row a class of the truth or of the store.
        sizes: small, medium, large.
        pictures: how many were compared.
        without_truth: pictures of the store that the truth does not have; missing: those the store does not have.
        unknown_classes: classes of the store that the truth does not have: their masks are not counted.
    """

    total: Row
    classes: tuple[Row, ...]
    sizes: tuple[Row, ...]
    pictures: int
    without_truth: int
    missing: int
    unknown_classes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; None for NaN."""
        values: dict[str, Any] = _plain(asdict(self))
        return values


def score(store: Store, truth: Path, *, rejected: bool = False) -> Score:
    """Compare a store with a COCO file.

    Pictures are found by their key, then by their file name alone if only one has it; classes by their name, then
    without regard to case. Pictures that only one side has are not counted.

    Args:
        store: open to read.
        truth: COCO JSON with masks.
        rejected: whether masks that a person rejected count, too.

    Raises:
        DataError: the file cannot be read, is not COCO, or shares no picture or no class with the store.
    """
    coco = load_coco(truth)
    names = {int(c["id"]): str(c["name"]) for c in coco.dataset["categories"]}
    classes, unknown = _match_classes(store.classes(), names)
    with store.snapshot():
        keys = [picture.key for picture in store.pictures("done")]
        pictures = match_pictures({int(i): str(e["file_name"]) for i, e in coco.imgs.items()}, keys)
        if not pictures:
            raise DataError(f"{truth}: none of its {len(coco.imgs)} pictures is in {store.path.parent} by that name")
        detections = list(_detections(store, pictures, classes, coco, rejected, truth))
    evaluated = _evaluate(coco, detections, sorted(pictures), sorted(names))
    rows = tuple(_row(evaluated, names[c], [c]) for c in sorted(names))
    return Score(
        total=_row(evaluated, "all", sorted(names)),
        classes=rows,
        sizes=tuple(_row(evaluated, size, sorted(names), size) for size in SIZES[1:]),
        pictures=len(pictures),
        without_truth=len(keys) - len(pictures),
        missing=len(coco.imgs) - len(pictures),
        unknown_classes=unknown,
    )


def load_coco(path: Path) -> Any:
    """Return a ``pycocotools.coco.COCO`` of a file; annotations are numbered from 1, "origin" is the file's own id.

    Raises:
        DataError: it cannot be read or is not COCO.
    """
    from pycocotools.coco import COCO

    try:
        values = json.loads(Path(path).read_text("utf-8"))
        for part in ("images", "annotations", "categories"):
            if not isinstance(values[part], list):
                raise TypeError(f"{part!r} is no list")
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = values
            for number, entry in enumerate(values["annotations"], 1):  # COCOeval takes an id of 0 for "no match"
                entry.update(id=number, origin=entry.get("id"))
                entry.setdefault("iscrowd", 0)
            coco.createIndex()
            for entry in values["annotations"]:
                _complete(coco, entry)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path} is not a COCO file with masks: {type(error).__name__}: {error}") from error
    return coco


def _complete(coco: Any, entry: dict[str, Any]) -> None:
    """Give an annotation its area and check that its mask can be decoded."""
    from pycocotools import mask

    if not entry.get("segmentation"):
        raise ValueError(f"annotation {entry.get('origin')} has no segmentation")
    area = float(mask.area(coco.annToRLE(entry)))
    entry["area"] = float(entry.get("area") or area)


def match_pictures(names: dict[int, str], keys: Iterable[str]) -> dict[int, str]:
    """Return number → key, for pictures named by key, by an export's name, or by a file name that only one has."""
    from textseg.label.export.names import Names

    known: set[str] = set()
    by_name: dict[str, str | None] = {}
    stems = Names()
    for one in keys:
        known.add(one)
        for name in {PurePosixPath(one).name, stems(one)}:
            by_name[name] = None if name in by_name and by_name[name] != one else one
    out: dict[int, str] = {}
    for number, name in names.items():
        tail = PurePosixPath(name.replace("\\", "/")).name
        key: str | None = name if name in known else (by_name.get(tail) or by_name.get(PurePosixPath(tail).stem))
        if key is not None:
            out[number] = key
    twice = len(out) - len(set(out.values()))
    if twice:
        logger.warning("%d pictures are there under two names; the later one counts", twice)
        last = {taken: number for number, taken in out.items()}
        out = {number: taken for taken, number in last.items()}
    return out


def _match_classes(ours: tuple[str, ...], theirs: dict[int, str]) -> tuple[dict[str, int], tuple[str, ...]]:
    exact = {name: number for number, name in theirs.items()}
    folded = {name.casefold(): number for number, name in theirs.items()}
    found = {name: exact.get(name, folded.get(name.casefold())) for name in ours}
    known = {name: number for name, number in found.items() if number is not None}
    if not known:
        raise DataError(f"no class in common: the store has {', '.join(ours)}; the truth {', '.join(theirs.values())}")
    return known, tuple(name for name, number in found.items() if number is None)


def _detections(
    store: Store, pictures: dict[int, str], classes: dict[str, int], coco: Any, rejected: bool, truth: Path
) -> Iterable[dict[str, Any]]:
    for number, key in pictures.items():
        size = coco.imgs[number]["height"], coco.imgs[number]["width"]
        for row in store.masks(key):
            if row.label not in classes or (row.verdict == "reject" and not rejected):
                continue
            if row.size_hw != size:
                raise DataError(f"{truth}: {key} is {size[1]}x{size[0]} there, {row.size_hw[1]}x{row.size_hw[0]} here")
            x0, y0, x1, y1 = row.box_xyxy
            yield {
                "id": row.id, "image_id": number, "category_id": classes[row.label], "segmentation": row.rle,
                "score": row.score, "area": row.area, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
            }  # fmt: skip


def _evaluate(coco: Any, detections: list[dict[str, Any]], pictures: list[int], classes: list[int]) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = COCO()
    found.dataset = {
        "images": coco.dataset["images"],
        "categories": coco.dataset["categories"],
        "annotations": detections,
    }
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pycocotools speaks numpy 1
        found.createIndex()
        made = COCOeval(coco, found, "segm")
        made.params.imgIds, made.params.catIds = pictures, classes
        made.params.maxDets = [_MOST]
        made.evaluate()
        made.accumulate()
    return made


def _row(evaluated: Any, name: str, classes: list[int], size: str = "all") -> Row:
    """Sum up COCOeval's matches at IoU 0.5, and take its precision curves."""
    params = evaluated.params
    area, wanted = SIZES.index(size), {c: i for i, c in enumerate(params.catIds)}
    truth = found = matched = 0
    overlaps: list[float] = []
    per_class = len(params.areaRng) * len(params.imgIds)
    for c in classes:
        start = wanted[c] * per_class + area * len(params.imgIds)
        for one in evaluated.evalImgs[start : start + len(params.imgIds)]:
            if one is None:
                continue
            counted = ~np.asarray(one["gtIgnore"], bool)
            pairs = (np.asarray(one["dtMatches"])[0] > 0) & ~np.asarray(one["dtIgnore"], bool)[0]
            truth += int(counted.sum())
            found += int((~np.asarray(one["dtIgnore"], bool)[0]).sum())
            matched += int(pairs.sum())
            overlaps += _ious(evaluated, one, pairs)
    columns = [wanted[c] for c in classes]
    curves = evaluated.eval["precision"][:, :, columns, area, 0]  # (thresholds, recalls, classes)
    return Row(
        name, truth, found, matched, _share(matched, found), _share(matched, truth),
        _share(2 * matched, truth + found), float(np.mean(overlaps)) if overlaps else math.nan,
        _mean_known(curves), _mean_known(curves[:1]),
    )  # fmt: skip


def _ious(evaluated: Any, one: dict[str, Any], pairs: Any) -> list[float]:
    """Return the IoU of each matched pair of one picture and class."""
    table = evaluated.ious[one["image_id"], one["category_id"]]  # (found by score, truth in the file's order)
    order = [g["id"] for g in evaluated._gts[one["image_id"], one["category_id"]]]
    matches = np.asarray(one["dtMatches"])[0]
    return [float(table[d][order.index(int(matches[d]))]) for d in np.flatnonzero(pairs)]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean_known(curves: Any) -> float:
    known = curves[curves > -1]  # COCOeval's sign for "no such object"
    return float(known.mean()) if known.size else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
