"""Put an evaluation's figures into documents, so that a README or a model card never holds a number by hand.

    python -m textseg.evaluate.card eval.json README.md textseg/weights/nano/README.md

Whatever stands between ``<!-- figures:NAME -->`` and ``<!-- end -->`` is replaced, NAME being "targets" (each
figure beside its target), "kinds" (the commonest kinds of each set) or "ranking" (the fitted weights).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textseg.errors import DataError, nearest

Record = Mapping[str, Any]

_PLACE = re.compile(r"(<!-- figures:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MOST_KINDS = 12


def targets_table(record: Record) -> str:
    """Return a Markdown table of all figures that have a target: measured, wanted, how many things."""
    lines = ["| set | measure | measured | wanted | n |", "|---|---|---|---|---|"]
    for outcome in record["outcomes"]:
        for figure in outcome["figures"]:
            if figure["target"] is not None:
                measured = f"**{_number(figure['value'])}**" if figure["passed"] else _number(figure["value"])
                row = (outcome["name"], figure["measure"], measured, f"{figure['target']:.2f}", str(figure["n"]))
                lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "", "Bold: the target is reached.", ""])


def kinds_table(record: Record) -> str:
    """Return a Markdown table: each set's first figure for its commonest kinds."""
    lines = ["| set, measure | commonest kinds (how many: figure) |", "|---|---|"]
    for outcome in record["outcomes"]:
        figure = outcome["figures"][0]
        kinds = list(figure["by_kind"].items())[:_MOST_KINDS]
        if len(kinds) > 1:
            told = ", ".join(f"{kind} ({cell['n']}: {_number(cell['value'])})" for kind, cell in kinds)
            lines.append(f"| {outcome['name']}, {figure['measure']} | {told} |")
    return "\n".join([*lines, ""])


def ranking_table(record: Record) -> str:
    """Return the fitted weights and what the fusion is worth beside each part alone."""
    if "fit" not in record:
        raise DataError("the record holds no fit: run the evaluation with --fit")
    fit = record["fit"]
    lines = ["| part | weight | AUROC alone |", "|---|---|---|"]
    for name, weight in fit["weights"].items():
        alone = fit["report"].get(f"AUROC {name} alone")
        lines.append(f"| {name} | {weight:.2f} | {'' if alone is None else _number(alone)} |")
    lines.append(f"| all, fused | | {_number(fit['report']['AUROC fused'])} |")
    return "\n".join([*lines, ""])


TABLES: dict[str, Callable[[Record], str]] = {
    "targets": targets_table,
    "kinds": kinds_table,
    "ranking": ranking_table,
}


def fill(text: str, record: Record) -> str:
    """Return a document with the tables at its marks made anew.

    Raises:
        DataError: the document has no mark, or one of an unknown name.
    """

    def table(match: re.Match[str]) -> str:
        name = match[2]
        if name not in TABLES:
            raise DataError(f"<!-- figures:{name} -->: no such table; {nearest(name, TABLES)}")
        return f"{match[1]}{TABLES[name](record)}{match[3]}"

    filled, count = _PLACE.subn(table, text)
    if not count:
        raise DataError("no mark such as <!-- figures:targets --> … <!-- end --> in the document")
    return filled


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill documents from the command line: see the module's text."""
    parser = argparse.ArgumentParser(description="Put an evaluation's figures into documents.")
    parser.add_argument("record", type=Path, help="what `textseg eval --out` wrote")
    parser.add_argument("documents", type=Path, nargs="+", help="Markdown files with marks")
    options = parser.parse_args(arguments)
    record = json.loads(options.record.read_text("utf-8"))
    for document in options.documents:
        document.write_text(fill(document.read_text("utf-8"), record), "utf-8")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
