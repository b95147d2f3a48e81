"""The stages before the ranking, written by hand on 4x4 masks."""

from __future__ import annotations

import numpy as np

from textseg import choose, rank
from textseg.rank import RankConfig
from textseg.types import Candidates, Frame, Image, Phrase, Prompts, Proposals, Query

IMAGE = Image(np.zeros((4, 4, 3), np.uint8), "test", "0" * 64)
FRAME = Frame((4, 4), (4, 4), (4, 4))
LEFT = np.array([[1, 1, 0, 0]] * 4, bool)
RIGHT = ~LEFT
CORNER = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
EMPTY = np.zeros((4, 4), bool)
DETECTOR_ONLY = RankConfig(weights={"detector": 1.0})


def query(*texts: str) -> Query:
    return Query(tuple(Phrase(text, text) for text in texts))


def stages(
    masks: list[list[np.ndarray]], scores: list[float], phrases: list[int], rough: np.ndarray | None = None
) -> tuple[Proposals, Prompts, Candidates]:
    """One proposal a row of masks, with the detector's score and the phrase's index."""
    n = len(masks)
    c = len(masks[0]) if n else 3
    whole = np.tile(np.array([0, 0, 4, 4], np.float32), (n, 1))
    proposals = Proposals(whole, np.array(scores, np.float32), np.array(phrases, np.int64), ("detector",) * n, rough)
    nothing = np.zeros((n, 0, 2), np.float32), np.zeros((n, 0), np.int64)
    prompts = Prompts(np.arange(n), whole, *nothing)
    logits = np.where(np.array(masks, bool).reshape(n, c, 4, 4), 5.0, -5.0).astype(np.float32)
    return proposals, prompts, Candidates(logits, np.full((n, c), 0.9, np.float32), FRAME)


def run(q: Query, config: RankConfig, *args: object) -> tuple[rank.Scored, object, object]:
    proposals, prompts, candidates = stages(*args)  # type: ignore[arg-type]
    scored = rank.score(IMAGE, q, proposals, prompts, candidates, None, config)
    return scored, *choose.select(scored, q, config)
