"""The database's layout, and opening it safely.

One SQLite file in WAL mode with ``synchronous = FULL``. In WAL mode a killed *process* loses nothing that was
committed whatever the setting; FULL adds an fsync per commit, so that a picture reported as done also survives a
power cut. That costs a few milliseconds a picture, in the writing thread, beside the models.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from textseg.errors import DataError

FILE = "labels.sqlite"
"""Name of the store inside an output folder."""

VERSION = 2
APPLICATION_ID = 0x74736567  # "tseg"

SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    started REAL NOT NULL,
    finished REAL,
    ended TEXT NOT NULL DEFAULT '',
    settings_hash TEXT NOT NULL,
    settings TEXT NOT NULL,
    models TEXT NOT NULL,
    version TEXT NOT NULL
);
CREATE TABLE classes (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    uri TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'failed')),
    digest TEXT NOT NULL,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    seconds REAL NOT NULL,
    attempts INTEGER NOT NULL,
    error_kind TEXT NOT NULL,
    error TEXT NOT NULL,
    note TEXT NOT NULL,
    best TEXT NOT NULL,
    run INTEGER NOT NULL REFERENCES runs (id),
    finished REAL NOT NULL
);
CREATE TABLE masks (
    id INTEGER PRIMARY KEY,
    picture INTEGER NOT NULL REFERENCES pictures (id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    class INTEGER NOT NULL REFERENCES classes (id),
    phrase TEXT NOT NULL,
    counts TEXT NOT NULL,
    x0 REAL NOT NULL, y0 REAL NOT NULL, x1 REAL NOT NULL, y1 REAL NOT NULL,
    area INTEGER NOT NULL,
    score REAL NOT NULL,
    parts TEXT NOT NULL,
    source TEXT NOT NULL,
    origin TEXT,
    UNIQUE (picture, ordinal)
);
CREATE TABLE decisions (
    mask INTEGER PRIMARY KEY REFERENCES masks (id) ON DELETE CASCADE,
    verdict TEXT NOT NULL CHECK (verdict IN ('accept', 'reject')),
    note TEXT NOT NULL,
    decided REAL NOT NULL
);
CREATE INDEX pictures_by_status ON pictures (status, key);
"""

REVIEWS = """
CREATE TABLE reviews (
    picture INTEGER PRIMARY KEY REFERENCES pictures (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('seen', 'corrected')),
    note TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE TRIGGER labelled_again AFTER UPDATE OF finished ON pictures BEGIN
    DELETE FROM reviews WHERE picture = NEW.id;
END;
"""
"""Since layout 2: which pictures a person has looked at as a whole. Labelling a picture again forgets it."""

MIGRATIONS = {1: REVIEWS}
"""Layout → what brings a database to the next one."""


def connect_to_write(path: Path) -> sqlite3.Connection:
    """Open or make the database; the caller holds the lock.

    Raises:
        DataError: it cannot be made or written to, is not a store, or is of a newer textseg.
    """
    with told(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30, uri=True)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            _check(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            _bring_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _bring_up(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty database, or bring an older layout to this one, a step a transaction."""
    version = _pragma(connection, "user_version")
    if version == 0:
        connection.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} {REVIEWS} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {VERSION}; COMMIT;"
        )
        return
    for older in range(version, VERSION):
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[older]} PRAGMA user_version = {older + 1}; COMMIT;")


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open an existing database to read, also while another process writes, also on a read-only disk.

    Raises:
        DataError: there is none, it is not a store, or is of a newer textseg.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: expected the store of 'textseg label … -o {path.parent}'")
    with told(path):
        connection = _open_to_read(path)
        try:
            _check(connection, path)
        except BaseException:
            connection.close()
            raise
        if _pragma(connection, "user_version") == 0:
            connection.close()
            raise DataError(f"{path} is empty: the run that made it was killed at once; run it again")
        return connection


def _open_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(_address(path), uri=True, isolation_level=None, check_same_thread=False)


def _address(path: Path) -> str:
    """Return a read-only address; where WAL's side files cannot be made (a read-only folder), of an unchanging file."""
    address = path.resolve().as_uri()
    try:
        with contextlib.closing(sqlite3.connect(f"{address}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise  # committed pictures are in the log, which cannot be read here
        return f"{address}?immutable=1"
    return f"{address}?mode=ro"


@contextlib.contextmanager
def attached(connection: sqlite3.Connection, other: Path | None) -> Iterator[None]:
    """Show another database as ``other``, to read; None shows none. Not inside a transaction."""
    if other is None:
        yield
        return
    connection.execute("ATTACH ? AS other", (_address(other),))
    try:
        yield
    finally:
        connection.execute("DETACH other")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application not in (0, APPLICATION_ID) or (application == 0 and tables):
        raise DataError(f"{path} is another program's database; choose another output folder")
    if version > VERSION:
        raise DataError(f"{path} has layout {version}, this textseg reads up to {VERSION}: upgrade textseg")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit everything inside, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn SQLite's and the file system's errors into one clear ``DataError``."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise DataError(f"{path}: {_advice(error)} ({error})") from error


def _advice(error: Exception) -> str:
    text = str(error).lower()
    if "full" in text or "no space" in text:
        return (
            "the disk is full; every picture committed so far is safe: free some space and run the same command again"
        )
    if "readonly" in text or "read-only" in text or "unable to open" in text or "permission" in text:
        return "cannot be written or opened here; check the folder's permissions or choose another"
    if "disk i/o" in text:
        return "the disk reports an error; what was committed so far is safe: check the disk, then run again"
    if "malformed" in text or "not a database" in text:
        return "is damaged or not a database; restore a copy, or start again with --new"
    if "locked" in text:
        return "is locked by another program; close it and run again"
    return "the database reports an error"
