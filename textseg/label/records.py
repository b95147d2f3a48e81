"""What the runner hands to the store, and what the store gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from textseg import geometry
from textseg.types import Bool

Status = Literal["done", "failed"]
Verdict = Literal["accept", "reject"]


@dataclass(frozen=True)
class NewMask:
    """One mask to be stored.

    Attributes:
        label: the class.
        phrase: the phrase of that class which found it.
        counts: COCO's compressed RLE counts; the size is the picture's.
        box_xyxy: tight box, pixels of the original picture.
        area: pixels.
        score: fused, 0..1.
        parts: every score part; None where one does not apply.
        source: who proposed: "detector", "text", "user" (a given box) or another origin such as "person".
        origin: where a given box came from (the id of its annotation), or None.
    """

    label: str
    phrase: str
    counts: str
    box_xyxy: tuple[float, float, float, float]
    area: int
    score: float
    parts: Mapping[str, float | None]
    source: str
    origin: str | None = None


@dataclass(frozen=True)
class Labelled:
    """A picture that was labelled; it may have no mask at all.

    Attributes:
        key: the item's stable key.
        uri: where the pixels can be read again (``sources.read_uri``).
        digest: hex SHA-256 of the pixels.
        size_hw: height and width in pixels.
        masks: what was found, in the order of the classes, best first.
        best: class → best score of any candidate, accepted or not: near misses are worth a person's look.
        seconds: time in the models.
        note: what should be known about this picture, such as given boxes without a mask.
    """

    key: str
    uri: str
    digest: str
    size_hw: tuple[int, int]
    masks: tuple[NewMask, ...]
    best: Mapping[str, float]
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Failed:
    """A picture that could not be labelled.

    Attributes:
        key, uri: as in ``Labelled``.
        kind: the error's class.
        reason: its message.
        models: whether the models failed rather than the picture's file.
    """

    key: str
    uri: str
    kind: str
    reason: str
    models: bool = False


Outcome = Labelled | Failed


@dataclass(frozen=True)
class PictureRow:
    """A picture of the store.

    Attributes:
        id: number within this store.
        key, uri, digest, best, seconds, note: as in ``Labelled``.
        status: "done" or "failed".
        size_hw: (0, 0) where the picture failed.
        attempts: how often it was tried.
        error_kind, error: why it failed; empty where it did not.
        run: the run that labelled it; ``Store.runs`` has the settings and the models.
        finished: seconds since the epoch.
    """

    id: int
    key: str
    uri: str
    status: Status
    digest: str
    size_hw: tuple[int, int]
    seconds: float
    attempts: int
    error_kind: str
    error: str
    note: str
    best: dict[str, float]
    run: int
    finished: float


@dataclass(frozen=True)
class MaskRow:
    """A mask of the store.

    Attributes:
        id: number within this store.
        key: its picture's key.
        ordinal: place among the picture's masks, from 0.
        class_id: index into ``Store.classes()``.
        label, phrase, counts, box_xyxy, area, score, parts, source, origin: as in ``NewMask``.
        size_hw: the picture's.
        verdict: a person's decision, or None where there is none yet.
    """

    id: int
    key: str
    ordinal: int
    class_id: int
    label: str
    phrase: str
    counts: str
    size_hw: tuple[int, int]
    box_xyxy: tuple[float, float, float, float]
    area: int
    score: float
    parts: dict[str, float | None]
    source: str
    origin: str | None
    verdict: Verdict | None

    @property
    def rle(self) -> dict[str, Any]:
        """COCO's compressed RLE: ``{"size": [H, W], "counts": str}``."""
        return {"size": list(self.size_hw), "counts": self.counts}

    def mask(self) -> Bool:
        """Return bool (H, W)."""
        return geometry.decode_rle(self.rle)


@dataclass(frozen=True)
class RunRow:
    """One run of the labeller on a store.

    Attributes:
        id: number within this store.
        started: seconds since the epoch.
        finished: the same, or None if it was killed or is still going.
        ended: how it ended: "done", "interrupted", "error", or "" while it goes on or was killed.
        settings_hash, settings: what decides the labels: ontology, thresholds, preset, source.
        models: role → id or hash of its weights.
        version: textseg's.
    """

    id: int
    started: float
    finished: float | None
    ended: str
    settings_hash: str
    settings: dict[str, Any]
    models: dict[str, str]
    version: str
