"""The frozen values that pass from stage to stage.

::

    Image + Query → Proposals (N) → Prompts (P) → Candidates (P × C) → Result (K)

Every value keeps an index into the one before it, so that a final mask can be traced to its
candidate, prompt, box and phrase. Boxes are float32 ``xyxy`` in absolute pixels of the original
picture, scores float32 in 0..1. Arrays are made read-only where a value is made, and checked
there: a value that exists is valid. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from textseg.errors import PromptError, QueryError, ShapeError

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

_put = object.__setattr__  # what a frozen dataclass checks, it keeps as the check returns it

LEAST_LEVEL = 64
"""Pixels along the longer side that the smallest of a picture's ``levels`` has at least, where the picture has them."""


def check_array(name: str, array: Any, shape: Sequence[int | None], dtype: type[np.generic]) -> Any:
    """Return ``array`` as a read-only array of ``dtype``; None in ``shape`` admits any length.

    Raises:
        ShapeError: naming the array, the shape that came and the shape expected.
    """
    out = np.asarray(array)
    fits = out.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, out.shape, strict=True)
    )
    if not fits:
        want_text = "(" + ", ".join("*" if s is None else str(s) for s in shape) + ")"
        raise ShapeError(f"{name}: got shape {out.shape}, expected {want_text}")
    out = np.ascontiguousarray(out, dtype=dtype)
    if out is array or out.base is not None:
        out = out.view()
    out.flags.writeable = False
    return out


def _finite(name: str, array: Float) -> Float:
    if not np.isfinite(array).all():
        raise ShapeError(f"{name}: has NaN or infinite values; expected finite numbers")
    return array


@dataclass(frozen=True)
class Image:
    """A picture, upright, in 8-bit RGB.

    Attributes:
        rgb: uint8 (H, W, 3).
        source: where it came from (a path, "array", "bytes" …), for messages and records.
        digest: hex SHA-256 of the pixels and their shape; the key of cached embeddings.
    """

    rgb: UInt8
    source: str
    digest: str

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.rgb.shape[0]), int(self.rgb.shape[1])

    @cached_property
    def levels(self) -> tuple[UInt8, ...]:
        """The picture, then again and again at half of that size (rounded up): what crops are cut from.

        Made once a picture; a crop of a large thing need not average millions of pixels for every phrase.
        """
        levels = [self.rgb]
        while max(levels[-1].shape[:2]) >= 2 * LEAST_LEVEL:
            height, width = levels[-1].shape[:2]
            half_wh = (-(-width // 2), -(-height // 2))
            levels.append(np.asarray(cv2.resize(levels[-1], half_wh, interpolation=cv2.INTER_AREA), np.uint8))
        return tuple(levels)

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What stages have worked out of the picture whatever the phrase, by keys of their own: small things alone."""
        return {}


@dataclass(frozen=True)
class Phrase:
    """One thing asked for.

    Attributes:
        text: exactly the caller's string; it is the label of every mask found for it.
        prompt: the text given to the models (trimmed, white space folded).
        negatives: what it is not ("car" but not "toy car"): contrasted in the ranking.
        group: phrases of one group mean the same ("car", "automobile") and are never contrasted; "" is no group.
    """

    text: str
    prompt: str
    negatives: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class Query:
    """All the things asked for, in the caller's order. Never empty."""

    phrases: tuple[Phrase, ...]

    def __post_init__(self) -> None:
        if not self.phrases:
            raise QueryError("no phrase given: expected at least one, such as 'the red car'")

    @property
    def prompts(self) -> list[str]:
        """The texts for the models, one a phrase."""
        return [phrase.prompt for phrase in self.phrases]

    def __len__(self) -> int:
        return len(self.phrases)


@dataclass(frozen=True)
class Frame:
    """How a picture was brought to a model's input: resized, then padded at the right and bottom.

    Attributes:
        original_hw: size of the picture in pixels.
        resized_hw: size after resizing, before padding.
        input_hw: size of the model's input.
    """

    original_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    input_hw: tuple[int, int]

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Factors from original to input pixels, for x and for y."""
        (h, w), (rh, rw) = self.original_hw, self.resized_hw
        return rw / w, rh / h


@dataclass(frozen=True)
class Proposals:
    """Places where a phrase may be. N of them; N may be 0.

    Attributes:
        boxes_xyxy: float32 (N, 4), pixels of the original picture. A proposal without a box (a text
            token alone) carries the whole picture.
        scores: float32 (N,), the proposer's own confidence in 0..1.
        phrase_index: int64 (N,), index into ``Query.phrases``.
        sources: (N,) who proposed: "detector", "text" or "user".
        mask_logits: float32 (N, h, w) rough masks (> 0 is inside), stretched over the whole picture
            whatever its aspect; None when no source gave any; all-zero rows mean "none for this one".
    """

    boxes_xyxy: Float
    scores: Float
    phrase_index: Int
    sources: tuple[str, ...]
    mask_logits: Float | None = None

    def __post_init__(self) -> None:
        n = len(self.sources)
        _put(self, "boxes_xyxy", _finite("boxes_xyxy", check_array("boxes_xyxy", self.boxes_xyxy, (n, 4), np.float32)))
        _put(self, "scores", _finite("scores", check_array("scores", self.scores, (n,), np.float32)))
        _put(self, "phrase_index", check_array("phrase_index", self.phrase_index, (n,), np.int64))
        if self.mask_logits is not None:
            _put(self, "mask_logits", check_array("mask_logits", self.mask_logits, (n, None, None), np.float32))

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, keep: Int | Bool | slice) -> Proposals:
        """Return the proposals that ``keep`` (indices, a mask or a slice) selects."""
        index = np.arange(len(self))[keep]
        return Proposals(
            self.boxes_xyxy[index],
            self.scores[index],
            self.phrase_index[index],
            tuple(self.sources[i] for i in index),
            None if self.mask_logits is None else self.mask_logits[index],
        )

    @classmethod
    def empty(cls) -> Proposals:
        """No proposal at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ())


@dataclass(frozen=True)
class Prompts:
    """What the segmenter is asked. P prompts; each may mix a box, points, a rough mask and text tokens.

    Attributes:
        proposal_index: int64 (P,), index into ``Proposals``.
        boxes_xyxy: float32 (P, 4) pixels of the original picture; rows of NaN mean "no box".
        points_xy: float32 (P, Q, 2) pixels of the original picture; Q may be 0.
        point_labels: int64 (P, Q): 1 foreground, 0 background, -1 padding.
        mask_logits: float32 (P, h, w) stretched over the whole picture, or None; all-zero rows mean "no mask".
        text_tokens: float32 (P, T, D) in the segmenter's prompt width, or None; rows of NaN mean "no text".
        multimask: whether all of SAM's ambiguity masks are wanted (C = 3) or the single one (C = 1).
    """

    proposal_index: Int
    boxes_xyxy: Float
    points_xy: Float
    point_labels: Int
    mask_logits: Float | None = None
    text_tokens: Float | None = None
    multimask: bool = True

    def __post_init__(self) -> None:
        _put(self, "proposal_index", check_array("proposal_index", self.proposal_index, (None,), np.int64))
        p = len(self.proposal_index)
        _put(self, "boxes_xyxy", check_array("boxes_xyxy", self.boxes_xyxy, (p, 4), np.float32))
        _put(self, "points_xy", check_array("points_xy", self.points_xy, (p, None, 2), np.float32))
        q = self.points_xy.shape[1]
        _put(self, "point_labels", check_array("point_labels", self.point_labels, (p, q), np.int64))
        if not np.isin(self.point_labels, (-1, 0, 1)).all():
            raise PromptError("point labels must be 1 (foreground), 0 (background) or -1 (padding)")
        for name in ("mask_logits", "text_tokens"):
            if (given := getattr(self, name)) is not None:
                _put(self, name, check_array(name, given, (p, None, None), np.float32))

    def __len__(self) -> int:
        return len(self.proposal_index)

    @property
    def has_box(self) -> Bool:
        """bool (P,)."""
        return np.asarray(~np.isnan(self.boxes_xyxy).any(axis=1), dtype=np.bool_)

    @property
    def has_mask(self) -> Bool:
        """bool (P,)."""
        if self.mask_logits is None:
            return np.zeros(len(self), bool)
        return np.asarray(self.mask_logits.any(axis=(1, 2)), dtype=np.bool_)

    @property
    def has_text(self) -> Bool:
        """bool (P,)."""
        if self.text_tokens is None:
            return np.zeros(len(self), bool)
        return np.asarray(~np.isnan(self.text_tokens).any(axis=(1, 2)), dtype=np.bool_)

    def __getitem__(self, keep: Int | Bool | slice) -> Prompts:
        """Return the prompts that ``keep`` (indices, a mask or a slice) selects."""
        return Prompts(
            self.proposal_index[keep],
            self.boxes_xyxy[keep],
            self.points_xy[keep],
            self.point_labels[keep],
            None if self.mask_logits is None else self.mask_logits[keep],
            None if self.text_tokens is None else self.text_tokens[keep],
            self.multimask,
        )


@dataclass(frozen=True)
class Closeups:
    """N masks as a close look shows them, each in its own square window of the picture.

    Attributes:
        windows: float32 (N, 3): left, top and side in pixels of the picture; may reach beyond it.
        logits: float32 (N, s, s) over the windows.
        predicted_iou: float32 (N,), the IoU that each mask is thought to have, 0..1.
    """

    windows: Float
    logits: Float
    predicted_iou: Float

    def __post_init__(self) -> None:
        n = len(self.windows)
        _put(self, "windows", check_array("windows", self.windows, (n, 3), np.float32))
        _put(self, "logits", check_array("logits", self.logits, (n, None, None), np.float32))
        _put(self, "predicted_iou", check_array("predicted_iou", self.predicted_iou, (n,), np.float32))

    def __len__(self) -> int:
        return len(self.windows)

    @classmethod
    def empty(cls) -> Closeups:
        """None at all."""
        return cls(np.zeros((0, 3), np.float32), np.zeros((0, 1, 1), np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Candidates:
    """What the segmenter answered: C masks for each of P prompts, none dropped.

    Attributes:
        logits: float32 (P, C, h, w) low-resolution mask logits over the model's padded input frame.
        predicted_iou: float32 (P, C), the segmenter's own estimate of each mask's IoU, not clipped: it may pass 1.
        frame: how the model's input relates to the picture; ``geometry.upscale_logits`` uses it.
        closeups: finer versions of some of the masks.
        closeup_index: int64 (P, C), which of the closeups shows the mask; -1 where none does: by default all.
    """

    logits: Float
    predicted_iou: Float
    frame: Frame
    closeups: Closeups = field(default_factory=Closeups.empty)
    closeup_index: Int = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        _put(self, "logits", check_array("logits", self.logits, (None, None, None, None), np.float32))
        p, c = self.logits.shape[:2]
        _put(self, "predicted_iou", check_array("predicted_iou", self.predicted_iou, (p, c), np.float32))
        index = self.closeup_index if len(self.closeups) else np.full((p, c), -1, np.int64)
        _put(self, "closeup_index", check_array("closeup_index", index, (p, c), np.int64))

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, keep: Int | Bool | slice) -> Candidates:
        """Return the masks of the prompts that ``keep`` (indices, a mask or a slice) selects."""
        rows = {name: getattr(self, name)[keep] for name in ("logits", "predicted_iou", "closeup_index")}
        return replace(self, **rows)


@dataclass(frozen=True)
class Segments:
    """Masks with their boxes, labels and every score part. K of them; K may be 0.

    Attributes:
        masks: bool (K, H, W) at the original size.
        boxes_xyxy: float32 (K, 4), pixels; the tight box of each mask.
        scores: float32 (K,), the calibrated fused score in 0..1.
        labels: K strings, each exactly one of the caller's phrases.
        phrase_index: int64 (K,), index into the query's phrases.
        parts: one float32 (K,) array per score part: see ``textseg.rank.PARTS``.
            NaN where a part does not apply. A text-only proposal carries its phrase's best detection as "detector".
        proposal_index, prompt_index, mask_index: int64 (K,), the trace back: which proposal, which prompt,
            which of the segmenter's C masks.
        sources: K strings, who proposed: "detector", "text" or "user".
        reasons: K strings, empty for accepted ones, else why the mask was rejected.
    """

    masks: Bool
    boxes_xyxy: Float
    scores: Float
    labels: tuple[str, ...]
    phrase_index: Int
    parts: dict[str, Float]
    proposal_index: Int
    prompt_index: Int
    mask_index: Int
    sources: tuple[str, ...]
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        k = len(self.labels)
        _put(self, "masks", check_array("masks", self.masks, (k, None, None), np.bool_))
        _put(self, "boxes_xyxy", check_array("boxes_xyxy", self.boxes_xyxy, (k, 4), np.float32))
        _put(self, "scores", check_array("scores", self.scores, (k,), np.float32))
        for name in ("phrase_index", "proposal_index", "prompt_index", "mask_index"):
            _put(self, name, check_array(name, getattr(self, name), (k,), np.int64))
        _put(self, "parts", {n: check_array(f"parts[{n!r}]", v, (k,), np.float32) for n, v in self.parts.items()})
        if len(self.sources) != k or len(self.reasons) != k:
            raise ShapeError(f"sources ({len(self.sources)}) and reasons ({len(self.reasons)}): expected {k} each")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: Int | Bool | slice) -> Segments:
        """Return the segments that ``keep`` (indices, a mask or a slice) selects."""
        index = np.arange(len(self))[keep]
        return Segments(
            self.masks[index],
            self.boxes_xyxy[index],
            self.scores[index],
            tuple(self.labels[i] for i in index),
            self.phrase_index[index],
            {name: values[index] for name, values in self.parts.items()},
            self.proposal_index[index],
            self.prompt_index[index],
            self.mask_index[index],
            tuple(self.sources[i] for i in index),
            tuple(self.reasons[i] for i in index),
        )


@dataclass(frozen=True)
class Embedding:
    """A picture as the segmenter keeps it.

    Attributes:
        features: the adapter's own tensors by name, as numpy float32 or float16 arrays or torch tensors.
        frame: how the picture was brought to the model's input.
        digest: the picture's ``Image.digest``.
        model_id: the segmenter that made it; ``decode`` refuses another's.
    """

    features: dict[str, Any] = field(repr=False)
    frame: Frame
    digest: str
    model_id: str

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What the segmenter has worked out of the features whatever the prompt, by keys of its own."""
        return {}
