"""``textseg eval`` and ``textseg train``: thin doors to code that lives elsewhere."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

PASS_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
PARTS = {"clip": "clip", "detector": "detector", "sam": "sam", "close_sam": "sam", "refiner": "refiner"}
"""Of the embedded models, in the order of their training; and the module of ``textseg.train`` that trains each."""


def evaluate(context: typer.Context) -> None:
    """Measure labels against their truth (textseg eval labels/ truth.json), or a preset: textseg eval --help."""
    from textseg.cli import label_tools
    from textseg.evaluate.run import main

    if label_tools.asks_for_labels(context.args):
        label_tools.run_eval(context.args)
        return
    if {"-h", "--help"} & set(context.args):
        typer.echo("Labels against their truth: textseg eval LABELS TRUTH.json (textseg eval LABELS --help). A preset:")
    _tell_of_steps()
    main(context.args)


def train(
    context: typer.Context,
    stack: Annotated[str, typer.Argument(help="What to train; 'nano' is all there is.")],
    config: Annotated[
        Path | None, typer.Option(help="Folder with a YAML file for each part; those that ship by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs: checkpoints and metrics.")] = Path("runs/nano"),
    only: Annotated[list[str] | None, typer.Option(help=f"Train only this part ({', '.join(PARTS)}).")] = None,
) -> None:
    """Train the embedded models one after the other; the same command resumes.

    Options that are not listed here go on to the parts' own command lines.
    """
    from textseg.config import preset_folder
    from textseg.errors import ConfigError, nearest

    if stack != "nano":
        raise ConfigError(f"train: unknown stack {stack!r}; {nearest(stack, ['nano'])}")
    folder = preset_folder() / "train" if config is None else config
    parts = only or list(PARTS)
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"train: unknown part {part!r}; {nearest(part, PARTS)}")
        if not (folder / f"{part}.yaml").is_file():
            raise ConfigError(f"train: {folder / f'{part}.yaml'} is missing; --config takes a folder of such files")
    _tell_of_steps()
    for part in parts:
        module = importlib.import_module(f"textseg.train.{PARTS[part]}")
        module.main(["--config", str(folder / f"{part}.yaml"), "--out", str(out / part), *context.args])


def _tell_of_steps() -> None:
    """Show what is logged step by step without ``-v`` too: these commands run for minutes or hours."""
    logger = logging.getLogger("textseg")
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
