"""A page for a person's verdicts: one self-contained HTML file (more, where there are thousands of pictures).

Uncertain pictures come first (``queue``). The page holds small thumbnails and the masks' outlines, needs no network,
and refuses any (its own content policy). Verdicts are saved as a JSON file, which ``apply_decisions`` brings into the
store; a verdict on a mask that has changed since is not applied.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image

from textseg.draw import COLORS_HEX
from textseg.errors import ConfigError, DataError, TextsegError
from textseg.label import queue
from textseg.label.items import read_uri
from textseg.label.records import MaskRow, PictureRow, Verdict
from textseg.label.store import Store

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the decision file."""

_BINS = 20
_FAILURES = 500
_OUTLINES = 400  # points of one mask's outline at most, about


@dataclass(frozen=True)
class ReviewConfig:
    """How the page is made.

    Attributes:
        confident: 0.5..1; what is less certain waits for a person (``queue``).
        only_waiting: whether only the pictures that wait are shown.
        per_page: pictures a page; the first page has the most uncertain ones.
        thumbnail: longer side of a thumbnail in pixels.
        quality: of its JPEG, 1..95.
    """

    confident: float = queue.CONFIDENT
    only_waiting: bool = False
    per_page: int = 1000
    thumbnail: int = 280
    quality: int = 70

    def __post_init__(self) -> None:
        if not 0.5 <= self.confident <= 1:
            raise ConfigError(f"confident: got {self.confident}, expected a number in 0.5..1")
        if self.per_page < 1 or not 16 <= self.thumbnail <= 2000 or not 1 <= self.quality <= 95:
            raise ConfigError("expected per_page from 1, thumbnail in 16..2000 and quality in 1..95")


def write(store: Store, path: Path, config: ReviewConfig | None = None) -> list[Path]:
    """Write the page, and ``name-2.html`` … where there are more pictures than fit one; return the files.

    Memory holds one picture and one page's index at a time.

    Raises:
        DataError: the files cannot be written.
    """
    config = config or ReviewConfig()
    path = Path(path)
    before, after = _template().split("/*DATA*/")
    with store.snapshot():
        order, stats = _survey(store, config)
        pages = [order[i : i + config.per_page] for i in range(0, len(order), config.per_page)] or [[]]
        names = [path if n == 0 else path.with_name(f"{path.stem}-{n + 1}{path.suffix}") for n in range(len(pages))]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for n, (file, page) in enumerate(zip(names, pages, strict=True)):
                head = {**stats, "page": n + 1, "pages": [one.name for one in names]}
                with file.open("w", encoding="utf-8") as out:
                    out.write(before.replace("<!--TITLE-->", html.escape(f"textseg review: {store.path.parent.name}")))
                    out.write(f"const ABOUT = {_script_json(head)};\nconst PICTURES = [\n")
                    for one in page:
                        out.write(_script_json(_card(store, one, config)) + ",\n")
                    out.write("];\n" + after)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error}; choose another place") from error
    logger.info("%d pictures on %d pages: %s", len(order), len(pages), path)
    return names


def _template() -> str:
    return resources.files("textseg.label").joinpath("review.html").read_text("utf-8")


def _script_json(value: Any) -> str:
    """Return JSON that is safe inside a script element, whatever the names are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _survey(store: Store, config: ReviewConfig) -> tuple[list[queue.Waiting], dict[str, Any]]:
    """Return the pictures in the page's order, and what the head of the page tells."""
    seen, limit = queue.reviewed(store), queue.uncertainty(config.confident) + 1e-9
    order: list[queue.Waiting] = []
    counts: Counter[str] = Counter()
    bins: dict[str, list[int]] = defaultdict(lambda: [0] * _BINS)
    waiting = empty = done = 0
    for picture, rows in store.labelled():
        one = queue.judge(picture, rows, picture.key in seen)
        waits = one.uncertainty > limit
        waiting, empty, done = waiting + waits, empty + (not rows), done + 1
        for row in rows:
            counts[row.label] += 1
            bins[row.label][min(int(row.score * _BINS), _BINS - 1)] += 1
        if waits or not config.only_waiting:
            order.append(one)
    order.sort(key=lambda one: (-one.uncertainty, one.key))
    classes = [{"name": name, "masks": counts[name], "scores": bins[name]} for name in store.classes()]
    stats = {
        "format": FORMAT,
        "store": _store_id(store),
        "name": store.path.parent.name,
        "confident": config.confident,
        "limit": limit,
        "done": done,
        "waiting": waiting,
        "empty": empty,
        "classes": classes,
        "colors": list(COLORS_HEX),
        "failed": store.count("failed"),
        "failures": [[row.key, row.error] for _, row in zip(range(_FAILURES), store.pictures("failed"), strict=False)],
    }
    return order, stats


def _store_id(store: Store) -> str:
    """Return what tells this store from others: the hash of when and how it was begun."""
    runs = store.runs()[:1]
    text = "".join(f"{run.started} {run.settings_hash}" for run in runs)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _card(store: Store, one: queue.Waiting, config: ReviewConfig) -> dict[str, Any]:
    """Return what the page holds of one picture."""
    picture = store.picture(one.key)
    rows = list(store.masks(one.key))
    assert picture is not None  # it was there a moment ago, in the same snapshot
    height, width = picture.size_hw
    scale = min(1.0, config.thumbnail / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return {
        "key": picture.key,
        "u": round(one.uncertainty, 4),
        "why": one.reason,
        "note": picture.note,
        "w": size[0],
        "h": size[1],
        "image": _thumbnail(picture, size, config.quality),
        "masks": [
            {
                "id": row.id,
                "print": fingerprint(row),
                "label": row.label,
                "class": row.class_id,
                "score": round(row.score, 4),
                "parts": {name: round(v, 3) for name, v in row.parts.items() if v is not None},
                "source": row.source,
                "verdict": row.verdict,
                "path": _outline(row, size),
            }
            for row in rows
        ],
    }


def _thumbnail(picture: PictureRow, size_wh: tuple[int, int], quality: int) -> str:
    """Return the small picture as a data URI, or "" where it cannot be read any more."""
    try:
        rgb = read_uri(picture.uri).rgb
    except TextsegError as error:
        logger.warning("%s: no thumbnail: %s", picture.key, error)
        return ""
    small = cv2.resize(np.asarray(rgb), size_wh, interpolation=cv2.INTER_AREA)
    out = io.BytesIO()
    PIL.Image.fromarray(small).save(out, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _outline(row: MaskRow, size_wh: tuple[int, int]) -> str:
    """Return the mask's outlines in the thumbnail as an SVG path; its box where it is too small to have any."""
    width, height = size_wh
    small = cv2.resize(row.mask().astype(np.float32), size_wh, interpolation=cv2.INTER_AREA) >= 0.5
    padded = np.pad(small.astype(np.uint8), 1)
    found, _ = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_TC89_L1)
    lines = [np.asarray(line).reshape(-1, 2) - 0.5 for line in found if len(line) > 2]
    if not lines:
        (x0, y0, x1, y1), (h, w) = row.box_xyxy, row.size_hw
        box = [x0 * width / w, y0 * height / h, max(x1 * width / w, 3), max(y1 * height / h, 3)]
        lines = [np.array([[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]])]
    lines = sorted(lines, key=len, reverse=True)[:_OUTLINES]
    points = ("L".join(f"{x:.1f} {y:.1f}" for x, y in line.tolist()) for line in lines)
    return "".join(f"M{line}Z" for line in points)


# ---------------------------------------------------------------- reading back


@dataclass(frozen=True)
class Applied:
    """What became of a decision file.

    Attributes:
        accepted, rejected, withdrawn: masks.
        seen: pictures marked as looked at.
        stale: (key, reason) of the verdicts that were not applied.
    """

    accepted: int
    rejected: int
    withdrawn: int
    seen: int
    stale: tuple[tuple[str, str], ...]


def fingerprint(row: MaskRow) -> str:
    """Return what tells a mask from any other: a hash of its picture, class and pixels."""
    text = f"{row.key}\0{row.label}\0{row.size_hw}\0{row.counts}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def apply_decisions(store: Store, path: Path) -> Applied:
    """Bring a saved decision file into the store; a file that was applied before changes nothing.

    Args:
        store: opened with ``Store.write``.
        path: the JSON that the page saved.

    Raises:
        DataError: it cannot be read, is no decision file, or comes from another store's page.
    """
    values = _read_decisions(path)
    if values["store"] != _store_id(store):
        raise DataError(f"{path} was saved from the page of another store; expected one of {store.path.parent}")
    rows: dict[str, dict[str, MaskRow]] = {}
    count: Counter[str] = Counter()
    stale: list[tuple[str, str]] = []
    for key, mark, verdict in _verdicts(values, path):
        if key not in rows:
            rows = {key: {fingerprint(row): row for row in store.masks(key)}}
        row = rows[key].get(mark)
        if row is None:
            stale.append((key, "the mask has changed or is gone"))
        else:
            store.decide(row.id, verdict)
            count[verdict or "none"] += 1
    seen = {str(key): "seen" for key in values.get("seen", [])}
    marked = queue.mark(store, {k: kind for k, kind in seen.items() if queue.reviewed(store).get(k) is None})
    for key, reason in stale:
        logger.warning("%s: %s", key, reason)
    return Applied(count["accept"], count["reject"], count["none"], marked, tuple(stale))


def _read_decisions(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("decisions"), list):
        raise DataError(f"{path}: not a decision file of format {FORMAT}; expected what the review page saves")
    return {"store": "", **values}


def _verdicts(values: dict[str, Any], path: Path) -> Iterator[tuple[str, str, Verdict | None]]:
    for n, one in enumerate(values["decisions"]):
        verdict: Any = one.get("verdict") if isinstance(one, dict) else ""
        if verdict not in ("accept", "reject", None) or "key" not in one or "print" not in one:
            raise DataError(f"{path}: decision {n} is {one!r}; expected key, print and a verdict: accept, reject, null")
        yield str(one["key"]), str(one["print"]), verdict
