"""Score parts of hand-written 4x4 masks that no model is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.small_stages import CORNER, DETECTOR_ONLY, IMAGE, LEFT, RIGHT, query, run, stages
from textseg import rank
from textseg.types import Closeups


def test_a_mask_drawn_again_is_as_large_as_its_closeup_says() -> None:
    proposals, prompts, candidates = stages([[LEFT], [RIGHT]], [0.9, 0.9], [0, 0])
    near = np.full((1, 2, 2), -5, np.float32)
    near[0, 0] = 5  # half of a window of a quarter of the picture
    closeups = Closeups(np.array([[1, 1, 2]], np.float32), near, np.full(1, 0.5, np.float32))
    drawn = replace(candidates, closeups=closeups, closeup_index=np.array([[0], [-1]]))
    scored = rank.score(IMAGE, query("car"), proposals, prompts, drawn, None, DETECTOR_ONLY)
    np.testing.assert_allclose(scored.areas, [1 / 8, 1 / 2])


def test_agreement_is_the_overlap_with_the_detectors_rough_mask() -> None:
    rough = np.where(CORNER, 4.0, -4.0).astype(np.float32)[None]
    scored, _, _ = run(query("car"), DETECTOR_ONLY, [[LEFT, CORNER, RIGHT]], [0.9], [0], rough)
    np.testing.assert_allclose(scored.parts["agreement"], [0.5, 1.0, 0.0])


def test_agreement_without_rough_masks_compares_boxes() -> None:
    scored, _, _ = run(query("car"), DETECTOR_ONLY, [[LEFT, LEFT | RIGHT]], [0.9], [0])
    np.testing.assert_allclose(scored.parts["agreement"], [0.5, 1.0])
