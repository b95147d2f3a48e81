"""What it gains that convolutions' weights are laid out once (``textseg.models.packed_convolutions``).

    python benchmarks/packed_convolutions.py [--repeats 16]

nano as it is and nano with torch's own convolutions answer in turn, each on pictures and with words that it has not
seen: the first answer, and the next phrase on the opened picture. Writes ``results/packed_convolutions.md``.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from statistics import median
from unittest import mock

from speed import ASKED, RESULTS, first_and_next, photograph, turn

from textseg import build
from textseg.config import read_preset
from textseg.evaluate.machine import machine_line

logger = logging.getLogger("packed_convolutions")


def main() -> None:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for packed_convolutions.md")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    packed = build.load(read_preset("nano"))
    with mock.patch("textseg.models.quick_convolutions.pack"):
        plain = build.load(read_preset("nano"))
    times: dict[str, list[float]] = {name: [] for name in ("first", "next", "plain first", "plain next")}
    for repeat in range(-len(ASKED), options.repeats):
        example, word = turn(repeat)
        data = photograph(example, repeat + 100)
        for before, pipeline in (("", packed), ("plain ", plain)):
            first, _, following, _ = first_and_next(pipeline, data, example, word)
            if repeat >= 0:
                times[f"{before}first"].append(first)
                times[f"{before}next"].append(following)
    rows = [
        f"| {name} | {median(times['plain ' + name]):.3f} s | {median(times[name]):.3f} s | "
        f"{median(a / b for a, b in zip(times[name], times['plain ' + name], strict=True)):.2f} |"
        for name in ("first", "next")
    ]
    text = "\n".join(
        [
            "# Convolutions with weights laid out once",
            "",
            f"`python benchmarks/packed_convolutions.py --repeats {options.repeats}`",
            "",
            machine_line(),
            "",
            "| answer | torch's convolutions | laid out once | ratio |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            "Medians of interleaved repeats, nano, the examples at 640 × 480.",
            "",
        ]
    )
    logger.info("%s", text)
    (options.out / "packed_convolutions.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
