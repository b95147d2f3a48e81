"""Tiny deterministic models that fulfil the protocols, for tests that must not wait for real ones.

They know seven colours and nothing else. The detector boxes the connected regions of the phrase's colour, the
segmenter cuts along colour edges, the CLIP compares colour histograms with the colour word of a text. A phrase
without a colour word ("a dog") is found nowhere.

>>> pipeline = fake_pipeline()
>>> pipeline(scene(), ["the red box", "the blue box"]).labels    # doctest: +SKIP
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from textseg import geometry
from textseg.crops import MEAN_RGB
from textseg.pipeline import Pipeline, PipelineConfig
from textseg.rank import RankConfig
from textseg.result import Result
from textseg.types import Bool, Candidates, Embedding, Float, Image, Prompts, Proposals, UInt8

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 180, 30),
    "blue": (30, 30, 220),
    "yellow": (230, 220, 30),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "gray": (127, 127, 127),
}
"""The colours that the fakes know, RGB."""

COLORS = list(PALETTE)
OTHER = 5  # further axes of the embedding, for texts without a colour
DIM = len(COLORS) + OTHER
INPUT = 256  # the segmenter's input, pixels
LOW = 64  # its mask logits' side


def scene(size_hw: tuple[int, int] = (96, 128), boxes: dict[str, tuple[int, int, int, int]] | None = None) -> UInt8:
    """Return uint8 (H, W, 3): plain boxes on gray; by default a red one at the left, a blue one at the right."""
    rgb = np.full((*size_hw, 3), PALETTE["gray"], np.uint8)
    for color, (x0, y0, x1, y1) in ({"red": RED_BOX, "blue": BLUE_BOX} if boxes is None else boxes).items():
        rgb[y0:y1, x0:x1] = PALETTE[color]
    return rgb


RED_BOX = (16, 24, 48, 72)
"""xyxy of ``scene()``'s red box."""

BLUE_BOX = (80, 32, 112, 64)
"""xyxy of ``scene()``'s blue box."""


def color_of(text: str) -> str | None:
    """Return the first colour word of a text, or None."""
    return next((word for word in re.findall(r"[a-z]+", text.lower()) if word in PALETTE), None)


def color_index(rgb: UInt8) -> np.ndarray:
    """Return int64 (H, W): the nearest palette colour of each pixel."""
    table = np.array(list(PALETTE.values()), np.int32)
    distance = np.abs(rgb.astype(np.int32)[..., None, :] - table).sum(axis=-1)  # (H, W, colours)
    return distance.argmin(axis=-1)


class FakeClip:
    """Texts and crops as colour histograms; cosine 1 for the same plain colour, 0 for another."""

    model_id = "fake/clip"
    dim = DIM
    logit_scale = 20.0

    def __init__(self) -> None:
        self.texts_seen: list[str] = []
        self.crops_seen = 0

    def encode_text(self, texts: Sequence[str]) -> Float:
        """One axis a colour; a text without a colour falls on one of the other axes."""
        out = np.zeros((len(texts), DIM), np.float32)
        for row, text in enumerate(texts):
            self.texts_seen.append(text)
            color = color_of(text)
            axis = len(COLORS) + zlib.crc32(text.encode()) % OTHER if color is None else COLORS.index(color)
            out[row, axis] = 1.0
        return out

    def encode_images(self, crops_rgb: Sequence[UInt8]) -> Float:
        """Share of each colour among the pixels that are not blanked."""
        self.crops_seen += len(crops_rgb)
        out = np.full((len(crops_rgb), DIM), 0.05, np.float32)
        for row, crop in enumerate(crops_rgb):
            shown = ~(crop == MEAN_RGB).all(axis=-1)
            counts = np.bincount(color_index(crop)[shown], minlength=len(COLORS))
            out[row, : len(COLORS)] += counts / max(1, counts.sum())
        return out / np.linalg.norm(out, axis=1, keepdims=True)


class FakeTextPrompt:
    """The token is the embedding itself: (N, DIM) → (N, 1, DIM)."""

    def tokens(self, embeddings: Float) -> Float:
        """Return float32 (N, 1, DIM)."""
        return np.asarray(embeddings, np.float32)[:, None]


class FakeDetector:
    """Boxes around the connected regions of the phrase's colour, the larger the surer (0.6..0.95)."""

    model_id = "fake/detector"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, image: Image) -> Any:
        """Return the colour index of each pixel."""
        self.encoded += 1
        return color_index(image.rgb)

    def detect(self, encoded: Any, prompts: Sequence[str], threshold: float) -> Proposals:
        """Box every region of at least 4 pixels."""
        boxes: list[list[float]] = []
        scores: list[float] = []
        phrases: list[int] = []
        for i, prompt in enumerate(prompts):
            color = color_of(prompt)
            if color is None:
                continue
            where = (encoded == COLORS.index(color)).astype(np.uint8)
            count, _, stats, _ = cv2.connectedComponentsWithStats(where)
            for x, y, w, h, area in stats[1:count].tolist():
                score = 0.6 + 0.35 * min(1.0, 10 * area / where.size)
                if area >= 4 and score >= threshold:
                    boxes.append([x, y, x + w, y + h])
                    scores.append(score)
                    phrases.append(i)
        n = len(boxes)
        return Proposals(
            np.array(boxes, np.float32).reshape(n, 4),
            np.array(scores, np.float32),
            np.array(phrases, np.int64),
            ("detector",) * n,
        )


class FakeSegmenter:
    """Cuts out one colour: the token's, the clicked pixel's, or the commonest inside the box (gray last).

    Its three masks are the right one, a wider and a narrower one, with predicted IoU 0.9, 0.6 and 0.5.
    """

    model_id = "fake/sam"
    text_width: int | None = DIM

    def __init__(self) -> None:
        self.encoded = 0
        self.decoded = 0

    def encode(self, image: Image) -> Embedding:
        """Keep the colour index at the low resolution, padded as SAM pads."""
        self.encoded += 1
        frame = geometry.longest_edge_frame(image.size_hw, INPUT)
        h, w = (max(1, -(-side * LOW // INPUT)) for side in frame.resized_hw)
        small = cv2.resize(image.rgb, (w, h), interpolation=cv2.INTER_NEAREST)
        index = np.full((LOW, LOW), -1, np.int64)
        index[:h, :w] = color_index(small.reshape(h, w, 3))
        return Embedding({"index": index}, frame, image.digest, self.model_id)

    def decode(self, embedding: Embedding, prompts: Prompts) -> Candidates:
        """Return logits of ±8 (P, 3 or 1, 64, 64)."""
        self.decoded += len(prompts)
        index = embedding.features["index"]
        ious = np.array([0.9, 0.6, 0.5] if prompts.multimask else [0.9], np.float32)
        logits = np.full((len(prompts), len(ious), LOW, LOW), -8.0, np.float32)
        for p in range(len(prompts)):
            mask = self._mask(index, embedding, prompts, p).astype(np.uint8)
            kernel = np.ones((3, 3), np.uint8)
            versions = [mask, cv2.dilate(mask, kernel), cv2.erode(mask, kernel)][: len(ious)]
            for c, version in enumerate(versions):
                logits[p, c][(version > 0) & (index >= 0)] = 8.0
        return Candidates(logits, np.tile(ious, (len(prompts), 1)), embedding.frame)

    def _mask(self, index: np.ndarray, embedding: Embedding, prompts: Prompts, p: int) -> Bool:
        """Return bool (64, 64): the wanted colour within the box, if there is one."""
        scale = LOW / INPUT
        area = index >= 0
        if prompts.has_box[p]:
            x0, y0, x1, y1 = np.rint(geometry.to_input(prompts.boxes_xyxy[p], embedding.frame) * scale).astype(int)
            area = np.zeros_like(area)
            area[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
        color = self._color(index, area, embedding, prompts, p)
        mask = np.asarray(area & (index == color), dtype=np.bool_)
        front = prompts.points_xy[p][prompts.point_labels[p] == 1]
        if len(front):
            _, regions = cv2.connectedComponents(mask.astype(np.uint8))
            x, y = self._pixel(front[0], embedding)
            mask = mask & (regions == regions[y, x])
        return mask

    def _color(self, index: np.ndarray, area: Bool, embedding: Embedding, prompts: Prompts, p: int) -> int:
        front = prompts.points_xy[p][prompts.point_labels[p] == 1]
        if len(front):
            x, y = self._pixel(front[0], embedding)
            return int(index[y, x])
        if prompts.has_text[p] and prompts.text_tokens is not None:
            axis = int(prompts.text_tokens[p, 0].argmax())
            return axis if axis < len(COLORS) else -2  # no colour: nothing
        if not (area & (index >= 0)).any():
            return -2
        counts = np.bincount(index[area & (index >= 0)], minlength=len(COLORS)).astype(float)
        counts[COLORS.index("gray")] *= 0.01
        return int(counts.argmax())

    @staticmethod
    def _pixel(point_xy: Float, embedding: Embedding) -> tuple[int, int]:
        x, y = geometry.to_input(point_xy, embedding.frame) * (LOW / INPUT)
        return min(int(x), LOW - 1), min(int(y), LOW - 1)


def fake_pipeline(threshold: float = 0.5, **parts: Any) -> Pipeline:
    """Return a pipeline of the fakes; ``parts`` replaces some: ``fake_pipeline(clip=None, text_prompt=None)``."""
    models: dict[str, Any] = {
        "segmenter": FakeSegmenter(),
        "detector": FakeDetector(),
        "clip": FakeClip(),
        "text_prompt": FakeTextPrompt(),
        "config": PipelineConfig(name="fake", rank=RankConfig(threshold=threshold)),
    }
    return Pipeline(**{**models, **parts})


def fake_result(phrases: Sequence[str] = ("the red box", "the blue box", "a dog"), **options: Any) -> Result:
    """Return a result on ``scene()``: K = 2 by default, "a dog" missing."""
    return fake_pipeline()(scene(), list(phrases), **options)


def empty_result() -> Result:
    """Return a result with K = 0."""
    return fake_result(["a dog"])


def with_rejects(result: Result, count: int) -> Result:
    """Return the result with only the first ``count`` rejected candidates."""
    return replace(result, choice=replace(result.choice, rejected=result.choice.rejected[:count]))
