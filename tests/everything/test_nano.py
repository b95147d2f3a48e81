"""Everything and every kind of prompt with the weights that ship, against segment-anything's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from textseg import geometry, image
from textseg.build import resolve
from textseg.config import read_preset
from textseg.everything import EverythingOptions, generate
from textseg.models import sam
from textseg.models.sam_checkpoint import meta_sam
from textseg.types import Image, Prompts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PICTURES = ("coffee.jpg", "astronaut.jpg", "chelsea.jpg")


@pytest.fixture(scope="module")
def both() -> tuple[Any, sam.SamSegmenter]:
    """Return segment-anything's model and our segmenter of nano's weights, resizing alike."""
    from dataclasses import replace

    ours = sam.load("sam", resolve("package:nano/sam"))
    ours.spec = replace(ours.spec, resampler="pil")
    for module in ours.network.model.mask_decoder.transformer.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-5  # Meta's
    return meta_sam(ours.network.model), ours


def picture(name: str, size: tuple[int, int] | None = None) -> Image:
    """Return an example, or its part of that size."""
    read = image.read(EXAMPLES / name)
    return read if size is None else image.read(np.ascontiguousarray(read.rgb[: size[0], : size[1]]))


@pytest.mark.parametrize("name", PICTURES)
def test_the_generator_yields_the_same_masks(name: str, both: tuple[Any, sam.SamSegmenter]) -> None:
    reference, ours = both
    shown = picture(name, (180, 240))
    defaults = read_preset("nano").everything
    asked = {"points_per_side": 8, "stability_score_thresh": defaults.stability_score_thresh}
    asked |= {"pred_iou_thresh": defaults.pred_iou_thresh, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2}
    theirs = SamAutomaticMaskGenerator(reference, **asked).generate(shown.rgb.copy())
    found = generate(ours, shown, EverythingOptions(**asked))
    assert len(found) == len(theirs) >= 3
    masks = np.stack([record["segmentation"] for record in theirs])
    assert (np.diag(geometry.mask_iou(masks, found.masks)) >= 0.99).all()


@pytest.mark.parametrize("name", PICTURES)
def test_prompts_get_the_same_answers(name: str, both: tuple[Any, sam.SamSegmenter]) -> None:
    reference, ours = both
    shown = picture(name)
    predictor = SamPredictor(reference)
    predictor.set_image(shown.rgb)
    embedding = ours.encode(shown)
    height, width = shown.size_hw
    box = np.array([0.2 * width, 0.1 * height, 0.8 * width, 0.9 * height])
    points, labels = np.array([[0.5 * width, 0.5 * height], [0.1 * width, 0.1 * height]]), np.array([1, 0])
    nothing = np.full((1, 4), np.nan)
    empty = np.zeros((1, 0, 2))
    kinds = [
        ({"box": box}, Prompts([0], box[None], empty, np.zeros((1, 0)))),
        ({"point_coords": points, "point_labels": labels}, Prompts([0], nothing, points[None], labels[None])),
    ]
    for meta, prompts in kinds:
        masks, iou, logits = predictor.predict(**meta)
        got = ours.decode(embedding, prompts)
        np.testing.assert_allclose(got.logits[0], logits, atol=1e-3)
        np.testing.assert_allclose(got.predicted_iou[0], iou, atol=1e-4)
        full = geometry.upscale_masks(got.logits[0], got.frame)
        assert (np.diag(geometry.mask_iou(full, masks)) >= 0.99).all()
