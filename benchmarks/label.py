"""Ten classes on a hundred pictures: ``textseg label`` against a loop of one pass per class and picture.

::

    python benchmarks/label.py                        # nano, drawn pictures
    python benchmarks/label.py --pictures photos/ --classes "car,person,…" --preset base --count 100

Both sides use the same models on the same pictures. The loop is what a base-model plug-in of an auto-labelling package
does: for every picture and every class, read the picture, encode it, ask for the one class, keep the masks in memory.
Ours asks all classes in one pass, decodes ahead, and commits every picture to the store. Each side is run ``--rounds``
times in turn, the models warmed up before; the median counts. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from textseg.build import load
from textseg.cache import EmbeddingCache
from textseg.label import settings
from textseg.label.ontology import Ontology, from_names
from textseg.label.run import LocalEngine, label
from textseg.label.sources import open_source
from textseg.label.store import Store
from textseg.label.work import Labeller
from textseg.pipeline import Pipeline

COLORS = ("red", "green", "blue", "yellow", "purple")
CLASSES = ",".join([f"{color} {shape}" for color in COLORS for shape in ("circle", "square")])


def draw(folder: Path, count: int, size: int = 512) -> None:
    """Write pictures of coloured circles and squares on noise."""
    chance = np.random.default_rng(0)
    for i in range(count):
        noise = chance.integers(90, 160, (size, size, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(noise)
        pen = PIL.ImageDraw.Draw(picture)
        for _ in range(4):
            x, y = chance.integers(0, size - 160, 2).tolist()
            side = int(chance.integers(60, 160))
            shape = pen.ellipse if chance.random() < 0.5 else pen.rectangle
            shape((x, y, x + side, y + side), fill=str(chance.choice(COLORS)))
        picture.save(folder / f"{i:04d}.jpg", quality=92)


def ours(pipeline: Pipeline, classes: Ontology, pictures: Path, out: Path, count: int) -> tuple[float, int]:
    """Return seconds and masks of a labelling run into a store."""
    source = open_source(pictures)
    started = time.perf_counter()
    with Store.write(out) as store:
        store.begin(settings.make(pipeline, classes, source=source.name), classes.names)
        progress = label(LocalEngine(Labeller(pipeline, classes)), source, store)
        seconds = time.perf_counter() - started
        if progress.done != count:
            raise SystemExit(f"labelled {progress.done} of {count}: {[p.error for p in store.pictures('failed')][:3]}")
        return seconds, store.mask_count()


def loop(pipeline: Pipeline, classes: Ontology, pictures: Path) -> tuple[float, int]:
    """Return seconds and masks of one call per picture and class, nothing kept between calls."""
    alone = Pipeline(
        pipeline.segmenter,
        pipeline.detector,
        pipeline.clip,
        pipeline.text_prompt,
        pipeline.config,
        EmbeddingCache(0),
    )
    started = time.perf_counter()
    kept = [alone(Path(item.uri), name).masks for item in open_source(pictures).items() for name in classes.names]
    return time.perf_counter() - started, sum(len(masks) for masks in kept)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder of pictures; drawn ones by default")
    parser.add_argument("--classes", default=CLASSES)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--device")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    classes = from_names(arguments.classes)
    pipeline = load(arguments.preset, device=arguments.device, cache=EmbeddingCache(1))
    with tempfile.TemporaryDirectory() as name:
        pictures = Path(name, "pictures")
        pictures.mkdir()
        if arguments.pictures is None:
            draw(pictures, arguments.count)
        else:
            for item in list(open_source(arguments.pictures).items())[: arguments.count]:
                link = pictures / item.key.replace("/", "_")
                link.symlink_to(item.uri)
        found = sorted(pictures.iterdir())
        pipeline(found[0], list(classes.names))
        times: dict[str, list[float]] = {"ours": [], "loop": []}
        masks: dict[str, int] = {}
        for turn in range(arguments.rounds):
            seconds, masks["ours"] = ours(pipeline, classes, pictures, Path(name, f"out{turn}"), len(found))
            times["ours"].append(seconds)
            seconds, masks["loop"] = loop(pipeline, classes, pictures)
            times["loop"].append(seconds)
    rates = {side: len(found) / statistics.median(values) for side, values in times.items()}
    report = {
        "preset": arguments.preset,
        "pictures": len(found),
        "classes": len(classes.names),
        "pictures_per_second": {side: round(rate, 3) for side, rate in rates.items()},
        "speed_up": round(rates["ours"] / rates["loop"], 2),
        "masks": masks,
        "seconds": {side: [round(value, 2) for value in values] for side, values in times.items()},
        "machine": platform.platform(),
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
