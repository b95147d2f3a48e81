"""Ten classes on a hundred pictures: ``textseg label`` against a loop of one pass per class and picture.

::

    pip install --no-deps autodistill && pip install scikit-learn roboflow    # what it imports
    python benchmarks/label.py                                          # nano, drawn pictures
    python benchmarks/label.py --pictures photos/ --classes "car,person,…" --preset base --count 100

Both sides use the same models on the same pictures and end with a YOLO data set. The loop is the ``label`` of the
package autodistill with a plug-in around our pipeline: it reads a picture, asks it for one class after the other with
nothing kept in between, holds all masks in memory and writes them at the end. Without autodistill the same loop is
run here, and the record says so. Ours asks all classes in one pass, decodes ahead, commits every picture to the
store, and exports. The sides take turns, ``--block`` pictures at a time, the models warmed up before. Writes
``results/label_speed.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from textseg.build import load
from textseg.cache import EmbeddingCache
from textseg.evaluate.machine import machine_info
from textseg.evaluate.report import write_json
from textseg.label import settings
from textseg.label.export import export
from textseg.label.ontology import Ontology, from_names
from textseg.label.run import LocalEngine, label
from textseg.label.sources import open_source
from textseg.label.store import Store
from textseg.label.work import Labeller
from textseg.pipeline import Pipeline

RESULTS = Path(__file__).resolve().parent / "results"
Timed = tuple[float, float, int]
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


class Watch:
    """Seconds since it was made: by the clock, and of processor time in this process."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return both."""
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


def ours(pipeline: Pipeline, classes: Ontology, pictures: Path, out: Path, count: int) -> Timed:
    """Return seconds, seconds of processor time, and masks of a labelling run into a store and its export."""
    source = open_source(pictures)
    watch = Watch()
    with Store.write(out) as store:
        store.begin(settings.make(pipeline, classes, source=source.name), classes.names)
        progress = label(LocalEngine(Labeller(pipeline, classes)), source, store)
        if progress.done != count:
            raise SystemExit(f"labelled {progress.done} of {count}: {[p.error for p in store.pictures('failed')][:3]}")
        export(store, ["yolo-seg"], out)
        return (*watch.read(), store.mask_count())


def nothing_kept(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline of the same models that encodes a picture anew each time it is asked."""
    return pipeline.with_parts(cache=EmbeddingCache(0))


def autodistill_loop(pipeline: Pipeline, classes: Ontology, pictures: Path, out: Path) -> Timed:
    """Return seconds, processor time and masks of autodistill's ``label`` with our models as its base model."""
    import supervision as sv
    from autodistill.detection import CaptionOntology, DetectionBaseModel

    alone, masks = nothing_kept(pipeline), 0

    class BaseModel(DetectionBaseModel):  # type: ignore[misc]
        def predict(self, input: Any) -> sv.Detections:
            nonlocal masks
            found = []
            for number, prompt in enumerate(self.ontology.prompts()):
                result = alone(np.ascontiguousarray(input[..., ::-1]), prompt)  # autodistill gives BGR
                if len(result):
                    found.append(
                        sv.Detections(
                            xyxy=result.boxes_xyxy,
                            mask=result.masks,
                            confidence=result.scores,
                            class_id=np.full(len(result), number),
                        )
                    )
            masks += sum(map(len, found))
            return sv.Detections.merge(found)

    model, watch = BaseModel(ontology=CaptionOntology({name: name for name in classes.names})), Watch()
    with contextlib.redirect_stdout(io.StringIO()):
        model.label(str(pictures), extension=".jpg", output_folder=str(out))
    return (*watch.read(), masks)


def plain_loop(pipeline: Pipeline, classes: Ontology, pictures: Path, out: Path) -> Timed:
    """Return the same of one call per picture and class, written nowhere."""
    alone, watch = nothing_kept(pipeline), Watch()
    kept = [alone(Path(item.uri), name).masks for item in open_source(pictures).items() for name in classes.names]
    return (*watch.read(), sum(len(masks) for masks in kept))


def find_loop() -> tuple[str, Callable[[Pipeline, Ontology, Path, Path], Timed]]:
    """Return autodistill's loop if that is installed, else our own."""
    try:
        from importlib.metadata import version

        import autodistill.detection  # noqa: F401  without it, the plain loop

        return f"autodistill {version('autodistill')}", autodistill_loop
    except ImportError as error:
        return f"the same loop without autodistill ({error})", plain_loop


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder or a list of JPEG pictures; drawn ones by default")
    parser.add_argument("--classes", default=CLASSES)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--device")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--block", type=int, default=20, help="pictures before the other side's turn")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    classes = from_names(arguments.classes)
    pipeline = load(arguments.preset, device=arguments.device, cache=EmbeddingCache(1))
    name, loop = find_loop()
    with tempfile.TemporaryDirectory() as folder:
        blocks = make_blocks(Path(folder), arguments)
        pipeline(next(blocks[0].iterdir()), list(classes.names))
        mine, theirs = [], []
        for i, block in enumerate(blocks):
            mine.append(ours(pipeline, classes, block, Path(folder, f"ours{i}"), len(list(block.iterdir()))))
            theirs.append(loop(pipeline, classes, block, Path(folder, f"loop{i}")))
    report = summary(arguments, classes, mine, theirs, name)
    write_json(arguments.results / "label_speed.json", report)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


def make_blocks(folder: Path, arguments: argparse.Namespace) -> list[Path]:
    """Return folders of ``--block`` pictures each, ``--count`` in all."""
    drawn = folder / "drawn"
    drawn.mkdir()
    if arguments.pictures is None:
        draw(drawn, arguments.count)
    items = [Path(item.uri) for item in open_source(arguments.pictures or drawn).items()][: arguments.count]
    blocks = []
    for start in range(0, len(items), arguments.block):
        blocks.append(folder / f"block{start:05d}")
        blocks[-1].mkdir()
        for i, path in enumerate(items[start : start + arguments.block]):
            (blocks[-1] / f"{i:04d}.jpg").symlink_to(path)
    return blocks


def summary(
    arguments: argparse.Namespace, classes: Ontology, mine: list[Timed], theirs: list[Timed], name: str
) -> dict[str, Any]:
    """Return the record."""
    seconds = [[sum(one[k] for one in side) for side in (mine, theirs)] for k in (0, 1)]
    per_block = [b[0] / a[0] for a, b in zip(mine, theirs, strict=True)]
    return {
        "preset": arguments.preset,
        "pictures": arguments.count,
        "classes": list(classes.names),
        "loop": name,
        "pictures_per_second": {
            "textseg label": round(arguments.count / seconds[0][0], 3),
            "loop": round(arguments.count / seconds[0][1], 3),
        },
        "speed_up": round(seconds[0][1] / seconds[0][0], 2),
        "speed_up_by_processor_time": round(seconds[1][1] / seconds[1][0], 2),
        "speed_up_of_the_blocks": {
            "least": round(min(per_block), 2),
            "median": round(statistics.median(per_block), 2),
            "most": round(max(per_block), 2),
        },
        "processor_seconds_a_picture": [round(value / arguments.count, 3) for value in seconds[1]],
        "masks": {"textseg label": sum(one[2] for one in mine), "loop": sum(one[2] for one in theirs)},
        "wanted": 3.0,
        "machine": machine_info(),
    }


if __name__ == "__main__":
    main()
