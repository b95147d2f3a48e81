"""What labelling a folder survives: kills, damaged pictures, full disks, a second run; and how much memory it takes.

::

    python benchmarks/label_robustness.py kill --data DATA               # 500 pictures, 50 times kill -9
    python benchmarks/label_robustness.py damaged --data DATA            # 1,000 pictures, 50 damaged in ten ways
    python benchmarks/label_robustness.py memory --data DATA             # peak at 1,000 and at 10,000 small pictures
    python benchmarks/label_robustness.py disk --data DATA               # full disk, read-only folder (Linux, root)
    python benchmarks/label_robustness.py two --data DATA                # two runs on one store at once

Each runs the ``textseg label`` command itself, in processes of its own, on photographs found below ``--data``, and
writes ``results/label_<name>.json``. ``report`` gathers those in ``results/label_robustness.md``. Exit code 1: a goal
was missed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import label_damage
from label_command import count, ended, labels, linked, photographs, rows, sound, start, words

from textseg.evaluate.machine import machine_info, machine_line, peak_mib
from textseg.evaluate.report import write_json
from textseg.label.store import Store

logger = logging.getLogger("label_robustness")
RESULTS = Path(__file__).resolve().parent / "results"
Record = dict[str, Any]


# ---------------------------------------------------------------- killed


def kill(data: Path, work: Path, options: argparse.Namespace) -> Record:
    """Kill runs over one folder at random moments; each goes on with the store that the last one left."""
    chance = random.Random(options.seed)
    pictures, out = linked(photographs(data, options.count, options.seed), work / "in"), work / "out"
    warm = _warm()
    lost = damaged = grown = 0
    moments: Counter[str] = Counter()
    before: dict[str, str] = {}
    for number in range(options.kills):
        child = warm(words(pictures, out), work / "log")
        moments[_wait_for_moment(child, out, len(before), 2 * options.count / options.kills * 0.8, chance)] += 1
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        damaged += bool(sound(out))
        after = rows(out)
        lost += sum(after.get(key) != value for key, value in before.items())
        grown += len(after) > len(before)
        before = after
        logger.info("kill %d: %d done", number + 1, len(after))
    code = os.waitstatus_to_exitcode(os.waitpid(warm(words(pictures, out), work / "log"), 0)[1])
    after = rows(out)
    lost += sum(after.get(key) != value for key, value in before.items())
    with Store.read(out) as store:
        attempts = Counter(picture.attempts for picture in store.pictures())
        runs, faults = Counter(run.ended or "killed" for run in store.runs()), store.check()
    whole = work / "whole"
    os.waitpid(warm(words(pictures, whole, "--limit", str(options.compare)), work / "log"), 0)
    got, wanted = labels(out), labels(whole)
    return {
        "pictures": options.count,
        "kills": options.kills,
        "processes": "forked, modules imported before; each loads the models and runs the whole command",
        "moments": dict(moments),
        "kills_after_new_pictures": grown,
        "last_run_exit_code": code,
        "done": len(after),
        "lost_or_changed": lost,
        "duplicated": sum(n for tries, n in attempts.items() if tries > 1) + len(after) - len(set(after)),
        "stores_found_damaged": damaged + bool(faults),
        "runs": dict(runs),
        "compared_with_an_uninterrupted_run": {
            "pictures": len(wanted),
            "masks": sum(map(len, wanted.values())),
            "different": sum(got[key] != value for key, value in wanted.items()),
        },
        "reached": (len(after), lost, damaged + bool(faults), code, set(attempts)) == (options.count, 0, 0, 0, {1}),
    }


def _warm() -> Callable[[list[str], Path], int]:
    """Return what starts ``textseg …`` in a forked process whose modules are imported already; it returns the pid.

    Importing takes seconds and cannot harm a store. The models are loaded in the new process, as always.
    """
    from textseg.build import load
    from textseg.cli import app

    load("nano")

    def begin(arguments: list[str], log: Path) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            app(arguments, prog_name="textseg")
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            os._exit(code)

    return begin


def _wait_for_moment(pid: int, out: Path, before: int, most: float, chance: random.Random) -> str:
    """Wait for a random moment: a fifth while the run starts, the others after 0..``most`` new pictures and a bit."""
    if chance.random() < 0.2:
        time.sleep(chance.random() * 3)
        return "while starting"
    wanted, deadline = before + int(chance.random() * most), time.monotonic() + 600
    while count(out) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(chance.random() * 1.5)
    return "while labelling"


# ---------------------------------------------------------------- damaged


def damaged(data: Path, work: Path, options: argparse.Namespace) -> Record:
    """Label a folder in which some pictures are damaged in ten ways, some of them vanishing while it runs."""
    each = options.damaged // len(label_damage.WAYS)
    bad = each * len(label_damage.WAYS)
    chosen = photographs(data, options.count - bad + 2 * each, options.seed)
    pictures, out = linked(chosen[2 * each :], work / "in"), work / "out"
    made = label_damage.damage(pictures, chosen[: 2 * each], each)
    started = time.perf_counter()
    process = start(words(pictures, out), log=work / "log", plain=True)
    while process.poll() is None and count(out) < options.count // 10:
        time.sleep(0.2)
    for key in made["vanished"]:
        (pictures / key).unlink()
    code = process.wait()
    with Store.read(out) as store:
        failed = {row.key: row.error for row in store.pictures("failed")}
        done, faults = store.count("done"), store.check()
    wanted = {key for keys in made.values() for key in keys}
    return {
        "pictures": options.count,
        "damaged": bad,
        "labelled": done,
        "listed": len(failed),
        "listed_wrongly": sorted(set(failed) - wanted),
        "passed_over": sorted(wanted - set(failed)),
        "lines_in_failed_tsv": len((out / "failed.tsv").read_text("utf-8").splitlines()) - 1,
        "exit_code": code,
        "reasons": {way: failed.get(keys[0], "").replace(str(work), "…") for way, keys in made.items()},
        "permissions": "root without its power over file permissions" if os.geteuid() == 0 else "as the user",
        "seconds": round(time.perf_counter() - started),
        "reached": (done, set(failed), code, faults) == (options.count - bad, wanted, 3, []),
    }


# ---------------------------------------------------------------- memory


def memory(data: Path, work: Path, options: argparse.Namespace) -> Record:
    """Follow the peak of one run's resident memory as the pictures go by."""
    chosen = photographs(data, options.count, options.seed, "caltech101,fluent,fruit-table")
    out = work / "out"
    process = start(words(linked(chosen, work / "in"), out), log=work / "log")
    peaks: dict[int, float] = {}
    deadline = time.monotonic() + 60 * options.minutes
    while process.poll() is None and time.monotonic() < deadline:
        now = count(out)
        if now >= options.step * (len(peaks) + 1):
            peaks[now] = peak_mib(process.pid)
            logger.info("%d: %.1f MiB", now, peaks[now])
        time.sleep(0.5)
    if process.poll() is None:
        now = count(out)
        peaks[now] = peak_mib(process.pid)
        process.send_signal(signal.SIGINT)
    process.wait()
    first = next((mib for n, mib in peaks.items() if n >= options.first), None)
    last_count, last = max(peaks.items(), default=(0, 0.0))
    ratio = None if first is None else round(last / first, 4)
    return {
        "pictures": last_count,
        "wanted": options.count,
        "preset": "nano",
        "peak_mib": {str(n): round(mib, 1) for n, mib in peaks.items()},
        "peak_to_that_at_first": ratio,
        "first": options.first,
        "reached": ratio is not None and ratio <= 1.1 and last_count >= options.count - options.step,
    }


# ---------------------------------------------------------------- disk


def disk(data: Path, work: Path, options: argparse.Namespace) -> Record:
    """Fill a small disk, then free it; write to a folder and to a disk that are read-only."""
    pictures = linked(photographs(data, options.count, options.seed), work / "in")
    with _small_disk(work / "disk", "256k") as disk:
        out = disk / "labels"
        full = ended(start(words(pictures, out)))
        kept, intact = rows(out), sound(out)
        _mount("-o", "remount,size=64m", str(disk))
        more = ended(start(words(pictures, out)))
        after = rows(out)
        lost = sum(after.get(key) != value for key, value in kept.items())
        _mount("-o", "remount,ro", str(disk))
        read_only = ended(start(words(pictures, out, "--retry-failed")))
        exported = ended(start(["export", str(out), "-f", "coco", "-o", str(work / "exported")]))
        still = rows(out) == after and not sound(out)
    folder = work / "locked"
    folder.mkdir(mode=0o555)
    locked = ended(start(words(pictures, folder / "labels"), plain=True))
    plain = {"full": full, "after_freeing": more, "read_only_disk": read_only, "read_only_folder": locked}
    plain["export_from_read_only_disk"] = exported
    codes = [code for code, _ in plain.values()]
    return {
        "pictures": options.count,
        "kept_when_full": len(kept),
        "damaged_when_full": intact,
        "done_after_freeing": len(after),
        "lost": lost,
        "unchanged_on_read_only_disk": still,
        "answers": {name: {"exit_code": c, "said": text.replace(str(work), "…")} for name, (c, text) in plain.items()},
        "reached": codes == [2, 0, 2, 2, 0] and 0 < len(kept) < len(after) == options.count and not lost and still,
    }


@contextmanager
def _small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


# ---------------------------------------------------------------- two


def two(data: Path, work: Path, options: argparse.Namespace) -> Record:
    """Start two runs on one store: one after the other has begun, then both at the same moment."""
    pictures = linked(photographs(data, options.count, options.seed), work / "in")
    out = work / "out"
    first = start(words(pictures, out), log=work / "log")
    while first.poll() is None and count(out) < 3:
        time.sleep(0.1)
    second = ended(start(words(pictures, out)))
    code = first.wait()
    out2 = work / "out2"
    pair = [start(words(pictures, out2)) for _ in range(2)]
    at_once = [ended(process) for process in pair]
    with Store.read(out2) as store:
        attempts = {picture.attempts for picture in store.pictures()}
    faults = sound(out) + sound(out2)
    return {
        "pictures": options.count,
        "later": {"exit_code": second[0], "said": second[1].replace(str(work), "…")},
        "first_exit_code": code,
        "at_once": [{"exit_code": c, "said": text.replace(str(work), "…")} for c, text in at_once],
        "done": [len(rows(out)), len(rows(out2))],
        "damaged": faults,
        "reached": (second[0], code, sorted(c for c, _ in at_once), len(rows(out)), len(rows(out2)), faults, attempts)
        == (2, 0, [0, 2], options.count, options.count, [], {1}),
    }


# ---------------------------------------------------------------- command line

WHAT: dict[str, Callable[[Path, Path, argparse.Namespace], Record]] = {
    "kill": kill,
    "damaged": damaged,
    "memory": memory,
    "disk": disk,
    "two": two,
}
COUNTS = {"kill": 500, "damaged": 1000, "memory": 10_000, "disk": 40, "two": 24}


def report() -> None:
    """Gather the records, and that of ``label.py``, in one page."""
    lines = [
        "# What labelling survives",
        "",
        "`python benchmarks/label_robustness.py …`, preset nano",
        "",
        machine_line(),
    ]
    for name in [*WHAT, "speed"]:
        path = RESULTS / f"label_{name}.json"
        if path.is_file():
            record = json.loads(path.read_text("utf-8"))
            reached = record.pop("reached", record.get("speed_up", 0) >= record.get("wanted", 1))
            lines += [
                "",
                f"## {name}: {'reached' if reached else 'missed'}",
                "",
                "| what | |",
                "|---|---|",
            ]
            lines += [
                f"| {key.replace('_', ' ')} | {_cell(value)} |" for key, value in record.items() if key != "machine"
            ]
    (RESULTS / "label_robustness.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "<br>".join(f"{key}: {_cell(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return "<br>".join(map(_cell, value)) or "none"
    return str(value).replace("|", "\\|")


def main() -> None:
    """Run one of them and write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*WHAT, "report"])
    parser.add_argument("--data", type=Path, help="a folder of photographs, such as that of textseg eval")
    parser.add_argument("--count", type=int, help="pictures; the goal's number by default")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--compare", type=int, default=100, help="kill: pictures of the uninterrupted run")
    parser.add_argument("--damaged", type=int, default=50)
    parser.add_argument("--first", type=int, default=1000, help="memory: what the peak is compared with")
    parser.add_argument("--step", type=int, default=250, help="memory: pictures between two figures")
    parser.add_argument("--minutes", type=float, default=600, help="memory: stop after so long, with what is done")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="an empty folder to work in; a temporary one by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.what == "report":
        report()
        return
    if options.data is None:
        parser.error("--data is needed")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options.count = options.count or COUNTS[options.what]
    work = Path(tempfile.mkdtemp(prefix="textseg-")) if options.work is None else options.work
    work.mkdir(parents=True, exist_ok=True)
    try:
        record = {**WHAT[options.what](options.data.resolve(), work, options), "machine": machine_info()}
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    write_json(options.results / f"label_{options.what}.json", record)
    sys.stdout.write(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    sys.exit(0 if record["reached"] else 1)


if __name__ == "__main__":
    main()
