"""Everything and every kind of prompt with the weights that ship, against transformers' own forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EdgeTamModel, Sam2ImageProcessor

from textseg import geometry, image
from textseg.build import resolve
from textseg.config import read_preset
from textseg.everything import EverythingOptions, generate
from textseg.models import sam
from textseg.types import Prompts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PICTURES = {"coffee.jpg": 3, "astronaut.jpg": 5, "chelsea.jpg": 1}
"""The examples, and how many things a coarse grid of points finds in them at least: of the cat only a face is seen."""


@pytest.fixture(scope="module")
def ours() -> sam.SamSegmenter:
    return sam.load("edgetam", resolve("package:nano/sam"))


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    """Return transformers' model and processor of nano's folder."""
    folder = resolve("package:nano/sam")
    return EdgeTamModel.from_pretrained(folder).eval(), Sam2ImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize(("name", "least"), PICTURES.items())
def test_the_generator_finds_things_once(name: str, least: int, ours: sam.SamSegmenter) -> None:
    shown, defaults = image.read(EXAMPLES / name), read_preset("nano").everything
    options = EverythingOptions(
        points_per_side=8,
        pred_iou_thresh=defaults.pred_iou_thresh,
        stability_score_thresh=defaults.stability_score_thresh,
    )
    found = generate(ours, shown, options)
    assert len(found) >= least
    assert (found.predicted_iou > options.pred_iou_thresh).all()
    apart = geometry.box_iou(found.boxes_xyxy, found.boxes_xyxy) - np.eye(len(found))
    assert apart.max() <= options.box_nms_thresh


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("name", PICTURES)
def test_prompts_get_the_same_answers(
    name: str, multimask: bool, ours: sam.SamSegmenter, reference: tuple[Any, Any]
) -> None:
    model, processor = reference
    shown = image.read(EXAMPLES / name)
    embedding = ours.encode(shown)
    height, width = shown.size_hw
    side = ours.network.input_hw[0]
    stretch = np.array([side / width, side / height])
    box = np.array([0.2 * width, 0.1 * height, 0.8 * width, 0.9 * height])
    points, labels = np.array([[0.5 * width, 0.5 * height], [0.1 * width, 0.1 * height]]), np.array([1, 0])
    pixels = processor(shown.rgb.copy(), return_tensors="pt")["pixel_values"]
    nothing, empty = np.full((1, 4), np.nan), np.zeros((1, 0, 2))
    placed = torch.from_numpy(points * stretch).float()
    boxed = torch.from_numpy(box * np.tile(stretch, 2)).float()
    kinds: list[tuple[dict[str, Any], Prompts]] = [
        ({"input_boxes": boxed[None, None]}, Prompts([0], box[None], empty, np.zeros((1, 0)), multimask=multimask)),
        (
            {"input_points": placed[None, None], "input_labels": torch.from_numpy(labels)[None, None]},
            Prompts([0], nothing, points[None], labels[None], multimask=multimask),
        ),
    ]
    for given, prompts in kinds:
        with torch.inference_mode():
            wanted = model(pixel_values=pixels, multimask_output=multimask, **given)
        got = ours.decode(embedding, prompts)
        np.testing.assert_allclose(got.logits[0], wanted.pred_masks[0, 0].numpy(), atol=2e-3)
        np.testing.assert_allclose(got.predicted_iou[0], wanted.iou_scores[0, 0].numpy(), atol=1e-4)
