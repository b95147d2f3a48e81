"""``textseg demo``, ``textseg eval`` and ``textseg train``: thin doors to code that lives elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from textseg.cli.segment import DeviceOption, PresetOption

PASS_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
PARTS = ("clip", "detector", "sam")


def demo(
    preset: PresetOption = "nano",
    device: DeviceOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7860,
) -> None:
    """Open the web page: type words, see masks."""
    from textseg.build import load

    page = app_module().build_page(load(preset, device=device))
    page.launch(server_name=host, server_port=port)


def evaluate(context: typer.Context) -> None:
    """Measure a preset on labelled pictures: textseg eval --help."""
    from textseg.evaluate.run import main

    main(context.args)


def train(
    context: typer.Context,
    stack: Annotated[str, typer.Argument(help="What to train; 'nano' is all there is.")],
    config: Annotated[
        Path | None, typer.Option(help="Folder with clip.yaml, detector.yaml and sam.yaml; those that ship by default.")
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
    for part in parts:
        module = importlib.import_module(f"textseg.train.{part}")
        module.main(["--config", str(folder / f"{part}.yaml"), "--out", str(out / part), *context.args])


def app_module() -> ModuleType:
    """Return the demo: ``textseg.app`` inside a wheel, the ``app.py`` beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    path = next(p for p in (package / "app.py", package.parent / "app.py") if p.is_file())
    spec = importlib.util.spec_from_file_location("textseg_app", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
