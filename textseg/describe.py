"""A result in words: what is not in the picture, what came closest, how long each stage took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from textseg.result import Result


def closest_miss(result: Result, phrase_index: int) -> int | None:
    """Return the index into ``result.rejected`` of a phrase's best mask that is not empty, or None."""
    mine = result.rejected.phrase_index == phrase_index
    for k in np.flatnonzero(mine):  # the rejected come best first
        if result.rejected.masks[k].any():
            return int(k)
    return None


def not_there(result: Result) -> list[str]:
    """Return one sentence for each phrase without a mask: ``"not in this picture: a dog (closest: …)"``."""
    found = set(result.phrase_index.tolist())
    return [
        f"not in this picture: {phrase.text} ({_closest(result, i)})"
        for i, phrase in enumerate(result.query.phrases)
        if i not in found
    ]


def timing(result: Result) -> str:
    """Return the preset and the time of each stage: ``"nano: text 3 ms, propose 40 ms … 180 ms in all"``."""
    stages = [f"{stage} {_milliseconds(seconds)}" for stage, seconds in result.seconds.items()]
    total = _milliseconds(sum(result.seconds.values()))
    return f"{result.preset}: {', '.join(stages)}; {total} in all"


def box_text(box_xyxy: np.ndarray) -> str:
    """Return a box as ``"12,30–80,90"``."""
    x0, y0, x1, y1 = (round(float(v)) for v in box_xyxy)
    return f"{x0},{y0}–{x1},{y1}"


def _closest(result: Result, phrase_index: int) -> str:
    k = closest_miss(result, phrase_index)
    if k is None:
        best = float(result.phrase_scores[phrase_index])
        return f"best score {best:.2f}" if best > 0 else "nothing came close"
    return f"closest at {box_text(result.rejected.boxes_xyxy[k])}: {_reason(result, k)}"


def _reason(result: Result, k: int) -> str:
    reason = result.rejected.reasons[k]
    return reason if reason.startswith("score ") else f"score {result.rejected.scores[k]:.2f}, {reason}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
