"""Several stores into one: what machines with a part each (``--shard``) have labelled becomes one dataset.

A store is taken whole or not at all, with everything: masks, scores, runs and their provenance, a person's verdicts.
Merging the same store again changes nothing. Where both stores have a picture, a labelled one beats one that failed,
else the one that is there already stays.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textseg.errors import ConfigError, DataError
from textseg.label.settings import Settings, changes
from textseg.label.store import Store, locate

_RUN = "started, finished, ended, settings_hash, settings, models, version"
_PICTURE = "key, uri, status, digest, height, width, seconds, attempts, error_kind, error, note, best"
_MASK = "ordinal, phrase, counts, x0, y0, x1, y1, area, score, parts, source, origin"

_MAPS = f"""
CREATE TEMP TABLE map_runs (old INTEGER PRIMARY KEY, new INTEGER);
INSERT INTO runs ({_RUN})
    SELECT {_RUN} FROM other.runs o WHERE NOT EXISTS (
        SELECT 1 FROM runs m WHERE m.started = o.started AND m.settings_hash = o.settings_hash) ORDER BY o.id;
INSERT INTO map_runs SELECT o.id, (SELECT max(m.id) FROM main.runs m
    WHERE m.started = o.started AND m.settings_hash = o.settings_hash) FROM other.runs o;
CREATE TEMP TABLE map_classes (old INTEGER PRIMARY KEY, new INTEGER);
INSERT INTO classes (id, name)
    SELECT (SELECT count(*) FROM main.classes) + row_number() OVER (ORDER BY o.id) - 1, o.name
    FROM other.classes o WHERE o.name NOT IN (SELECT name FROM main.classes);
INSERT INTO map_classes SELECT o.id, m.id FROM other.classes o JOIN main.classes m ON m.name = o.name;
DELETE FROM pictures WHERE status = 'failed' AND key IN (SELECT key FROM other.pictures WHERE status = 'done');
CREATE TEMP TABLE map_pictures (old INTEGER PRIMARY KEY, new INTEGER);
INSERT INTO map_pictures
    SELECT o.id, (SELECT coalesce(max(id), 0) FROM main.pictures) + row_number() OVER (ORDER BY o.id)
    FROM other.pictures o WHERE o.key NOT IN (SELECT key FROM main.pictures);
CREATE TEMP TABLE map_masks (old INTEGER PRIMARY KEY, new INTEGER);
INSERT INTO map_masks
    SELECT o.id, (SELECT coalesce(max(id), 0) FROM main.masks) + row_number() OVER (ORDER BY o.id)
    FROM other.masks o JOIN map_pictures p ON p.old = o.picture;
"""
"""What a row of the other store will be called here: old number → new number."""

_ROWS = (
    f"INSERT INTO pictures (id, {_PICTURE}, run, finished) SELECT p.new, {_PICTURE}, r.new, o.finished "
    "FROM other.pictures o JOIN map_pictures p ON p.old = o.id JOIN map_runs r ON r.old = o.run",
    f"INSERT INTO masks (id, picture, class, {_MASK}) SELECT k.new, p.new, c.new, {_MASK} FROM other.masks o "
    "JOIN map_masks k ON k.old = o.id JOIN map_pictures p ON p.old = o.picture JOIN map_classes c ON c.old = o.class",
    "INSERT INTO decisions (mask, verdict, note, decided) SELECT k.new, verdict, note, decided FROM other.decisions o "
    "JOIN map_masks k ON k.old = o.mask",
)
_REVIEWS = (
    "INSERT INTO reviews (picture, kind, note, at) SELECT p.new, kind, note, at FROM other.reviews o "
    "JOIN map_pictures p ON p.old = o.picture"
)


@dataclass(frozen=True)
class Merged:
    """What was taken from one store.

    Attributes:
        store: its database file.
        pictures: labelled pictures taken; failed: failed ones; masks: of them all.
        already: pictures that were there already.
        different: keys of those among them that are other pictures by the same name (other pixels).
    """

    store: Path
    pictures: int
    failed: int
    masks: int
    already: int
    different: tuple[str, ...]


def merge(store: Store, others: Sequence[str | Path], *, override: bool = False) -> list[Merged]:
    """Take other stores' pictures into a store, one store a transaction.

    Args:
        store: opened with ``Store.write``; a new one takes the first store's settings.
        others: output folders or database files; they are not changed, and may be written to meanwhile.
        override: accept stores labelled with other settings.

    Raises:
        ConfigError: a store was labelled with other settings; the message says what differs. Nothing was merged.
        DataError: a store cannot be read, or is the one merged into; the disk is full or read-only.
    """
    paths = [locate(other) for other in others]
    settings = _settings(store)
    for path in paths:
        if path == store.path:
            raise DataError(f"{path} cannot be merged into itself; leave it out or choose another output folder")
        with Store.read(path) as other:
            theirs = _settings(other)
        if settings is not None and theirs is not None and theirs.hash != settings.hash and not override:
            raise ConfigError(
                f"{path.parent} was labelled with other settings:\n  " + "\n  ".join(changes(settings, theirs)) + "\n"
                "use --override to merge it all the same; every picture keeps the run that it came from"
            )
        settings = settings or theirs
    return [_merge(store, path) for path in paths]


def _settings(store: Store) -> Settings | None:
    runs = store.runs()
    return Settings(runs[-1].settings, runs[-1].models) if runs else None


def _merge(store: Store, path: Path) -> Merged:
    with store.writing(path) as database:
        shared = "FROM other.pictures o JOIN main.pictures m ON m.key = o.key"
        done = f"{shared} WHERE o.status = 'done' AND m.status = 'done'"
        different = tuple(r[0] for r in database.execute(f"SELECT o.key {done} AND m.digest != o.digest ORDER BY 1"))
        for statement in _MAPS.split(";\n"):
            database.execute(statement)
        for statement in _ROWS:
            database.execute(statement)
        if database.execute("SELECT 1 FROM other.sqlite_master WHERE name = 'reviews'").fetchone():
            database.execute(_REVIEWS)  # layout 1 has none
        taken = "FROM other.pictures o JOIN map_pictures p ON p.old = o.id"
        total = _number(database, "SELECT count(*) FROM other.pictures")
        pictures = _number(database, f"SELECT count(*) {taken} WHERE o.status = 'done'")
        failed = _number(database, f"SELECT count(*) {taken} WHERE o.status = 'failed'")
        masks = _number(database, "SELECT count(*) FROM map_masks")
        for name in ("runs", "classes", "pictures", "masks"):
            database.execute(f"DROP TABLE map_{name}")
    return Merged(path, pictures, failed, masks, total - pictures - failed, different)


def _number(database: sqlite3.Connection, sql: str) -> int:
    return int(database.execute(sql).fetchone()[0])
