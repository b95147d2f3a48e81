"""``textseg segment photo.jpg "the red car"``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textseg.cli import show

if TYPE_CHECKING:
    from textseg.pipeline import Pipeline

PresetOption = Annotated[str, typer.Option("--preset", "-p", help="A preset's name, or a YAML file.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, mps …; the preset's own by default.")
]


def segment(
    picture: Annotated[Path, typer.Argument(help="A picture file.", show_default=False)],
    phrases: Annotated[
        list[str] | None,
        typer.Argument(help="What to look for, one phrase an argument; 'car, not: toy car' leaves something out."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for overlay.png, cutout.png, the masks and result.json.")
    ] = Path("out"),
    preset: PresetOption = "nano",
    threshold: Annotated[
        float | None, typer.Option("--threshold", "-t", help="Least score of a mask, 0..1; the preset's by default.")
    ] = None,
    device: DeviceOption = None,
    box: Annotated[
        list[str] | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="Point at it with a box, in pixels.")
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option("--point", metavar="X,Y", help="A point on it; may be repeated.")
    ] = None,
    background_point: Annotated[
        list[str] | None, typer.Option("--background-point", metavar="X,Y", help="A point that is not on it.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="A picture of a rough mask, light where the thing is.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="How often the masks are fed back in, to be refined.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON (masks as COCO RLE) instead of a table.")
    ] = False,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Whether to write files.")] = True,
) -> None:
    """Cut what the phrases name out of one picture.

    Example: textseg segment photo.jpg "the red car" "a dog" -o out/
    """
    pointed = _pointed(box or [], point or [], background_point or [], mask)
    if not phrases and not pointed:
        raise typer.BadParameter("nothing asked: give a phrase such as 'the red car', a --box, a --point or a --mask")
    from textseg import image, language
    from textseg.build import load

    opened = image.read(picture)  # a bad picture or phrase is reported before the models load
    query = language.query([language.parse_phrase(text) for text in phrases]) if phrases else None
    pipeline = _with_rounds(load(preset, device=device), rounds)
    result = pipeline.open(opened).segment(query, threshold=threshold, **pointed)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), ensure_ascii=False))
    else:
        show.result(result)
    if save:
        folder = result.save(out)
        if not as_json:
            show.line(f"wrote {folder / 'overlay.png'} and {len(result)} masks")


def _with_rounds(pipeline: Pipeline, rounds: int | None) -> Pipeline:
    """Return the pipeline with so many rounds of refinement, or the preset's."""
    if rounds is None:
        return pipeline
    config = pipeline.config
    return pipeline.with_config(replace(config, segment=replace(config.segment, refine_rounds=rounds)))


def _pointed(boxes: list[str], points: list[str], background: list[str], mask: Path | None) -> dict[str, Any]:
    """Return the keyword arguments of ``OpenPicture.segment`` for what is pointed at."""
    out: dict[str, Any] = {}
    if boxes:
        out["box"] = [_numbers(text, 4, "--box") for text in boxes]
    if points or background:
        out["points"] = [_numbers(text, 2, "--point") for text in points + background]
        out["labels"] = [1] * len(points) + [0] * len(background)
    if mask is not None:
        from textseg import image

        out["mask"] = image.read(mask).rgb.mean(axis=2) >= 128
    return out


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        expected = "x0,y0,x1,y1" if count == 4 else "x,y"
        raise typer.BadParameter(f"{option}: got {text!r}, expected {count} numbers {expected} in pixels")
    return numbers
