"""Which noun of the whole vocabulary is it? Losses over all nouns at once, beside the few phrases that are asked.

A dozen phrases a picture say little about a thousand nouns: features that tell a few coarse kinds apart answer
most of them. Here every place of a picture says what it is and what it is not, for all nouns at once: some places
choose their noun among hundreds, whole maps are drawn for a hundred, and so is whether each is in the picture.
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
from textseg.train.map_loss import map_losses
from textseg.train.noun_table import NounTable

GROUPS = 24
"""Sets of things that a picture's places are told apart by; places of rarer ones are not used."""

PLACES = 64
"""Places of a picture that choose their noun."""

_CACHED = 4000
INSIDE, TOUCHED = 127, 25
"""Of 255, how much of a cell a thing covers beyond which the cell is its, and beyond which it may be."""

_NEVER = -1e4
_HASH = np.random.default_rng(0).integers(1, 2**63, 1024, dtype=np.uint64)


class NameTargets(NamedTuple):
    """What is known of a picture's places and of the V nouns; with a leading axis B for a batch.

    Attributes:
        groups: int16 (h, w) at stride 4: which row of ``labels`` holds there; -1 where things' edges meet.
        labels: int8 (G, V): 1 what is there answers to the noun, 0 it surely does not, -1 not known.
        present: int8 (V,): 1 in the picture, 0 surely not, -1 not known.
    """

    groups: Tensor
    labels: Tensor
    present: Tensor


class NameLosses(NamedTuple):
    """Scalars: which noun is this place; the nouns' maps; is this noun in the picture."""

    places: Tensor
    maps: Tensor
    presence: Tensor


class NameVocabulary:
    """All nouns in a fixed order, and what a picture's places say of them."""

    def __init__(self, table: NounTable) -> None:
        self.nouns = table.nouns
        self._table = table
        self._known: dict[frozenset[str], NDArray[np.bool_]] = {}

    def targets(self, view: Sample, cores: NDArray[np.uint8], unsure: NDArray[np.bool_]) -> NameTargets:
        """Say for every place of a square view what it is.

        Args:
            view: the view.
            cores: uint8 (objects, h, w), how much of each cell an object surely covers.
            unsure: bool (objects, h, w), where it is not known whether it does.
        """
        known = self._exhaustive(view.exhaustive)
        labels_of = [self._label(thing.names) for thing in view.objects]
        present = np.where(known, np.int8(0), np.int8(-1))
        for label in labels_of:  # what might be there, even in a crowd, is not known to be absent
            present = np.where(label != 0, np.int8(-1), present)
        for thing, label in zip(view.objects, labels_of, strict=True):
            present = np.where((label == 1) & (not thing.crowd), np.int8(1), present)
        groups, members = _grouped(cores > INSIDE, unsure | ((cores > TOUCHED) & (cores <= INSIDE)))
        rows = np.full((GROUPS, len(self.nouns)), -1, np.int8)
        for row, things in zip(rows, members, strict=False):
            label = np.zeros(len(self.nouns), np.int8)
            if len(things):
                label = _all_of(np.stack([self._sure(view, i, labels_of[i]) for i in things]))
            row[:] = np.where((label == 0) & ~known, np.int8(-1), label)
        return NameTargets(torch.from_numpy(groups), torch.from_numpy(rows), torch.from_numpy(present))

    def _label(self, names: frozenset[str]) -> NDArray[np.int8]:
        """Return int8 (V,) for a thing that answers to ``names``: 1, 0 or, where it might be, -1."""
        return self._table.row(names)[: len(self.nouns)]

    @staticmethod
    def _sure(view: Sample, number: int, label: NDArray[np.int8]) -> NDArray[np.int8]:
        """A place in a crowd may show one of it or what stands between."""
        return np.where(label == 1, np.int8(-1), label) if view.objects[number].crowd else label

    def _exhaustive(self, exhaustive: frozenset[str]) -> NDArray[np.bool_]:
        if exhaustive not in self._known:
            if len(self._known) > _CACHED:
                self._known.clear()
            self._known[exhaustive] = np.array([noun in exhaustive for noun in self.nouns], np.bool_)
        return self._known[exhaustive]


def _grouped(
    solid: NDArray[np.bool_], doubtful: NDArray[np.bool_]
) -> tuple[NDArray[np.int16], list[NDArray[np.int64]]]:
    """Number the (h, w) places by the set of things that cover them, the commonest sets first; and those sets.

    Both arguments are bool (K, h, w). Places of doubt, and those of sets beyond the first ``GROUPS``, get -1.
    """
    count, shape = len(solid), solid.shape[1:]
    flat = solid.reshape(count, shape[0] * shape[1])
    keys = (flat * _HASH[:count, None]).sum(axis=0, dtype=np.uint64)  # (h·w,), one number a set
    sure = ~doubtful.any(axis=0).ravel()
    found, first, inverse, sizes = np.unique(keys[sure], return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    rank[rank >= GROUPS] = -1
    groups = np.full(keys.shape, -1, np.int16)
    groups[sure] = rank[inverse]
    places = np.flatnonzero(sure)[first[order[:GROUPS]]]
    return groups.reshape(shape), [np.flatnonzero(flat[:, place]) for place in places]


def _all_of(labels: NDArray[np.int8]) -> NDArray[np.int8]:
    """Join what (K, V) things at one place say: a shirt's place is the person's too."""
    return np.where((labels == 1).any(axis=0), 1, labels.min(axis=0)).astype(np.int8)


def draw_nouns(targets: NameTargets, most: int, generator: torch.Generator | None = None) -> Tensor:
    """Return int64 numbers of nouns: all that are there in the batch first, and others by chance up to ``most``."""
    there = (targets.labels == 1).flatten(0, 1).any(0) | (targets.present == 1).any(0)  # (V,)
    order = torch.rand(len(there), generator=generator) + there
    return order.topk(min(max(most, int(there.sum())), len(there))).indices


def name_losses(
    network: NanoNetwork, features: Features, codes: TextCodes, targets: NameTargets, chosen: Tensor, asked: int
) -> NameLosses:
    """Compare a batch's places and pictures with all nouns.

    Args:
        network: the detector's network.
        features: of B pictures.
        codes: of the N chosen nouns, leading axis (N,).
        targets: of the B pictures, over all V nouns.
        chosen: int64 (N,), which of the V nouns ``codes`` are.
        asked: for how many of them, the first ones, whole maps are worked out.
    """
    labels = targets.labels[:, :, chosen]  # (B, G, N)
    places = _places(network, features, codes, targets.groups, labels)
    y, x = (int(phase) for phase in torch.randint(2, (2,)))  # every second place, other ones each time
    sparse = features._replace(pixels=features.pixels[:, :, y::2, x::2])
    some = TextCodes(*(code[:asked][None] for code in codes))
    maps = network.match_pixels(sparse, some)  # (B, asked, h / 2, w / 2)
    truth = _gather(labels[:, :, :asked], targets.groups[:, y::2, x::2].flatten(1)).transpose(1, 2)
    drawn = map_losses(maps, (truth == 1).reshape(maps.shape), (truth >= 0).reshape(maps.shape))
    presence = _presence(network.match_presence(sparse, some, maps), targets.present[:, chosen[:asked]])
    return NameLosses(places, drawn.pixels + drawn.dice, presence)


def _gather(labels: Tensor, groups: Tensor) -> Tensor:
    """Return int8 (B, P, N): the labels (B, G, N) of the places' groups (B, P); -1 where there is none."""
    index = groups.long().clamp_min(0)[..., None].expand(-1, -1, labels.shape[2])
    return labels.gather(1, index).masked_fill((groups < 0)[..., None], -1)


def _places(network: NanoNetwork, features: Features, codes: TextCodes, groups: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of "which noun is this place, or none of them", over drawn places."""
    where, known = _draw_places(groups.flatten(1), (labels >= 0).any(2))  # (B, P) each
    if not known.any():
        return features.pixels.sum() * 0.0
    flat = features.pixels.flatten(2)  # (B, C, hw)
    pixels = flat.gather(2, where[:, None].expand(-1, flat.shape[1], -1))[..., None]  # (B, C, P, 1)
    maps = network.match_pixels(features._replace(pixels=pixels), TextCodes(*(code[None] for code in codes)))
    logits = maps[..., 0].transpose(1, 2)[known]  # (M, N)
    said = _gather(labels, groups.flatten(1).gather(1, where))[known]  # (M, N)
    wrong = torch.cat([logits.masked_fill(said != 0, _NEVER), logits.new_zeros(len(logits), 1)], dim=1)
    right = (said == 1).float()
    # each of a place's nouns by itself against all that it is not: a broad word must not stand in for the others
    every = functional.softplus(torch.logsumexp(wrong, dim=1, keepdim=True) - logits) * right
    named = every.sum(1) / right.sum(1).clamp_min(1)
    bare = functional.softplus(torch.logsumexp(wrong[:, :-1], dim=1))  # against 0, "none of them"
    return torch.where(right.any(1), named, bare).mean()


def _draw_places(groups: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """Draw P of the (B, hw) places, a group with the root of its size, where ``told`` (B, G) knows something.

    Returns:
        int64 (B, P) numbers of places and bool (B, P), whether anything is known there.
    """
    usable = (groups >= 0) & told.gather(1, groups.long().clamp_min(0))
    sizes = torch.zeros(told.shape).scatter_add_(1, groups.long().clamp_min(0), usable.float())
    weights = sizes.clamp_min(1).rsqrt().gather(1, groups.long().clamp_min(0)) * usable
    places = torch.multinomial(weights + 1e-9, PLACES)
    return places, usable.gather(1, places)


def _presence(answers: Tensor, truth: Tensor) -> Tensor:
    """Balanced cross-entropy of "is it in the picture"; logits and int8 truth are (B, asked)."""
    losses = functional.binary_cross_entropy_with_logits(answers, (truth == 1).float(), reduction="none")
    there, gone = truth == 1, truth == 0
    return 0.5 * ((losses * there).sum() / there.sum().clamp_min(1) + (losses * gone).sum() / gone.sum().clamp_min(1))
