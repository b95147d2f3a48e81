"""Tables and lines on the terminal. Phrases are printed as text: markup and control characters have no effect."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from textseg.result import Result


def console() -> Console:
    """Return the console of stdout; a pipe gets 120 columns."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False)


def line(text: str) -> None:
    """Print one line."""
    console().print(plain(text), soft_wrap=True)


def plain(text: str) -> str:
    """Return the text with characters that could steer a terminal replaced."""
    return "".join(c if c.isprintable() else "�" for c in text)


def result(answer: Result) -> None:
    """Print the accepted masks as a table, then what is not in the picture, then the times."""
    from textseg import describe

    if len(answer):
        console().print(_table(answer))
    if any(phrase.prompt for phrase in answer.query.phrases):
        for sentence in describe.not_there(answer):
            line(sentence)
    elif not len(answer):
        line("no mask at that place")
    line(describe.timing(answer))


def _table(answer: Result) -> Table:
    from textseg import describe

    parts = [name for name, values in answer.parts.items() if not all(map(math.isnan, values))]
    table = simple_table("phrase", right=["score", *parts, "box", "area"])
    pixels = math.prod(answer.image.size_hw)
    for k, label in enumerate(answer.labels):
        values = [answer.parts[name][k] for name in parts]
        table.add_row(
            plain(label) or "(pointed at)",
            f"{answer.scores[k]:.2f}",
            *("–" if math.isnan(value) else f"{value:.2f}" for value in values),
            describe.box_text(answer.boxes_xyxy[k]),
            f"{answer.masks[k].sum() / pixels:.1%}",
        )
    return table


def simple_table(*left: str, right: list[str] | None = None) -> Table:
    """Return an empty table: columns aligned left, then columns aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right or []:
        table.add_column(name, justify="right", no_wrap=True)
    return table
