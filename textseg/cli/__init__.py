"""The command line: parses, builds, calls, exports. Everything heavy is imported inside the commands.

Exit codes: 0 done (a phrase that is not in the picture is an answer, too), 2 wrong usage or any
``TextsegError`` (one line on stderr, no traceback), 130 interrupted.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from textseg import __version__
from textseg.cli import demo, doctor, everything, label, label_tools, models, run, segment
from textseg.errors import TextsegError


class _Group(TyperGroup):
    """Turns our errors into one line and exit code 2, and Ctrl-C into 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TextsegError as error:
            typer.echo(f"textseg: {' '.join(str(error).splitlines())}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("textseg: interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Type words, get masks.",
)
app.command("segment")(segment.segment)
app.command("everything")(everything.everything)
app.command("edges")(everything.edges)
app.command("label")(label.label)
app.command("export")(label_tools.export)
app.command("review")(label_tools.review)
app.command("corrections")(label_tools.corrections)
app.command("merge")(label_tools.merge)
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("eval", context_settings=run.PASS_ON, add_help_option=False)(run.evaluate)
app.command("train", context_settings=run.PASS_ON)(run.train)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"textseg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, show_default=False, help="Say what happens; -vv says more.")
    ] = 0,
) -> None:
    """Type words, get masks."""
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("textseg").setLevel(level)


def main() -> None:
    """Run the command line and end the process; the entry point of the ``textseg`` script."""
    try:
        app(prog_name="textseg")
    except SystemExit as end:
        if "torch" in sys.modules and (end.code is None or isinstance(end.code, int)):
            _leave(end.code or 0)
        raise


def _leave(code: int) -> None:
    """End the process without taking its objects apart: with torch and its friends loaded, that is over a second.

    What was registered for the end is run, and what was written goes out. Returns where a thread is still at work.
    """
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # a closed pipe: Python's own end reports it
        return
    os._exit(code)
