"""The detector's endless stream of batches: composed scenes and photographs, made in the background."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from textseg.train import pseudo_masks
from textseg.train.data import VEHICLE_SETS, PhotoSet, Sample
from textseg.train.detector_names import NameVocabulary
from textseg.train.detector_targets import Batch, ViewConfig, collate, phrase_maps, random_view
from textseg.train.phrases import PhraseSampler
from textseg.train.scenes import SceneComposer, SceneConfig, at_size, load_cutouts, photo_cutouts

logger = logging.getLogger(__name__)

_ZOOM = {"scene": 0.4, "caltech": 0.15}
"""How much of the views' zoom a set gets: scenes hold small things, caltech's pictures one in the middle."""


@dataclass(frozen=True)
class DataConfig:
    """What batches are made of.

    Attributes:
        mixture: source ("scene" or a photo set) → its share of the pictures.
        batch_size: pictures per batch.
        positives, negatives: phrases per picture that are, and are not, in it.
        stages: (share of the training, side) pairs: from which point on pictures have which side, pixels.
        view: how far a view strays from the whole picture; scenes and pictures of one thing are zoomed less.
        scene: how scenes are composed, but for their size.
        color_probability, hard_probability: see `PhraseSampler`.
        caltech_cutouts: whether things are cut out of caltech's photographs too.
        pseudo_masks: masks of the photographs that come without, a file that `pseudo_masks` writes; "" for none. So
            vehicles and more of caltech's things can be cut out.
    """

    mixture: Mapping[str, float] = field(
        default_factory=lambda: {
            "scene": 0.5,
            "coco": 0.2,
            "ccp": 0.18,
            "vehicles": 0.055,
            "plates": 0.035,
            "fruit": 0.02,
            "bottles": 0.01,
        }
    )
    batch_size: int = 16
    positives: int = 6
    negatives: int = 6
    stages: tuple[tuple[float, int], ...] = ((0.0, 192), (0.5, 224), (0.78, 288))
    view: ViewConfig = field(default_factory=ViewConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    color_probability: float = 0.4
    hard_probability: float = 0.4
    caltech_cutouts: bool = True
    pseudo_masks: str = ""


def side_at(stages: Sequence[tuple[float, int]], progress: float) -> int:
    """The pictures' side, pixels, when a share `progress` of the training is done."""
    return [side for start, side in sorted(stages) if start <= max(0.0, progress)][-1]


class Sources:
    """The training photographs and one scene composer per picture size."""

    def __init__(self, root: str | Path, config: DataConfig, split: str = "train") -> None:
        root = Path(root)
        mixed = [name for name in config.mixture if name != "scene"]
        cut = [*(["caltech"] if config.caltech_cutouts else []), *sorted(VEHICLE_SETS if config.pseudo_masks else ())]
        sets = pseudo_masks.load(config.pseudo_masks, root, dict.fromkeys([*mixed, *cut]), split)
        self.photos = {name: sets[name] for name in mixed}
        self.cutouts = load_cutouts(root / "fluent")
        labelled = [self.photos[n] for n in ("coco", "ccp") if n in self.photos]
        self.photo_cutouts = photo_cutouts(s for photos in [*labelled, *(sets[name] for name in cut)] for s in photos)
        plain = PhotoSet.load(root, "background", split)
        self._backgrounds = _Joined([plain, *labelled])
        self._scene = config.scene
        self._composers: dict[int, SceneComposer] = {}
        logger.info("%d cut-outs, %d photo cut-outs", len(self.cutouts), len(self.photo_cutouts))

    def scene(self, side: int, rng: np.random.Generator) -> Sample:
        """Compose a scene of about `side` pixels."""
        if side not in self._composers:
            config = at_size(self._scene, side)
            self._composers[side] = SceneComposer(self.cutouts, self._backgrounds, config, self.photo_cutouts)
        return self._composers[side].compose(rng)

    def draw(self, name: str, side: int, rng: np.random.Generator) -> Sample:
        """A scene, or a random picture of photo set `name`."""
        if name == "scene":
            return self.scene(side, rng)
        photos = self.photos[name]
        return photos[int(rng.integers(len(photos)))]


class _Joined(Sequence[Sample]):
    """Several photo sets as one sequence; samples are decoded when asked for."""

    def __init__(self, sets: Sequence[PhotoSet]) -> None:
        self._index = [(photos, i) for photos in sets for i in range(len(photos))]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        photos, i = self._index[index]
        return photos[i]


class BatchStream(IterableDataset[Batch]):
    """Batches without end; batch `n` depends only on the seed, on `n` and on the pictures' side then.

    Args:
        sources: where samples come from.
        config: what batches are made of.
        seed: of every draw.
        first: number of the first batch, for a resumed run.
        vocabulary: all nouns, where the batches shall say which of them is where.
    """

    def __init__(
        self,
        sources: Sources,
        config: DataConfig,
        seed: int,
        first: int = 0,
        vocabulary: NameVocabulary | None = None,
    ) -> None:
        self.sources, self.config, self.seed, self.first = sources, config, seed, first
        self.vocabulary = vocabulary
        self.progress: Tensor = torch.zeros(()).share_memory_()  # type: ignore[no-untyped-call]
        self._sampler = PhraseSampler(
            color_probability=config.color_probability, hard_probability=config.hard_probability
        )
        self._names = list(config.mixture)
        shares = np.array([config.mixture[n] for n in self._names], np.float64)
        self._shares = shares / shares.sum()

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        for number in count(self.first):
            yield self.batch(number)

    def batch(self, number: int) -> Batch:
        """Make batch `number` at the side that the shared `progress` asks for."""
        config, rng = self.config, np.random.default_rng([self.seed, number])
        side = side_at(config.stages, float(self.progress))
        names = rng.choice(self._names, config.batch_size, p=self._shares)
        maps = []
        for name in names:
            sample = self.sources.draw(str(name), side + side // 8, rng)
            low, high = config.view.zoom
            view = replace(config.view, zoom=(low, 1.0 + _ZOOM.get(str(name), 1.0) * (high - 1.0)))
            seen = random_view(sample, side, rng, view)
            phrases = self._sampler.sample(seen, rng, config.positives, config.negatives)
            maps.append(phrase_maps(seen, phrases, self.vocabulary))
        return collate(maps, config.positives + config.negatives)
