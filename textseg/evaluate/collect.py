"""Every candidate of every asked phrase with its score parts and its truth: one pass of the models.

Fitting, ablation and other thresholds are then arithmetic: ``Row.choose`` ranks the same candidates anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from textseg import geometry, language
from textseg.choose import full_size, select
from textseg.evaluate import metrics
from textseg.evaluate.pages import Ask, Page
from textseg.parts import PARTS
from textseg.pipeline import Pipeline
from textseg.rank import RankConfig, Scored
from textseg.result import Result
from textseg.train.data import LabelledObject
from textseg.train.detector_targets import PAIRED, split_pairs
from textseg.types import Bool, Candidates, Float, Frame, Int, UInt8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """The M candidates of one phrase asked of one picture.

    Attributes:
        set, page, kind, phrase: which ask it was.
        present: whether the phrase means anything there.
        parts: float32 (M, len(PARTS)); NaN where a part does not apply.
        overlaps: float32 (M,), best IoU with all that is meant, or with one thing of it (at full size; of
            boxes where no masks are known).
        union_overlaps: float32 (M,), IoU with all that is meant together.
        right: bool (M,), whether it overlaps a meant thing more than any other labelled one.
        prompt_index, mask_index: int64 (M,).
        sources: M strings: "detector" or "text".
        masks_packed: uint8 (M, ceil(h * w / 8)), the low-resolution masks; truth_packed, ignore_packed: the
            truth on the same grid (None where only boxes are known).
        grid_hw: h and w of that grid.
    """

    set: str
    page: int
    kind: str
    phrase: str
    present: bool
    parts: Float
    overlaps: Float
    union_overlaps: Float
    right: Bool
    prompt_index: Int
    mask_index: Int
    sources: tuple[str, ...]
    masks_packed: UInt8
    truth_packed: UInt8 | None
    ignore_packed: UInt8 | None
    grid_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def has_masks(self) -> bool:
        """Whether a union IoU can be told: the truth is a mask, or there is none to find."""
        return self.truth_packed is not None or not self.present

    def without(self, source: str) -> Row:
        """Return the row without the candidates of one source."""
        keep = np.array([s != source for s in self.sources], dtype=bool)
        return replace(
            self,
            parts=self.parts[keep],
            overlaps=self.overlaps[keep],
            union_overlaps=self.union_overlaps[keep],
            right=self.right[keep],
            prompt_index=self.prompt_index[keep],
            mask_index=self.mask_index[keep],
            sources=tuple(s for s in self.sources if s != source),
            masks_packed=self.masks_packed[keep],
        )

    def choose(self, scores: Float, config: RankConfig) -> tuple[Float, Float]:
        """Rank with other scores; float32 (A,) scores, best first, and (A,) IoUs of the growing union.

        Accepted are the A masks that survive duplicates at threshold 0. Since the choice goes from the best
        score down, the masks accepted at threshold t are the first ones, those with scores ≥ t. Without a
        known mask the IoUs are NaN; for an absent phrase 0.
        """
        config = replace(config, threshold=0.0, max_rejected=0)
        accepted, _ = select(self._scored(scores), language.query(self.phrase), config)
        if not self.present:
            return accepted.scores, np.zeros(len(accepted), np.float32)
        if self.truth_packed is None:
            return accepted.scores, np.full(len(accepted), np.nan, np.float32)
        truth = _unpack(self.truth_packed, self.grid_hw)
        ignore = None if self.ignore_packed is None else _unpack(self.ignore_packed, self.grid_hw)
        unions = np.logical_or.accumulate(accepted.masks, axis=0)
        return accepted.scores, np.array([metrics.mask_iou(u, truth, ignore) for u in unions], np.float32)

    def _scored(self, scores: Float) -> Scored:
        """Return what ``select`` takes, on the low-resolution grid."""
        h, w = self.grid_hw
        masks: Bool = np.zeros((len(self), h, w), np.bool_)
        for i, packed in enumerate(self.masks_packed):
            masks[i] = _unpack(packed, self.grid_hw)
        prompts, per_prompt = (int(v.max()) + 1 if len(self) else 0 for v in (self.prompt_index, self.mask_index))
        logits = np.full((prompts, per_prompt, h, w), -1.0, np.float32)
        logits[self.prompt_index, self.mask_index] = np.where(masks, 1.0, -1.0)
        frame = Frame((h, w), (h, w), (h, w))
        return Scored(
            Candidates(logits, np.zeros((prompts, per_prompt), np.float32), frame),
            masks,
            masks.reshape(len(self), -1).mean(axis=1, dtype=np.float32) if len(self) else np.zeros(0, np.float32),
            {name: self.parts[:, i] for i, name in enumerate(PARTS)},
            np.asarray(scores, np.float32),
            np.zeros(len(self), np.int64),
            self.prompt_index,
            self.prompt_index,
            self.mask_index,
            self.sources,
        )


def collect(pipeline: Pipeline, pages: Iterable[Page]) -> list[Row]:
    """Ask every phrase of every page, alone, and keep all candidates, each looked at closely; the models run once."""
    config = pipeline.config
    pipeline = pipeline.with_config(
        replace(config, rank=replace(config.rank, glance=0.0, glance_margin=None, glance_iou=1.0))
    )
    rows: list[Row] = []
    for page in pages:
        if not page.asks:
            continue
        picture = pipeline.open(page.image_rgb)
        rows += [_row(page, ask, picture.segment(ask.phrase)) for ask in page.asks]
    logger.info("%d phrases asked, %d candidates", len(rows), sum(len(row) for row in rows))
    return rows


def _row(page: Page, ask: Ask, result: Result) -> Row:
    scored = result.scored
    h, w = scored.masks.shape[1:]
    overlaps, union_overlaps, right = _overlaps(ask, scored)
    return Row(
        page.set,
        page.index,
        ask.kind,
        ask.phrase,
        ask.present,
        np.stack([scored.parts[name] for name in PARTS], axis=1).astype(np.float32),
        overlaps,
        union_overlaps,
        right,
        scored.prompt_index,
        scored.mask_index,
        scored.sources,
        np.packbits(scored.masks.reshape(len(scored), h * w), axis=1),
        None if ask.union is None else np.packbits(_shrink(ask.union, (h, w))),
        None if ask.ignore is None else np.packbits(_shrink(ask.ignore, (h, w))),
        (h, w),
    )


def _overlaps(ask: Ask, scored: Scored) -> tuple[Float, Float, Bool]:
    """Return the candidates' (M,) overlaps, union overlaps and whether each is on the right thing, at full size."""
    m = len(scored)
    best, whole, right = np.zeros(m, np.float32), np.zeros(m, np.float32), np.zeros(m, np.bool_)
    if not ask.present:
        return best, whole, right
    union, single = ask.union, _single_masks(ask)
    for i in np.flatnonzero(scored.areas > 0):
        mask = full_size(scored.candidates, scored.prompt_index[i : i + 1], scored.mask_index[i : i + 1])[0]
        if union is None:
            box = geometry.mask_boxes(mask[None])
            each, other = geometry.box_iou(box, ask.boxes_xyxy)[0], geometry.box_iou(box, ask.others_xyxy)[0]
            whole[i] = np.nan
        else:
            each = np.array([metrics.mask_iou(mask, one) for one in single], np.float32)
            other = np.array([metrics.mask_iou(mask, one) for one in ask.other_masks or ()], np.float32)
            whole[i] = metrics.mask_iou(mask, union, ask.ignore)
        best[i] = np.nanmax([each.max(initial=0.0), whole[i]])
        right[i] = metrics.overlaps_most(each, other)
    return best, whole, right


def _single_masks(ask: Ask) -> list[Bool]:
    """Return the meant things one by one; what comes in pairs under one mask is split into its regions."""
    masks = list(ask.masks or ())
    if ask.kind not in PAIRED:
        return masks
    parts = []
    for mask, box in zip(masks, ask.boxes_xyxy, strict=True):
        thing = LabelledObject(ask.kind, frozenset({ask.kind}), None, box, mask)
        parts += [p.mask for p in split_pairs(thing) if p.mask is not None]
    return masks + parts


def _shrink(mask: Bool, grid_hw: tuple[int, int]) -> Bool:
    """Return the mask on a coarser grid: a cell is inside where half of it is."""
    small = cv2.resize(mask.astype(np.float32), (grid_hw[1], grid_hw[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(small >= 0.5, np.bool_)


def _unpack(packed: UInt8, grid_hw: tuple[int, int]) -> Bool:
    h, w = grid_hw
    return np.unpackbits(packed, count=h * w).reshape(h, w).astype(np.bool_)


def stack(rows: Sequence[Row]) -> tuple[Float, Float]:
    """Return the parts (N, len(PARTS)) and the overlaps (N,) of all candidates of the rows."""
    if not rows:
        return np.zeros((0, len(PARTS)), np.float32), np.zeros(0, np.float32)
    return np.concatenate([row.parts for row in rows]), np.concatenate([row.overlaps for row in rows])
