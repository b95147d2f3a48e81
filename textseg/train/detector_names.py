"""Which noun of the whole vocabulary is it? A loss over all nouns at once, beside the few phrases that are asked.

Fourteen phrases a picture say little about a thousand nouns: features that tell a few coarse kinds apart answer
most of them. Here some places of every labelled thing must choose its noun among all nouns that are surely
something else, and every picture must say of many nouns whether they are in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from textseg.models.nano_network import Features, NanoNetwork, TextCodes
from textseg.train.data import Sample
from textseg.train.noun_table import NounTable

PLACES = 32
"""Places looked at in a picture."""

_PER_OBJECT = 5
_BARE = 4
_CACHED = 4000
_INSIDE = 127
_NEVER = -1e4


class NameTargets(NamedTuple):
    """What is known of a picture's places and of the V nouns; with a leading axis B for a batch.

    Attributes:
        places: int64 (P,), flat numbers of places at stride 4; -1 for none.
        labels: int8 (P, V): 1 the thing there answers to the noun, 0 it surely does not, -1 not known.
        present: int8 (V,): 1 in the picture, 0 surely not, -1 not known.
    """

    places: Tensor
    labels: Tensor
    present: Tensor


class NameVocabulary:
    """All nouns in a fixed order, and what a picture's places say of them."""

    def __init__(self, table: NounTable) -> None:
        self.nouns = table.nouns
        self._table = table
        self._known: dict[frozenset[str], NDArray[np.bool_]] = {}

    def targets(
        self, view: Sample, cores: NDArray[np.uint8], rng: np.random.Generator, places: int = PLACES
    ) -> NameTargets:
        """Draw places of the labelled things, and some of none, in a square view.

        Args:
            view: the view.
            cores: uint8 (objects, h, w), how much of each cell an object surely covers.
            rng: of the draw.
            places: how many.
        """
        known = self._exhaustive(view.exhaustive)
        where = np.full(places, -1, np.int64)
        labels = np.full((places, len(self.nouns)), -1, np.int8)
        present = np.where(known, np.int8(0), np.int8(-1))
        labels_of = [self._label(thing.names) for thing in view.objects]
        for label in labels_of:  # what might be there, even in a crowd, is not known to be absent
            present = np.where(label != 0, np.int8(-1), present)
        for thing, label in zip(view.objects, labels_of, strict=True):
            present = np.where((label == 1) & (not thing.crowd), np.int8(1), present)
        row, covered = 0, (cores > 0).reshape(len(cores), cores.shape[1] * cores.shape[2])
        for i in rng.permutation(len(view.objects)):
            thing, inside = view.objects[i], np.flatnonzero(cores[i] > _INSIDE)
            if thing.crowd or not len(inside):
                continue
            for place in rng.choice(inside, min(_PER_OBJECT, places - _BARE - row, len(inside)), replace=False):
                covering = [labels_of[j] for j in np.flatnonzero(covered[:, place])]
                label = _all_of(np.stack([labels_of[i], *covering]))
                where[row], labels[row] = place, np.where((label == 0) & ~known, np.int8(-1), label)
                row += 1
            if row >= places - _BARE:
                break
        bare = np.flatnonzero((cores <= 0).all(axis=0)) if len(cores) else np.arange(cores.shape[1] * cores.shape[2])
        if known.any() and len(bare):
            label = np.where(present == 1, np.int8(-1), np.minimum(present, np.int8(0)))
            for place in rng.choice(bare, min(_BARE, places - row, len(bare)), replace=False):
                where[row], labels[row] = place, label
                row += 1
        return NameTargets(torch.from_numpy(where), torch.from_numpy(labels), torch.from_numpy(present))

    def _label(self, names: frozenset[str]) -> NDArray[np.int8]:
        """Return int8 (V,) for a thing that answers to ``names``: 1, 0 or, where it might be, -1."""
        return self._table.row(names)[: len(self.nouns)]

    def _exhaustive(self, exhaustive: frozenset[str]) -> NDArray[np.bool_]:
        if exhaustive not in self._known:
            if len(self._known) > _CACHED:
                self._known.clear()
            self._known[exhaustive] = np.array([noun in exhaustive for noun in self.nouns], np.bool_)
        return self._known[exhaustive]


def _all_of(labels: NDArray[np.int8]) -> NDArray[np.int8]:
    """Join what (K, V) things at one place say: a shirt's place is the person's too."""
    return np.where((labels == 1).any(axis=0), 1, labels.min(axis=0)).astype(np.int8)


def draw_nouns(targets: NameTargets, most: int, generator: torch.Generator | None = None) -> Tensor:
    """Return int64 numbers of nouns: all that are there in the batch, and others by chance up to ``most``."""
    there = ((targets.labels == 1).flatten(0, 1).any(0)) | (targets.present == 1).any(0)  # (V,)
    order = torch.rand(len(there), generator=generator) + there
    return order.topk(min(max(most, int(there.sum())), len(there))).indices


def name_losses(
    network: NanoNetwork, features: Features, codes: TextCodes, targets: NameTargets, chosen: Tensor, asked: int
) -> tuple[Tensor, Tensor]:
    """Return two scalars: the places' cross-entropy over the chosen nouns, and the presence of ``asked`` of them.

    Args:
        network: the detector's network.
        features: of B pictures.
        codes: of the N chosen nouns, leading axis (N,).
        targets: of the B pictures, over all V nouns.
        chosen: int64 (N,), which of the V nouns ``codes`` are.
        asked: for how many of them whole maps are worked out.
    """
    return (
        _places(network, features, codes, targets, chosen),
        _presence(network, features, codes, targets.present[:, chosen], asked),
    )


def _places(network: NanoNetwork, features: Features, codes: TextCodes, targets: NameTargets, chosen: Tensor) -> Tensor:
    """Cross-entropy of "which noun is this place, or none of them"."""
    known = targets.places >= 0  # (B, P)
    if not known.any():
        return features.pixels.sum() * 0.0
    flat = features.pixels.flatten(2)  # (B, C, hw)
    index = targets.places.clamp_min(0)[:, None].expand(-1, flat.shape[1], -1)
    chosen_places = features._replace(pixels=flat.gather(2, index)[..., None])  # (B, C, P, 1)
    maps = network.match_pixels(chosen_places, TextCodes(*(code[None] for code in codes)))  # (B, N, P, 1)
    logits = maps[..., 0].transpose(1, 2)[known]  # (M, N)
    labels = targets.labels[known][:, chosen]  # (M, N)
    wrong = torch.cat([logits.masked_fill(labels != 0, _NEVER), logits.new_zeros(len(logits), 1)], dim=1)
    right = (labels == 1).float()
    # each of a place's nouns by itself against all that it is not: a broad word must not stand in for the others
    every = functional.softplus(torch.logsumexp(wrong, dim=1, keepdim=True) - logits) * right
    named = every.sum(1) / right.sum(1).clamp_min(1)
    bare = functional.softplus(torch.logsumexp(wrong[:, :-1], dim=1))  # against 0, "none of them"
    return torch.where(right.any(1), named, bare).mean()


def _presence(network: NanoNetwork, features: Features, codes: TextCodes, present: Tensor, asked: int) -> Tensor:
    """Balanced cross-entropy of "is it in the picture" over ``asked`` nouns; maps at every second place."""
    some = TextCodes(*(code[:asked][None] for code in codes))
    sparse = features._replace(pixels=features.pixels[:, :, ::2, ::2])
    maps = network.match_pixels(sparse, some)  # (B, asked, h / 2, w / 2)
    answers, truth = network.match_presence(sparse, some, maps), present[:, :asked]
    losses = functional.binary_cross_entropy_with_logits(answers, (truth == 1).float(), reduction="none")
    there, gone = truth == 1, truth == 0
    return 0.5 * ((losses * there).sum() / there.sum().clamp_min(1) + (losses * gone).sum() / gone.sum().clamp_min(1))
