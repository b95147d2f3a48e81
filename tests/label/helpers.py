"""Small folders of pictures, and a run of the labeller on the fakes."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import PIL.Image

from tests.fakes import FakeSegmenter, fake_pipeline, scene
from textseg.label import ontology, settings
from textseg.label.records import MaskRow
from textseg.label.run import LocalEngine, Progress, RunConfig, label
from textseg.label.sources import Source, open_source
from textseg.label.store import Store
from textseg.label.work import Labeller
from textseg.pipeline import Pipeline
from textseg.types import Embedding, Image

CLASSES = ontology.from_names(["red box", "blue box", "dog"])


def make_picture(path: Path, seed: int = 0, size_hw: tuple[int, int] = (48, 64)) -> Path:
    """Write a picture with a red and perhaps a blue box, different for each seed."""
    chance = random.Random(seed)
    height, width = size_hw
    x, y = chance.randrange(2, width // 2 - 22), chance.randrange(2, height - 26)
    boxes = {"red": (x, y, x + 18, y + 20)}
    if seed % 3:
        boxes["blue"] = (width // 2 + 4, y, width // 2 + 22, y + 18)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(scene(size_hw, boxes)).save(path)
    return path


def make_pictures(folder: Path, count: int) -> Path:
    """Write ``count`` pictures, some in a subfolder."""
    for i in range(count):
        make_picture(folder / ("sub" if i % 4 == 0 else "") / f"{i:04d}.png", i)
    return folder


class SlowSegmenter(FakeSegmenter):
    """Takes its time, as real models do."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def encode(self, image: Image) -> Embedding:
        """Wait, then encode."""
        time.sleep(self.seconds)
        return super().encode(image)


def begin(store: Store, source: Source, pipeline: Pipeline, classes: ontology.Ontology = CLASSES) -> None:
    """Begin a run with the settings of these parts."""
    store.begin(settings.make(pipeline, classes, source=source.name), classes.names)


def run(
    what: Path | Source,
    out: Path,
    *,
    pipeline: Pipeline | None = None,
    classes: ontology.Ontology = CLASSES,
    on_progress: Any = None,
    **config: Any,
) -> Progress:
    """Label with the fakes into a store."""
    pipeline = pipeline or fake_pipeline()
    source = what if isinstance(what, Source) else open_source(what, leave_out=[out])
    with Store.write(out) as store:
        begin(store, source, pipeline, classes)
        return label(LocalEngine(Labeller(pipeline, classes)), source, store, RunConfig(**config), on_progress)


def content(out: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every picture's labels without what differs between runs (row numbers, times)."""
    with Store.read(out) as store:
        return {picture.key: [_essence(mask) for mask in masks] for picture, masks in store.labelled()}


def _essence(mask: MaskRow) -> tuple[Any, ...]:
    return (mask.ordinal, mask.label, mask.phrase, mask.counts, mask.size_hw, mask.box_xyxy, mask.score, mask.parts)
