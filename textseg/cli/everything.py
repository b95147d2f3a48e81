"""``textseg everything`` and ``textseg edges``: every mask, or every edge, of a picture or of folders of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textseg.cli import show
from textseg.cli.segment import DeviceOption, PresetOption
from textseg.errors import ConfigError, DataError, ImageError, nearest

if TYPE_CHECKING:
    from textseg.everything import Everything, EverythingOptions
    from textseg.pipeline import Pipeline
    from textseg.types import Query

FORMATS = ("json", "sa1b")
PICTURES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""File names that count as pictures in a folder."""

PicturesArgument = Annotated[list[Path], typer.Argument(help="Picture files or folders of them.", show_default=False)]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the answers.")]
VocabularyOption = Annotated[
    Path | None, typer.Option("--vocabulary", help="A text file of phrases, one a line: CLIP names each mask.")
]
FormatOption = Annotated[
    str, typer.Option("--format", help="json: records and an overlay; sa1b: SA-1B's JSON with run lengths.")
]
SideOption = Annotated[
    int | None, typer.Option(help="The grid has this many points along each side; the preset's by default, as below.")
]
BatchOption = Annotated[int | None, typer.Option(help="Prompts handed to the segmenter at a time.")]
IouOption = Annotated[float | None, typer.Option(help="Least predicted IoU of a mask, 0..1.")]
StabilityOption = Annotated[float | None, typer.Option(help="Least stability of a mask, 0..1.")]
NmsOption = Annotated[float | None, typer.Option(help="Masks whose boxes overlap by more are duplicates.")]
LayersOption = Annotated[int | None, typer.Option(help="Layer i asks again on 2^i x 2^i crops.")]
DownscaleOption = Annotated[int | None, typer.Option(help="Fewer points in deeper layers, by this factor each.")]
RegionOption = Annotated[int | None, typer.Option(help="Holes and islands of fewer pixels are removed.")]
MostOption = Annotated[int | None, typer.Option(help="Refuse to ask about more points; 0: no limit.")]
TileOption = Annotated[int, typer.Option(help="Search tiles of this many pixels, for small objects; 0: none.")]
RefineOption = Annotated[bool, typer.Option("--refine/--no-refine", help="Segment a crop around each mask.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Do pictures again whose answer is there.")]


def everything(
    pictures: PicturesArgument,
    out: OutOption = Path("out"),
    vocabulary: VocabularyOption = None,
    output_format: FormatOption = "json",
    points_per_side: SideOption = None,
    points_per_batch: BatchOption = None,
    pred_iou_thresh: IouOption = None,
    stability_score_thresh: StabilityOption = None,
    box_nms_thresh: NmsOption = None,
    crop_n_layers: LayersOption = None,
    crop_n_points_downscale_factor: DownscaleOption = None,
    min_mask_region_area: RegionOption = None,
    max_prompts: MostOption = None,
    tile: TileOption = 0,
    refine: RefineOption = False,
    overwrite: OverwriteOption = False,
    preset: PresetOption = "nano",
    device: DeviceOption = None,
) -> None:
    """Find every mask of each picture; with a vocabulary, name them.

    Example: textseg everything picture.jpg --vocabulary words.txt -o out/

    Pictures whose answer is already in the folder are skipped, so the same command resumes.
    """
    if output_format not in FORMATS:
        raise ConfigError(f"--format {output_format!r} is unknown; {nearest(output_format, FORMATS)}")
    options = preset_options(
        preset,
        points_per_side=points_per_side,
        points_per_batch=points_per_batch,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        box_nms_thresh=box_nms_thresh,
        crop_n_layers=crop_n_layers,
        crop_n_points_downscale_factor=crop_n_points_downscale_factor,
        min_mask_region_area=min_mask_region_area,
        max_prompts=max_prompts,
    )
    how = _How(options, None if vocabulary is None else read_vocabulary(vocabulary), tile, refine)
    jobs = [job for job in _jobs(pictures, out, ".json") if overwrite or not job[1].is_file()]
    if jobs:
        _search(jobs, how, out, output_format, preset, device)
    else:
        show.line(f"nothing to do: every picture's answer is in {out}; --overwrite does them again")


def preset_options(preset: str, **given: Any) -> EverythingOptions:
    """Return a preset's options for everything, with those that are given (not None) in their place.

    Raises:
        ConfigError: unknown preset, a value out of range, or more prompts than ``max_prompts``.
    """
    from textseg.config import read_preset
    from textseg.everything.options import check_cost

    named = {name: value for name, value in given.items() if value is not None}
    options = replace(read_preset(preset).everything, **named)
    check_cost(options)
    return options


@dataclass(frozen=True)
class _How:
    """How each picture is searched: the grid, the vocabulary, the side of tiles (0: none), whether refined."""

    options: EverythingOptions
    query: Query | None
    tile: int
    refine: bool


def _search(
    jobs: list[tuple[Path, Path]], how: _How, out: Path, output_format: str, preset: str, device: str | None
) -> None:
    """Answer every job with one pipeline."""
    from textseg.build import load
    from textseg.everything import cost

    pipeline, meant = load(preset, device=device), cost(how.options)
    if how.query is not None and pipeline.clip is None:
        raise ConfigError(f"--vocabulary needs a preset with a CLIP, which {preset!r} has not")
    show.line(f"{len(jobs)} pictures, {meant} each" if len(jobs) > 1 else f"{meant}")

    def save(path: Path, target: Path, found: Everything) -> str:
        number = zlib.crc32(target.relative_to(out).as_posix().encode())  # the same however often it is resumed
        return _save(found, number, path, target, output_format)

    _each(jobs, lambda path, tell: _find(pipeline, path, how, tell), save)


def edges(
    pictures: PicturesArgument,
    out: OutOption = Path("out"),
    points_per_side: Annotated[int, typer.Option(help="The grid has this many points along each side.")] = 16,
    thin: Annotated[bool, typer.Option("--thin/--thick", help="Whether edges are thinned to one pixel.")] = True,
    preset: PresetOption = "nano",
    device: DeviceOption = None,
) -> None:
    """Draw the edges of each picture, white on black, as PICTURE_edges.png.

    Example: textseg edges picture.jpg -o out/
    """
    from textseg.edges import EdgeOptions

    options = EdgeOptions(points_per_side=points_per_side, thin=thin)
    jobs = _jobs(pictures, out, "_edges.png")
    from textseg import edges as tool
    from textseg.build import load

    pipeline = load(preset, device=device)

    def save(path: Path, target: Path, strength: Any) -> str:
        import PIL.Image

        target.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray((strength * 255).round().astype("uint8")).save(target)
        return f"{(strength > 0).mean():.1%} of its pixels are edges"

    _each(jobs, lambda path, tell: tool.edges(pipeline, path, options, tell), save)


def read_vocabulary(path: Path) -> Query:
    """Return the phrases of a text file, one a line; blank lines and lines that start with # are left out.

    Raises:
        DataError: the file cannot be read.
        QueryError: a phrase is unusable, or there is none.
    """
    from textseg import language

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the vocabulary {path}: {error}; expected one phrase a line") from error
    texts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return language.query([language.parse_phrase(text) for text in texts])


def _find(pipeline: Pipeline, path: Path, how: _How, tell: Callable[[int, int], None]) -> Everything:
    """Return everything in one picture, in tiles and refined if wanted."""
    from textseg import everything as tool
    from textseg import image as images

    picture = images.read(path)
    if how.tile:
        from textseg import tiles

        cut = tiles.TileOptions(side=how.tile, overlap=min(128, how.tile // 4))
        found = tiles.everything(pipeline, picture, cut, how.options, tell)
        if how.query is not None:
            found = tool.name_everything(pipeline, found, how.query)
    else:
        found = tool.everything(pipeline, picture, how.options, how.query, tell)
    if how.refine:
        from textseg.refine import refine_everything

        found = refine_everything(pipeline, found, progress=tell)
    return found


def _save(found: Everything, number: int, path: Path, target: Path, output_format: str) -> str:
    """Write one picture's answer; return what there is to say of it."""
    from textseg import sa1b

    content = sa1b.from_everything(found, number, path.name)
    if output_format == "json":
        import PIL.Image

        target.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(found.overlay()).save(target.with_name(f"{target.stem}_overlay.png"))
    sa1b.write(content, target)
    names = [label for label in found.labels or () if label is not None]
    most = ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names), key=names.count, reverse=True)[:8])
    return f"{len(found)} masks" + (f": {most}" if most else "")


def _jobs(sources: Iterable[Path], out: Path, ending: str) -> list[tuple[Path, Path]]:
    """Return (picture, answer) for every picture, folders searched.

    Raises:
        DataError: a folder without pictures, or two pictures whose answers would have one name.
    """
    jobs: dict[Path, Path] = {}
    for source in sources:
        found = [source]
        if source.is_dir():
            found = sorted(path for path in source.rglob("*") if path.suffix.lower() in PICTURES)
            if not found:
                raise DataError(f"{source} holds no pictures; expected files such as {', '.join(PICTURES[:6])}")
        for path in found:
            inner = path.relative_to(source).parent if source.is_dir() else Path()
            target = out / inner / f"{path.stem}{ending}"
            if target in jobs:
                raise DataError(f"{jobs[target]} and {path} would both be answered in {target}: rename one")
            jobs[target] = path
    return [(path, target) for target, path in jobs.items()]


def _each(
    jobs: list[tuple[Path, Path]],
    work: Callable[[Path, Callable[[int, int], None]], Any],
    save: Callable[[Path, Path, Any], str],
) -> None:
    """Do every job with a progress bar; a picture of many that cannot be read is reported and left out."""
    failed = 0
    with _bar() as (start, tell):
        for number, (path, target) in enumerate(jobs, 1):
            start(f"{number}/{len(jobs)} {path.name}" if len(jobs) > 1 else path.name)
            try:
                said = save(path, target, work(path, tell))
            except ImageError as error:
                if len(jobs) == 1:
                    raise
                failed += 1
                show.line(f"left out: {error}")
                continue
            except OSError as error:
                raise DataError(f"cannot write {target}: {error}; choose another folder with --out") from error
            show.line(f"{path}: {said} → {target}")
    if failed:
        show.line(f"{failed} of {len(jobs)} pictures could not be read")


@contextmanager
def _bar() -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Yield (start a picture, tell its progress) of a progress bar on stderr, which only a terminal shows."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def start(name: str) -> None:
            progress.reset(task, description=show.plain(name), total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield start, tell
