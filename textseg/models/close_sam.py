"""A small SAM that draws masks from close-ups: a crop around each box is its whole picture.

A prompt reaches SAM's picture side only after that has been encoded, so that SAM's trunk never knows what will be asked
for. In a close-up it does: what is meant lies in the middle and fills most of it, however small it is in the picture.
That makes up for much of what a small model trained on few pictures lacks. Zooming in is an old remedy of interactive
segmentation (Sofiiuk et al., *Reviving Iterative Training with Mask Guidance for Interactive Segmentation*, 2022). The
model is transformers' ``EdgeTamModel`` (Zhou et al., *EdgeTAM*, 2025); ``train.sam_closeups`` makes what it learns
from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textseg import closeup
from textseg.closeup import Rough
from textseg.errors import ConfigError
from textseg.models import edgetam_encode, onednn, sam_load
from textseg.models.edgetam_encode import Levels
from textseg.models.sam import family
from textseg.models.sam_input import InputSpec
from textseg.models.sam_networks import EdgeTamNetwork
from textseg.types import Bool, Closeups, Float, Image, Int, UInt8

KIND = "edgetam"
"""The one family whose trunk takes crops cheaply; see ``models.sam.FAMILIES``."""

LEAST = 24.0
"""Least side of a crop in pixels of the picture."""

DIM = 0.5
"""How bright a close-up is beside its prompt's box."""

MOST = 8
"""Most close-ups that are encoded at a time."""


class Crop(NamedTuple):
    """A close-up of a picture: uint8 ``rgb`` (S, S, 3), and bool ``inside`` (S, S), where it shows the picture."""

    rgb: UInt8
    inside: Bool


def crop(levels: Sequence[UInt8], window: Float, size: int) -> Crop:
    """Cut a window out of a picture.

    Args:
        levels: the picture, uint8 (H, W, 3), then smaller versions of it, where there are any (``Image.levels``).
        window: float32 (3,), from ``closeup.windows_around``.
        size: pixels of the crop.
    """
    height, width = levels[0].shape[:2]
    return Crop(closeup.cut_level(levels, window, size), closeup.shows(window, (height, width), size))


def dim(rgb: UInt8, box_xyxy: Float) -> UInt8:
    """Darken what lies beside the box in a crop: from there on the trunk knows the box, to a part of a pixel.

    Marks in the picture are prompts that no model needs to be made for (Shtedritski et al., *What does CLIP know about
    a red circle?*, 2023).

    Args:
        rgb: uint8 (S, S, 3).
        box_xyxy: float32 (4,) in pixels of the crop; NaN: no box, and the crop stays as it is.
    """
    if np.isnan(box_xyxy).any():
        return rgb
    size = len(rgb)
    share = closeup.cover(np.array([0, 0, size], np.float32), box_xyxy, size)
    return np.asarray(np.rint(rgb * (DIM + (1 - DIM) * share)[..., None]), np.uint8)


class CloseSam:
    """Draws masks from close-ups; a ``MaskRefiner``.

    Args:
        network: the wrapped model; its input is one close-up.
        spec: its preprocessing.
        model_id: how it is called.
        grow: a close-up is the box, made square and grown by this factor.
        rounds: how often its mask is fed back in as the rough one; the crop is encoded once.

    Raises:
        ConfigError: ``grow`` is less than 1, ``rounds`` less than 0.
    """

    def __init__(
        self, network: EdgeTamNetwork, spec: InputSpec, model_id: str, grow: float = 1.25, rounds: int = 0
    ) -> None:
        if grow < 1.0:
            raise ConfigError(f"grow: got {grow}, expected 1 or more times the box")
        if rounds < 0:
            raise ConfigError(f"rounds: got {rounds}, expected 0 or more")
        self.network, self.spec, self.model_id = network, spec, model_id
        self.grow, self.rounds = grow, rounds

    @classmethod
    def load(cls, model: str | Path, *, grow: float = 1.25, rounds: int = 0) -> CloseSam:
        """Read a transformers folder with an ``EdgeTamModel``; errors as ``models.sam.load`` says."""
        network, spec, model_id = sam_load.load_network(family(KIND), model, "cpu")
        assert isinstance(network, EdgeTamNetwork)
        return cls(network, spec, f"close:{model_id}", grow, rounds)

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        """Draw N masks of one picture, each from its box and rough mask.

        Args:
            image: the picture.
            roughs: the N rough masks; N may be 0.
            boxes_xyxy: float32 (N, 4), the prompts' boxes in pixels of the picture; NaN rows: none, and the crop
                lies around the rough mask.
            hints: no use is made of them.
        """
        cells, size = self.network.mask_hw[0], self.spec.input_hw[0]
        windows = closeup.windows_of(boxes_xyxy, roughs, self.grow, LEAST)
        drawn, claims = np.zeros((len(windows), cells, cells), np.float32), np.zeros(len(windows), np.float32)
        has_box = np.asarray(~np.isnan(boxes_xyxy).any(axis=1), np.bool_)
        for rows in _batches(has_box):
            crops = [crop(image.levels, window, size) for window in windows[rows]]
            rough = np.stack([closeup.look(roughs[i], windows[i], cells) for i in rows])
            places = np.stack([closeup.box_in(windows[i], boxes_xyxy[i], size) for i in rows])
            shown = [Crop(dim(one.rgb, place), one.inside) for one, place in zip(crops, places, strict=True)]
            features = self._encode(self.pixels(shown))
            inside = np.stack([one.inside for one in crops])[:, :: size // cells, :: size // cells]
            for _ in range(1 + self.rounds):
                some, claims[rows] = self._ask(features, places if has_box[rows[0]] else None, rough)
                rough = np.where(inside, some.clip(-closeup.LIMIT, closeup.LIMIT), np.float32(-closeup.LIMIT))
            drawn[rows] = rough
        return Closeups(windows, drawn, claims.clip(0, 1))

    def pixels(self, crops: Sequence[Crop]) -> Tensor:
        """Return float32 (N, 3, S, S), normalised, zero beside the picture."""
        mean, std = np.array(self.spec.mean, np.float32), np.array(self.spec.std, np.float32)
        normal = [(one.rgb - mean) / std * one.inside[..., None] for one in crops]
        return torch.from_numpy(np.stack(normal).astype(np.float32)).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def _encode(self, pixels: Tensor) -> Levels:
        """Return what the decoder reads of N crops (N, 3, S, S)."""
        with onednn.autocast():
            features = edgetam_encode.encode(self.network.model, pixels)
        return Levels(*(level.float() for level in features))

    @torch.inference_mode()
    def _ask(self, features: Levels, boxes_xyxy: Float | None, rough: Float) -> tuple[Float, Float]:
        """Return the single masks' logits (N, m, m) and claimed IoU (N,): one prompt on each of N crops."""
        model, n = self.network.model, len(rough)
        boxes = None if boxes_xyxy is None else torch.from_numpy(boxes_xyxy)[:, None]
        # a mask alone stands beside one padding point, as in ``EdgeTamModel.forward``
        points = torch.zeros(n, 1, 1, 2) if boxes is None else None
        labels = torch.full((n, 1, 1), -1) if boxes is None else None
        sparse, dense = model.prompt_encoder(
            input_points=points, input_labels=labels, input_boxes=boxes, input_masks=torch.from_numpy(rough)[:, None]
        )
        drawn, claimed = model.mask_decoder(
            image_embeddings=features.image,
            image_positional_embeddings=self.network.position.expand(n, -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=[features.high_0, features.high_1],
        )[:2]
        return drawn[:, 0, 0].numpy(), claimed[:, 0, 0].numpy()


def _batches(has_box: Bool) -> list[Int]:
    """Return the rows, int64 (n,), of each batch: of prompts with a box, then of those without."""
    kinds = (np.flatnonzero(has_box), np.flatnonzero(~has_box))
    return [rows[start : start + MOST] for rows in kinds for start in range(0, len(rows), MOST)]
