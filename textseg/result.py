"""The answer to a query: accepted masks, the rejected ones with reasons, and what to do with them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textseg.choose import Choice, choose, segments
from textseg.errors import ConfigError
from textseg.rank import RankConfig, Scored
from textseg.types import Bool, Float, Image, Int, Query, Segments, UInt8

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Result:
    """K accepted masks of one picture, best first within each phrase; K may be 0: "not in this picture".

    Attributes:
        image: the picture.
        query: the phrases that were asked.
        scored: every candidate before the choice; ``with_threshold`` chooses again from it.
        choice: which candidates won and why the others lost.
        config: the ranking's settings behind the choice.
        preset: name of the preset that answered.
        seconds: time of each stage: text, propose, encode, segment, rank.
    """

    image: Image
    query: Query
    scored: Scored = field(repr=False)
    choice: Choice = field(repr=False)
    config: RankConfig = field(repr=False)
    preset: str
    seconds: dict[str, float]

    def __len__(self) -> int:
        return len(self.choice.accepted)

    @cached_property
    def accepted(self) -> Segments:
        """The K accepted masks with boxes, scores, labels, parts and trace."""
        return segments(self.scored, self.query, self.choice.accepted, self.choice.reasons)

    @cached_property
    def rejected(self) -> Segments:
        """The same for what lost, with ``reasons``, best first; upscaled when first asked for."""
        return segments(self.scored, self.query, self.choice.rejected, self.choice.reasons)

    @property
    def masks(self) -> Bool:
        """bool (K, H, W) at the original size."""
        return self.accepted.masks

    @property
    def boxes_xyxy(self) -> Float:
        """float32 (K, 4), the tight box of each mask in pixels of the original picture."""
        return self.accepted.boxes_xyxy

    @property
    def scores(self) -> Float:
        """float32 (K,), fused and calibrated, 0..1."""
        return self.accepted.scores

    @property
    def labels(self) -> tuple[str, ...]:
        """K strings, each exactly one of the phrases asked."""
        return self.accepted.labels

    @property
    def phrase_index(self) -> Int:
        """int64 (K,), index into the phrases asked."""
        return self.accepted.phrase_index

    @property
    def parts(self) -> dict[str, Float]:
        """One float32 (K,) array per score part; NaN where a part does not apply."""
        return self.accepted.parts

    @property
    def missing(self) -> tuple[str, ...]:
        """The phrases that are not in this picture: those without an accepted mask."""
        found = set(self.phrase_index.tolist())
        return tuple(phrase.text for i, phrase in enumerate(self.query.phrases) if i not in found)

    @property
    def phrase_scores(self) -> Float:
        """float32 (phrases,): the best score of any candidate for each phrase, accepted or not; 0 if none."""
        best = np.zeros(len(self.query), np.float32)
        solid = self.scored.areas > 0
        np.maximum.at(best, self.scored.phrase_index[solid], self.scored.scores[solid])
        return best

    def union(self, phrase: str) -> Bool:
        """Return bool (H, W): everything accepted for one phrase."""
        keep = np.array([label == phrase for label in self.labels], dtype=bool)
        return np.asarray(self.masks[keep].any(axis=0), dtype=np.bool_)

    def with_threshold(
        self,
        threshold: float,
        per_phrase: dict[str, float] | None = None,
        *,
        duplicate_iou: float | None = None,
        min_area: int | None = None,
        margin: float | None = None,
    ) -> Result:
        """Choose again from the same candidates; no model runs.

        Args:
            threshold: least score of an accepted mask, 0..1.
            per_phrase: thresholds of single phrases instead.
            duplicate_iou: two masks of one phrase that overlap by this IoU are one object; None leaves it.
            min_area: least area of an accepted mask, pixels of the original picture; None leaves it.
            margin: how far below its phrase's best mask another one's log-odds may lie; None leaves it,
                ``math.inf`` lets all in that reach the threshold.
        """
        config = replace(
            self.config,
            threshold=threshold,
            duplicate_iou=self.config.duplicate_iou if duplicate_iou is None else duplicate_iou,
            min_area=self.config.min_area if min_area is None else min_area,
            margin=self.config.margin if margin is None else margin,
        )
        per_phrase = per_phrase or {}
        known = {phrase.text for phrase in self.query.phrases}
        for text, value in per_phrase.items():
            if text not in known:
                raise ConfigError(f"threshold for {text!r}: not one of the phrases asked: {sorted(known)}")
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"threshold for {text!r}: got {value}, expected a number in 0..1")
        limits = np.array([per_phrase.get(p.text, threshold) for p in self.query.phrases], np.float32)
        return replace(self, choice=choose(self.scored, self.query, config, limits), config=config)

    def overlay(self) -> UInt8:
        """Return uint8 (H, W, 3): the picture with every accepted mask in its phrase's colour, labelled."""
        from textseg import draw

        return draw.overlay(self)

    def cutout(self, index: int | None = None) -> UInt8:
        """Return uint8 (H, W, 4): one accepted mask (or all together) on a transparent ground."""
        from textseg import draw

        return draw.cutout(self, index)

    def to_coco(self, image_id: int = 1) -> dict[str, Any]:
        """Return a COCO dataset of this one picture: annotations with compressed RLE, labels as categories."""
        from textseg import export

        return export.to_coco(self, image_id)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels as JSON-ready values, masks as COCO RLE, rejected ones included."""
        from textseg import export

        return export.to_dict(self)

    def to_supervision(self) -> supervision.Detections:
        """Return ``supervision.Detections``: class_id is the phrase's index, ``data["class_name"]`` its text."""
        from textseg import export

        return export.to_supervision(self)

    def save(self, folder: str | Path) -> Path:
        """Write overlay.png, one PNG per mask, cutout.png and result.json; return the folder."""
        from textseg import export

        return export.save(self, Path(folder))
