"""Serving the page: address, proxy, login, limits, temporary files.

Nothing heavy is imported here before ``run`` is called: gradio reads where its temporary files go when it is imported.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textseg.config import read_preset
from textseg.errors import ConfigError

if TYPE_CHECKING:
    from textseg.demo.limits import Limits

logger = logging.getLogger(__name__)

TEMPORARY = "GRADIO_TEMP_DIR"

QUIET_SECONDS = 5.0
"""After so long without work the server gives back the memory that it no longer uses."""

_QUIET_SHARE = 0.1


@dataclass(frozen=True)
class Server:
    """Where and how the page is served; each is a flag of ``textseg demo``.

    Attributes:
        host: address to listen on.
        port: port to listen on; None takes the first free one from 7860.
        root_path: the path under which a proxy shows the page, such as "/textseg".
        auth: "name:password" for a login; None lets everyone in. With a login there are no MCP tools, which know none.
        mcp: whether the MCP tools are served, where the package ``mcp`` is installed.
    """

    host: str = "127.0.0.1"
    port: int | None = 7860
    root_path: str | None = None
    auth: str | None = None
    mcp: bool = True

    def login(self) -> tuple[str, str] | None:
        """Return name and password.

        Raises:
            ConfigError: ``auth`` is not of the form "name:password".
        """
        if self.auth is None:
            return None
        name, colon, password = self.auth.partition(":")
        if not (name and colon and password):
            raise ConfigError("--auth: expected name:password, such as guest:letmein")
        return name, password


def run(
    preset: str | Path,
    device: str | None,
    server: Server,
    limits: dict[str, int],
    compare: Sequence[str] = (),
) -> None:
    """Build the pipeline, serve its page until interrupted, and leave no temporary file behind.

    Raises:
        ConfigError: a flag is out of range or the preset unknown. ModelError: its models cannot be loaded.
    """
    server.login()  # a wrong flag is told before the models load
    for other in compare:
        read_preset(other)
    with temporary_files(), _ended_by_sigterm():
        from textseg.build import load, load_rest
        from textseg.demo.limits import Limits
        from textseg.demo.page import build_page

        known = Limits(**limits)
        pipeline = load(preset, device=device)
        page = build_page(pipeline, known, preset=str(preset), compare=compare)
        threading.Thread(target=load_rest, args=(pipeline,), name="textseg-rest", daemon=True).start()
        launch(page, server, known)


def launch(page: Any, server: Server, limits: Limits, **options: Any) -> str:
    """Serve a page and return its address; ``options`` go to gradio's ``launch``.

    Raises:
        ConfigError: the port is taken.
    """
    from starlette.middleware import Middleware

    from textseg.demo.limits import Guard
    from textseg.demo.page import looks

    login = server.login()
    try:
        _, url, _ = page.launch(
            server_name=server.host,
            server_port=server.port,
            root_path=server.root_path,
            auth=login,
            mcp_server=server.mcp and login is None and has_mcp(),
            max_file_size=limits.max_file_bytes,
            app_kwargs={"middleware": [Middleware(Guard, limits=limits)]},
            state_session_capacity=500,
            enable_monitoring=False,
            share=False,
            ssr_mode=False,
            footer_links=["api", "settings"],
            **{**looks(), **options},
        )
    except OSError as error:
        raise ConfigError(f"cannot listen on {server.host}:{server.port}: {error}; choose another --port") from error
    return str(url)


def has_mcp() -> bool:
    """Return whether the MCP tools can be served; the log says how if not."""
    import importlib.util

    if importlib.util.find_spec("mcp") is not None:
        return True
    logger.warning("no MCP tools: pip install 'textseg[mcp]'")
    return False


@contextmanager
def temporary_files() -> Iterator[Path]:
    """Give gradio a folder of its own; old files in it go after a while, all of them at the end."""
    before = os.environ.get(TEMPORARY)
    folder = Path(tempfile.mkdtemp(prefix="textseg-demo-")).resolve()
    os.environ[TEMPORARY] = str(folder)
    stop = threading.Event()
    helpers = [
        threading.Thread(target=_sweep, args=(folder, stop), name="textseg-sweep", daemon=True),
        threading.Thread(target=_give_back_when_quiet, args=(stop,), name="textseg-memory", daemon=True),
    ]
    for helper in helpers:
        helper.start()
    try:
        yield folder
    finally:
        stop.set()
        for helper in helpers:
            helper.join()
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ[TEMPORARY]
        else:
            os.environ[TEMPORARY] = before


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, with which services are stopped, end the server as Ctrl-C does: tidily."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change handlers
        return

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sweep(folder: Path, stop: threading.Event) -> None:
    from textseg.demo.page import KEEP_SECONDS, SWEEP_SECONDS

    while not stop.wait(SWEEP_SECONDS):
        sweep(folder, KEEP_SECONDS)


def _give_back_when_quiet(stop: threading.Event) -> None:
    """Look every few seconds whether work has ended since memory was last given back."""
    used, given_back = time.process_time(), False
    while not stop.wait(QUIET_SECONDS):
        before, used = used, time.process_time()
        if used - before > _QUIET_SHARE * QUIET_SECONDS:
            given_back = False
        elif not given_back:
            give_back_memory()
            given_back = True


def give_back_memory() -> bool:
    """Give the system the memory that nothing uses any more; return whether there is a way to (glibc).

    A hundred requests run in dozens of threads, and glibc keeps what each of them freed for that thread's next request.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    trim(0)
    return True


def sweep(folder: Path, keep_seconds: float) -> int:
    """Delete files that nobody changed for so long, and the folders that this empties; return how many files."""
    deleted = 0
    limit = time.time() - keep_seconds
    for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True):  # what is inside comes first
        try:
            if path.lstat().st_mtime > limit:
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
                deleted += 1
        except OSError as error:  # not empty, or gone already
            logger.debug("%s stays: %s", path, error)
    return deleted
