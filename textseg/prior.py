"""What a box alone says about the mask inside it, as rough logits.

A small SAM learns to use a rough mask long before it learns to fill a box from its two corner
tokens. So nano SAM is trained with this map beside every box that has no better one, and takes it
at inference too. It holds nothing that the box does not.
"""

from __future__ import annotations

import numpy as np

from textseg.closeup import Rough, windows_around
from textseg.types import Float

_SIDE = 96


def box_prior(boxes_xyxy: Float, size_hw: tuple[int, int], out_hw: tuple[int, int], peak: float = 4.0) -> Float:
    """Logits (N, h, w) float32 of the ellipses that fill N boxes: `peak` in the middle, 0 on the ellipse.

    Args:
        boxes_xyxy: float32 (N, 4), pixels of the picture; N may be 0.
        size_hw: size of the picture in pixels.
        out_hw: size of the maps, which are stretched over the whole picture.
        peak: the logits lie between ``-peak`` and ``peak``.
    """
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    scale = np.array([out_hw[1] / size_hw[1], out_hw[0] / size_hw[0]] * 2, np.float32)
    x0, y0, x1, y1 = (boxes * scale).T[:, :, None]  # each (N, 1)
    across = (np.arange(out_hw[1], dtype=np.float32) + 0.5 - (x0 + x1) / 2) / np.maximum((x1 - x0) / 2, 0.5)
    down = (np.arange(out_hw[0], dtype=np.float32) + 0.5 - (y0 + y1) / 2) / np.maximum((y1 - y0) / 2, 0.5)
    distance = down[:, :, None] ** 2 + across[:, None, :] ** 2  # (N, h, w), 1 on the ellipse
    return np.asarray(np.clip(peak * (1.0 - distance), -peak, peak), dtype=np.float32)


def box_rough(box_xyxy: Float) -> Rough:
    """What ``box_prior`` gives for one box (4,), over a window twice as large: as fine for small boxes as for large."""
    window = windows_around(box_xyxy, 2.0, 1.0)[0]
    x, y, side = (float(v) for v in window)
    placed = (np.asarray(box_xyxy, np.float32) - np.array([x, y, x, y], np.float32)) * np.float32(_SIDE / side)
    return Rough.near(box_prior(placed, (_SIDE, _SIDE), (_SIDE, _SIDE))[0], window)
