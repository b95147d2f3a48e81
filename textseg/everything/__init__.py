"""Everything in a picture, named from a vocabulary if there is one.

>>> found = everything(pipeline, "street.jpg")                          # doctest: +SKIP
>>> found.records("coco_rle")                                           # doctest: +SKIP
>>> everything(pipeline, "street.jpg", vocabulary=["car", "a tree"])    # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from textseg import image as images
from textseg import language
from textseg.errors import UnsupportedError
from textseg.everything.generator import Progress, generate
from textseg.everything.naming import NamingOptions, name_masks
from textseg.everything.options import Cost, EverythingOptions, check_cost, cost
from textseg.everything.records import Everything
from textseg.types import Phrase, Query

if TYPE_CHECKING:
    from textseg.pipeline import Pipeline

__all__ = [
    "Cost",
    "Everything",
    "EverythingOptions",
    "NamingOptions",
    "Progress",
    "check_cost",
    "cost",
    "everything",
    "generate",
    "name_everything",
    "name_masks",
]


def everything(
    pipeline: Pipeline,
    source: Any,
    options: EverythingOptions | None = None,
    vocabulary: str | Phrase | Sequence[str | Phrase] | Query | None = None,
    progress: Progress | None = None,
) -> Everything:
    """Return every mask of a picture, and with a vocabulary the phrase that names each.

    Args:
        pipeline: its segmenter finds the masks, its CLIP names them, its cache keeps the picture's embedding.
        source: what ``image.read`` takes: a path, bytes, a PIL image, an RGB array …
        options: the grid and the thresholds; the preset's where None (Meta's defaults unless it says otherwise).
        vocabulary: phrases; labels are exactly these strings, None for a mask that none of them fits.
        progress: is called with (prompts done, prompts in all) after every batch.

    Raises:
        ImageError: the picture cannot be read.
        QueryError: the vocabulary is unusable.
        ConfigError: the options mean more prompts than ``max_prompts``.
        UnsupportedError: a vocabulary, but the pipeline has no CLIP.
    """
    query = None if vocabulary is None else language.query(vocabulary)
    if query is not None:
        _require_clip(pipeline)  # before the search, which takes long
    image = images.read(source)
    options = options or pipeline.config.everything
    found = generate(pipeline.segmenter, image, options, cache=pipeline.cache, progress=progress)
    return found if query is None else name_everything(pipeline, found, query)


def name_everything(pipeline: Pipeline, found: Everything, query: Query) -> Everything:
    """Return the same masks, named by the pipeline's CLIP with the preset's backgrounds and crops.

    Raises:
        UnsupportedError: the pipeline has no CLIP.
    """
    _require_clip(pipeline)
    assert pipeline.clip is not None
    start, rank = time.perf_counter(), pipeline.config.rank
    naming = NamingOptions(rank.backgrounds, grow=rank.clip_grow, fill=rank.clip_fill)
    named = name_masks(found, query, pipeline.clip, naming)
    return replace(named, seconds={**found.seconds, "name": time.perf_counter() - start})


def _require_clip(pipeline: Pipeline) -> None:
    if pipeline.clip is None:
        raise UnsupportedError("naming masks needs a CLIP: take a preset that has one, or leave the vocabulary out")
