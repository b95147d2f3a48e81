"""One picture's work: from an item to its masks, each of exactly one class."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from textseg import geometry
from textseg.cache import EmbeddingCache
from textseg.choose import select
from textseg.errors import ConfigError, PromptError, TextsegError
from textseg.label.items import Item
from textseg.label.ontology import Ontology
from textseg.label.records import Failed, Labelled, NewMask
from textseg.pipeline import Pipeline
from textseg.rank import RankConfig, Scored
from textseg.result import Result
from textseg.types import Bool, Image, Int, Phrase, Query, Segments

logger = logging.getLogger(__name__)

PROPOSALS, PROPOSALS_A_PHRASE = 64, 4
"""Most places looked at in one picture: so many, or so many a phrase where there are many phrases.

A pipeline that is asked one phrase looks at its twenty best places. Asked a long list of classes, nearly all of those
are hopeless: the things in a picture do not grow with the list. The best of all classes are kept, as the detector
sees it; ``benchmarks/label.py`` tells what this saves, ``benchmarks/results/label_proposals.json`` what it costs.
"""

_NONE_ACCEPTED = 1.0  # as the pipeline's threshold: its own choice by phrase is not used, so it need not be made


class Labeller:
    """A pipeline and an ontology; call it with an item and its picture.

    All classes are asked in one pass. The choice is made among classes, not phrases: two phrases of one class that
    found the same thing give one mask, as two masks of one phrase would; a thing found by two classes goes to the one
    with the better fused score. At most ``PROPOSALS`` places are looked at, fewer than the pipeline would for a long
    list of classes.

    Args:
        pipeline: the models and the stages' settings.
        ontology: the classes.
        threshold: least fused score, 0..1, of classes without their own; None takes the pipeline's.

    Raises:
        ConfigError: the threshold is out of range.
    """

    def __init__(self, pipeline: Pipeline, ontology: Ontology, threshold: float | None = None) -> None:
        propose, phrases = pipeline.config.propose, sum(len(one.phrases) for one in ontology.classes)
        most = min(propose.max_total, max(PROPOSALS, PROPOSALS_A_PHRASE * phrases))
        self.pipeline = pipeline.with_config(replace(pipeline.config, propose=replace(propose, max_total=most)))
        self.ontology = ontology
        self.threshold = threshold
        rank = pipeline.config.rank
        self.rank: RankConfig = rank if threshold is None else replace(rank, threshold=threshold)
        least = self.rank.threshold
        self._limits = [least if one.threshold is None else one.threshold for one in ontology.classes]
        # what lost is not upscaled, and nothing is given up that a class of a low threshold would take
        glance = min(rank.glance, least, *self._limits)
        lean = replace(self.pipeline.config, rank=replace(rank, max_rejected=0, glance=glance))
        self._lean = pipeline.with_config(lean)

    def __call__(self, item: Item, image: Image) -> Labelled:
        """Return the picture's masks.

        Raises:
            PromptError: a given box does not fit the picture. TextsegError: whatever the models raise.
        """
        started = time.perf_counter()
        if item.boxes is not None:
            masks, best, note = self._from_boxes(item, image)
        else:
            masks, best, note = self._from_phrases(item, image)
        seconds = time.perf_counter() - started
        return Labelled(item.key, item.uri, image.digest, image.size_hw, tuple(masks), best, seconds, note)

    def _from_phrases(self, item: Item, image: Image) -> tuple[list[NewMask], dict[str, float], str]:
        classes = self.ontology.classes
        wanted = None
        if item.labels is not None:
            wanted = [i for i, name in enumerate(self.ontology.names) if name in item.labels]
        if wanted == []:
            return [], {}, ""
        query, owners = self.ontology.query(wanted)
        result = self._lean.open(image).segment(query, threshold=_NONE_ACCEPTED)
        scored = by_class(result.scored, np.array(owners, np.int64))
        best = _best_scores(scored, self.ontology.names, wanted)
        floors = np.array([one.min_area for one in classes], np.float64) / float(np.prod(image.size_hw))
        scored = keep(scored, _large_enough(scored, floors))
        names = Query(tuple(Phrase(name, name) for name in self.ontology.names))
        chosen, _ = select(scored, names, replace(self.rank, max_rejected=0), np.array(self._limits, np.float32))
        masks = _new_masks(chosen, _phrase_of(result))
        smallest = {one.name: one.min_area for one in classes}
        return [mask for mask in masks if mask.area >= smallest[mask.label]], best, ""

    def _from_boxes(self, item: Item, image: Image) -> tuple[list[NewMask], dict[str, float], str]:
        """Turn each given box into the best mask that the segmenter finds in it: always one a box, if there is any."""
        picture = self._lean.open(image)
        found: dict[int, NewMask] = {}
        given = [(n, box) for n, box in enumerate(item.boxes or ()) if box.label in self.ontology.names]
        for index, one in enumerate(self.ontology.classes):
            mine = [(n, box) for n, box in given if box.label == one.name]
            if not mine:
                continue
            query, _ = self.ontology.query([index])
            first = Query(query.phrases[:1])
            boxes = np.array([box.box_xyxy for _, box in mine], np.float32)
            result = picture.segment(first, box=boxes, threshold=_NONE_ACCEPTED, multimask=False)
            for row, (n, box) in enumerate(mine):
                only = keep(result.scored, result.scored.proposal_index == row)
                chosen, _ = select(only, first, replace(self.rank, threshold=0.0, max_rejected=0))
                for mask in _new_masks(chosen[:1], _phrase_of(result)):
                    found[n] = replace(mask, label=one.name, origin=box.origin)
        missing = [box.origin for n, box in given if n not in found]
        note = f"no mask in the boxes of annotations {', '.join(missing)}" if missing else ""
        return [found[n] for n in sorted(found)], {}, note


def make_labeller(preset: str | Path, device: str | None, ontology: Ontology, threshold: float | None) -> Labeller:
    """Build the pipeline of a preset and return its labeller; each worker of a cluster calls this.

    Raises:
        ConfigError, ModelError: as ``textseg.load``.
    """
    from textseg.build import load

    return Labeller(load(preset, device=device, cache=EmbeddingCache(1)), ontology, threshold)  # a picture comes once


def attempt(labeller: Labeller, item: Item, image: Image) -> Labelled | Failed:
    """Return the item's masks, or why there are none; only errors that every picture would meet are raised.

    Raises:
        ConfigError: the settings are wrong, whatever the picture.
    """
    try:
        return labeller(item, image)
    except ConfigError:
        raise
    except Exception as met:  # a night's work is not lost to one picture that a model cannot bear
        logger.debug("%s", item.key, exc_info=True)
        given = item.boxes is not None and isinstance(met, PromptError)  # a box that does not fit this picture
        return failure(item, met, models=not given)


def failure(item: Item, error: Exception, *, models: bool = False) -> Failed:
    """Return the record of a picture that failed."""
    reason = str(error) or type(error).__name__
    kind = type(error).__name__
    if not isinstance(error, TextsegError):
        reason = f"{kind}: {reason}"
    return Failed(item.key, item.uri, kind, reason, models)


def by_class(scored: Scored, owners: Int) -> Scored:
    """Return the candidates with the class's index where the phrase's was; ``owners`` is int64 (phrases,)."""
    return replace(scored, phrase_index=owners[scored.phrase_index])


def keep(scored: Scored, chosen: Any) -> Scored:
    """Return the candidates that ``chosen``, bool (M,), selects."""
    index = np.flatnonzero(chosen)
    changes: dict[str, Any] = {}
    for one in fields(scored):
        value = getattr(scored, one.name)
        if one.name == "parts":
            changes[one.name] = {name: values[index] for name, values in value.items()}
        elif one.name == "sources":
            changes[one.name] = tuple(value[i] for i in index)
        elif isinstance(value, np.ndarray) and len(value) == len(scored):
            changes[one.name] = value[index]
    return replace(scored, **changes)


def _large_enough(scored: Scored, floors: Any) -> Bool:
    """Return bool (M,): not of a prompt whose best mask is clearly below its class's floor (share of the picture).

    Too small a thing goes with all its masks, or a looser one of them would take the place of the right one. The
    areas here may be measured at low resolution, so a tenth is allowed; the final masks are measured exactly.
    """
    out = np.ones(len(scored), bool)
    for prompt in np.unique(scored.prompt_index):
        mine = np.flatnonzero((scored.prompt_index == prompt) & (scored.areas > 0))
        if len(mine):
            best = mine[np.argmax(scored.scores[mine])]
            out[mine] = scored.areas[best] >= 0.9 * floors[scored.phrase_index[best]]
    return out


def _best_scores(scored: Scored, names: tuple[str, ...], wanted: list[int] | None) -> dict[str, float]:
    """Return class → best score of any candidate that is not empty; 0 where there is none."""
    best = np.zeros(len(names), np.float32)
    solid = scored.areas > 0
    np.maximum.at(best, scored.phrase_index[solid], scored.scores[solid])
    return {names[i]: round(float(best[i]), 6) for i in (range(len(names)) if wanted is None else wanted)}


def _phrase_of(result: Result) -> Mapping[int, str]:
    """Return prompt index → the phrase behind it, exactly as written."""
    scored = result.scored
    pairs = zip(scored.prompt_index.tolist(), scored.phrase_index.tolist(), strict=True)
    return {prompt: result.query.phrases[phrase].text for prompt, phrase in pairs}


def _new_masks(chosen: Segments, phrases: Mapping[int, str]) -> list[NewMask]:
    """Return what the store keeps of each mask; masks that are empty at full size are left out."""
    out: list[NewMask] = []
    for k in range(len(chosen)):
        area = int(chosen.masks[k].sum())
        if not area:
            continue
        x0, y0, x1, y1 = (float(v) for v in chosen.boxes_xyxy[k])
        out.append(
            NewMask(
                label=chosen.labels[k],
                phrase=phrases[int(chosen.prompt_index[k])],
                counts=geometry.encode_rle(chosen.masks[k])["counts"],
                box_xyxy=(x0, y0, x1, y1),
                area=area,
                score=float(chosen.scores[k]),
                parts={name: _number(values[k]) for name, values in chosen.parts.items()},
                source=chosen.sources[k],
            )
        )
    return out


def _number(value: Any) -> float | None:
    """Return a float, or None for NaN, which JSON does not know."""
    number = float(value)
    return number if math.isfinite(number) else None
