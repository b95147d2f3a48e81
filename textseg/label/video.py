"""Frames of a video, sampled by time. PyAV decodes; it is an extra."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from textseg import image as images
from textseg.errors import ConfigError, DataError, ImageError
from textseg.label.items import FRAME, Item, path_uri, safe_key
from textseg.types import Image

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".ogv")


def frames(path: Path, every_seconds: float) -> Iterator[Item]:
    """Yield one frame every so many seconds, from the first; keys hold the frame's time stamp.

    A video that breaks off in the middle yields what could be decoded, then an item that says what happened.

    Raises:
        DataError: PyAV is missing, or the file is no video. ConfigError: the interval is not positive.
    """
    if not every_seconds > 0 or not math.isfinite(every_seconds):
        raise ConfigError(f"seconds between frames: got {every_seconds}, expected more than 0")
    uri, next_time = path_uri(path), -math.inf
    with _opened(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            for count, frame in enumerate(container.decode(stream)):
                pts = count if frame.pts is None else int(frame.pts)
                time = float(pts * (stream.time_base or 1))
                if time >= next_time:
                    next_time = (time if next_time == -math.inf else next_time) + every_seconds
                    next_time = max(next_time, time)
                    address = f"{uri}{FRAME}{pts}"
                    yield Item(safe_key(f"{path.name}{FRAME}{pts:012d}"), address, _picture(frame, address))
        except _errors() as error:
            yield Item(safe_key(f"{path.name}#end"), uri, problem=f"{path}: the video breaks off: {error}")


def read_frame(path: str, pts: int) -> Image:
    """Return the frame with a time stamp, in the video's own units.

    Raises:
        ImageError: there is no such frame, or the video cannot be decoded. DataError: PyAV is missing.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        try:
            container.seek(pts, stream=stream)
            for count, frame in enumerate(container.decode(stream)):
                if (count if frame.pts is None else frame.pts) == pts:
                    return _picture(frame, f"{path}{FRAME}{pts}")
        except _errors() as error:
            raise ImageError(f"{path}{FRAME}{pts}: cannot be decoded: {error}") from error
    raise ImageError(f"{path}: has no frame with time stamp {pts}; was the video changed?")


def _picture(frame: Any, address: str) -> Image:
    """Return the frame as the picture, upright as a player shows it."""
    rgb = frame.to_ndarray(format="rgb24")  # (H, W, 3)
    turns = round(float(getattr(frame, "rotation", 0) or 0) / 90) % 4
    rgb = np.ascontiguousarray(np.rot90(rgb, turns))
    return Image(_frozen(rgb), address, images.digest(rgb))


def _frozen(rgb: Any) -> Any:
    rgb.flags.writeable = False
    return rgb


def _opened(path: str) -> Any:
    av = _av()
    try:
        container = av.open(path)
    except (_errors(), OSError) as error:
        raise DataError(f"{path}: cannot be opened as a video: {error}") from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: has no video stream; expected a video such as .mp4")
    return container


def _errors() -> Any:
    return _av().error.FFmpegError


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise DataError("labelling a video needs PyAV: pip install 'textseg[video]'") from error
    return av
