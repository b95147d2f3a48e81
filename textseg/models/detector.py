"""Open-vocabulary detectors: the table of families, and what all their adapters share.

Every adapter keeps what of a picture can be kept (``encode``), asks it for any phrases (``detect``) and
hands raw boxes to ``to_proposals``, which clips, drops, suppresses and sorts them in one way for all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from textseg.errors import ConfigError, UnsupportedError, nearest
from textseg.protocols import Detector, ImageTextEncoder
from textseg.types import Proposals, UInt8

V = TypeVar("V")

MIN_SIDE = 0.01
"""Boxes thinner than this, in pixels of the original picture after clipping, are dropped as degenerate."""
_NMS_INPUT = 1000


@dataclass(frozen=True)
class DetectOptions:
    """How an adapter thins its boxes. Fields are the options that a preset's detector may set.

    Attributes:
        nms_iou: among boxes of one phrase overlapping more than this, only the best stays; None keeps all.
        max_per_phrase: most boxes kept for a phrase, best first; None keeps all (memory is then unbounded).
        exclusive: whether a box found in a joint caption goes to its best phrase only. Grounding DINO alone asks
            phrases jointly; the other families score each by itself, and a box may be proposed for several.
    """

    nms_iou: float | None = 0.7
    max_per_phrase: int | None = 100
    exclusive: bool = True

    def __post_init__(self) -> None:
        if self.nms_iou is not None and not 0.0 < self.nms_iou <= 1.0:
            raise ConfigError(f"nms_iou: got {self.nms_iou}, expected a number in (0, 1], or null for none")
        if self.max_per_phrase is not None and self.max_per_phrase < 1:
            raise ConfigError(f"max_per_phrase: got {self.max_per_phrase}, expected at least 1, or null for all")


class Loader(Protocol):
    """Builds the detector of one family."""

    def __call__(
        self, model: str | Path, *, device: str | torch.device, dtype: str | torch.dtype, options: DetectOptions
    ) -> Detector:
        """Load ``model``; raises HubError or WeightsError."""
        ...


def load(
    kind: str,
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    text_encoder: ImageTextEncoder | None = None,
    **options: Any,
) -> Detector:
    """Build a detector of family ``kind``.

    Args:
        kind: a key of ``FAMILIES``, or "nano".
        model: a folder, or ``org/name[@revision]``.
        device: where it runs.
        dtype: what its weights are kept in; boxes and scores are float32 in any case.
        text_encoder: a CLIP; only "nano" uses one.
        **options: fields of ``DetectOptions``; for "nano" what its ``load`` takes.

    Raises:
        ConfigError: an unknown kind or option.
        HubError: the hub is out of reach; WeightsError: weights missing or damaged.
    """
    if kind == "nano":
        return _nano(model, text_encoder, options)
    if kind not in FAMILIES:
        raise ConfigError(f"unknown detector kind {kind!r}; {nearest(kind, [*FAMILIES, 'nano'])}")
    _check_options(kind, options, [field.name for field in fields(DetectOptions)])
    return FAMILIES[kind]()(model, device=device, dtype=dtype, options=DetectOptions(**options))


def _check_options(kind: str, options: dict[str, Any], known: list[str]) -> None:
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown option {name!r} of detector {kind!r}; {nearest(name, known)}")


def _nano(model: str | Path, text_encoder: ImageTextEncoder | None, options: dict[str, Any]) -> Detector:
    from textseg.models.nano_detector import NanoDetector

    if text_encoder is None:
        raise ConfigError("detector 'nano' reads phrases through a CLIP, and none came: give the preset a 'clip'")
    _check_options("nano", options, ["image_size"])
    return NanoDetector.load(model, text_encoder, **options)


def _grounding_dino() -> Loader:
    from textseg.models import grounding_dino

    return grounding_dino.load


def _mm_grounding_dino() -> Loader:
    from textseg.models import grounding_dino

    return grounding_dino.load_mm


def _owlvit() -> Loader:
    from textseg.models import owl

    return owl.load_owlvit


def _owlv2() -> Loader:
    from textseg.models import owl

    return owl.load_owlv2


def _omdet() -> Loader:
    from textseg.models import omdet

    return omdet.load


def _sam3() -> Loader:
    from textseg.models import sam3_concept

    return sam3_concept.load


FAMILIES: dict[str, Callable[[], Loader]] = {
    "grounding_dino": _grounding_dino,
    "mm_grounding_dino": _mm_grounding_dino,
    "owlvit": _owlvit,
    "owlv2": _owlv2,
    "omdet": _omdet,
    "sam3": _sam3,
}
"""Families by name; each entry imports its adapter only when called."""


class PhraseCache(Generic[V]):
    """A bounded map that forgets what was used least recently. Safe to share between threads."""

    def __init__(self, capacity: int = 4096) -> None:
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._capacity = capacity
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, keys: Sequence[str], compute: Callable[[list[str]], Sequence[V]]) -> list[V]:
        """Return one value a key, calling ``compute`` once with the distinct keys that are missing."""
        with self._lock:
            found = {key: self._values[key] for key in dict.fromkeys(keys) if key in self._values}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing:
            found.update(zip(missing, compute(missing), strict=True))
        with self._lock:
            for key, value in found.items():
                self._values[key] = value
                self._values.move_to_end(key)
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)
        return [found[key] for key in keys]


def pack(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield runs of consecutive indices whose ``lengths`` add up to ``budget`` at most.

    An index whose length alone exceeds the budget gets a run of its own.
    """
    run: list[int] = []
    used = 0
    for index, length in enumerate(lengths):
        if run and used + length > budget:
            yield run
            run, used = [], 0
        run.append(index)
        used += length
    if run:
        yield run


def check_call(encoded: Any, cls: type[V], model_id: str, threshold: float) -> V:
    """Return ``encoded`` if this model made it and the threshold is a share.

    Raises:
        UnsupportedError: ``encoded`` is another adapter's or another model's.
        ConfigError: the threshold is outside 0..1.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"detector threshold: got {threshold}, expected a number in 0..1")
    if not isinstance(encoded, cls) or getattr(encoded, "model_id", None) != model_id:
        came = getattr(encoded, "model_id", type(encoded).__name__)
        raise UnsupportedError(f"this picture was encoded by {came!r}, not by {model_id!r}: encode it with this model")
    return encoded


def prepare(processor: Any, image_rgb: UInt8, model: Any) -> dict[str, Tensor]:
    """Run a family's own image processor on uint8 (H, W, 3); return its tensors on the model's device.

    Floating tensors get the model's dtype. The axes are stated, since a 1×1 or 3×3 picture does not tell them.
    """
    batch = processor(images=image_rgb, input_data_format="channels_last", return_tensors="pt")
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
        if isinstance(value, Tensor)
    }


def corners(boxes_cxcywh: Tensor, width: float, height: float) -> Tensor:
    """Turn (..., 4) centre boxes in 0..1 into float32 xyxy in units of ``width`` and ``height``."""
    cx, cy, w, h = boxes_cxcywh.float().unbind(-1)
    unit = torch.stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h], dim=-1)
    return unit * unit.new_tensor([width, height, width, height])


def best_rows(scores: Tensor, threshold: float, options: DetectOptions) -> tuple[Tensor, Tensor]:
    """Choose, for every phrase, the boxes that score enough, so that what follows stays small.

    Args:
        scores: float (Q, P), of Q boxes for P phrases.
        threshold: least score.
        options: without a limit a phrase keeps every box, else the best thousand go on to suppression.

    Returns:
        int64 (N,) box and (N,) phrase indices.
    """
    scores = scores.float()
    enough = scores >= threshold
    if options.max_per_phrase is not None and scores.shape[0] > (limit := max(_NMS_INPUT, options.max_per_phrase)):
        best = torch.topk(scores, limit, dim=0).indices  # (limit, P)
        enough &= torch.zeros_like(enough).scatter_(0, best, True)
    phrase, box = enough.t().nonzero(as_tuple=True)
    return box, phrase


def to_proposals(
    boxes_xyxy: Tensor,
    scores: Tensor,
    phrase_index: Tensor,
    size_hw: tuple[int, int],
    threshold: float,
    options: DetectOptions,
    mask_logits: Tensor | None = None,
) -> Proposals:
    """Clip boxes to the picture, drop what is degenerate, weak or a duplicate, and sort the rest.

    Args:
        boxes_xyxy: float (N, 4), pixels of the original picture.
        scores: float (N,) in 0..1.
        phrase_index: int64 (N,).
        size_hw: size of the original picture in pixels.
        threshold: least score kept.
        options: suppression within each phrase, and the most kept for one.
        mask_logits: float (N, h, w) stretched over the whole picture, or None.

    Returns:
        By phrase, then by falling score; ``Proposals.empty()`` if nothing is left.
    """
    height, width = size_hw
    boxes, scores, phrase_index = boxes_xyxy.float().cpu(), scores.float().cpu(), phrase_index.cpu()
    finite = boxes.isfinite().all(dim=1) & scores.isfinite()
    boxes = boxes.nan_to_num().clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    solid = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(dim=1)
    rows = (finite & solid & (scores >= threshold)).nonzero().flatten()
    asked = sorted(set(phrase_index[rows].tolist()))
    kept = [_thin(boxes, scores, rows[phrase_index[rows] == phrase], options) for phrase in asked]
    if not kept:
        return Proposals.empty()
    index = torch.cat(kept)
    return Proposals(
        boxes[index].numpy(),
        scores[index].clamp(0, 1).numpy(),
        phrase_index[index].numpy(),
        ("detector",) * len(index),
        None if mask_logits is None else mask_logits[index.to(mask_logits.device)].float().cpu().numpy(),
    )


def _thin(boxes: Tensor, scores: Tensor, rows: Tensor, options: DetectOptions) -> Tensor:
    """Return those of ``rows`` (N,), all of one phrase, that survive suppression and the limit; best first."""
    rows = rows[scores[rows].argsort(descending=True, stable=True)]
    if options.nms_iou is not None:
        rows = rows[nms(boxes[rows], scores[rows], options.nms_iou)]
    return rows[: options.max_per_phrase]


def join(parts: Sequence[Proposals]) -> Proposals:
    """Join the proposals of several passes of one model (its rough masks, if any, share one resolution)."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Proposals.empty()
    masks = [part.mask_logits for part in parts if part.mask_logits is not None]
    return Proposals(
        np.concatenate([part.boxes_xyxy for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.phrase_index for part in parts]),
        tuple(source for part in parts for source in part.sources),
        np.concatenate(masks) if masks else None,
    )
