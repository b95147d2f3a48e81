"""``textseg label pictures/ --classes "car,person" --format coco -o labels/``.

Exit codes: 0 every picture is labelled, 3 some could not be (they are listed in ``failed.tsv``), 4 none is,
2 wrong usage or settings, 130 interrupted (the same command goes on).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from textseg.label.ontology import Ontology
    from textseg.label.records import PictureRow
    from textseg.label.run import Engine, Progress
    from textseg.label.settings import Settings
    from textseg.label.sources import Source
    from textseg.label.store import Store

ENGINES = ("local", "ray")
_LISTED = 20  # failures that are printed; failed.tsv has them all


def label(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a glob in quotes, a list (.txt), a ZIP, a COCO JSON, a video, or an address such as s3://…",
            show_default=False,
        ),
    ],
    classes: Annotated[
        str | None, typer.Option("--classes", "-c", help="Class names: 'car, person'; 'car, not: toy car, person'.")
    ] = None,
    ontology: Annotated[
        Path | None, typer.Option("--ontology", help="YAML: class → phrases, not, threshold, min_area.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the store and the exports.")] = Path("labels"),
    formats: Annotated[
        list[str] | None, typer.Option("--format", "-f", help="Export in this format afterwards; may be repeated.")
    ] = None,
    preset: Annotated[str, typer.Option("--preset", "-p", help="A preset's name, or a YAML file.")] = "nano",
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, mps …; the preset's own.")] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", "-t", help="Least score of a mask, 0..1; the preset's by default.")
    ] = None,
    every: Annotated[float, typer.Option("--every", help="Seconds between two frames of a video.")] = 1.0,
    shard: Annotated[str, typer.Option("--shard", metavar="I/N", help="Do only part I of N, such as 3/8.")] = "1/1",
    limit: Annotated[int | None, typer.Option("--limit", help="Try at most so many pictures now.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Put an existing store aside and begin again.")] = False,
    override: Annotated[
        bool, typer.Option("--override", help="Keep what is labelled, go on with the settings as they are now.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed earlier.")] = False,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray for several processes or machines.")] = "local",
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="local: threads that decode; ray: processes with models.")
    ] = 2,
) -> None:
    """Label a folder of pictures by class names. Kill it any time: the same command goes on where it stopped."""
    from textseg.label.run import GOOD, SOME_FAILED, RunConfig
    from textseg.label.sources import Shard, open_source

    _check(engine, new and override)
    config = RunConfig(Shard.parse(shard), limit, retry_failed)
    exporter = _exporter(formats or [])  # a wrong format is told before the night, not after it
    pictures = open_source(source, every_seconds=every, leave_out=[out])
    wanted = _ontology(classes, ontology, pictures)
    progress = _run(pictures, wanted, out, config, (preset, device, threshold), (new, override), (engine, workers))
    if exporter is not None and progress.exit_code in (GOOD, SOME_FAILED):
        exporter(out)
    raise typer.Exit(progress.exit_code)


def _check(engine: str, both: bool) -> None:
    from textseg.errors import ConfigError, nearest

    if engine not in ENGINES:
        raise ConfigError(f"engine: unknown {engine!r}; {nearest(engine, ENGINES)}")
    if both:
        raise typer.BadParameter("--new and --override exclude each other")


def _run(
    source: Source,
    ontology: Ontology,
    out: Path,
    config: Any,
    models: tuple[str, str | None, float | None],
    restart: tuple[bool, bool],
    engine: tuple[str, int],
) -> Progress:
    """Open the store (before the models load: a store in use is told at once), label, list what failed."""
    from textseg.label.run import label as run
    from textseg.label.store import Store

    new, override = restart
    with Store.write(out, new=new) as store:
        made, settings = _engine(source, ontology, models, engine)
        store.begin(settings, ontology.names, override=override)
        with _bar() as show:
            progress = run(made, source, store, config, show)
        _summary(store, progress, out)
    return progress


def _engine(
    source: Source, ontology: Ontology, models: tuple[str, str | None, float | None], engine: tuple[str, int]
) -> tuple[Engine, Settings]:
    from textseg.label import settings
    from textseg.label.engine_ray import RayEngine
    from textseg.label.run import LocalEngine
    from textseg.label.work import make_labeller

    preset, device, threshold = models
    name, workers = engine
    make = functools.partial(make_labeller, preset, device, ontology, threshold)
    labeller = make()  # with Ray, too: the models' ids are part of the settings
    decided = settings.make(
        labeller.pipeline,
        ontology,
        source=source.name,
        threshold=threshold,
        options=dict(source.options),
        weights=settings.weight_hashes(preset),
    )
    if name == "ray":
        gpus = 1.0 if device is not None and device.startswith("cuda") else 0.0
        return RayEngine(make, workers, gpus), decided
    return LocalEngine(labeller, workers, 2 * workers), decided


def _ontology(classes: str | None, path: Path | None, source: Source) -> Ontology:
    """Return the classes of --classes, of --ontology, or those that the source itself names."""
    from textseg.label import ontology

    if classes is not None and path is not None:
        raise typer.BadParameter("--classes and --ontology exclude each other")
    if path is not None:
        return ontology.read(path)
    if classes is not None:
        return ontology.from_names(classes)
    if source.class_names:
        return ontology.from_names(source.class_names)
    raise typer.BadParameter("no classes: give --classes 'car,person' or --ontology classes.yaml")


def _exporter(formats: list[str]) -> Callable[[Path], None] | None:
    """Return what exports the store in the formats, or None where none is wanted.

    Raises:
        ConfigError: an unknown format.
    """
    if not formats:
        return None
    from textseg.cli.label_tools import show_reports
    from textseg.errors import ConfigError, nearest
    from textseg.label.export import FORMATS, export

    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"--format: unknown {name!r}; {nearest(name, FORMATS)}")

    def run(out: Path) -> None:
        from textseg.label.store import Store

        with Store.read(out) as store:
            show_reports(export(store, formats, out))

    return run


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar on stderr: pictures, pictures a second, time left, failures."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("labelling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[failed]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("labelling", total=None, rate="", left="", failed="")

        def show(progress: Progress) -> None:
            before = progress.done_before + progress.failed_before
            left = progress.seconds_left
            bar.update(
                task,
                total=progress.total,
                completed=before + progress.tried,
                rate=f"{progress.per_second:.1f} pictures/s",
                left="" if left is None else f"{_duration(left)} left",
                failed=f"{progress.failed + progress.failed_before} failed",
            )

        yield show


def _summary(store: Store, progress: Progress, out: Path) -> None:
    """Say what was done and what failed; every failure goes to ``failed.tsv``."""
    failed = store.count("failed")
    _write_failures(store.pictures("failed"), failed, out / "failed.tsv")
    typer.echo(
        f"{progress.done} pictures labelled in {_duration(progress.seconds)}"
        f" ({progress.per_second:.1f}/s), {progress.done_before} before, {store.mask_count()} masks in {store.path}"
    )
    for row in _first(store.pictures("failed"), _LISTED):
        typer.echo(f"failed: {_plain(row.key)}: {_plain(row.error)}", err=True)
    if failed:
        typer.echo(f"{failed} failed, all listed in {out / 'failed.tsv'}; --retry-failed tries them again", err=True)
    if progress.interrupted:
        typer.echo("interrupted; the same command goes on", err=True)


def _write_failures(rows: Iterator[PictureRow], count: int, path: Path) -> None:
    from textseg.errors import DataError

    try:
        if not count:
            path.unlink(missing_ok=True)
            return
        with path.open("w", encoding="utf-8") as file:
            file.write("picture\tattempts\terror\treason\n")
            for row in rows:
                file.write(f"{_plain(row.key)}\t{row.attempts}\t{row.error_kind}\t{_plain(row.error)}\n")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}; the store itself is complete") from error


def _first(rows: Iterator[PictureRow], count: int) -> Iterator[PictureRow]:
    for _, row in zip(range(count), rows, strict=False):
        yield row


def _plain(text: str) -> str:
    """Return one line without characters that could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
