"""What "everything in the picture" means, in the terms of Meta's ``SamAutomaticMaskGenerator``, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from textseg.errors import ConfigError

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EverythingOptions:
    """How the picture is searched and what is kept. Names, defaults and meaning are segment-anything's.

    Attributes:
        points_per_side: the grid has this many points along each side; None needs ``point_grids``.
        points_per_batch: prompts handed to the segmenter at a time: fewer need less memory.
        pred_iou_thresh: masks whose predicted IoU is not greater are dropped, 0..1.
        stability_score_thresh: masks less stable under a shift of the cut are dropped, 0..1.
        stability_score_offset: that shift, in logits.
        box_nms_thresh: of two masks of one crop whose boxes overlap by more, the better stays, 0..1.
        crop_n_layers: layer i > 0 asks again on 2^i × 2^i crops of the picture; 0 asks the whole picture alone.
        crop_nms_thresh: as ``box_nms_thresh``, between crops; the mask of the smaller crop stays.
        crop_overlap_ratio: how far crops overlap, a share of the picture's shorter side, in the first layer.
        crop_n_points_downscale_factor: layer i has ``points_per_side / factor^i`` points a side.
        point_grids: one (N, 2) array of points in 0..1 a layer, instead of ``points_per_side``.
        min_mask_region_area: holes and islands of fewer pixels are removed; 0 leaves them. With nano's masks from true
            boxes this changes IoU and boundary IoU by less than 0.001: it is for looks, and for what counts parts.
        max_prompts: more prompts than this are refused with a message that says what was asked for; 0: no limit.

    Raises:
        ConfigError: a value out of range, or both or neither of ``points_per_side`` and ``point_grids``.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: tuple[Points, ...] | None = None
    min_mask_region_area: int = 0
    max_prompts: int = 100_000

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ConfigError("give points_per_side or point_grids, and not both")
        least = {"points_per_side": 1, "points_per_batch": 1, "crop_n_points_downscale_factor": 1, "crop_n_layers": 0}
        for name, low in {**least, "min_mask_region_area": 0, "max_prompts": 0}.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise ConfigError(f"{name}: got {value!r}, expected a whole number of {low} or more")
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected a number in 0..1")
        if not 0.0 <= self.crop_overlap_ratio < 1.0:
            raise ConfigError(f"crop_overlap_ratio: got {self.crop_overlap_ratio!r}, expected 0 or more, below 1")
        if not 0.0 <= self.stability_score_offset < math.inf:
            raise ConfigError(f"stability_score_offset: got {self.stability_score_offset!r}, expected 0 or more logits")
        if self.point_grids is not None:
            object.__setattr__(self, "point_grids", _checked_grids(self.point_grids, self.crop_n_layers))

    def grid(self, layer: int) -> Points:
        """Return the points of a crop layer, float64 (N, 2) x and y in 0..1, row by row."""
        if self.point_grids is not None:
            return self.point_grids[layer]
        return point_grid(self._side(layer))

    def prompts_in(self, layer: int) -> int:
        """Return how many prompts each crop of a layer means."""
        return len(self.point_grids[layer]) if self.point_grids is not None else self._side(layer) ** 2

    def _side(self, layer: int) -> int:
        assert self.points_per_side is not None
        return int(self.points_per_side / self.crop_n_points_downscale_factor**layer)


def point_grid(side: int) -> Points:
    """Return ``side`` × ``side`` points spread evenly over 0..1, float64 (side², 2), row by row."""
    offset = 1 / (2 * side) if side else 0.0
    along = np.linspace(offset, 1 - offset, side)
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


def _checked_grids(grids: Sequence[Any], layers: int) -> tuple[Points, ...]:
    out = tuple(np.asarray(grid, np.float64) for grid in grids)
    if len(out) != layers + 1:
        raise ConfigError(f"point_grids: got {len(out)} grids, expected {layers + 1}: one a layer")
    for number, grid in enumerate(out):
        if grid.ndim != 2 or grid.shape[1] != 2 or not ((grid >= 0) & (grid <= 1)).all():
            raise ConfigError(f"point_grids[{number}]: got shape {grid.shape}, expected (N, 2) points x, y in 0..1")
    return out


@dataclass(frozen=True)
class Crop:
    """A part of the picture that is searched by itself.

    Attributes:
        box_xyxy: pixels of the picture, far edges exclusive.
        layer: 0 is the whole picture.
    """

    box_xyxy: tuple[int, int, int, int]
    layer: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        x0, y0, x1, y1 = self.box_xyxy
        return y1 - y0, x1 - x0


def crops(size_hw: tuple[int, int], options: EverythingOptions) -> list[Crop]:
    """Return the picture and its overlapping crops, (2^i)² of them in layer i (``generate_crop_boxes``)."""
    height, width = size_hw
    found = [Crop((0, 0, width, height), 0)]
    for layer in range(1, options.crop_n_layers + 1):
        parts = 2**layer
        overlap = int(options.crop_overlap_ratio * min(height, width) * (2 / parts))
        crop_w, crop_h = (math.ceil((overlap * (parts - 1) + side) / parts) for side in (width, height))
        lefts, tops = ([int((side - overlap) * i) for i in range(parts)] for side in (crop_w, crop_h))
        for x0, y0 in product(lefts, tops):
            box = (x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height))
            if box[0] < box[2] and box[1] < box[3]:  # a picture of few pixels has fewer crops
                found.append(Crop(box, layer))
    return found


@dataclass(frozen=True)
class Cost:
    """What a setting means.

    Attributes:
        crops: how often the segmenter encodes.
        prompts: how many points it is asked about.
    """

    crops: int
    prompts: int

    def __str__(self) -> str:
        pictures = "1 picture" if self.crops == 1 else f"{self.crops:,} crops"
        return f"{self.prompts:,} prompts on {pictures}"


def cost(options: EverythingOptions) -> Cost:
    """Return what the options mean for one picture, however large."""
    each = [(4**layer, options.prompts_in(layer)) for layer in range(options.crop_n_layers + 1)]
    return Cost(sum(count for count, _ in each), sum(count * prompts for count, prompts in each))


def check_cost(options: EverythingOptions) -> Cost:
    """Return the cost.

    Raises:
        ConfigError: it is more than ``max_prompts``, or there is no prompt at all; the message says what it means.
    """
    meant = cost(options)
    if meant.prompts < 1:
        raise ConfigError(f"{_settings(options)} means no prompts at all; expected at least one point")
    if options.max_prompts and meant.prompts > options.max_prompts:
        low, high = (meant.prompts * seconds / 3600 for seconds in (0.001, 0.03))
        raise ConfigError(
            f"{_settings(options)} means {meant}, more than max_prompts = {options.max_prompts:,}: on a CPU some "
            f"{low:.1f} hours with a small segmenter, {high:.1f} with SAM ViT-B. Take fewer points or layers, set "
            "crop_n_points_downscale_factor, or raise max_prompts"
        )
    return meant


def _settings(options: EverythingOptions) -> str:
    grid = "point_grids" if options.point_grids is not None else f"points_per_side = {options.points_per_side}"
    return f"{grid} with crop_n_layers = {options.crop_n_layers}"
