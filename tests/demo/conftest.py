"""Pictures, a temporary folder for gradio, and a server of the fakes in a process of its own."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.fakes import scene

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180
BROWSER_PATIENCE = 120_000  # milliseconds: a busy machine is no failure
_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "scene.png"
    PIL.Image.fromarray(scene()).save(path)
    return str(path)


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        url: its address, without a slash at the end.
        folder: its temporary files.
        pid: its process.
    """

    url: str
    folder: Path
    pid: int


@contextmanager
def serve(*arguments: str) -> Iterator[Served]:
    """Run ``tests.demo.server`` with arguments after the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.demo.server", str(port), *arguments]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            folder = _ready(process)
            yield Served(f"http://127.0.0.1:{port}", folder, process.pid)
            process.stdin.close()
            process.wait(60)
            assert not folder.exists(), "temporary files are left"
        finally:
            process.kill()


def _ready(process: subprocess.Popen[str]) -> Path:
    """Return the folder that the server prints when it is ready; it prints one such line."""
    end = time.monotonic() + START_SECONDS
    assert process.stdout is not None
    while time.monotonic() < end and process.poll() is None:
        if select.select([process.stdout], [], [], 1.0)[0]:
            for line in iter(process.stdout.readline, ""):
                if line.startswith("READY "):
                    return Path(line.removeprefix("READY ").strip())
    pytest.fail("the server did not start")


@pytest.fixture(scope="package")
def server() -> Iterator[Served]:
    with serve() as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.demo.browsing import api  # here, since it skips where Playwright is missing

    with api.sync_playwright() as play:
        options: dict[str, Any] = {"args": ["--no-sandbox", "--force-color-profile=srgb", *_CAMERA]}
        system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            made = play.chromium.launch(executable_path=system, **options)
        except api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield made
        made.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Return what opens the page in a session of its own; any script error or dialog there is a failure."""
    contexts, wrong = [], []

    def opened(url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(BROWSER_PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(f"{url}/?__theme={'dark' if dark else 'light'}")
        page.wait_for_selector("#phrases textarea")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
