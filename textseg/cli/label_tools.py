"""What comes after labelling: ``textseg export``, ``review``, ``corrections``, ``merge`` and ``eval`` of labels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textseg.cli import show

if TYPE_CHECKING:
    from textseg.label.export import Report
    from textseg.label.score import Row, Score

LabelsArgument = Annotated[Path, typer.Argument(help="The output folder of 'textseg label'.", show_default=False)]
CONFIDENT_HELP = "0.5..1: what is less certain waits for a person."


def export(
    labels: LabelsArgument,
    formats: Annotated[
        list[str] | None, typer.Option("--format", "-f", help="A format; may be repeated. --list names them.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; each format gets its own inside. The labels' own.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="TRAIN,VAL,TEST", help="Shares such as 0.8,0.1,0.1, by class.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the split.")] = 0,
    pictures: Annotated[
        str, typer.Option("--pictures", help="copy, hardlink (no space) or reference (links to the originals).")
    ] = "copy",
    confident: Annotated[
        float | None, typer.Option("--confident", help=f"{CONFIDENT_HELP} Pictures that wait are left out.")
    ] = None,
    rejected: Annotated[bool, typer.Option("--with-rejected", help="Export what a person rejected, too.")] = False,
    list_formats: Annotated[bool, typer.Option("--list", help="Print the formats and leave.")] = False,
) -> None:
    """Write the labels as a data set: COCO, YOLO, VOC, LabelMe, Label Studio, SA-1B, Hugging Face, PNGs.

    Example: textseg export labels/ -f coco -f yolo-seg --split 0.8,0.1,0.1
    """
    from textseg.label.export import FORMATS, Options
    from textseg.label.export import export as run
    from textseg.label.export.pictures import check_mode
    from textseg.label.export.split import parse
    from textseg.label.store import Store

    if list_formats:
        show.line(", ".join(FORMATS))
        return
    if not formats:
        raise typer.BadParameter(f"no format given: --format coco, or one of {', '.join(FORMATS)}")
    shares = None if split is None else parse(split)
    options = Options(shares, seed, check_mode(pictures), confident, rejected)
    with Store.read(labels) as store:
        reports = run(store, formats, _folder(labels) if out is None else out, options)
    show_reports(reports)


def _folder(labels: Path) -> Path:
    return labels.parent if labels.suffix == ".sqlite" else labels


def show_reports(reports: list[Report]) -> None:
    """Print what each export holds, and what its format could not hold exactly."""
    table = show.simple_table("format", "folder", "split", "masks as read back", right=["pictures", "empty", "masks"])
    for one in reports:
        parts = ", ".join(f"{part} {count}" for part, count in one.splits.items()) or "–"
        numbers = (str(one.pictures), str(one.without_objects), str(one.masks))
        table.add_row(one.format, show.plain(str(one.folder)), parts, one.loss_text(), *numbers)
    show.console().print(table)
    first = reports[0]
    for key, why in first.left_out.items():
        show.line(f"left out: {key}: {why}")
    if first.left_out_count > len(first.left_out):
        show.line(f"… and {first.left_out_count - len(first.left_out)} more")


def review(
    labels: LabelsArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; review.html in the labels' folder.")
    ] = None,
    decisions: Annotated[
        Path | None, typer.Option("--apply", help="Bring what the page saved into the labels, instead of a new page.")
    ] = None,
    confident: Annotated[float, typer.Option("--confident", help=CONFIDENT_HELP)] = 0.8,
    only_waiting: Annotated[
        bool, typer.Option("--queue", help="Only the pictures that wait for a person; the others are kept as they are.")
    ] = False,
    list_queue: Annotated[
        bool, typer.Option("--list", help="Print the pictures that wait, most uncertain first, and leave.")
    ] = False,
    per_page: Annotated[int, typer.Option("--per-page", min=1, help="Pictures a page.")] = 1000,
) -> None:
    """Write a page on which a person accepts or rejects masks, or bring the verdicts back.

    Example: textseg review labels/, then textseg review labels/ --apply decisions.json
    """
    from textseg.label import queue
    from textseg.label import review as pages
    from textseg.label.store import Store

    if decisions is not None:
        with Store.write(_existing(labels)) as store:
            done = pages.apply_decisions(store, decisions)
        show.line(f"{done.accepted} accepted, {done.rejected} rejected, {done.withdrawn} withdrawn, {done.seen} seen")
        for key, why in done.stale:
            show.line(f"not applied: {key}: {why}")
        return
    with Store.read(labels) as store:
        if list_queue:
            for key, why in queue.waiting(store, confident).items():
                typer.echo(f"{show.plain(key)}\t{show.plain(why)}")
            return
        config = pages.ReviewConfig(confident=confident, only_waiting=only_waiting, per_page=per_page)
        files = pages.write(store, _folder(labels) / "review.html" if out is None else out, config)
    show.line(f"wrote {files[0]}" + (f" and {len(files) - 1} more pages" if len(files) > 1 else ""))


def corrections(
    labels: LabelsArgument,
    file: Annotated[Path, typer.Argument(help="A COCO JSON, a LabelMe JSON, or a folder of them.", show_default=False)],
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="Add classes that the labels do not have yet.")
    ] = False,
) -> None:
    """Replace the masks of the pictures that a file holds with what a person drew there."""
    from textseg.label.corrections import apply
    from textseg.label.store import Store

    with Store.write(_existing(labels)) as store:
        done = apply(store, file, new_classes=new_classes)
    show.line(f"{done.pictures} pictures corrected: {done.masks} masks in place of {done.replaced}")
    for label in done.new_classes:
        show.line(f"new class: {label}")
    for name, why in done.skipped.items():
        show.line(f"left alone: {name}: {why}")


def merge(
    labels: Annotated[
        list[Path],
        typer.Argument(help="Output folders of 'textseg label', such as those of shards.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the merged labels; made if need be.")],
    override: Annotated[bool, typer.Option("--override", help="Also take labels made with other settings.")] = False,
) -> None:
    """Bring the labels of several machines (--shard) together; merging the same labels again changes nothing.

    Example: textseg merge labels-1/ labels-2/ labels-3/ -o labels/
    """
    from textseg.label.merge import merge as run
    from textseg.label.store import Store

    for folder in labels:
        _existing(folder)
    with Store.write(out) as store:
        taken = run(store, labels, override=override)
        whole = f"{store.count('done')} pictures labelled, {store.count('failed')} failed, {store.mask_count()} masks"
    for one in taken:
        show.line(
            f"{one.store}: {one.pictures} pictures, {one.failed} failed, {one.masks} masks; {one.already} there already"
        )
        for key in one.different:
            show.line(f"left out: {key}: another picture by the same name is there; label the folders apart")
    show.line(f"{out}: {whole}")


def _existing(labels: Path) -> Path:
    """Return the folder if it has a store: writing to one that is missing would make an empty one."""
    from textseg.label.store import Store

    Store.read(labels).close()
    return labels


def eval_labels(
    labels: LabelsArgument,
    truth: Annotated[Path, typer.Argument(help="COCO JSON with the true masks.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write everything as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    rejected: Annotated[bool, typer.Option("--with-rejected", help="Count what a person rejected, too.")] = False,
) -> None:
    """Measure how good the labels are: COCO mask AP, precision, recall and mean IoU, by class and by size."""
    from textseg.label.score import score
    from textseg.label.store import Store

    with Store.read(labels) as store:
        result = score(store, truth, rejected=rejected)
    text = json.dumps(result.to_dict(), ensure_ascii=False, indent=1)
    if out is not None:
        _write(out, text)
    if as_json:
        typer.echo(text)
    else:
        _show_score(result)


def asks_for_labels(arguments: Sequence[str]) -> bool:
    """Return whether ``textseg eval`` is given labels rather than options of a preset alone."""
    from textseg.label.store import locate

    return bool(arguments) and (not arguments[0].startswith("-") or any(locate(one).is_file() for one in arguments))


def run_eval(arguments: Sequence[str]) -> None:
    """Run ``eval_labels`` on what follows ``textseg eval``."""
    door = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    door.command()(eval_labels)
    typer.main.get_command(door).main(list(arguments), prog_name="textseg eval", standalone_mode=False)


def _write(path: Path, text: str) -> None:
    from textseg.errors import DataError

    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error


def _show_score(result: Score) -> None:
    columns = ["truth", "found", "precision", "recall", "F1", "mean IoU", "AP", "AP50"]
    for name, rows in (("class", [*result.classes, result.total]), ("size", list(result.sizes))):
        table = show.simple_table(name, right=columns)
        for row in rows:
            table.add_row(show.plain(row.name), *_cells(row))
        show.console().print(table)
    line = f"{result.pictures} pictures compared at IoU 0.5"
    if result.missing or result.without_truth:
        line += f"; {result.missing} are not in the labels, {result.without_truth} have no truth"
    show.line(line)
    if result.unknown_classes:
        show.line(f"not in the truth, not counted: {', '.join(result.unknown_classes)}")


def _cells(row: Row) -> list[str]:
    values = (row.precision, row.recall, row.f1, row.mean_iou, row.ap, row.ap50)
    shares = ["–" if math.isnan(value) else f"{value:.3f}" for value in values]
    return [str(row.truth), str(row.found), *shares]
