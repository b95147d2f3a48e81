"""Many clients at once against the page's API: errors, mixed-up answers, times, memory before and after.

    python -m benchmarks.demo_load --clients 32 --requests 10

Each client is a thread with a session of its own; every request has a picture of a size that only it has (cut from the
example street) and a phrase that only it asks. An answer is somebody else's if it is of a picture of another size, or
has other labels than the phrases asked. Writes ``results/demo_load.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from gradio_client import Client, handle_file

from textseg.evaluate.machine import machine_line

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
PORT = 7955
COLORS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 160, 30), "yellow": (230, 210, 30)}
THINGS = ("car", "dog", "tree", "bicycle", "cat", "chair", "bird", "box")


@dataclass
class Tally:
    """What came back, over all clients."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    masks: int = 0
    places: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def picture(client: int, turn: int, folder: Path) -> tuple[Path, tuple[int, int]]:
    """Write one request's own picture: the example street, cut to a size that only this request has."""
    with PIL.Image.open(ROOT / "examples" / "street.jpg") as opened:
        street = opened.convert("RGB").resize((360, 240))
    size = street.width - 2 * client, street.height - 3 * turn
    pixels = np.array(street.crop((0, 0, *size)))
    pixels[4:12, 4 + client : 12 + client] = list(COLORS.values())[turn % len(COLORS)]
    path = folder / f"{client}_{turn}.png"
    PIL.Image.fromarray(pixels).save(path, compress_level=1)
    return path, size


def one_client(url: str, number: int, requests: int, folder: Path, tally: Tally, start: threading.Barrier) -> None:
    """Ask again and again, and look whether every answer is this client's."""
    files = [picture(number, turn, folder) for turn in range(requests)]
    with closing(Client(url, verbose=False, download_files=False)) as client:
        start.wait()
        for turn, (path, size) in enumerate(files):
            thing, color = THINGS[number % len(THINGS)], list(COLORS)[turn % len(COLORS)]
            phrases = [f"the {color} {thing}", f"a thing for client {number} in turn {turn}"]
            began = time.perf_counter()
            try:
                job = client.submit(handle_file(str(path)), "\n".join(phrases), 0.1, api_name="/segment")
                while not job.done():
                    place = job.status().rank
                    if place is not None:
                        with tally.lock:
                            tally.places.add(place)
                    time.sleep(0.2)
                _, answer = job.result()
            except Exception as error:
                with tally.lock:
                    tally.errors.append(f"client {number}, turn {turn}: {type(error).__name__}: {error}")
                continue
            with tally.lock:
                tally.seconds.append(time.perf_counter() - began)
                print(f"{len(tally.seconds)} answers", file=sys.stderr, flush=True)  # noqa: T201
                tally.masks += len(answer["masks"])
                wrong = wrong_in(answer, phrases, size)
                if wrong:
                    tally.mixed.append(f"client {number}, turn {turn}: {wrong}")


def wrong_in(answer: dict[str, Any], phrases: list[str], size: tuple[int, int]) -> str:
    """Return what in an answer belongs to another request; "" where nothing does."""
    if (answer["width"], answer["height"]) != size:
        return f"picture of {answer['width']}x{answer['height']}, asked about {size}"
    labels = {one["label"] for one in answer["masks"]} | {one["text"] for one in answer["missing"]}
    if labels != set(phrases):
        return f"labels {sorted(labels)}, asked for {phrases}"
    sizes = {tuple(one["segmentation"]["size"]) for one in answer["masks"]} - {(size[1], size[0])}
    return f"masks of {sizes}" if sizes else ""


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process in megabytes (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def run(clients: int, requests: int, concurrency: int) -> dict[str, Any]:
    """Serve nano, warm it up, load it, and return the figures."""
    command = [sys.executable, "-m", "textseg.cli", "demo", "--port", str(PORT), "--concurrency", str(concurrency)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as server:
        try:
            url = wait_for(server)
            with tempfile.TemporaryDirectory() as folder:
                load_up(url, 4, 3, Path(folder), Tally())  # loads what every later request needs, fills the caches
                settle()
                before, tally, began = memory_mb(server.pid), Tally(), time.perf_counter()
                load_up(url, clients, requests, Path(folder), tally)
                took = time.perf_counter() - began
                settle()
                after = memory_mb(server.pid)
                load_up(url, clients, requests, Path(folder), Tally())  # what grows without end grows again
                settle()
                memory = {"before": before, "after": after, "after_a_second_load": memory_mb(server.pid)}
                return figures(tally, clients, requests, concurrency, took, memory)
        finally:
            server.terminate()


def load_up(url: str, clients: int, requests: int, folder: Path, tally: Tally) -> None:
    """Run all clients and wait for them."""
    start = threading.Barrier(clients)
    threads = [
        threading.Thread(target=one_client, args=(url, number, requests, folder, tally, start))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def settle() -> None:
    """Leave the server alone while it lets go of the sessions."""
    time.sleep(20)


def wait_for(server: subprocess.Popen[bytes]) -> str:
    """Return the server's address once it answers."""
    import urllib.request

    url = f"http://127.0.0.1:{PORT}"
    for _ in range(300):
        if server.poll() is not None:
            raise SystemExit("the server ended")
        try:
            with urllib.request.urlopen(f"{url}/config", timeout=5):
                return url
        except OSError:
            time.sleep(1)
    raise SystemExit("the server did not start")


def figures(
    tally: Tally, clients: int, requests: int, concurrency: int, took: float, memory: dict[str, float]
) -> dict[str, Any]:
    """Return what the results file holds."""
    seconds = np.array(tally.seconds or [0.0])
    return {
        "machine": machine_line(),
        "clients": clients,
        "requests_each": requests,
        "concurrency": concurrency,
        "answers": len(tally.seconds),
        "errors": tally.errors,
        "answers_of_another": tally.mixed,
        "masks": tally.masks,
        "largest_place_in_queue_told": max(tally.places, default=None),
        "seconds_in_all": round(took, 1),
        "requests_per_second": round(len(tally.seconds) / took, 2),
        "seconds_median": round(float(np.median(seconds)), 2),
        "seconds_p95": round(float(np.percentile(seconds, 95)), 2),
        **{f"memory_mb_{when}": round(megabytes) for when, megabytes in memory.items()},
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=1)
    options = parser.parse_args()
    found = run(options.clients, options.requests, options.concurrency)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo_load.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = ["# The page under load (nano)", "", "| what | measured |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {value if value != [] else 'none'} |" for name, value in found.items()]
    (RESULTS / "demo_load.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
