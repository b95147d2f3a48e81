"""Flags, logins and temporary files, without a server."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.fakes import fake_pipeline
from textseg.cli import app
from textseg.demo import serve
from textseg.demo.limits import Guard, Limits, without_folders
from textseg.errors import ConfigError


def test_flags_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def launch(page: Any, server: serve.Server, limits: Limits) -> str:
        seen.update(server=server, limits=limits, folder=os.environ[serve.TEMPORARY])
        return ""

    monkeypatch.setattr(serve, "launch", launch)
    monkeypatch.setattr("textseg.build.load", lambda preset, device: fake_pipeline())
    flags = "--host 0.0.0.0 --port 8123 --root-path /seg --auth me:secret --no-mcp".split()
    limits = "--max-pixels 5000 --max-file-mb 3 --concurrency 2".split()
    done = CliRunner().invoke(app, ["demo", *flags, *limits])
    assert done.exit_code == 0, done.output
    assert seen["server"] == serve.Server("0.0.0.0", 8123, "/seg", "me:secret", False)
    assert seen["limits"] == Limits(max_pixels=5000, max_file_mb=3, concurrency=2)
    assert not Path(seen["folder"]).exists(), "the temporary files are gone at the end"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--auth", "me"], "expected name:password"),
        (["--auth", ":secret"], "expected name:password"),
        (["--concurrency", "0"], "expected at least 1"),
        (["--max-file-mb", "0"], "max-file-mb"),
        (["--preset", "nanno"], "did you mean 'nano'"),
        (["--compare", "larg"], "did you mean 'large'"),
        (["--port", "0"], "port"),
    ],
)
def test_wrong_flags(flags: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["demo", *flags])
    assert done.exit_code == 2
    assert message in done.stderr


def test_login() -> None:
    assert serve.Server(auth="me:a:b").login() == ("me", "a:b")
    assert serve.Server().login() is None
    with pytest.raises(ConfigError):
        serve.Server(auth="me:").login()


def test_old_temporary_files_go(tmp_path: Path) -> None:
    old, new = tmp_path / "a" / "old.png", tmp_path / "b" / "new.png"
    for path in (old, new):
        path.parent.mkdir()
        path.write_bytes(b"x")
    hour_ago = time.time() - 3601
    for path in (old, old.parent):
        os.utime(path, (hour_ago, hour_ago))
    assert serve.sweep(tmp_path, 3600) == 1
    assert new.is_file() and not old.exists()
    os.utime(old.parent, (hour_ago, hour_ago))
    assert serve.sweep(tmp_path, 3600) == 0
    assert not old.parent.exists(), "the folder follows at the next look"


def test_memory_is_given_back_once_after_work(monkeypatch: pytest.MonkeyPatch) -> None:
    given, stop = [], threading.Event()

    def give() -> bool:
        given.append(len(used))
        return True

    used = [0.0, 0.0, 0.0, 4.0, 8.0, 8.0, 8.0]  # seconds of processor time at each look: quiet, work, quiet
    times = iter(used)
    looks = iter(range(len(used) - 1))
    monkeypatch.setattr(serve.time, "process_time", lambda: next(times))
    monkeypatch.setattr(serve, "give_back_memory", give)
    monkeypatch.setattr(stop, "wait", lambda seconds: next(looks, None) is None)
    serve._give_back_when_quiet(stop)
    assert len(given) == 2
    monkeypatch.undo()
    assert serve.give_back_memory() in (True, False)


def test_messages_have_no_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(serve.TEMPORARY, str(tmp_path))
    said = without_folders(f"{tmp_path}/{'0f' * 32}/my picture.png: damaged")
    assert said == "my picture.png: damaged"


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("/gradio_api/upload", 500_000_000, 413),
        ("/gradio_api/upload", 1_000, 200),
        ("/gradio_api/queue/join", 5_000_000, 413),
        ("/gradio_api/mcp/", 5_000_000, 200),
        ("/gradio_api/mcp/", 500_000_000, 413),
        ("/gradio_api/file=http://example.org/a.png", 0, 403),
        ("/gradio_api/file/https://example.org/a.png", 0, 403),
        ("/gradio_api/proxy=http://example.org/", 0, 403),
        ("/gradio_api/file=/tmp/a.png", 0, 200),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_the_guard(path: str, length: int, status: int, told: bool) -> None:
    if not told and length > 5_000_000:
        pytest.skip("the body itself need not be that long here")
    sent = ask_guard(path, length, told)
    assert sent[0]["status"] == status
    if status == 413:
        assert b"more than the limit" in sent[1]["body"]


def ask_guard(path: str, length: int, told: bool) -> list[dict[str, Any]]:
    """Return what the guard sends; a body that does not tell its length comes in pieces of a megabyte."""
    import asyncio

    sent: list[dict[str, Any]] = []
    pieces = [min(1_000_000, length - start) for start in range(0, length, 1_000_000)] or [0]

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> dict[str, Any]:
        size = pieces.pop(0)
        return {"type": "http.request", "body": b"x" * (0 if told else size), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-length", str(length).encode())] if told else []
    if told:
        pieces = [0]
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(Guard(inner, Limits())(scope, receive, send))
    return sent
