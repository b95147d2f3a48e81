"""Options, grids, crops and costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from segment_anything.utils import amg

from textseg.errors import ConfigError
from textseg.everything import EverythingOptions, check_cost, cost
from textseg.everything.options import crops, point_grid


@pytest.mark.parametrize("side", [1, 2, 7, 32])
def test_the_grid_is_segment_anythings(side: int) -> None:
    np.testing.assert_array_equal(point_grid(side), amg.build_point_grid(side))


@pytest.mark.parametrize("size", [(480, 640), (75, 100), (640, 33), (1, 1), (3000, 2000)])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_the_crops_are_segment_anythings(size: tuple[int, int], layers: int) -> None:
    options = EverythingOptions(crop_n_layers=layers)
    boxes, numbers = amg.generate_crop_boxes(size, layers, options.crop_overlap_ratio)
    wanted = [(tuple(box), n) for box, n in zip(boxes, numbers, strict=True) if box[0] < box[2] and box[1] < box[3]]
    assert [(crop.box_xyxy, crop.layer) for crop in crops(size, options)] == wanted


def test_the_defaults_are_segment_anythings() -> None:
    import inspect

    from segment_anything import SamAutomaticMaskGenerator

    for name, parameter in inspect.signature(SamAutomaticMaskGenerator.__init__).parameters.items():
        if name not in ("self", "model", "output_mode"):
            assert getattr(EverythingOptions(), name) == parameter.default, name


def test_costs() -> None:
    assert (cost(EverythingOptions()).crops, cost(EverythingOptions()).prompts) == (1, 1024)
    halved = EverythingOptions(crop_n_layers=2, crop_n_points_downscale_factor=2)
    assert (cost(halved).crops, cost(halved).prompts) == (21, 1024 + 4 * 256 + 16 * 64)
    grids = EverythingOptions(None, crop_n_layers=1, point_grids=(np.zeros((3, 2)), np.ones((2, 2))))
    assert cost(grids).prompts == 3 + 4 * 2
    assert str(cost(EverythingOptions())) == "1,024 prompts on 1 picture"
    huge = EverythingOptions(points_per_side=64, crop_n_layers=4)
    with pytest.raises(ConfigError, match=r"1,396,736 prompts on 341 crops.*hours"):
        check_cost(huge)
    assert check_cost(EverythingOptions(64, crop_n_layers=4, max_prompts=0)).prompts == 1_396_736
    with pytest.raises(ConfigError, match="no prompts at all"):
        check_cost(EverythingOptions(None, point_grids=(np.zeros((0, 2)),)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"points_per_side": 0}, "points_per_side: got 0, expected a whole number of 1"),
        ({"points_per_side": 3.5}, "points_per_side: got 3.5"),
        ({"points_per_side": None}, "not both"),
        ({"point_grids": (np.zeros((1, 2)),)}, "not both"),
        ({"points_per_batch": -1}, "points_per_batch"),
        ({"crop_n_layers": -1}, "crop_n_layers"),
        ({"pred_iou_thresh": 1.5}, r"pred_iou_thresh: got 1.5, expected a number in 0..1"),
        ({"box_nms_thresh": float("nan")}, "box_nms_thresh"),
        ({"stability_score_offset": -1.0}, "stability_score_offset"),
        ({"crop_overlap_ratio": 1.0}, "crop_overlap_ratio"),
        ({"points_per_side": None, "point_grids": (np.zeros((1, 3)),)}, "expected \\(N, 2\\)"),
        ({"points_per_side": None, "point_grids": (np.full((1, 2), 2.0),)}, "0..1"),
        ({"points_per_side": None, "point_grids": (), "crop_n_layers": 1}, "expected 2"),
    ],
)
def test_bad_options(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EverythingOptions(**bad)
