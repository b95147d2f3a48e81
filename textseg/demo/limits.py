"""What strangers may do to the server: how large a picture, which files, how much at once. Said in words each time."""

from __future__ import annotations

import base64
import functools
import html
import json
import logging
import mimetypes
import re
import secrets
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.utils import get_upload_folder

from textseg import image as images
from textseg import language
from textseg.errors import ConfigError, QueryError, TextsegError
from textseg.types import Image, Phrase

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

MODELS = "models"
"""Concurrency group of everything that runs a model."""

MAX_PHRASES = 32
MAX_TEXT = 10_000  # characters of one text field
_JSON_BYTES = 4_000_000
_UPLOAD_FILES = 8
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """The server's limits; each is a flag of ``textseg demo``.

    Attributes:
        max_pixels: pictures of more pixels are refused before they are decoded.
        max_file_mb: larger files are refused, megabytes; a request holds at most eight times as much.
        max_files: pictures of one labelling job.
        concurrency: requests that run the models at once; the others queue.
        max_queue: requests that may wait; more are told to come again.
    """

    max_pixels: int = 25_000_000
    max_file_mb: int = 50
    max_files: int = 200
    concurrency: int = 1
    max_queue: int = 256

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_file_mb", "max_files", "concurrency", "max_queue"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")

    @property
    def max_file_bytes(self) -> int:
        """Bytes of one file."""
        return self.max_file_mb * _MEGABYTE


# ---------------------------------------------------------------- what comes in


def read_picture(path: str | None, limits: Limits) -> Image:
    """Return the uploaded picture.

    Raises:
        ImageError: it is no picture, damaged, or larger than the limits allow.
        QueryError: there is none.
    """
    if not path:
        raise QueryError("no picture: choose, paste or drop one first")
    return images.read(path, limits.max_pixels)


def read_phrases(text: str | None) -> list[Phrase]:
    """Return the phrases typed: split at line ends and commas, but "car, not: toy car" is one.

    Raises:
        QueryError: a phrase is unusable, the text is too long or there are too many phrases.
    """
    text = text or ""
    if len(text) > MAX_TEXT:
        raise QueryError(f"phrases: {len(text)} characters, expected {MAX_TEXT} at most")
    found: list[Phrase] = []
    for line in text.splitlines():
        typed = language.parse_phrase(line) if "not:" in line.lower() else None
        found += [typed] if typed else [language.phrase(part) for part in language.split_list(line)]
    if len(found) > MAX_PHRASES:
        raise QueryError(f"phrases: {len(found)} of them, expected {MAX_PHRASES} at most; ask in several goes")
    return found


class GuardedBlocks(gr.Blocks):  # type: ignore[misc]
    """A page whose inputs are uploads and nothing else: no path of the server, no URL, no data URI.

    Gradio itself fetches a URL that a program gives in a file's place, from public hosts; here none is fetched.
    """

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """Check every file among the inputs, then go on as gradio does."""
        if not explicit_call:
            inputs = [_unpacked(value) if isinstance(b, gr.File) else value for b, value in _paired(block_fn, inputs)]
            for value in inputs:
                for file in _files(value):
                    _check_upload(file)
        done: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        return done

    def get_block_name(self) -> str:
        """The browser knows this class as plain Blocks."""
        return "blocks"


def picture_input(label: str, **options: Any) -> gr.Image:
    """Return an input for a picture that hands on the upload's path, unopened.

    ``image.read`` opens the file, so that every refusal is in its words; gradio's own input would open it first. The
    method is replaced on the object: a subclass of a gradio component writes a stub file beside its source.
    """
    made = gr.Image(label=label, type="filepath", image_mode=None, **options)
    made.preprocess = lambda payload: None if payload is None else str(payload.path)
    return made


def _paired(block_fn: Any, inputs: list[Any]) -> list[tuple[Any, Any]]:
    """Return the components with their inputs; a wrong number of inputs is for gradio to tell."""
    blocks = [*block_fn.inputs, *[None] * len(inputs)]
    return list(zip(blocks[: len(inputs)], inputs, strict=True))


def _unpacked(value: Any) -> Any:
    """Return a list of files in which data URIs, as MCP clients send them, are temporary files."""
    if not isinstance(value, list):
        return value
    return [_unpack(one) if isinstance(one, str) else one for one in value]


def _unpack(uri: str) -> dict[str, Any]:
    head, _, body = uri.partition(",")
    found = re.fullmatch(r"data:([\w.+\-]+/[\w.+\-]+);base64", head)
    if not found:
        raise gr.Error("A file came as words: expected an upload, or a data URI with base64.", print_exception=False)
    try:
        content = base64.b64decode(body, validate=True)
    except ValueError as error:
        raise gr.Error("A data URI is not base64: send the file again.", print_exception=False) from error
    path = new_folder() / f"file{mimetypes.guess_extension(found[1]) or ''}"
    path.write_bytes(content)
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def _files(value: Any) -> Iterator[dict[str, Any]]:
    """Yield everything in an input that stands for a file."""
    if isinstance(value, dict):
        if isinstance(value.get("meta"), dict) and "_type" in value["meta"]:
            yield value
            return
        for inner in value.values():
            yield from _files(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _files(inner)


def _check_upload(file: dict[str, Any]) -> None:
    path, url = file.get("path"), file.get("url")
    if isinstance(url, str) and url.startswith("data:"):
        raise gr.Error("A data URI came in a file's place: upload the file instead.", print_exception=False)
    if not isinstance(path, str) or re.match(r"[a-z][a-z0-9+.\-]*:", path, re.IGNORECASE):
        raise gr.Error("A URL came in a file's place; URLs are not fetched: upload the file.", print_exception=False)
    try:
        inside = Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve())
    except (OSError, ValueError):
        inside = False
    if not inside or not Path(path).is_file():
        raise gr.Error("A path came in a file's place that is no upload: upload the file.", print_exception=False)


# ---------------------------------------------------------------- what goes out


def told(function: Function) -> Function:
    """Make every ``TextsegError`` of a function a message in the browser: escaped, without the server's paths."""

    @functools.wraps(function)
    def wrapped(*values: Any, **options: Any) -> Any:
        try:
            return function(*values, **options)
        except TextsegError as error:
            raise page_error(error) from error

    return wrapped  # type: ignore[return-value]


def page_error(error: TextsegError) -> gr.Error:
    """Return the error as the browser and the programs' clients get it."""
    return gr.Error(html.escape(without_folders(str(error)), quote=False), print_exception=False)


def without_folders(text: str) -> str:
    """Return a message without the folders of the server's temporary files."""
    for folder in {get_upload_folder(), str(Path(get_upload_folder()).resolve())}:
        text = re.sub(rf"{re.escape(folder)}/(?:[\w.\-]+/)*", "", text)
    return text


def new_folder() -> Path:
    """Return an empty folder of an unguessable name among the temporary files, which go after a while."""
    folder = Path(get_upload_folder()) / secrets.token_hex(32)
    folder.mkdir(parents=True)
    return folder


class Guard:
    """ASGI middleware: refuses bodies that are too large before they are read, and gradio's doors to other hosts."""

    def __init__(self, app: Any, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with 403 or 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope.get("path", "")
        if re.search(r"/(?:proxy=|file=[a-z][a-z0-9+.\-]*:|file/[a-z][a-z0-9+.\-]*:)", path, re.IGNORECASE):
            await _answer(send, 403, "this server fetches nothing from other hosts")
            return
        most = self._most(path)
        length = dict(scope.get("headers", [])).get(b"content-length", b"")
        if length.isdigit() and int(length) > most:
            await _answer(send, 413, _too_large(int(length), most))
            return
        await self._counted(scope, receive, send, most)

    def _most(self, path: str) -> int:
        """Return how many bytes a body may have: uploads hold files, MCP calls a file as base64, others only words."""
        if path.rstrip("/").endswith("/upload"):
            return _UPLOAD_FILES * self.limits.max_file_bytes
        if "/mcp" in path:
            return self.limits.max_file_bytes * 4 // 3 + _JSON_BYTES
        return _JSON_BYTES

    async def _counted(self, scope: MutableMapping[str, Any], receive: Any, send: Any, most: int) -> None:
        """Count a body that does not tell its length; past the limit the request is answered here and ends."""
        got, over = 0, False

        async def counted() -> Any:
            nonlocal got, over
            message = await receive()
            got += len(message.get("body", b""))
            if got > most and not over:
                over = True
                await _answer(send, 413, _too_large(got, most))
            return {"type": "http.disconnect"} if over else message

        async def sender(message: Any) -> None:
            if not over:
                await send(message)

        try:
            await self.app(scope, counted, sender)
        except Exception:
            if not over:
                raise
            logger.info("a request ended after %d bytes", got)


def _too_large(got: int, most: int) -> str:
    return f"{got / 1e6:.0f} MB came, more than the limit of {most / 1e6:.0f} MB: send a smaller file"


async def _answer(send: Any, status: int, detail: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
