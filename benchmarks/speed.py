"""How long it takes: ratios within one run, and seconds on this machine.

    python benchmarks/speed.py [--preset nano] [--repeats 9]

All measurements are interleaved and given as medians; every repeat opens a picture never seen before (640 × 480, JPEG
bytes: one of the examples, cut and mirrored anew), so no cache helps the first answer. What is asked for is there, or
may be: what is surely not there costs less. The same is asked of pictures as large as a telephone takes them
(4000 × 3000). Writes ``results/speed.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import cv2
import numpy as np

from textseg import build, image
from textseg.config import read_preset
from textseg.evaluate import report
from textseg.evaluate.machine import machine_info, machine_line, weights_hashes
from textseg.pipeline import OpenPicture, Pipeline
from textseg.result import Result

logger = logging.getLogger("speed")
T = TypeVar("T")
RESULTS = Path(__file__).resolve().parent / "results"
SIZE_HW = (480, 640)
LARGE_HW = (3000, 4000)
COLORS = ("red", "blue", "green", "yellow", "black", "white", "orange", "pink", "purple", "brown")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ASKED = {
    "street.jpg": ("red car", "blue car", "car"),
    "astronaut.jpg": ("person", "helmet", "suit"),
    "coffee.jpg": ("cup", "spoon", "cup"),
    "chelsea.jpg": ("cat", "eye", "cat"),
}
"""The examples: what is asked first, what next, and the noun that is asked for in ten colours."""
WORDS = ("the", "a", "this", "that", "my", "your", "his", "her", "its", "any", "some")
"""Said before the phrases, another one each time round the examples, or their texts would be known already."""

_COLD = """
import json, sys
import textseg
from textseg.evaluate.machine import peak_mib
pipeline = textseg.load(sys.argv[1])
result = pipeline(sys.argv[2], "the red car")
seconds = {name: round(value, 4) for name, value in result.seconds.items()}
print(json.dumps({"masks": len(result), "peak_mib": round(peak_mib(), 1), "seconds": seconds}), flush=True)
"""


@dataclass(frozen=True)
class Measure:
    """One figure: must be at most ``limit`` where there is one."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def verdict(self) -> str:
        """ "reached", "missed" or nothing."""
        return "" if self.limit is None else "reached" if self.value <= self.limit else "missed"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurements from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--starts", type=int, default=3, help="how often a fresh process is started")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for speed.md and speed.json")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = read_preset(options.preset)
    measures = warm(build.load(settings), options.repeats)
    measures += cold(options.preset, options.starts)
    command = f"python benchmarks/speed.py --preset {options.preset} --repeats {options.repeats}"
    text = as_markdown(measures, command)
    logger.info("%s", text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "speed.md").write_text(text, encoding="utf-8")
    record = {"command": command, "machine": machine_info(), "weights": weights_hashes(settings)}
    rows = [{**vars(m), "verdict": m.verdict} for m in measures]
    report.write_json(options.out / "speed.json", {**record, "measures": rows})


def warm(pipeline: Pipeline, repeats: int) -> list[Measure]:
    """Return the ratios and seconds of loaded models; one unmeasured round goes before."""
    times: dict[str, list[float]] = {}
    for repeat in range(-1, repeats):
        for name, value in _round(pipeline, repeat).items():
            if repeat >= 0:
                times.setdefault(name, []).append(value)
    mid = {name: median(values) for name, values in times.items()}
    ratio = {
        name: median(a / b for a, b in zip(times[over], times[under], strict=True))
        for name, over, under in (
            ("second", "next", "first"),
            ("ten", "first ten", "first"),
            ("many", "ten", "next"),
            ("large", "large next", "large first"),
        )
    }
    return [
        Measure("second phrase on an opened picture / first", ratio["second"], "", 0.2),
        Measure("the same, of 4000 × 3000 pixels", ratio["large"], "", 0.2),
        Measure("ten phrases in one call / one phrase, new picture", ratio["ten"], "", 2.0),
        Measure("ten phrases in one call / one phrase, opened picture", ratio["many"], ""),
        Measure("ranking / whole, first answer", mid["rank share"], "", 0.25),
        Measure("ranking / whole, next phrase", mid["rank share next"], ""),
        Measure("first answer", mid["first"], "s", 0.5),
        Measure("next phrase", mid["next"], "s", 0.1),
        Measure("ten phrases, new picture", mid["first ten"], "s"),
        Measure("ten phrases, opened picture", mid["ten"], "s"),
        Measure("first answer, 4000 × 3000", mid["large first"], "s"),
        Measure("next phrase, 4000 × 3000", mid["large next"], "s"),
        *(Measure(f"stage {name[6:]}, first answer", v, "s") for name, v in mid.items() if name.startswith("stage ")),
    ]


def cold(preset: str, starts: int) -> list[Measure]:
    """Return the seconds from process start to mask, and the peak of resident memory, of fresh processes."""
    seconds, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        for start in range(starts):
            path = Path(folder) / f"{start}.jpg"
            path.write_bytes(photograph("street.jpg", 10_000 + start))
            begun = time.perf_counter()
            command = [sys.executable, "-c", _COLD, preset, str(path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                told = process.stdout.readline()  # once the mask is there; the process' end comes later
                seconds.append(time.perf_counter() - begun)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command)
            peaks.append(json.loads(told)["peak_mib"])
    return [
        Measure("process start to mask", median(seconds), "s", 6.0),
        Measure("peak resident memory", max(peaks) / 1024, "GiB", 1.5),
    ]


def as_markdown(measures: Sequence[Measure], command: str) -> str:
    """Return the table with the machine and the command."""
    import torch

    lines = ["# Speed", "", f"`{command}`", "", f"{machine_line()}, {torch.get_num_threads()} torch threads", ""]
    lines += ["| what | figure | at most | |", "|---|---:|---:|---|"]
    for m in measures:
        limit = "" if m.limit is None else f"{m.limit:g} {m.unit}".strip()
        lines.append(f"| {m.name} | {f'{m.value:.3f} {m.unit}'.strip()} | {limit} | {m.verdict} |")
    lines += [
        "",
        "Medians of interleaved repeats; the examples at 640 × 480 where no other size is named, models loaded unless "
        "a process start is.",
        "",
    ]
    return "\n".join(lines)


def _round(pipeline: Pipeline, repeat: int) -> dict[str, float]:
    """Return one repeat's seconds: first answer, next phrase, ten phrases on a new and on the opened picture."""
    example, word = turn(repeat)
    noun = ASKED[example][2]
    data, other = photograph(example, 2 * repeat + 2), photograph(example, 2 * repeat + 3)
    first, picture_result, following, next_result = first_and_next(pipeline, data, example, word)
    picture = pipeline.open(data)
    ten = [f"{word} {color} {noun}" for color in COLORS]
    opened_ten, _ = _timed(lambda: picture.segment([f"just {text}" for text in ten]))
    first_ten, _ = _timed(lambda: pipeline.open(other).segment(ten))
    stages = {f"stage {name}": value for name, value in picture_result.seconds.items()}
    large = photograph(example, 2 * repeat + 2, LARGE_HW)
    large_first, _, large_next, _ = first_and_next(pipeline, large, example, f"just {word}")
    return {
        "first": first,
        "next": following,
        "ten": opened_ten,
        "first ten": first_ten,
        "large first": large_first,
        "large next": large_next,
        "rank share": picture_result.seconds["rank"] / first,
        "rank share next": next_result.seconds["rank"] / following,
        **stages,
    }


def turn(repeat: int) -> tuple[str, str]:
    """Return which example a repeat takes, and which word it says before the phrases."""
    return list(ASKED)[repeat % len(ASKED)], WORDS[repeat // len(ASKED) % len(WORDS)]


def first_and_next(pipeline: Pipeline, data: bytes, example: str, word: str) -> tuple[float, Result, float, Result]:
    """Return seconds and result of the first answer on a new picture, and of the next phrase on the opened one."""
    one, another, _ = ASKED[example]

    def answer() -> tuple[OpenPicture, Result]:
        picture = pipeline.open(data)
        return picture, picture.segment(f"{word} {one}")

    first, (picture, result) = _timed(answer)
    following, next_result = _timed(lambda: picture.segment(f"{word} {another}"))
    return first, result, following, next_result


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    begun = time.perf_counter()
    value = call()
    return time.perf_counter() - begun, value


def photograph(example: str, seed: int, size_hw: tuple[int, int] = SIZE_HW) -> bytes:
    """Return the JPEG of nine tenths of an example at that size, perhaps mirrored; others for each seed."""
    rng = np.random.default_rng(seed + 1000)
    rgb = image.read(EXAMPLES / example).rgb
    height, width = (side * 9 // 10 for side in rgb.shape[:2])
    top, left = int(rng.integers(rgb.shape[0] - height)), int(rng.integers(rgb.shape[1] - width))
    part = rgb[top : top + height, left : left + width][:, :: rng.choice((-1, 1))]
    how = cv2.INTER_AREA if size_hw[0] < height else cv2.INTER_CUBIC
    part = cv2.resize(np.ascontiguousarray(part), size_hw[::-1], interpolation=how)
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(part, cv2.COLOR_RGB2BGR))[1].tobytes())


if __name__ == "__main__":
    main()
