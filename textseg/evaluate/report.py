"""Outcomes as a table for people and as JSON for the record."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from textseg.evaluate.outcome import Figure, Outcome


def print_table(outcomes: Sequence[Outcome], title: str, console: Console | None = None, kinds: int = 0) -> None:
    """Print one line a figure: target, figure, whether it passed, and how many it is the mean of.

    Args:
        outcomes: what the protocols found.
        title: stands above the table.
        console: where to print; the standard output when None.
        kinds: most kinds of each headline's breakdown printed below the table.
    """
    console = console or Console()
    table = Table(title=title)
    for column in ("set", "measure"):
        table.add_column(column)
    for column in ("target", "figure", "n"):
        table.add_column(column, justify="right")
    table.add_column("")
    for outcome in outcomes:
        for i, figure in enumerate(outcome.figures):
            table.add_row(*_cells(outcome.name if i == 0 else "", figure), end_section=i + 1 == len(outcome.figures))
    console.print(table)
    if kinds:
        for outcome in outcomes:
            _print_kinds(outcome, console, kinds)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, making the folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the table as Markdown, for model cards."""
    lines = ["| set | measure | target | figure | n | |", "|---|---|---|---|---|---|"]
    for outcome in outcomes:
        lines += ["| " + " | ".join(_cells(outcome.name, figure, plain=True)) + " |" for figure in outcome.figures]
    return "\n".join(lines) + "\n"


def _cells(name: str, figure: Figure, plain: bool = False) -> list[str]:
    verdicts = {None: "", True: "reached", False: "missed"}
    verdict = verdicts[figure.passed]
    if not plain and verdict:
        verdict = f"[{'green' if figure.passed else 'red'}]{verdict}[/]"
    target = "" if figure.target is None else f"{figure.target:.2f}"
    value = "–" if math.isnan(figure.value) else f"{figure.value:.3f}"
    return [name, figure.measure, target, value, str(figure.n), verdict]


def _print_kinds(outcome: Outcome, console: Console, kinds: int) -> None:
    head = outcome.figures[0]
    if len(head.by_kind) > 1:
        parts = [f"{kind} {value:.2f} ({n})" for kind, (n, value) in list(head.by_kind.items())[:kinds]]
        console.print(f"[bold]{outcome.name}[/], {head.measure}: {', '.join(parts)}", highlight=False)
