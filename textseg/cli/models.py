"""``textseg models``: which presets there are, what they need, and fetching it."""

from __future__ import annotations

from typing import Annotated

import typer

from textseg.cli import show

app = typer.Typer(help="List the presets, show one, or fetch its weights.", no_args_is_help=False)
PresetArgument = Annotated[str, typer.Argument(help="A preset's name, or a YAML file.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the presets, show one, or fetch its weights."""
    if context.invoked_subcommand is None:
        list_presets()


@app.command("list")
def list_presets() -> None:
    """List the presets, with where their weights are."""
    from textseg import downloads
    from textseg.config import preset_names, read_preset

    table = show.simple_table("preset", "what", "weights")
    for name in preset_names():
        preset = read_preset(name)
        table.add_row(name, preset.summary, downloads.summary(preset))
    show.console().print(table)


@app.command("show")
def show_preset(preset: PresetArgument) -> None:
    """Show a preset: every model with where its weights are, and every setting of the stages."""
    import dataclasses

    import yaml

    from textseg import downloads
    from textseg.config import read_preset
    from textseg.protocols import ROLES

    settings = read_preset(preset)
    show.line(f"{settings.name}: {settings.summary}")
    table = show.simple_table("role", "family", "model", "weights")
    for need in downloads.needs(settings):
        table.add_row(need.role, need.model.kind, need.model.model, need.state)
    show.console().print(table)
    values = dataclasses.asdict(settings)
    stages = {key: values[key] for key in values if key not in (*ROLES, "name", "summary")}
    stages["rank"]["backgrounds"] = list(stages["rank"]["backgrounds"])
    typer.echo(yaml.safe_dump(stages, sort_keys=False, allow_unicode=True).rstrip())


@app.command("pull")
def pull(preset: PresetArgument) -> None:
    """Fetch the weights of a preset from the model hub (safetensors only) into the hub's cache."""
    from textseg import downloads
    from textseg.config import read_preset

    folders = downloads.pull(read_preset(preset))
    if not folders:
        show.line(f"{preset}: nothing to download, its weights ship with textseg or lie in a local folder")
    for folder in folders:
        show.line(f"here: {folder}")
