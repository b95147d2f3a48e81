"""The store: every finished picture is committed at once to one SQLite file; kill it anywhere, run it again.

>>> with Store.read("labels/") as store:                       # doctest: +SKIP
...     for picture, masks in store.labelled():                # streams, bounded memory
...         print(picture.key, [mask.label for mask in masks])

A store is open for any number of readers, in any process, while one process writes. See ``schema`` for the layout
and for how durable a commit is, and ``lock`` for what keeps a second writer out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from textseg import __version__
from textseg.errors import ConfigError, DataError
from textseg.label import schema
from textseg.label.lock import Lock
from textseg.label.records import Failed, Labelled, MaskRow, NewMask, Outcome, PictureRow, RunRow, Status, Verdict
from textseg.label.settings import Settings, changes

logger = logging.getLogger(__name__)

_PICTURE = (
    "id, key, uri, status, digest, height, width, seconds, attempts, error_kind, error, note, best, run, finished"
)
_MASKS = """
SELECT m.id, p.key, m.ordinal, m.class, c.name, m.phrase, m.counts, p.height, p.width, m.x0, m.y0, m.x1, m.y1,
       m.area, m.score, m.parts, m.source, m.origin, d.verdict
FROM pictures p JOIN masks m ON m.picture = p.id JOIN classes c ON c.id = m.class
LEFT JOIN decisions d ON d.mask = m.id
"""


class Store:
    """Made by ``Store.read`` or ``Store.write``; a context manager.

    Attributes:
        path: the database file.
    """

    def __init__(self, path: Path, reader: sqlite3.Connection, writer: sqlite3.Connection | None, lock: Lock | None):
        self.path = path
        self._reader = reader
        self._writer = writer
        self._lock = lock
        self._run: int | None = None
        self._classes: dict[str, int] = {}

    @classmethod
    def read(cls, folder: str | Path) -> Store:
        """Open a store to read; it may be one that is being written.

        Raises:
            DataError: there is no store, or it cannot be read.
        """
        path = locate(folder)
        return cls(path, schema.connect_to_read(path), None, None)

    @classmethod
    def write(cls, folder: str | Path, *, new: bool = False) -> Store:
        """Open a store to write, made if need be.

        Args:
            folder: the output folder (made, too), or the database file itself.
            new: put an existing store aside (it is renamed, not deleted) and begin an empty one.

        Raises:
            DataError: another run is writing to it, the disk is full or read-only, or the file is no store.
        """
        path = locate(folder)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make {path.parent}: {error}; choose another output folder") from error
        lock = Lock(path.with_name(path.name + ".lock"))
        try:
            if new:
                _put_aside(path)
            writer = schema.connect_to_write(path)
            return cls(path, schema.connect_to_read(path), writer, lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Close it and let the next writer in; doing it twice does no harm."""
        self._reader.close()
        if self._writer is not None:
            self._writer.close()  # the last to close folds the log into the database
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------ writing

    def begin(self, settings: Settings, class_names: tuple[str, ...], *, override: bool = False) -> int:
        """Start a run, or go on with an interrupted one, and return its number.

        Args:
            settings: what decides the labels.
            class_names: the classes in order; their ids follow it, and those already there keep theirs.
            override: accept changed settings: pictures already labelled keep their labels and the run that they
                came from, the others are labelled with the new settings.

        Raises:
            ConfigError: the store holds pictures labelled with other settings; the message says what changed.
            DataError: the disk is full or read-only.
        """
        last = next(iter(self._runs("ORDER BY id DESC LIMIT 1")), None)
        if last is not None and last.settings_hash != settings.hash and not override and self._any_picture():
            changed = changes(Settings(last.settings, last.models), settings)
            raise ConfigError(
                f"{self.path.parent} was labelled with other settings:\n  " + "\n  ".join(changed) + "\n"
                "use --override to keep what is labelled and go on with the new settings, --new to begin again "
                "(the old store is kept under another name), or another output folder"
            )
        with self.writing() as writer:
            known = {str(name): int(i) for i, name in writer.execute("SELECT id, name FROM classes")}
            for name in class_names:
                if name not in known:
                    known[name] = len(known)
                    writer.execute("INSERT INTO classes (id, name) VALUES (?, ?)", (known[name], name))
            cursor = writer.execute(
                "INSERT INTO runs (started, settings_hash, settings, models, version) VALUES (?, ?, ?, ?, ?)",
                (time.time(), settings.hash, _json(settings.values), _json(settings.models), __version__),
            )
            run = int(cursor.lastrowid or 0)
        self._classes, self._run = known, run
        return run

    def record(self, outcome: Outcome) -> None:
        """Commit one picture with all its masks, or not at all. A picture that is done is never turned into failed.

        May be called from another thread than the one that reads, by one thread at a time.

        Raises:
            DataError: the disk is full, read-only or broken; what was committed before stays.
        """
        with self.writing() as writer:
            if isinstance(outcome, Failed):
                self._put_failed(writer, outcome)
            else:
                self._put_labelled(writer, outcome)

    def finish(self, ended: str) -> None:
        """Note how the run ended: "done", "interrupted" or "error"."""
        with self.writing() as writer:
            writer.execute("UPDATE runs SET finished = ?, ended = ? WHERE id = ?", (time.time(), ended, self._run))

    def decide(self, mask_id: int, verdict: Verdict | None, note: str = "") -> None:
        """Note a person's verdict on a mask, or take it back with None.

        Raises:
            DataError: no such mask, or the store cannot be written.
        """
        with self.writing() as writer:
            if writer.execute("SELECT 1 FROM masks WHERE id = ?", (mask_id,)).fetchone() is None:
                raise DataError(f"no mask {mask_id} in {self.path}: the picture may have been labelled again since")
            writer.execute("DELETE FROM decisions WHERE mask = ?", (mask_id,))
            if verdict is not None:
                values = (mask_id, verdict, note, time.time())
                writer.execute("INSERT INTO decisions (mask, verdict, note, decided) VALUES (?, ?, ?, ?)", values)

    def _put_labelled(self, writer: sqlite3.Connection, done: Labelled) -> None:
        writer.execute(
            "INSERT INTO pictures (key, uri, status, digest, height, width, seconds, attempts, error_kind, error, "
            "note, best, run, finished) VALUES (?, ?, 'done', ?, ?, ?, ?, 1, '', '', ?, ?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET uri = excluded.uri, status = 'done', digest = excluded.digest, "
            "height = excluded.height, width = excluded.width, seconds = excluded.seconds, attempts = attempts + 1, "
            "error_kind = '', error = '', note = excluded.note, best = excluded.best, run = excluded.run, "
            "finished = excluded.finished",
            (done.key, done.uri, done.digest, *done.size_hw, done.seconds, _text(done.note), _json(done.best),
             self._run, time.time()),
        )  # fmt: skip
        row = writer.execute("SELECT id FROM pictures WHERE key = ?", (done.key,)).fetchone()
        writer.execute("DELETE FROM masks WHERE picture = ?", row)
        writer.executemany(
            "INSERT INTO masks (picture, ordinal, class, phrase, counts, x0, y0, x1, y1, area, score, parts, source, "
            "origin) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [self._mask_values(int(row[0]), i, mask) for i, mask in enumerate(done.masks)],
        )

    def _mask_values(self, picture: int, ordinal: int, mask: NewMask) -> tuple[Any, ...]:
        if mask.label not in self._classes:
            raise DataError(f"class {mask.label!r} is not one of the run's: {', '.join(self._classes)}")
        return (
            picture, ordinal, self._classes[mask.label], mask.phrase, mask.counts, *mask.box_xyxy, mask.area,
            mask.score, _json(mask.parts), mask.source, mask.origin,
        )  # fmt: skip

    def _put_failed(self, writer: sqlite3.Connection, failed: Failed) -> None:
        writer.execute(
            "INSERT INTO pictures (key, uri, status, digest, height, width, seconds, attempts, error_kind, error, "
            "note, best, run, finished) VALUES (?, ?, 'failed', '', 0, 0, 0, 1, ?, ?, '', '{}', ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET uri = excluded.uri, attempts = attempts + 1, run = excluded.run, "
            "error_kind = excluded.error_kind, error = excluded.error, finished = excluded.finished "
            "WHERE status = 'failed'",
            (failed.key, failed.uri, failed.kind, _text(failed.reason), self._run, time.time()),
        )

    @contextlib.contextmanager
    def writing(self, other: Path | None = None) -> Iterator[sqlite3.Connection]:
        """Change the database inside the ``with``: all of it is committed, or nothing.

        Args:
            other: another store's database file, which is seen as ``other`` (``FROM other.pictures``), to read.

        Raises:
            DataError: the store was opened to read, or the disk is full, read-only or broken.
        """
        if self._writer is None:
            raise DataError(f"{self.path} was opened to read; open it with Store.write to change it")
        with schema.told(self.path), schema.attached(self._writer, other), schema.transaction(self._writer):
            yield self._writer

    # ------------------------------------------------------------ reading

    def status(self, key: str) -> Status | None:
        """Return "done" or "failed" for a picture, None for one that was not tried."""
        found: tuple[Status] | None = self._one("SELECT status FROM pictures WHERE key = ?", (key,))
        return None if found is None else found[0]

    def count(self, status: Status | None = None) -> int:
        """Return how many pictures there are, or how many of one status."""
        where, values = ("", ()) if status is None else (" WHERE status = ?", (status,))
        return int(self._one(f"SELECT count(*) FROM pictures{where}", values)[0])

    def mask_count(self) -> int:
        """Return how many masks there are."""
        return int(self._one("SELECT count(*) FROM masks")[0])

    def classes(self) -> tuple[str, ...]:
        """Return the labels; a class's id is its index here and never changes."""
        return tuple(row[0] for row in self.rows("SELECT name FROM classes ORDER BY id"))

    def runs(self) -> list[RunRow]:
        """Return the runs, oldest first: their settings and models are the labels' provenance."""
        return list(self._runs("ORDER BY id"))

    def pictures(self, status: Status | None = None) -> Iterator[PictureRow]:
        """Yield the pictures in the order of their keys; those without objects are there, too."""
        where, values = ("", ()) if status is None else ("WHERE status = ?", (status,))
        for row in self.rows(f"SELECT {_PICTURE} FROM pictures {where} ORDER BY key", values):
            yield _picture(row)

    def picture(self, key: str) -> PictureRow | None:
        """Return one picture, or None."""
        row = self._one(f"SELECT {_PICTURE} FROM pictures WHERE key = ?", (key,))
        return None if row is None else _picture(row)

    def masks(self, key: str | None = None) -> Iterator[MaskRow]:
        """Yield the masks of one picture, or of all in the order of their keys."""
        where, values = ("", ()) if key is None else ("WHERE p.key = ?", (key,))
        for row in self.rows(f"{_MASKS} {where} ORDER BY p.key, m.ordinal", values):
            yield _mask(row)

    def labelled(self) -> Iterator[tuple[PictureRow, list[MaskRow]]]:
        """Yield every picture that is done with its masks, in the order of the keys: the exporters' loop."""
        for picture in self.pictures("done"):
            yield picture, list(self.masks(picture.key))

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Store]:
        """See one unchanging state inside the ``with``, however many pictures are being added meanwhile."""
        with schema.told(self.path):
            self._reader.execute("BEGIN")
        try:
            yield self
        finally:
            self._reader.execute("COMMIT")

    def check(self) -> list[str]:
        """Return what SQLite finds wrong with the file; empty when it is sound."""
        found = [str(row[0]) for row in self.rows("PRAGMA integrity_check")]
        broken = [f"{row[0]}: row {row[1]} has no {row[2]}" for row in self.rows("PRAGMA foreign_key_check")]
        return ([] if found == ["ok"] else found) + broken

    def _any_picture(self) -> bool:
        return self._one("SELECT 1 FROM pictures LIMIT 1") is not None

    def _runs(self, order: str) -> Iterator[RunRow]:
        for row in self.rows(
            f"SELECT id, started, finished, ended, settings_hash, settings, models, version FROM runs {order}"
        ):
            yield RunRow(
                id=row[0], started=row[1], finished=row[2], ended=row[3], settings_hash=row[4],
                settings=json.loads(row[5]), models=json.loads(row[6]), version=row[7],
            )  # fmt: skip

    def _one(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        with schema.told(self.path):
            return self._reader.execute(sql, values).fetchone()

    def rows(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[Any]:
        """Yield what a query finds, row by row; for the modules that add to the layout (``schema``)."""
        with schema.told(self.path):
            cursor = self._reader.execute(sql, values)
        while True:
            with schema.told(self.path):
                rows = cursor.fetchmany(64)
            if not rows:
                return
            yield from rows


def locate(folder: str | Path) -> Path:
    """Return the database file of an output folder (or the file itself), without symbolic links."""
    path = Path(folder).expanduser()
    return (path if path.suffix == ".sqlite" else path / schema.FILE).resolve()


def _put_aside(path: Path) -> None:
    if not path.exists():
        return
    stem = f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    kept = path.with_name(f"{stem}{path.suffix}")
    for number in range(2, 1000):
        if not kept.exists():
            break
        kept = path.with_name(f"{stem}-{number}{path.suffix}")
    try:
        for tail in ("-wal", "-shm", ""):  # the log goes with its database
            part = path.with_name(path.name + tail)
            if part.exists():
                part.rename(kept.with_name(kept.name + tail))
    except OSError as error:
        raise DataError(f"cannot rename {path}: {error}") from error
    logger.info("the old store is now %s", kept)


def _json(values: Any) -> str:
    return json.dumps(dict(values), ensure_ascii=False, separators=(",", ":"))


def _text(message: str) -> str:
    """Return the message as UTF-8 can hold it: file names may have bytes that it cannot."""
    return message.encode("utf-8", "backslashreplace").decode("utf-8")


def _picture(row: Any) -> PictureRow:
    return PictureRow(
        id=row[0], key=row[1], uri=row[2], status=row[3], digest=row[4], size_hw=(row[5], row[6]), seconds=row[7],
        attempts=row[8], error_kind=row[9], error=row[10], note=row[11], best=json.loads(row[12]), run=row[13],
        finished=row[14],
    )  # fmt: skip


def _mask(row: Any) -> MaskRow:
    return MaskRow(
        id=row[0], key=row[1], ordinal=row[2], class_id=row[3], label=row[4], phrase=row[5], counts=row[6],
        size_hw=(row[7], row[8]), box_xyxy=(row[9], row[10], row[11], row[12]), area=row[13], score=row[14],
        parts=json.loads(row[15]), source=row[16], origin=row[17], verdict=row[18],
    )  # fmt: skip
