"""``textseg eval``: run the protocols, print the table, write the record."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from textseg import build
from textseg.config import Preset, read_preset
from textseg.errors import ConfigError, UnsupportedError, nearest
from textseg.evaluate import report
from textseg.evaluate.fit import fit_preset
from textseg.evaluate.machine import machine_info, machine_line, weights_hashes
from textseg.evaluate.outcome import Outcome
from textseg.evaluate.pages import Material
from textseg.evaluate.table import PROTOCOLS
from textseg.pipeline import Pipeline

logger = logging.getLogger(__name__)


def evaluate(
    preset: str | Path | Preset = "nano",
    data_root: str | Path = "data",
    sets: Sequence[str] | None = None,
    limit: int | None = None,
    out_json: str | Path | None = None,
    *,
    fit: bool = False,
    pipeline: Pipeline | None = None,
    console: Console | None = None,
) -> list[Outcome]:
    """Run the protocols of a preset, print the table, and write the record.

    Args:
        preset: a shipped preset's name, a YAML file or a ``Preset``.
        data_root: the folder that holds ``coco/``, ``ccp/``, ``fluent/`` ….
        sets: names of protocols (keys of ``table.PROTOCOLS``); None or nothing runs all.
        limit: most pictures of each set; None takes all.
        out_json: where the record goes: figures, breakdowns, machine, weights' hashes. None writes none.
        fit: fit the ranking first (``fit.fit_preset``), print its YAML, and evaluate with it.
        pipeline: an already built pipeline of that preset; built here when None.
        console: where to print.

    Raises:
        ConfigError: an unknown protocol, or a limit below 1.
        DataError: pictures are missing.
    """
    names = list(sets or PROTOCOLS)
    for name in names:
        if name not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {name!r}; {nearest(name, PROTOCOLS)}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: got {limit}, expected at least 1")
    console = console or Console()
    settings = preset if isinstance(preset, Preset) else read_preset(preset)
    material = Material(data_root)
    pipeline = pipeline or build.load(settings)
    record = _head(settings, limit)
    if fit:
        pipeline, record["fit"] = _fitted(pipeline, material, limit, console)
    outcomes, record["seconds"] = _run(pipeline, material, names, limit)
    report.print_table(outcomes, f"textseg eval, preset {settings.name}", console, kinds=12)
    console.print(machine_line(), highlight=False)
    record["outcomes"] = [outcome.to_dict() for outcome in outcomes]
    if out_json is not None:
        report.write_json(Path(out_json), record)
    return outcomes


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate from the command line: ``python -m textseg.evaluate.run --data-root DATA``."""
    parser = argparse.ArgumentParser(prog="textseg eval", description="Measure a preset on validation pictures.")
    parser.add_argument("--preset", default="nano", help="a shipped preset or a YAML file")
    parser.add_argument("--data-root", required=True, help="the folder that holds coco/, ccp/, fluent/ …")
    parser.add_argument("--sets", default="", help=f"comma-separated, of: {', '.join(PROTOCOLS)}; all by default")
    parser.add_argument("--limit", type=int, default=None, help="most pictures of each set")
    parser.add_argument("--out", type=Path, default=None, help="JSON record to write")
    parser.add_argument("--fit", action="store_true", help="fit the ranking first, print its YAML, evaluate with it")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sets = [name.strip() for name in options.sets.split(",") if name.strip()]
    evaluate(options.preset, options.data_root, sets, options.limit, options.out, fit=options.fit)


def _run(
    pipeline: Pipeline, material: Material, names: list[str], limit: int | None
) -> tuple[list[Outcome], dict[str, float]]:
    """Return the outcomes and each protocol's seconds; one that the preset cannot do is left out with a warning."""
    outcomes, seconds = [], {}
    for name in names:
        start = time.perf_counter()
        try:
            outcomes.append(PROTOCOLS[name](pipeline, material, limit))
        except UnsupportedError as error:
            logger.warning("%s left out: %s", name, error)
            continue
        seconds[name] = round(time.perf_counter() - start, 1)
        head = outcomes[-1].figures[0]
        logger.info("%s: %s %.3f (n %d) in %.0f s", name, head.measure, head.value, head.n, seconds[name])
    return outcomes, seconds


def _fitted(
    pipeline: Pipeline, material: Material, limit: int | None, console: Console
) -> tuple[Pipeline, dict[str, Any]]:
    found = fit_preset(pipeline, material, limit)
    console.print(found.yaml(), highlight=False, soft_wrap=True)
    console.print(found.summary(), highlight=False)
    return found.apply(pipeline), found.to_dict()


def _head(settings: Preset, limit: int | None) -> dict[str, Any]:
    return {
        "preset": settings.name,
        "limit": limit,
        "split": "validation; scenes composed anew over held-out backgrounds, cut-outs as in training",
        "machine": machine_info(),
        "weights": weights_hashes(settings),
    }


if __name__ == "__main__":
    main()
