"""A result in other people's formats: COCO JSON, plain JSON, supervision, files in a folder."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from textseg import geometry
from textseg.errors import DataError
from textseg.types import Image, Segments, UInt8

if TYPE_CHECKING:
    import supervision

    from textseg.result import Result

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of ``to_dict``'s layout."""

_MASK_FILE = re.compile(r"mask_\d{3,}_[\w-]+\.png")


def to_coco(result: Result, image_id: int = 1) -> dict[str, Any]:
    """Return a COCO dataset of one picture, ready for ``json.dump`` and ``pycocotools.coco.COCO``.

    Every phrase asked is a category (id = its index + 1), found or not. Masks are compressed RLE with text
    counts, boxes are x, y, width, height in pixels; each annotation also carries its "score".
    """
    height, width = result.image.size_hw
    annotations = [
        {
            "id": k + 1,
            "image_id": image_id,
            "category_id": int(result.phrase_index[k]) + 1,
            "segmentation": geometry.encode_rle(result.masks[k]),
            "area": int(result.masks[k].sum()),
            "bbox": _xywh(result.boxes_xyxy[k].tolist()),
            "iscrowd": 0,
            "score": float(result.scores[k]),
        }
        for k in range(len(result))
    ]
    return {
        "info": {"description": f"made by textseg, preset {result.preset}"},
        "images": [{"id": image_id, "file_name": file_name(result), "width": width, "height": height}],
        "categories": [{"id": i + 1, "name": phrase.text} for i, phrase in enumerate(result.query.phrases)],
        "annotations": annotations,
    }


def to_dict(result: Result) -> dict[str, Any]:
    """Return everything but the pixels as JSON-ready values: every part, the rejected too, with reasons.

    Masks are COCO RLE, boxes xyxy in pixels of the original picture; a part that does not apply is None.
    """
    height, width = result.image.size_hw
    found = set(result.phrase_index.tolist())
    best = result.phrase_scores.tolist()
    phrases = [
        {"text": phrase.text, "negatives": list(phrase.negatives), "found": i in found, "best_score": best[i]}
        for i, phrase in enumerate(result.query.phrases)
    ]
    return {
        "format": FORMAT,
        "picture": {
            "source": result.image.source,
            "width": width,
            "height": height,
            "sha256_of_pixels": result.image.digest,
        },
        "preset": result.preset,
        "threshold": result.config.threshold,
        "phrases": phrases,
        "accepted": _segments(result.accepted),
        "rejected": _segments(result.rejected),
        "seconds": {stage: round(seconds, 6) for stage, seconds in result.seconds.items()},
    }


def to_supervision(result: Result) -> supervision.Detections:
    """Return ``supervision.Detections``: class_id is the phrase's index, ``data["class_name"]`` its text.

    Every score part is in ``data`` under its name. K = 0 gives empty arrays of the right shapes.
    """
    import supervision as sv

    data: dict[str, Any] = {"class_name": np.array(result.labels, dtype=np.str_)}
    data.update({name: values.copy() for name, values in result.parts.items()})
    return sv.Detections(
        xyxy=result.boxes_xyxy.copy(),
        mask=result.masks.copy(),
        confidence=result.scores.copy(),
        class_id=result.phrase_index.astype(int),
        data=data,
    )


def save(result: Result, folder: Path) -> Path:
    """Write overlay.png, cutout.png, one mask_NNN_phrase.png per mask (0 and 255) and result.json.

    Masks that an earlier ``save`` left in the same folder are removed; no other file is touched.

    Raises:
        DataError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_old_masks(folder)
        _write_png(folder / "overlay.png", result.overlay())
        _write_png(folder / "cutout.png", result.cutout())
        names = [f"mask_{k:03d}_{slug(label)}.png" for k, label in enumerate(result.labels)]
        for name, mask in zip(names, result.masks, strict=True):
            _write_png(folder / name, mask.astype(np.uint8) * 255)
        values = {**to_dict(result), "files": {"overlay": "overlay.png", "cutout": "cutout.png", "masks": names}}
        (folder / "result.json").write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error}; choose another folder") from error
    logger.info("wrote %d masks to %s", len(result), folder)
    return folder


def slug(text: str) -> str:
    """Return a phrase as part of a file's name: letters and digits of any script, the rest as hyphens."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-")[:40].rstrip("-") or "phrase"


def file_name(result: Result) -> str:
    """Return the picture's file name without folders; its digest where it came from memory."""
    return picture_name(result.image)


def picture_name(image: Image) -> str:
    """Return a picture's file name without folders; its digest where it came from memory."""
    name = re.split(r"[\\/]", image.source)[-1]
    return name if "." in name else f"{image.digest[:16]}.png"


def _segments(segments: Segments) -> list[dict[str, Any]]:
    return [
        {
            "label": segments.labels[k],
            "phrase_index": int(segments.phrase_index[k]),
            "score": float(segments.scores[k]),
            "parts": {name: _number(values[k]) for name, values in segments.parts.items()},
            "box_xyxy": segments.boxes_xyxy[k].tolist(),
            "area": int(segments.masks[k].sum()),
            "segmentation": geometry.encode_rle(segments.masks[k]),
            "source": segments.sources[k],
            "reason": segments.reasons[k],
            "proposal_index": int(segments.proposal_index[k]),
            "prompt_index": int(segments.prompt_index[k]),
            "mask_index": int(segments.mask_index[k]),
        }
        for k in range(len(segments))
    ]


def _number(value: Any) -> float | None:
    """Return a float, or None for NaN, which JSON does not know."""
    number = float(value)
    return number if math.isfinite(number) else None


def _xywh(box_xyxy: list[float]) -> list[float]:
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]


def _remove_old_masks(folder: Path) -> None:
    """Delete the masks that the folder's result.json lists as its own."""
    try:
        listed = json.loads((folder / "result.json").read_text("utf-8"))["files"]["masks"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in listed if isinstance(listed, list) else []:
        if isinstance(name, str) and _MASK_FILE.fullmatch(name):
            (folder / name).unlink(missing_ok=True)


def _write_png(path: Path, pixels: UInt8) -> None:
    PIL.Image.fromarray(pixels).save(path, optimize=False)
