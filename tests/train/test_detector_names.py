"""Which noun of all is it: what places are told, and the losses over the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from textseg.models.nano_network import NanoNetwork, NetworkConfig
from textseg.train.data import LabelledObject, Sample, mask_box
from textseg.train.detector_names import GROUPS, NameTargets, NameVocabulary, draw_nouns, name_losses
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
    covered = cores(view)
    return vocabulary.targets(view, covered, np.zeros(covered.shape, np.bool_))


def label_at(drawn: NameTargets, y: int, x: int) -> list[int] | None:
    """What a place says of the nouns; None where it says nothing."""
    group = int(drawn.groups[y, x])
    return None if group < 0 else drawn.labels[group].tolist()


def test_a_place_of_two_things_answers_to_both(vocabulary: NameVocabulary) -> None:
    view = sample(thing("cube", block(0, 0, 32, 32)), thing("lid", block(0, 0, 16, 32)))
    drawn = targets(vocabulary, view)
    assert drawn.present.tolist() == [1, 1, 0, 0, -1]  # nobody knows of stars
    assert label_at(drawn, 0, 0) == [1, 1, 0, 0, -1]
    assert label_at(drawn, 7, 7) == [1, 0, 0, 0, -1]
    assert label_at(drawn, 15, 15) == [0, 0, 0, 0, -1]  # bare ground


def test_edges_say_nothing(vocabulary: NameVocabulary) -> None:
    drawn = targets(vocabulary, sample(thing("cube", block(0, 0, 30, 33))))
    assert label_at(drawn, 6, 7) == [1, 0, 0, 0, -1]
    assert label_at(drawn, 7, 0) is None and label_at(drawn, 7, 7) is None  # half a cell is the cube
    assert label_at(drawn, 0, 8) is None  # a quarter of it
    unsure = np.ones((1, CELLS, CELLS), np.bool_)
    view = sample(thing("cube", block(0, 0, 32, 32)))
    assert int(vocabulary.targets(view, cores(view), unsure).groups.max()) == -1


def test_a_crowd_is_neither_there_nor_absent(vocabulary: NameVocabulary) -> None:
    drawn = targets(vocabulary, sample(thing("drum", block(0, 0, 32, 32), crowd=True)))
    assert drawn.present.tolist() == [0, 0, -1, 0, -1]
    assert label_at(drawn, 0, 0) == [0, 0, -1, 0, -1]


def test_a_picture_without_things_is_bare(vocabulary: NameVocabulary) -> None:
    drawn = targets(vocabulary, sample())
    assert drawn.present.tolist() == [0, 0, 0, 0, -1]
    assert all(label_at(drawn, y, x) == [0, 0, 0, 0, -1] for y in range(CELLS) for x in range(CELLS))


def test_rare_sets_of_things_are_left_out(vocabulary: NameVocabulary) -> None:
    things = [thing("cube", block(0, 4 * i, 4, 64)) for i in range(15)]
    things += [thing("lid", block(4, 4 * i, 8, 64)) for i in range(15)]
    drawn = targets(vocabulary, sample(*things))
    assert int(drawn.groups.max()) == GROUPS - 1
    assert int((drawn.groups < 0).sum()) > 0
    assert label_at(drawn, 15, 0) == [0, 0, 0, 0, -1]


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
        losses = name_losses(network, network(images), codes, batch, chosen, len(NOUNS))
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        seen.append([float(loss.detach()) for loss in losses])
    (places, maps, presence), first = seen[-1], seen[0]
    assert places < 0.7 * first[0] and maps < 0.9 * first[1] and presence < first[2]
