"""Single things of pictures, drawn at random: what is trained on close looks is trained on these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textseg.train import sam_prompts as sp
from textseg.train.data import LabelledObject, Sample
from textseg.train.sam_data import Sources
from textseg.types import Float, UInt8


class Drawn(NamedTuple):
    """A thing, the picture (H, W, 3) that it is in, and some of what is beside it."""

    image_rgb: UInt8
    thing: LabelledObject
    others: list[LabelledObject]


class Things:
    """Draws things, every one of a set as often as the others.

    Args:
        sources: where pictures come from.
        scenes: how many composed scenes are kept.
        uses: how many things are drawn of one of them before another takes its place: composing takes its time.
    """

    def __init__(self, sources: Sources, scenes: int, uses: int) -> None:
        self.sources, self.scenes, self.uses = sources, scenes, uses
        self.places = {name: list(photos.places()) for name, photos in sources.photos.items()}
        self._scenes: list[tuple[Sample, int]] = []

    def of(self, name: str, rng: np.random.Generator) -> Drawn | None:
        """One thing of a set ("scene", or one of the sources' photographs); None where the draw was no use."""
        if name == "scene":
            sample = self._scene(rng)
            if not sample.objects:
                return None
            index = int(rng.integers(len(sample.objects)))
            others = [o for i, o in enumerate(sample.objects) if i != index]
            return Drawn(sample.image_rgb, sample.objects[index], others)
        picture, label, _ = self.places[name][int(rng.integers(len(self.places[name])))]
        image_rgb, thing = self.sources.photos[name].one(picture, label)
        others = []
        if rng.random() < 0.2:
            beside = [p for p in self._of_picture(name, picture) if p != label]
            others = [self.sources.photos[name].one(picture, p)[1] for p in beside[:1]]
        return Drawn(image_rgb, thing, others)

    def _of_picture(self, name: str, picture: int) -> list[int]:
        return [label for p, label, _ in self.places[name] if p == picture]

    def _scene(self, rng: np.random.Generator) -> Sample:
        if len(self._scenes) < self.scenes:
            sample = self.sources.compose(rng)
            self._scenes.append((sample, self.uses))
            return sample
        place = int(rng.integers(len(self._scenes)))
        sample, left = self._scenes[place]
        if left <= 1:
            self._scenes[place] = self._scenes[-1]
            self._scenes.pop()
        else:
            self._scenes[place] = (sample, left - 1)
        return sample


def one_piece(
    thing: LabelledObject, source: str, least_side: float, rng: np.random.Generator
) -> tuple[UInt8, Float] | None:
    """Return the (H, W) 0/255 mask of a thing, for a garment in several pieces often one of them, and its tight box.

    None where there is no mask, or where the box's longer side is below ``least_side`` pixels.
    """
    if thing.mask is None or thing.crowd:
        return None
    mask = thing.mask.astype(np.uint8) * 255
    if source == "ccp" and thing.name != "person":
        mask = sp.some_piece(mask, rng)
    tight = sp.tight_box(mask)
    if tight is None or float((tight[2:] - tight[:2]).max()) < least_side:
        return None
    return mask, tight
