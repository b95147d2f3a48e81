"""Quick figures on small fixed sets of held-out pictures while the detector trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from textseg.models import onednn
from textseg.models.nano_boxes import ProposalConfig, find_boxes
from textseg.models.nano_detector import normalise
from textseg.models.nano_network import Answers, Features, NanoNetwork
from textseg.train.data import LabelledObject, Sample
from textseg.train.detector_data import DataConfig, Sources
from textseg.train.detector_targets import letterbox
from textseg.train.phrases import PhraseSampler, PhraseTarget

TextLookup = Callable[[Sequence[str]], Tensor]
"""Texts → float32 (N, text_dim)."""

Asker = Callable[[NDArray[np.uint8], Sequence[str]], Answers]
"""A (S, S, 3) picture and T texts → the answers, B = 1."""

_LARGE = 0.05
"""Share of the picture from which on a car's box counts as large."""


@dataclass(frozen=True)
class Question:
    """A held-out view with its phrases of one kind.

    Attributes:
        kind: which figure it counts for: a map's IoU ("scene", "ccp", "coco", "ccp_color"), the right one of
            several ("right"), a box ("car"), or whether it is there ("auroc_scene", "auroc_ccp").
        view: the letterboxed picture.
        phrases: what is asked.
    """

    kind: str
    view: Sample
    phrases: tuple[PhraseTarget, ...]


def questions(root: str | Path, side: int, pictures: int, seed: int = 7) -> list[Question]:
    """Draw the fixed questions from the validation splits: at most `pictures` of each set."""
    config = DataConfig(mixture={"scene": 1, "coco": 1, "ccp": 1, "vehicles": 1, "plates": 1}, caltech_cutouts=False)
    sources = Sources(root, config, "val")
    rng = np.random.default_rng(seed)
    sampler = PhraseSampler(color_probability=0.2, hard_probability=0.15)
    asked: list[Question] = []
    for _ in range(pictures):
        view = letterbox(sources.scene(side, rng), side)
        asked.append(Question("scene", view, _nouns(sampler, view)))
        asked.append(Question("auroc_scene", view, tuple(sampler.sample(view, rng, 4, 6))))
        asked.append(Question("right", view, _one_of_several(sampler, view)))
    for name in ("coco", "ccp"):
        for sample in _spread(sources, name, pictures):
            view = letterbox(sample, side)
            asked.append(Question(name, view, _nouns(sampler, view)))
            if name == "ccp":
                asked.append(Question("ccp_color", view, _colored(sampler, view)))
                asked.append(Question("auroc_ccp", view, tuple(sampler.sample(view, rng, 4, 6))))
    for name in ("vehicles", "plates"):
        for sample in _spread(sources, name, pictures // 2):
            view = letterbox(sample, side)
            asked.append(Question("car", view, (sampler.target(view, "car", None, "car"),)))
    return [q for q in asked if q.phrases]


def _spread(sources: Sources, name: str, most: int) -> list[Sample]:
    photos = sources.photos[name]
    return [photos[i] for i in range(0, len(photos), max(1, -(-len(photos) // most)))]


def _nouns(sampler: PhraseSampler, view: Sample) -> tuple[PhraseTarget, ...]:
    names = sorted({o.name for o in view.objects if not o.crowd})
    return tuple(sampler.target(view, name, None, name) for name in names)


def _colored(sampler: PhraseSampler, view: Sample) -> tuple[PhraseTarget, ...]:
    pairs = sorted({(o.name, o.color) for o in view.objects if o.color and not o.crowd})
    found = (sampler.target(view, name, color, f"{color} {name}") for name, color in pairs)
    return tuple(t for t in found if t.positive)


def _one_of_several(sampler: PhraseSampler, view: Sample) -> tuple[PhraseTarget, ...]:
    """Coloured phrases that mean some of the things of a noun and not others."""

    def others(target: PhraseTarget) -> bool:
        name = view.objects[target.positive[0]].name
        return any(o.name == name and o.color and i not in target.positive for i, o in enumerate(view.objects))

    return tuple(t for t in _colored(sampler, view) if others(t))


def network_asker(network: NanoNetwork, lookup: TextLookup) -> Asker:
    """Ask our own network, in bfloat16; a picture's features are kept until the next picture comes."""
    kept: list[tuple[NDArray[np.uint8], Features]] = []

    def ask(image_rgb: NDArray[np.uint8], texts: Sequence[str]) -> Answers:
        if not kept or kept[0][0] is not image_rgb:
            pixels = normalise(torch.from_numpy(image_rgb)[None]).contiguous(memory_format=torch.channels_last)
            with onednn.autocast():
                kept[:] = [(image_rgb, Features(*(f.float() for f in network(pixels))))]
        return network.answer(kept[0][1], network.text(lookup(texts)[None]))

    return ask


@torch.inference_mode()
def validate(ask: Asker, asked: Sequence[Question]) -> dict[str, float]:
    """Ask everything; return mean IoUs, shares and AUROCs, 0..1, by kind."""
    values: dict[str, list[float]] = {}
    present: dict[str, list[tuple[float, bool]]] = {}
    for question in asked:
        answers = ask(question.view.image_rgb, [p.text for p in question.phrases])
        if question.kind.startswith("auroc"):
            present.setdefault(question.kind, []).extend(_best_scores(answers, question))
        else:
            values.setdefault(question.kind, []).extend(_values(answers, question))
    figures = {kind: float(np.mean(v)) for kind, v in values.items() if v}
    return figures | {kind: auroc(pairs) for kind, pairs in present.items()}


def _values(answers: Answers, question: Question) -> list[float]:
    if question.kind == "car":
        return _car_hits(answers, question.view, question.phrases[0])
    if question.kind == "right":
        return [_right(answers, question.view, t, row) for row, t in enumerate(question.phrases)]
    maps = functional.interpolate(answers.maps, question.view.image_rgb.shape[:2], mode="bilinear")[0]
    found = (maps > 0).numpy()
    return [
        iou
        for row, target in enumerate(question.phrases)
        if (iou := _mask_iou(found[row], question.view, target)) is not None
    ]


def _mask_iou(found: NDArray[np.bool_], view: Sample, target: PhraseTarget) -> float | None:
    masks = [mask for i in target.positive if (mask := view.objects[i].mask) is not None]
    if not masks:
        return None
    truth = np.logical_or.reduce(masks)
    found = found & ~_union([view.objects[i] for i in target.ignore], truth.shape)
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def _union(objects: Sequence[LabelledObject], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    out = np.zeros(shape, np.bool_)
    for thing in objects:
        if thing.mask is not None:
            out |= thing.mask
    return out


def _right(answers: Answers, view: Sample, target: PhraseTarget, row: int) -> float:
    """1 where the best box overlaps one of the meant things most and by a half, else 0."""
    boxes = _boxes(answers, row)
    if not len(boxes):
        return 0.0
    name = view.objects[target.positive[0]].name
    rivals = [i for i, o in enumerate(view.objects) if o.name == name]
    overlaps = [box_iou(boxes[0], view.objects[i].box_xyxy) for i in rivals]
    best = int(np.argmax(overlaps))
    return float(rivals[best] in target.positive and overlaps[best] >= 0.5)


def _car_hits(answers: Answers, view: Sample, target: PhraseTarget) -> list[float]:
    """For each large car: 1 where one of the boxes overlaps it by a half, else 0."""
    boxes, side = _boxes(answers, 0), view.image_rgb.shape[0]
    cars = [view.objects[i].box_xyxy for i in target.positive]
    large = [c for c in cars if (c[2] - c[0]) * (c[3] - c[1]) >= _LARGE * side * side]
    return [float(any(box_iou(box, car) >= 0.5 for box in boxes)) for car in large]


def _boxes(answers: Answers, row: int, threshold: float = 0.3) -> NDArray[np.float32]:
    """(M, 4) boxes of phrase `row`, best first; at least the best one."""
    only = Answers(*(a[:, row : row + 1] for a in answers))
    found = find_boxes(only, ProposalConfig(), threshold)
    if not len(found.scores):
        found = find_boxes(only, replace(ProposalConfig(), per_phrase=1), 0.0)
    return np.asarray(found.boxes_xyxy.numpy(), np.float32)


def _best_scores(answers: Answers, question: Question) -> list[tuple[float, bool]]:
    """(score of the best box, whether the phrase is present) for the phrases whose truth is known."""
    found = find_boxes(answers, ProposalConfig(), 0.0)
    best = torch.zeros(len(question.phrases)).scatter_reduce(0, found.phrase_index, found.scores.float(), "amax")
    return [
        (float(best[row]), bool(target.positive))
        for row, target in enumerate(question.phrases)
        if target.positive or (target.background_negative and not target.ignore)
    ]


def box_iou(a_xyxy: NDArray[np.float32], b_xyxy: NDArray[np.float32]) -> float:
    """IoU of two boxes, each (4,)."""
    low, high = np.maximum(a_xyxy[:2], b_xyxy[:2]), np.minimum(a_xyxy[2:], b_xyxy[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    areas = float(np.prod(a_xyxy[2:] - a_xyxy[:2])) + float(np.prod(b_xyxy[2:] - b_xyxy[:2]))
    return both / max(1e-6, areas - both)


def auroc(pairs: Sequence[tuple[float, bool]]) -> float:
    """Chance that a present phrase outscores an absent one (ties count half); NaN where one kind is missing."""
    scores = np.array([s for s, _ in pairs])
    truth = np.array([t for _, t in pairs], np.bool_)
    if not truth.any() or truth.all():
        return float("nan")
    gaps = scores[truth][:, None] - scores[~truth][None]
    return float((gaps > 0).mean() + 0.5 * (gaps == 0).mean())
