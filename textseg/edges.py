"""Zero-shot edges from SAM's masks (Kirillov et al., *Segment Anything*, 2023, section 7.2 and appendix D.2).

A 16 × 16 grid of points gives 768 masks; duplicates are removed by box NMS; each mask's probability map goes through
a Sobel filter, and only what lies on the mask's outer boundary counts; the strongest edge over all masks is kept,
scaled to 0..1 and thinned by edge NMS (Canny; Dollár and Zitnick, 2013).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from textseg import geometry
from textseg import image as images
from textseg.errors import ConfigError
from textseg.everything.options import point_grid
from textseg.prompt import user_prompts
from textseg.protocols import Segmenter
from textseg.stream import stream
from textseg.types import Bool, Embedding, Float, Frame, Image, Int

if TYPE_CHECKING:
    from textseg.pipeline import Pipeline

Progress = Callable[[int, int], None]
"""Is called with (points done, points in all)."""

_TOLERANCE = 1.01  # an edge survives thinning if it is not weaker than its neighbours by more than this factor


@dataclass(frozen=True)
class EdgeOptions:
    """How edges are found.

    Attributes:
        points_per_side: of the grid; the paper's 16.
        points_per_batch: prompts handed to the segmenter at a time.
        nms_thresh: of two masks whose boxes overlap by more, the better stays.
        pred_iou_thresh: masks of less predicted IoU give no edges; the paper uses all.
        thin: whether edges are thinned to one pixel.

    Raises:
        ConfigError: a value out of range.
    """

    points_per_side: int = 16
    points_per_batch: int = 64
    nms_thresh: float = 0.7
    pred_iou_thresh: float = 0.0
    thin: bool = True

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.points_per_side > 128:
            raise ConfigError(f"points_per_side: {self.points_per_side} means {self.points_per_side**2:,} prompts")
        for name in ("nms_thresh", "pred_iou_thresh"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected a number in 0..1")


def edges(
    pipeline: Pipeline, source: Any, options: EdgeOptions | None = None, progress: Progress | None = None
) -> Float:
    """Return the picture's edges, float32 (H, W) in 0..1, 0 where there is none.

    Args:
        pipeline: its segmenter is asked; its cache keeps the embedding.
        source: what ``image.read`` takes.
        options: see there.
        progress: is told after every batch.
    """
    image = images.read(source)
    return edge_map(pipeline.segmenter, image, pipeline.cache.get(image, pipeline.segmenter), options, progress)


def edge_map(
    segmenter: Segmenter,
    image: Image,
    embedding: Embedding,
    options: EdgeOptions | None = None,
    progress: Progress | None = None,
) -> Float:
    """Return the edges of an encoded picture, float32 (H, W) in 0..1."""
    options = options or EdgeOptions()
    logits, frame = _masks(segmenter, image, embedding, options, progress)
    out = np.zeros(image.size_hw, np.float32)
    for low in logits:
        full = _full(low, frame)
        np.maximum(out, mask_edges(np.asarray(1 / (1 + np.exp(-full)), np.float32)), out=out)
    if out.max() > 0:
        out /= out.max()
    return thin(out) if options.thin else out


def mask_edges(probability: Float) -> Float:
    """Return the Sobel strength of one mask's probability map, float32 (H, W), on its outer boundary, else 0."""
    mask = (probability > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    boundary = np.zeros_like(mask)
    cv2.drawContours(boundary, contours, -1, 1, thickness=3)
    dx = cv2.Sobel(probability, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(probability, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
    return np.where(boundary > 0, np.hypot(dx, dy), 0).astype(np.float32)


def thin(strength: Float) -> Float:
    """Return the edges thinned: 0 where a neighbour across the edge is stronger.

    Args:
        strength: float32 (H, W), 0 or more.
    """
    across_x, across_y = _normals(strength)
    smooth = cv2.GaussianBlur(strength, (0, 0), 0.8)
    y, x = np.mgrid[: strength.shape[0], : strength.shape[1]].astype(np.float32)
    keep: Bool = strength > 0
    for step in (-1, 1):
        beside = cv2.remap(
            smooth, x + step * across_x, y + step * across_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        keep &= smooth * _TOLERANCE >= beside
    return np.where(keep, strength, 0).astype(np.float32)


def _normals(strength: Float) -> tuple[Float, Float]:
    """Return the direction across the edges, (x, y) of length 1: where the strength curves most."""
    smooth = cv2.GaussianBlur(strength, (0, 0), 2.0)
    xx = cv2.Sobel(smooth, cv2.CV_32F, 2, 0, ksize=5)
    yy = cv2.Sobel(smooth, cv2.CV_32F, 0, 2, ksize=5)
    xy = cv2.Sobel(smooth, cv2.CV_32F, 1, 1, ksize=5)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)  # the axis of the greatest second derivative
    angle += np.where(xx + yy < 0, np.pi / 2, 0)  # or of the least, where that is the stronger one: on a ridge
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _masks(
    segmenter: Segmenter, image: Image, embedding: Embedding, options: EdgeOptions, progress: Progress | None
) -> tuple[Float, Frame]:
    """Return the low-resolution logits (n, h, w) of the grid's masks without duplicates, and their frame."""
    height, width = image.size_hw
    grid = point_grid(options.points_per_side) * (width, height)
    kept: list[Float] = []
    scores: list[Float] = []
    frame = embedding.frame
    for start in range(0, len(grid), options.points_per_batch):
        points = grid[start : start + options.points_per_batch]
        prompts = user_prompts(np.arange(len(points)), points_xy=points[:, None].astype(np.float32))
        least = options.pred_iou_thresh if options.pred_iou_thresh > 0 else -np.inf
        for batch in stream(segmenter, embedding, prompts, least):
            solid = (batch.logits > 0).any(axis=(1, 2))
            kept.append(_padded(batch.logits[solid], batch.mask_hw).astype(np.float16))
            scores.append(batch.predicted_iou[solid])
            frame = batch.frame
        if progress is not None:
            progress(start + len(points), len(grid))
    if not kept or not any(len(part) for part in kept):
        return np.zeros((0, 1, 1), np.float32), frame
    logits = np.concatenate(kept)
    best = _distinct(logits, np.concatenate(scores), options.nms_thresh)
    return logits[best].astype(np.float32), frame


def _distinct(logits: Float, scores: Float, iou: float) -> Int:
    """Return the indices that box NMS keeps."""
    return geometry.nms(geometry.mask_boxes(logits > 0), scores, iou)


def _padded(logits: Float, mask_hw: tuple[int, int]) -> Float:
    """Return logits of the part that shows the picture, repeated to their whole size (N, *mask_hw)."""
    below, beside = mask_hw[0] - logits.shape[1], mask_hw[1] - logits.shape[2]
    return np.pad(logits, ((0, 0), (0, below), (0, beside)), mode="edge") if below or beside else logits


def _full(low: Float, frame: Frame) -> Float:
    return np.asarray(geometry.upscale_logits(low[None], frame)[0], np.float32)
