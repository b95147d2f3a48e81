"""Labelled validation pictures with the phrases to ask of each: the one source of all protocols.

Only pictures of the validation split are used, and scenes are composed anew from a fixed seed over
backgrounds of that split. The cut-outs in the scenes are the same as in training: a scene is new, its
objects are not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from textseg.errors import DataError
from textseg.train.data import LabelledObject, PhotoSet, Sample
from textseg.train.phrases import PhraseSampler
from textseg.train.scenes import Cutout, SceneComposer, SceneConfig, load_cutouts
from textseg.types import Bool, Float, UInt8

SEED = 20251
SAMPLER = PhraseSampler()
_NO_BOXES = np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Ask:
    """One phrase to ask of a picture, and what is true. Pixels of that picture.

    Attributes:
        phrase: what is asked.
        kind: noun, class or set, for breakdowns.
        boxes_xyxy: float32 (T, 4), the things that are meant; T = 0 says that the phrase is absent.
        masks: their bool (H, W) masks, or None where only boxes are known.
        others_xyxy: float32 (S, 4), labelled things that are not meant.
        other_masks: their masks, or None.
        ignore: bool (H, W), pixels of which nobody knows, or None.
    """

    phrase: str
    kind: str
    boxes_xyxy: Float = field(default_factory=lambda: _NO_BOXES)
    masks: tuple[Bool, ...] | None = None
    others_xyxy: Float = field(default_factory=lambda: _NO_BOXES)
    other_masks: tuple[Bool, ...] | None = None
    ignore: Bool | None = None

    @property
    def present(self) -> bool:
        """Whether the phrase means anything in the picture."""
        return len(self.boxes_xyxy) > 0

    @property
    def union(self) -> Bool | None:
        """bool (H, W): all that is meant; None where no masks are known."""
        return np.any(self.masks, axis=0) if self.masks else None


@dataclass(frozen=True)
class Page:
    """A picture and what to ask of it; ``index`` counts within ``set``."""

    set: str
    index: int
    image_rgb: UInt8
    asks: tuple[Ask, ...]


class Material:
    """The pictures under a data root, read when first needed and then kept.

    Raises:
        DataError: a folder of the root is missing or malformed.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{self.root} is no folder: give the folder that holds coco/, ccp/, fluent/ …")
        self._photos: dict[str, PhotoSet] = {}

    def photos(self, name: str) -> PhotoSet:
        """Return the validation pictures of a set ("coco", "ccp", "vehicles", "plates", "background" …)."""
        if name not in self._photos:
            try:
                self._photos[name] = PhotoSet.load(self.root, name, "val")
            except (FileNotFoundError, KeyError) as error:
                raise DataError(f"set {name!r} under {self.root} cannot be read: {error}") from error
        return self._photos[name]

    @functools.cached_property
    def cutouts(self) -> list[Cutout]:
        """Return the cut-outs of ``fluent/``."""
        try:
            return load_cutouts(self.root / "fluent")
        except FileNotFoundError as error:
            raise DataError(f"cut-outs under {self.root / 'fluent'} cannot be read: {error}") from error

    def composer(self, config: SceneConfig, *, with_photos: bool = True) -> SceneComposer:
        """Return a composer over held-out backgrounds: caltech's, and coco's photographs where wanted.

        What is labelled in a coco background becomes a crowd: never asked for, ignored where its noun is.
        """
        grounds = list(self.photos("background"))
        if with_photos:
            grounds += [_as_ground(sample) for sample in self.photos("coco")]
        return SceneComposer(self.cutouts, grounds, config)


def ask(sample: Sample, noun: str, color: str | None, text: str, kind: str, *, lenient: bool = False) -> Ask:
    """Return what "``color`` ``noun``", asked as ``text``, means in a labelled picture.

    Args:
        sample: the picture and its objects.
        noun: a lower-case noun, matched against each object's names.
        color: one of the eleven colour words, or None for any.
        text: the phrase as it is asked.
        kind: for breakdowns.
        lenient: ignore the pixels of every object that the noun may or may not mean (another name of the
            same family, an unknown colour); otherwise only crowds of that noun are ignored.
    """
    target = SAMPLER.target(sample, noun, color, text)
    objects = sample.objects
    meant = [objects[i] for i in target.positive]
    unsure = [objects[i] for i in target.ignore]
    blurred = [o.mask for o in unsure if o.mask is not None and (lenient or (o.crowd and noun in o.names))]
    rest = [o for i, o in enumerate(objects) if i not in (*target.positive, *target.ignore) and not o.crowd]
    return Ask(
        text,
        kind,
        boxes(meant),
        _masks(meant),
        boxes(rest),
        _masks(rest),
        np.any(blurred, axis=0) if blurred else None,
    )


def boxes(things: Sequence[LabelledObject]) -> Float:
    """Return float32 (T, 4), the boxes of T objects."""
    return np.array([o.box_xyxy for o in things], np.float32).reshape(-1, 4)


def limited(pages: Iterator[Page], limit: int | None) -> Iterator[Page]:
    """Yield at most ``limit`` pages."""
    for count, page in enumerate(pages):
        if limit is not None and count >= limit:
            return
        yield page


def _masks(things: Sequence[LabelledObject]) -> tuple[Bool, ...] | None:
    return tuple(o.mask for o in things if o.mask is not None) if all(o.mask is not None for o in things) else None


def _as_ground(sample: Sample) -> Sample:
    return replace(sample, objects=tuple(replace(o, crowd=True) for o in sample.objects))
