"""Masks for the photographs that come with boxes alone: a pipeline outlines each box, and what fits is kept.

    python -m textseg.train.box_masks --preset nano --data DIR --out FILE

Trainings that read the file can show cars without what is around them, and in colours that few of them have.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textseg import geometry
from textseg.errors import DataError
from textseg.models.nano_files import write_whole
from textseg.pipeline import Pipeline
from textseg.train.data import PhotoSet
from textseg.train.loop import progress_bar

logger = logging.getLogger(__name__)

SETS = ("vehicles", "plates", "fruit", "bottles")
LEAST_FIT = 0.75
"""A mask is kept where the box around it overlaps the labelled one by this IoU."""
LEAST_SIDE = 32.0
"""Pixels; smaller boxes are left out."""


def outline(pipeline: Pipeline, photos: PhotoSet) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the masks of a set's boxes that fit them: (picture, label) → compressed RLE."""
    places: dict[int, list[int]] = {}
    for picture, label, _ in photos.places(least_side=LEAST_SIDE):
        places.setdefault(picture, []).append(label)
    found: dict[tuple[int, int], dict[str, Any]] = {}
    with progress_bar(f"masks of {photos.name}", len(places), 0) as bar:
        for picture, labels in places.items():
            image = photos.one(picture, labels[0])[0]
            boxes = np.stack([photos.one(picture, label)[1].box_xyxy for label in labels])
            boxes = geometry.clip_boxes(boxes, (image.shape[0], image.shape[1]))
            opened = pipeline.open(image)
            for label, box in zip(labels, boxes, strict=True):
                result = opened.segment(box=box)
                if len(result) and geometry.box_iou(result.boxes_xyxy[:1], box[None])[0, 0] >= LEAST_FIT:
                    found[picture, label] = geometry.encode_rle(result.masks[0])
            bar.advance(f"{len(found)} kept")
    return found


def load(path: str | Path, root: str | Path, names: Sequence[str]) -> dict[str, PhotoSet]:
    """Return the training splits of sets of photographs, with the masks of a file that ``main`` wrote.

    Args:
        path: the file; "" for none.
        root: the folder of pictures.
        names: which of ``SETS``.

    Raises:
        DataError: the file is missing, damaged or of other pictures.
    """
    photos = {name: PhotoSet.load(root, name, "train") for name in names}
    if not path:
        return photos
    try:
        stored: dict[str, Any] = json.loads(Path(path).read_bytes())
        masks = {name: {(i, j): rle for i, j, rle in stored[name]} for name in names}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"box_masks: {path} cannot be read ({error}); make it with: python -m textseg.train.box_masks --out {path}"
        ) from error
    return {name: photos[name].with_masks(masks[name]) for name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description="Outline what photographs have boxes for.")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--data", default=os.environ.get("TEXTSEG_DATA", "../shared/data"))
    parser.add_argument("--out", required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from textseg.build import load as load_pipeline

    pipeline, table = load_pipeline(options.preset), {}
    for name in SETS:
        masks = outline(pipeline, PhotoSet.load(options.data, name, "train"))
        table[name] = [[i, j, rle] for (i, j), rle in masks.items()]
        logger.info("%s: %d masks", name, len(masks))
    write_whole(Path(options.out), json.dumps(table).encode())


if __name__ == "__main__":
    main()
