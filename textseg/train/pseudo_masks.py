"""Masks for the photographs that come without: a pipeline draws them, and what it is sure of is kept.

    python -m textseg.train.pseudo_masks --preset nano --data DIR --out FILE

Boxes are outlined; pictures of one thing are asked for it by name. Trainings that read the file can show things without
what is around them, paste them into scenes, and give cars colours that few of them have.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
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

BOXED = ("vehicles", "plates", "fruit", "bottles")
"""Sets whose objects have boxes."""
SETS = (*BOXED, "caltech")
LEAST_FIT = 0.75
"""A mask is kept where the box around it overlaps the labelled one by this IoU."""
LEAST_SIDE = 32.0
"""Pixels; smaller boxes are left out."""
LEAST_SCORE = 0.35
"""A mask that was asked for by name is kept from this score on."""
MOST_OF_A_PICTURE = 0.75
"""Larger masks are left out: most of them have taken the background for the thing."""
MOST_OF_A_NAME = 40
"""So many pictures of one noun are asked."""


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


def find(pipeline: Pipeline, photos: PhotoSet) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the masks of pictures of one thing, asked for by its name: (picture, label) → compressed RLE."""
    seen: Counter[str] = Counter()
    wanted: list[int] = []
    for picture, label, name in photos.places():
        if label == 0 and seen[name] < MOST_OF_A_NAME and photos.one(picture, 0)[1].mask is None:
            seen[name] += 1
            wanted.append(picture)
    found: dict[tuple[int, int], dict[str, Any]] = {}
    with progress_bar(f"masks of {photos.name}", len(wanted), 0) as bar:
        for picture in wanted:
            image, thing = photos.one(picture, 0)
            result = pipeline.open(image).segment(thing.name, threshold=LEAST_SCORE)
            if len(result) and result.masks[0].mean() <= MOST_OF_A_PICTURE:
                found[picture, 0] = geometry.encode_rle(result.masks[0])
            bar.advance(f"{len(found)} kept")
    return found


def load(path: str | Path, root: str | Path, names: Iterable[str], split: str = "train") -> dict[str, PhotoSet]:
    """Return sets of photographs; those of the training split with the masks of a file that ``main`` wrote.

    Args:
        path: the file; "" for none.
        root: the folder of pictures.
        names: which sets; those that are not among ``SETS`` have masks of their own.
        split: "train" or "val".

    Raises:
        DataError: the file is missing, damaged or of other pictures.
    """
    photos = {name: PhotoSet.load(root, name, split) for name in names}
    if not path or split != "train":
        return photos
    try:
        stored: dict[str, Any] = json.loads(Path(path).read_bytes())
        masks = {name: {(i, j): rle for i, j, rle in stored[name]} for name in photos if name in SETS}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"pseudo_masks: {path} cannot be read ({error}); make it with: "
            f"python -m textseg.train.pseudo_masks --out {path}"
        ) from error
    return {name: one.with_masks(masks.get(name, {})) for name, one in photos.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description="Draw masks for photographs that have none.")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--data", default=os.environ.get("TEXTSEG_DATA", "../shared/data"))
    parser.add_argument("--out", required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from textseg.build import load as load_pipeline

    pipeline, table = load_pipeline(options.preset), {}
    for name in SETS:
        draw = outline if name in BOXED else find
        masks = draw(pipeline, PhotoSet.load(options.data, name, "train"))
        table[name] = [[i, j, rle] for (i, j), rle in masks.items()]
        logger.info("%s: %d masks", name, len(masks))
    write_whole(Path(options.out), json.dumps(table).encode())


if __name__ == "__main__":
    main()
