"""Photographs to ask of: garments, classes, single objects, cars. The validation tenth of each set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np

from textseg.evaluate.pages import SEED, Ask, Material, Page, ask, boxes, limited
from textseg.evaluate.scene_pages import absent_nouns
from textseg.language import COLORS
from textseg.train.data import LabelledObject, Sample
from textseg.types import Float, UInt8

LARGE_CAR = 0.15
"""A car is large from this share of the picture on: 533 cars of both folders are, 10 % of them held out."""
SOME_CAR = 0.02
BODY = frozenset({"skin", "hair", "person"})
"""Labels of ccp that are no garments ("person" is the union of the others, made by us)."""


def garment_pages(material: Material, limit: int | None = None) -> Iterator[Page]:
    """Street fashion: every class that is there, as many that are not; "person" is left out."""
    return limited(_class_pages(material, "ccp", 4, leave_out="person"), limit)


def class_pages(material: Material, limit: int | None = None) -> Iterator[Page]:
    """COCO photographs: every class name that is there, as many that are not. Crowds are ignored pixels."""
    return limited(_class_pages(material, "coco", 5), limit)


def object_pages(material: Material, limit: int | None = None, *, outlined: bool = False) -> Iterator[Page]:
    """Photographs of one thing each (Caltech-101): its noun, and one of the other nouns that is surely not there.

    Where the border is white, the thing's outline is known, elsewhere only that it is in the middle: its box is the
    whole picture's. Nouns are mixed, so that a limit takes some of many.

    Args:
        material: the pictures.
        limit: most pages.
        outlined: only those with an outline.
    """
    photos = material.photos("caltech")
    vocabulary = sorted({o.name for sample in photos for o in sample.objects})
    rng = np.random.default_rng([SEED, 9])
    mixed = (photos[int(i)] for i in rng.permutation(len(photos)))
    kept = (sample for sample in mixed if sample.objects[0].mask is not None or not outlined)
    for index, sample in enumerate(islice(kept, limit)):
        noun = sample.objects[0].name
        asks = [ask(sample, noun, None, noun, noun)]
        asks += [Ask(gone, "absent") for gone in absent_nouns(sample, vocabulary, 1, rng)]
        yield Page("objects", index, sample.image_rgb, tuple(asks))


def garment_color_pages(material: Material, limit: int | None = None) -> Iterator[Page]:
    """Street fashion with a colour word: "the black boots" where that garment is plainly of that colour.

    The colour comes from the pixels under the mask. One colour that no garment of the name has is asked too.
    """
    rng = np.random.default_rng([SEED, 6])
    for index, sample in enumerate(limited_samples(material, "ccp", limit)):
        asks = []
        plain = [o for o in sample.objects if o.color and o.name not in BODY and not o.crowd]
        for thing in sorted(plain, key=lambda o: o.name):
            asks.append(ask(sample, thing.name, thing.color, f"the {thing.color} {thing.name}", thing.name))
        if plain:
            thing = plain[int(rng.integers(len(plain)))]
            taken = {o.color for o in sample.objects if thing.name in o.names}
            free = [c for c in COLORS if c not in taken]
            if None not in taken:
                asks.append(Ask(f"the {free[int(rng.integers(len(free)))]} {thing.name}", "other colour"))
        yield Page("ccp_color", index, sample.image_rgb, tuple(asks))


def car_pages(material: Material, limit: int | None = None) -> Iterator[Page]:
    """Photographs with at least one large car: "car", the large ones meant, smaller ones neither way."""
    index = 0
    for name in ("vehicles", "plates"):
        for sample in material.photos(name):
            large = _cars(sample, LARGE_CAR)
            if large and (limit is None or index < limit):
                asks = [Ask("car", name, boxes(large))]
                asks += [Ask(noun, "absent") for noun in _never_there(sample, index)]
                yield Page("cars", index, sample.image_rgb, tuple(asks))
                index += 1


def car_color_pages(material: Material, limit: int | None = None) -> Iterator[Page]:
    """Pictures with cars of different plain colours, each asked for by a colour that it alone has.

    Few held-out photographs show that (kind "photograph"; cars from 2 % of the picture on), so pairs of
    photographs with one large plain car each are put side by side as well (kind "collage").
    The limit holds for each of the two kinds.
    """
    pages = [*islice(_photo_color_pages(material), limit), *islice(_collages(material), limit)]
    for index, (picture, asks) in enumerate(pages):
        yield Page("cars_color", index, picture, tuple(asks))


def limited_samples(material: Material, name: str, limit: int | None) -> Iterator[Sample]:
    """Yield at most ``limit`` validation samples of a set."""
    photos = material.photos(name)
    for index in range(len(photos) if limit is None else min(limit, len(photos))):
        yield photos[index]


def _class_pages(material: Material, name: str, salt: int, leave_out: str = "") -> Iterator[Page]:
    photos = material.photos(name)
    vocabulary = sorted({o.name for sample in photos for o in sample.objects} - {leave_out})
    rng = np.random.default_rng([SEED, salt])
    for index, sample in enumerate(photos):
        present = sorted({o.name for o in sample.objects if not o.crowd} - {leave_out})
        asks = [ask(sample, noun, None, noun, noun) for noun in present]
        asks += [Ask(noun, "absent") for noun in absent_nouns(sample, vocabulary, len(present), rng)]
        yield Page(name, index, sample.image_rgb, tuple(asks))


def _cars(sample: Sample, share: float) -> list[LabelledObject]:
    height, width = sample.image_rgb.shape[:2]
    found = []
    for thing in sample.objects:
        x0, y0, x1, y1 = thing.box_xyxy
        if thing.name == "car" and (x1 - x0) * (y1 - y0) >= share * height * width:
            found.append(thing)
    return found


def _never_there(sample: Sample, index: int) -> list[str]:
    """Return one noun that is surely not in the picture."""
    rng = np.random.default_rng([SEED, 7, index])
    return absent_nouns(sample, sorted(sample.exhaustive), 1, rng)


def _color_asks(cars: list[LabelledObject], kind: str) -> list[Ask]:
    counts = Counter(car.color for car in cars if car.color)
    asks = []
    for color in COLORS:
        if counts[color] == 1 and len(counts) >= 2:
            meant = [car for car in cars if car.color == color]
            rest = [car for car in cars if car.color != color]
            asks.append(Ask(f"the {color} car", kind, boxes(meant), None, boxes(rest)))
    return asks


def _photo_color_pages(material: Material) -> Iterator[tuple[UInt8, list[Ask]]]:
    for name in ("vehicles", "plates"):
        for sample in material.photos(name):
            asks = _color_asks(_cars(sample, SOME_CAR), "photograph")
            if asks:
                yield sample.image_rgb, asks


def _collages(material: Material) -> Iterator[tuple[UInt8, list[Ask]]]:
    """Two photographs side by side, each with one car of 2 % or more, large and plain, of different colours."""
    single = []
    for name in ("vehicles", "plates"):
        for sample in material.photos(name):
            cars = _cars(sample, SOME_CAR)
            if len(cars) == 1 and cars[0].color and _cars(sample, LARGE_CAR):
                single.append((sample.image_rgb, cars[0]))
    order = np.random.default_rng([SEED, 8]).permutation(len(single))
    shuffled = [single[int(i)] for i in order]
    for step in (1, 2, 3):
        for k in range(len(shuffled)):
            (left, one), (right, two) = shuffled[k], shuffled[(k + step) % len(shuffled)]
            if one.color != two.color and left.shape[0] == right.shape[0]:
                moved = _moved(two, left.shape[1])
                yield np.concatenate([left, right], axis=1), _color_asks([one, moved], "collage")


def _moved(car: LabelledObject, dx: int) -> LabelledObject:
    shift: Float = np.array([dx, 0, dx, 0], np.float32)
    return LabelledObject(car.name, car.names, car.color, car.box_xyxy + shift, None)
