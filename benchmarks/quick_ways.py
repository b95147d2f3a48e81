"""What nano's ways of being quicker gain: graphs that OpenVINO runs, and convolutions whose weights are laid out once.

    python benchmarks/quick_ways.py [--repeats 24]

nano as it is, without the graphs (``textseg.models.graphs``), and without those and with torch's own convolutions
(``textseg.models.packed_convolutions``) answers in turn, each on pictures and with words that it has not seen: the
first answer, and the next phrase on the opened picture. Writes ``results/quick_ways.md``.
"""

from __future__ import annotations

import argparse
import logging
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from unittest import mock

from speed import ASKED, RESULTS, first_and_next, photograph, turn

from textseg import build
from textseg.config import read_preset
from textseg.evaluate.machine import machine_line
from textseg.pipeline import Pipeline

logger = logging.getLogger("quick_ways")

WAYS = {
    "graphs": "textseg.models.graphs.is_installed",
    "convolutions laid out once": "textseg.models.quick_convolutions.pack",
}
"""What is left out, one after the other."""


def main() -> None:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=24)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for quick_ways.md")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pipelines = load()
    times: list[dict[str, list[float]]] = [{"first": [], "next": []} for _ in pipelines]
    for repeat in range(-len(ASKED), options.repeats):
        example, word = turn(repeat)
        data = photograph(example, repeat + 100)
        for pipeline, of in zip(pipelines, times, strict=True):
            first, _, following, _ = first_and_next(pipeline, data, example, word)
            if repeat >= 0:
                of["first"].append(first)
                of["next"].append(following)
    rows = [
        f"| {way} | {answer} | {median(without[answer]):.3f} s | {median(with_it[answer]):.3f} s | "
        f"{median(a / b for a, b in zip(with_it[answer], without[answer], strict=True)):.2f} |"
        for way, with_it, without in zip(WAYS, times, times[1:], strict=False)
        for answer in ("first", "next")
    ]
    text = "\n".join(
        [
            "# Ways of being quicker",
            "",
            f"`python benchmarks/quick_ways.py --repeats {options.repeats}`",
            "",
            machine_line(),
            "",
            "| what | answer | without | with | ratio |",
            "|---|---|---:|---:|---:|",
            *rows,
            "",
            "Medians of interleaved repeats, nano, the examples at 640 × 480. The last two rows are without graphs.",
            "",
        ]
    )
    logger.info("%s", text)
    (options.out / "quick_ways.md").write_text(text, encoding="utf-8")


def load() -> list[Pipeline]:
    """Return nano as it is, then with one way after the other left out."""
    pipelines = [build.load(read_preset("nano"))]
    with ExitStack() as left_out:
        for place in WAYS.values():
            left_out.enter_context(mock.patch(place, return_value=False))
            pipelines.append(build.load(read_preset("nano")))
    return pipelines


if __name__ == "__main__":
    main()
