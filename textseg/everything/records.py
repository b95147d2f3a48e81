"""The answer to "everything in the picture": masks as run lengths, with what is known of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from textseg import geometry
from textseg.errors import ConfigError, ShapeError, nearest
from textseg.types import Bool, Float, Image, Int, UInt8, check_array

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
"""The forms in which ``records`` gives masks, as segment-anything names them."""

Rle = dict[str, Any]


@dataclass(frozen=True)
class Everything:
    """K masks of one picture, best first; K may be 0.

    Attributes:
        image: the picture.
        rles: K masks as COCO's compressed RLE, JSON-ready.
        areas: int64 (K,), pixels.
        boxes_xyxy: float32 (K, 4), tight, far edges exclusive, pixels of the picture.
        predicted_iou: float32 (K,), the segmenter's own estimate; SAM's may pass 1.
        stability_score: float32 (K,), 0..1.
        points_xy: float32 (K, 2), the point that was asked about.
        crop_boxes_xyxy: int64 (K, 4), the part of the picture in which it was found.
        labels: K phrases of the vocabulary, None for a mask that none fits; None without a vocabulary.
        label_scores: float32 (K,), how sure the label is, 0..1; None without a vocabulary.
        prompts: how many points were asked about.
        seconds: time of each stage.
    """

    image: Image
    rles: tuple[Rle, ...] = field(repr=False)
    areas: Int
    boxes_xyxy: Float
    predicted_iou: Float
    stability_score: Float
    points_xy: Float
    crop_boxes_xyxy: Int
    labels: tuple[str | None, ...] | None = None
    label_scores: Float | None = None
    prompts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        k, put = len(self.rles), object.__setattr__
        put(self, "areas", check_array("areas", self.areas, (k,), np.int64))
        put(self, "boxes_xyxy", check_array("boxes_xyxy", self.boxes_xyxy, (k, 4), np.float32))
        put(self, "predicted_iou", check_array("predicted_iou", self.predicted_iou, (k,), np.float32))
        put(self, "stability_score", check_array("stability_score", self.stability_score, (k,), np.float32))
        put(self, "points_xy", check_array("points_xy", self.points_xy, (k, 2), np.float32))
        put(self, "crop_boxes_xyxy", check_array("crop_boxes_xyxy", self.crop_boxes_xyxy, (k, 4), np.int64))
        if self.label_scores is not None:
            put(self, "label_scores", check_array("label_scores", self.label_scores, (k,), np.float32))
        if (self.labels is None) != (self.label_scores is None) or len(self.labels or self.rles) != k:
            raise ShapeError(f"labels and label_scores: expected {k} of both, or neither")

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, keep: Int | Bool | slice) -> Everything:
        """Return the masks that ``keep`` (indices, a mask or a slice) selects."""
        index = np.arange(len(self))[keep]
        return Everything(
            self.image,
            tuple(self.rles[i] for i in index),
            self.areas[index],
            self.boxes_xyxy[index],
            self.predicted_iou[index],
            self.stability_score[index],
            self.points_xy[index],
            self.crop_boxes_xyxy[index],
            None if self.labels is None else tuple(self.labels[i] for i in index),
            None if self.label_scores is None else self.label_scores[index],
            self.prompts,
            self.seconds,
        )

    def mask(self, index: int) -> Bool:
        """Return one mask, bool (H, W) at the original size."""
        return geometry.decode_rle(self.rles[index])

    @property
    def masks(self) -> Bool:
        """bool (K, H, W) at the original size, made anew each time: for many masks of large pictures use ``mask``."""
        out = np.zeros((len(self), *self.image.size_hw), np.bool_)
        for k in range(len(self)):
            out[k] = self.mask(k)
        return out

    def records(self, output_mode: str = "binary_mask") -> list[dict[str, Any]]:
        """Return the masks as segment-anything does: one dictionary a mask, best first.

        Keys: segmentation, area, bbox (x, y, width, height), predicted_iou, point_coords, stability_score, crop_box
        (x, y, width, height) and, with a vocabulary, label and label_score. A bbox holds all of the mask's pixels:
        its width and height are one more than Meta's, which are the distance between the outermost pixels.

        Args:
            output_mode: the form of "segmentation", one of ``OUTPUT_MODES``; "coco_rle" is JSON-ready.

        Raises:
            ConfigError: unknown ``output_mode``.
        """
        if output_mode not in OUTPUT_MODES:
            raise ConfigError(f"output_mode {output_mode!r} is unknown; {nearest(output_mode, OUTPUT_MODES)}")
        return [self._record(k, output_mode) for k in range(len(self))]

    def _record(self, k: int, output_mode: str) -> dict[str, Any]:
        out: dict[str, Any] = {
            "segmentation": self._segmentation(k, output_mode),
            "area": int(self.areas[k]),
            "bbox": _xywh(self.boxes_xyxy[k].tolist()),
            "predicted_iou": float(self.predicted_iou[k]),
            "point_coords": [self.points_xy[k].tolist()],
            "stability_score": float(self.stability_score[k]),
            "crop_box": _xywh(self.crop_boxes_xyxy[k].tolist()),
        }
        if self.labels is not None and self.label_scores is not None:
            out |= {"label": self.labels[k], "label_score": float(self.label_scores[k])}
        return out

    def _segmentation(self, k: int, output_mode: str) -> Any:
        if output_mode == "coco_rle":
            return dict(self.rles[k])
        mask = self.mask(k)
        return mask if output_mode == "binary_mask" else uncompressed(mask)

    def index_map(self) -> npt.NDArray[np.int32]:
        """Return int32 (H, W): which mask each pixel belongs to, -1 for none; smaller masks lie on larger ones."""
        out = np.full(self.image.size_hw, -1, np.int32)
        for k in np.argsort(-self.areas, kind="stable"):
            out[self.mask(int(k))] = k
        return out

    def overlay(self, opacity: float = 0.5, seed: int = 0) -> UInt8:
        """Return uint8 (H, W, 3): the picture with every mask in a colour of its own, smaller ones on top."""
        colors = np.random.default_rng(seed).integers(40, 256, (len(self) + 1, 3))
        which = self.index_map()
        inside = which >= 0
        out = self.image.rgb.copy()
        out[inside] = ((1 - opacity) * out[inside] + opacity * colors[which[inside]]).astype(np.uint8)
        return out


def uncompressed(mask: Bool) -> Rle:
    """Return COCO's uncompressed RLE of a bool (H, W) mask: ``{"size": [H, W], "counts": [int, …]}``."""
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0] if flat.size and flat[0] else [], changes, [flat.size]]).astype(np.int64)
    return {"size": [int(side) for side in mask.shape], "counts": np.diff(ends, prepend=0).tolist()}


def _xywh(box_xyxy: list[float]) -> list[float]:
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]
