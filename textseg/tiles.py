"""Small objects in large pictures: overlapping tiles, searched one by one, merged without seams or duplicates.

A segmenter sees a 4,000-pixel picture shrunk to its input (256 or 1,024 pixels), where an object of 20 pixels is
gone. Tiles are seen larger. What lies across a tile's edge is found in parts: parts of one phrase that agree where
their tiles overlap are joined; parts of something that the whole picture shows complete are dropped. The cost is one
encoding, and one round of prompts, a tile: ``count`` says how many.

Measured with nano on six validation photographs of 448 pixels (``benchmarks/hard_cases.py``): by tiles of 112 with a
grid of 8 × 8 each, everything finds 3 of 26 objects under 32 × 32 pixels and 0.24 of the larger ones; the whole picture
by one grid of 32 × 32, in the same time, none and 0.20. By text, which nano's detector decides, tiles of 224 find 1 of
26 for six times the time, and tiles of 112 none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from textseg import geometry
from textseg import image as images
from textseg.errors import ConfigError
from textseg.everything.generator import Found, assemble, search
from textseg.everything.options import Crop, EverythingOptions, check_cost
from textseg.everything.records import Everything
from textseg.tile_merge import Piece, merge
from textseg.types import Image

if TYPE_CHECKING:
    from textseg.pipeline import Phrases, Pipeline

Progress = Callable[[int, int], None]
"""Is called with (tiles done, tiles in all)."""


@dataclass(frozen=True)
class TileOptions:
    """How a picture is cut and put together again.

    Attributes:
        side: longest side of a tile, pixels of the picture.
        overlap: pixels that neighbours share at least; larger than the objects that are looked for.
        whole: whether the whole picture is searched too, for what is larger than a tile.
        agree_iou: parts found in neighbouring tiles are one object if, where the tiles overlap, they agree by this IoU.
        duplicate_iou: two masks of one phrase that overlap by this IoU are one object.
        contained: a mask of which this share lies in a better one of the same phrase is a part of it.
        max_tiles: more are refused.

    Raises:
        ConfigError: a value out of range.
    """

    side: int = 640
    overlap: int = 128
    whole: bool = True
    agree_iou: float = 0.5
    duplicate_iou: float = 0.6
    contained: float = 0.85
    max_tiles: int = 400

    def __post_init__(self) -> None:
        if self.side < 16:
            raise ConfigError(f"tile side: got {self.side}, expected 16 pixels or more")
        if not 0 <= self.overlap < self.side:
            raise ConfigError(f"tile overlap: got {self.overlap}, expected 0 or more, less than the side {self.side}")
        if self.max_tiles < 1:
            raise ConfigError(f"max_tiles: got {self.max_tiles}, expected at least 1")
        for name in ("agree_iou", "duplicate_iou", "contained"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected a number in 0..1")


def tiles(size_hw: tuple[int, int], options: TileOptions) -> list[Crop]:
    """Return the parts to be searched: the whole picture first (layer 0) if wanted, then the tiles (layer 1).

    Tiles are spread evenly, as large as ``side`` allows; a picture of one tile is one part.

    Raises:
        ConfigError: more than ``max_tiles``.
    """
    height, width = size_hw
    spans = [_spans(length, options) for length in (height, width)]
    number = len(spans[0]) * len(spans[1])
    if number > options.max_tiles:
        raise ConfigError(
            f"{width} × {height} pixels in tiles of {options.side} are {number:,} tiles, more than max_tiles = "
            f"{options.max_tiles}: take larger tiles, less overlap, or raise max_tiles"
        )
    whole = Crop((0, 0, width, height), 0)
    if number == 1:
        return [whole]
    cut = [Crop((x0, y0, x1, y1), 1) for y0, y1 in spans[0] for x0, x1 in spans[1]]
    return [whole, *cut] if options.whole else cut


def count(size_hw: tuple[int, int], options: TileOptions) -> int:
    """Return how often the picture would be searched; see ``tiles`` for the error."""
    return len(tiles(size_hw, options))


def _spans(length: int, options: TileOptions) -> list[tuple[int, int]]:
    if length <= options.side:
        return [(0, length)]
    number = math.ceil((length - options.overlap) / (options.side - options.overlap))
    starts = np.linspace(0, length - options.side, number).round().astype(int)
    return [(int(start), int(start) + options.side) for start in starts]


def segment(
    pipeline: Pipeline,
    source: Any,
    phrases: Phrases,
    options: TileOptions | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> Everything:
    """Return what the phrases name, small objects in large pictures included.

    Args:
        pipeline: answers for every tile.
        source: what ``image.read`` takes.
        phrases: as for ``pipeline(…)``.
        options: how the picture is cut.
        progress: is told after every tile.
        **asked: further options of ``OpenPicture.segment``, such as ``threshold``.

    Returns:
        The masks, best first, labelled with the phrases; ``label_scores`` are the fused scores, ``predicted_iou`` and
        ``stability_score`` the parts of those names, ``points_xy`` the boxes' centres.
    """
    image, options = images.read(source), options or TileOptions()
    pieces: list[Piece] = []
    start, parts = time.perf_counter(), tiles(image.size_hw, options)
    for done, tile in enumerate(parts):
        answer = pipeline.open(_view(image, tile)).segment(phrases, **asked).accepted
        for k, label in enumerate(answer.labels):
            values = (answer.parts["sam_iou"][k], answer.parts["stability"][k])
            piece = Piece.of(answer.masks[k], float(answer.scores[k]), label, tile, image.size_hw)
            pieces.append(replace(piece, values=(float(values[0]), float(values[1]))))
        if progress is not None:
            progress(done + 1, len(parts))
    merged = merge(pieces, options.agree_iou, options.duplicate_iou, options.contained)
    found = assemble(image, [_found(p, image) for p in merged], len(parts), {"tiles": time.perf_counter() - start})
    scores = np.array([p.score for p in merged], np.float32)
    return replace(found, labels=tuple(p.label for p in merged), label_scores=scores)


def everything(
    pipeline: Pipeline,
    source: Any,
    options: TileOptions | None = None,
    search_options: EverythingOptions | None = None,
    progress: Progress | None = None,
) -> Everything:
    """Return every mask of a large picture, each tile searched with a grid of its own.

    Unlike ``crop_n_layers``, which drops what a crop's edge cuts, parts of one object are joined.

    Args:
        pipeline: its segmenter is asked.
        source: what ``image.read`` takes.
        options: how the picture is cut.
        search_options: the grid of each tile and the thresholds, the preset's where None; crop layers are not used.
        progress: is told after every tile.

    Raises:
        ConfigError: more tiles than ``max_tiles`` or more prompts than ``max_prompts``.
    """
    image, options = images.read(source), options or TileOptions()
    asked = replace(search_options or pipeline.config.everything, crop_n_layers=0)
    parts = tiles(image.size_hw, options)
    each = check_cost(asked).prompts
    if asked.max_prompts and each * len(parts) > asked.max_prompts:
        raise ConfigError(
            f"{len(parts)} tiles of {each:,} prompts mean {each * len(parts):,} prompts, more than max_prompts = "
            f"{asked.max_prompts:,}: take larger tiles, fewer points, or raise max_prompts"
        )
    pieces: list[Piece] = []
    start = time.perf_counter()
    for done, tile in enumerate(parts):
        view = _view(image, tile)
        alone = Crop((0, 0, tile.size_hw[1], tile.size_hw[0]), 0)  # as a picture of its own: nothing is cut off
        embedding = pipeline.cache.get(view, pipeline.segmenter)
        for one in search(pipeline.segmenter, view, embedding, alone, tile.size_hw, asked):
            piece = Piece.of(geometry.decode_rle(one.rle), one.iou, None, tile, image.size_hw)
            point = (one.point_xy[0] + tile.box_xyxy[0], one.point_xy[1] + tile.box_xyxy[1])
            pieces.append(replace(piece, values=(one.iou, one.stability), point_xy=point))
        if progress is not None:
            progress(done + 1, len(parts))
    merged = merge(pieces, options.agree_iou, options.duplicate_iou, contained=1.1)  # a part is a mask, too
    seconds = {"tiles": time.perf_counter() - start}
    return assemble(image, [_found(p, image) for p in merged], each * len(parts), seconds)


def _view(image: Image, tile: Crop) -> Image:
    """Return a tile as a picture; the whole picture stays itself, so that its embedding is shared."""
    x0, y0, x1, y1 = tile.box_xyxy
    if tile.size_hw == image.size_hw:
        return image
    return replace(images.read(image.rgb[y0:y1, x0:x1]), source=f"{image.source} at {tile.box_xyxy}")


def _found(piece: Piece, image: Image) -> Found:
    x0, y0, x1, y1 = piece.box_xyxy
    rle = geometry.encode_rle(piece.whole(image.size_hw))
    point = piece.point_xy or ((x0 + x1) / 2, (y0 + y1) / 2)
    return Found(rle, piece.area, piece.box_xyxy, piece.values[0], piece.values[1], point, piece.tile)
