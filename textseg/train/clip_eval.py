"""What nano CLIP knows of pictures it never saw: fixed validation crops and their measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textseg.language import COLORS
from textseg.train.clip_data import Crop, cut_crop
from textseg.train.data import BOX_CLASSES, PhotoSet, Sample
from textseg.train.scenes import SceneComposer, SceneConfig, load_cutouts

EncodeImages = Callable[[NDArray[np.uint8]], Tensor]
"""(N, S, S, 3) uint8 RGB to (N, D) normalised."""
EncodeTexts = Callable[[Sequence[str]], Tensor]
"""M texts to (M, D) normalised."""


@dataclass(frozen=True)
class ValidationCrops:
    """Crops by set, the nouns each set is told apart by, and groups of cars of several colours."""

    crops: dict[str, list[Crop]]
    classes: dict[str, list[str]]
    cars: list[list[Crop]]

    @classmethod
    def build(cls, root: str | Path, *, side: int = 112, scenes: int = 250, seed: int = 7) -> ValidationCrops:
        """Masked crops of validation pictures, and of scenes composed over validation backgrounds."""
        root = Path(root)
        cutouts = load_cutouts(root / "fluent", max_side=160)
        backgrounds = list(PhotoSet.load(root, "background", "val"))
        rng = np.random.default_rng(seed)
        plain = SceneComposer(cutouts, backgrounds, SceneConfig(objects=(2, 5), same_noun_probability=0.1))
        cars = SceneComposer(
            cutouts, backgrounds, SceneConfig(objects=(3, 4), same_noun_probability=1.0, car_share=1.0)
        )
        found = {"scenes": _sample_crops([plain.compose(rng) for _ in range(scenes)], side)}
        classes = {"scenes": sorted({c.name for c in cutouts})}
        for name in ("coco", "ccp", "caltech"):
            samples = list(PhotoSet.load(root, name, "val"))
            least = 16 if name != "caltech" else 8
            found[name] = _sample_crops(samples, side, least=least, skip="person" if name == "ccp" else "")
            every = found[name] if name != "coco" else []
            classes[name] = sorted({c.name for c in every}) if every else _coco_classes(root)
        vehicles = [s for n in ("vehicles", "plates") for s in PhotoSet.load(root, n, "val")]
        found["vehicles"] = _sample_crops(vehicles, side, least=60)
        classes["vehicles"] = sorted({c for n in ("vehicles", "plates") for c in BOX_CLASSES[n]})
        groups = [_car_group(cars.compose(rng), side) for _ in range(120)]
        return cls(found, classes, [g for g in groups if len({c.color for c in g}) >= 2])


def _coco_classes(root: Path) -> list[str]:
    train = PhotoSet.load(root, "coco", "train", max_side=64)
    return sorted({name for _, _, name in train.places()})


def _sample_crops(samples: Sequence[Sample], side: int, *, least: float = 12, skip: str = "") -> list[Crop]:
    found = []
    for sample in samples:
        for thing in sample.objects:
            x0, y0, x1, y1 = thing.box_xyxy
            if thing.crowd or thing.name == skip or min(x1 - x0, y1 - y0) < least:
                continue
            grow = 1.15 if thing.mask is not None else 1.0
            image = cut_crop(sample.image_rgb, thing.box_xyxy, thing.mask, side, grow=grow)
            found.append(Crop(image, thing.names, thing.name, thing.color))
    return found


def _car_group(sample: Sample, side: int) -> list[Crop]:
    cars = [t for t in sample.objects if "car" in t.names and t.color and not t.crowd]
    return [
        Crop(cut_crop(sample.image_rgb, t.box_xyxy, t.mask, side, grow=1.15), t.names, "car", t.color) for t in cars
    ]


@torch.no_grad()
def measure(crops: ValidationCrops, images: EncodeImages, texts: EncodeTexts) -> dict[str, float]:
    """Shares of right answers: `NAME_top1`, `NAME_color` (11 colours, noun given) and `right_car`."""
    found: dict[str, float] = {}
    embedded = {name: images(np.stack([c.image_rgb for c in group])) for name, group in crops.crops.items()}
    for name, group in crops.crops.items():
        nouns = crops.classes[name]
        best = (embedded[name] @ texts([f"a photo of a {n}" for n in nouns]).T).argmax(dim=1)
        right = [nouns[int(b)] in c.names for b, c in zip(best, group, strict=True)]
        found[f"{name}_top1"] = float(np.mean(right))
        found[f"{name}_color"] = _color_share(embedded[name], group, texts)
    right_cars = []
    words = [f"the {c} car" for c in COLORS]
    table = texts(words)
    for group in crops.cars:
        scores = images(np.stack([c.image_rgb for c in group])) @ table.T  # (cars, 11)
        for color in {c.color for c in group}:
            assert color is not None
            chosen = int(scores[:, COLORS.index(color)].argmax())
            right_cars.append(group[chosen].color == color)
    found["right_car"] = float(np.mean(right_cars))
    return found


def _color_share(embedded: Tensor, group: Sequence[Crop], texts: EncodeTexts) -> float:
    """How often the colour word is right among eleven, the noun being given; 0 where none is plain."""
    plain = [(i, c) for i, c in enumerate(group) if c.color is not None]
    if not plain:
        return 0.0
    nouns = sorted({c.name for _, c in plain})
    table = texts([f"the {color} {noun}" for noun in nouns for color in COLORS])
    table = table.reshape(len(nouns), len(COLORS), -1)
    right = [COLORS[int((table[nouns.index(c.name)] @ embedded[i]).argmax())] == c.color for i, c in plain]
    return float(np.mean(right))
