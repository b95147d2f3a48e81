"""Which noun of all is it: what places are told, and the losses over the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from textseg.models.nano_network import NanoNetwork, NetworkConfig
from textseg.train.data import LabelledObject, Sample, mask_box
from textseg.train.detector_names import NameTargets, NameVocabulary, draw_nouns, name_losses
from textseg.train.noun_table import NounTable

TINY = NetworkConfig(width=16, fine_width=8, embed_dim=8, context_width=16, context_layers=1, context_heads=2)
NOUNS = ("cube", "lid", "drum", "cone", "star")
SIZE, CELLS = 64, 16


def block(y0: int, x0: int, y1: int, x1: int) -> NDArray[np.bool_]:
    mask = np.zeros((SIZE, SIZE), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def thing(name: str, mask: NDArray[np.bool_], *, crowd: bool = False) -> LabelledObject:
    return LabelledObject(name, frozenset({name}), None, mask_box(mask), mask, crowd)


def sample(*things: LabelledObject, exhaustive: tuple[str, ...] = ("cube", "lid", "drum", "cone")) -> Sample:
    return Sample(np.zeros((SIZE, SIZE, 3), np.uint8), things, frozenset(exhaustive), "scene")


def cores(view: Sample) -> NDArray[np.uint8]:
    stacked = [np.asarray(o.mask).reshape(CELLS, 4, CELLS, 4).mean((1, 3)) * 255 for o in view.objects]
    return np.array(stacked, np.uint8).reshape(-1, CELLS, CELLS)


@pytest.fixture
def vocabulary() -> NameVocabulary:
    return NameVocabulary(NounTable(NOUNS))


def targets(vocabulary: NameVocabulary, view: Sample) -> NameTargets:
    return vocabulary.targets(view, cores(view), np.random.default_rng(0))


def test_a_place_of_two_things_answers_to_both(vocabulary: NameVocabulary) -> None:
    view = sample(thing("cube", block(0, 0, 32, 32)), thing("lid", block(0, 0, 16, 32)))
    drawn = targets(vocabulary, view)
    assert drawn.present.tolist() == [1, 1, 0, 0, -1]  # nobody knows of stars
    for place, label in zip(drawn.places.tolist(), drawn.labels, strict=True):
        y, x = divmod(place, CELLS)
        if place < 0:
            assert (label == -1).all()
        elif y < 4 and x < 8:
            assert label.tolist() == [1, 1, 0, 0, -1]
        elif y < 8 and x < 8:
            assert label.tolist() == [1, 0, 0, 0, -1]
        else:
            assert label.tolist() == [-1, -1, 0, 0, -1]  # bare ground: none of what is surely not there


def test_a_crowd_is_neither_there_nor_absent(vocabulary: NameVocabulary) -> None:
    drawn = targets(vocabulary, sample(thing("drum", block(0, 0, 32, 32), crowd=True)))
    assert drawn.present.tolist() == [0, 0, -1, 0, -1]
    assert not (drawn.labels == 1).any()


def test_a_picture_without_things_has_bare_places_only(vocabulary: NameVocabulary) -> None:
    drawn = targets(vocabulary, sample())
    assert 0 < int((drawn.places >= 0).sum()) < len(drawn.places)
    assert drawn.present.tolist() == [0, 0, 0, 0, -1]


def test_drawn_nouns_hold_all_that_are_there(vocabulary: NameVocabulary) -> None:
    drawn = targets(vocabulary, sample(thing("cone", block(0, 0, 32, 32))))
    batch = NameTargets(*(field[None] for field in drawn))
    assert 3 in draw_nouns(batch, 1).tolist()
    assert len(draw_nouns(batch, 4)) == 4


def test_the_losses_fall_when_the_nouns_are_learnt(vocabulary: NameVocabulary) -> None:
    torch.manual_seed(0)
    view = sample(thing("cube", block(0, 0, 32, 32)), thing("cone", block(32, 32, 64, 64)))
    batch = NameTargets(*(torch.stack([field, field]) for field in targets(vocabulary, view)))
    network, embeddings = NanoNetwork(TINY), torch.randn(len(NOUNS), TINY.text_dim)
    images, chosen = torch.randn(2, 3, SIZE, SIZE), torch.arange(len(NOUNS))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    seen = []
    for _ in range(12):
        codes = network.text(embeddings)
        places, many = name_losses(network, network(images), codes, batch, chosen, len(NOUNS))
        optimizer.zero_grad()
        (places + many).backward()
        optimizer.step()
        seen.append((float(places.detach()), float(many.detach())))
    assert seen[-1][0] < 0.7 * seen[0][0] and seen[-1][1] < seen[0][1]
