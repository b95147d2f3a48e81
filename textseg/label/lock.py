"""One writer per store: a lock that the operating system takes back when the process dies.

``flock`` on a file beside the database (byte-range locking on Windows). Nothing has to be cleaned up after
``kill -9`` and there is no heartbeat to misjudge. On network file systems ``flock`` reaches other machines only
where the server supports it, and SQLite's WAL mode does not work across machines at all: let each machine write its
own store on a local disk (``--shard i/n -o labels-i``).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import IO

from textseg.errors import DataError


class Lock:
    """Held from construction until ``release`` or the end of the process.

    Args:
        path: the lock file; it is made if need be and never removed (removing it would let two in).

    Raises:
        DataError: another process holds it (its number is told), or the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: IO[str] | None = open(path, "a+", encoding="utf-8")  # noqa: SIM115  kept open on purpose
        except OSError as error:
            raise DataError(f"cannot write to {path.parent}: {error}; choose another output folder") from error
        try:
            _take(self._file)
        except OSError as error:
            holder = _holder(self._file)
            self._file.close()
            raise DataError(
                f"another run is writing to {path.parent}{holder}: wait for it, stop it, or use another output folder"
            ) from error
        self._sign(self._file)

    def release(self) -> None:
        """Let the next one in; doing it twice does no harm."""
        if self._file is not None:
            self._file.close()  # closing gives the lock back
            self._file = None

    @staticmethod
    def _sign(file: IO[str]) -> None:
        """Write who holds the lock, for the other's message; on a full disk do without."""
        with contextlib.suppress(OSError):
            file.seek(0)
            file.truncate()
            json.dump({"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
            file.flush()


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        who = json.loads(file.read())
        return f" (process {who['pid']} on {who['host']} since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[str]) -> None:
        file.seek(1 << 20)  # a byte that is never written: the holder's name stays readable
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _take(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
