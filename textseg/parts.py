"""What can be said of candidates without another look at the picture: the score parts that no model is asked for."""

from __future__ import annotations

import numpy as np

from textseg import geometry
from textseg.color_part import color_part
from textseg.types import Bool, Candidates, Float, Image, Int, Prompts, Proposals, Query

PARTS = ("detector", "region", "sam_iou", "stability", "closeup", "clip", "agreement", "color")
"""All score parts; "region" and "clip" are what models say of the masks when they are ranked."""


def plain_parts(
    image: Image, query: Query, proposals: Proposals, prompts: Prompts, candidates: Candidates, masks: Bool
) -> dict[str, Float]:
    """Return one float32 (M,) array per name in ``PARTS``; NaN where a part does not apply or nobody was asked.

    Args:
        image, query, proposals, prompts, candidates: what the stages before worked on.
        masks: bool (M, h, w), the candidates' low-resolution masks over the picture, in prompt order.
    """
    p, c = candidates.predicted_iou.shape
    proposal_index = np.repeat(prompts.proposal_index, c)
    unknown = np.full(p * c, np.nan, np.float32)
    return {
        "detector": proposals.scores[proposal_index].astype(np.float32),
        "region": unknown,
        "sam_iou": candidates.predicted_iou.reshape(-1).clip(0, 1),
        "stability": geometry.stability(candidates.logits, candidates.frame).reshape(-1).astype(np.float32),
        "clip": unknown.copy(),
        "closeup": _closeup(candidates),
        "agreement": _agreement(masks, proposals, proposal_index, image.size_hw),
        "color": color_part(image, query.prompts, masks, proposals.phrase_index[proposal_index]),
    }


def low_masks(candidates: Candidates) -> Bool:
    """Return bool (M, h, w): the M = P · C low-resolution masks over the whole picture, padding cut off."""
    masks = geometry.crop_padding(candidates.logits, candidates.frame) > 0  # (P, C, h, w)
    return np.asarray(masks.reshape(-1, *masks.shape[2:]), np.bool_)


def areas_of(masks: Bool, candidates: Candidates, size_hw: tuple[int, int]) -> Float:
    """Return float32 (M,): the share of the picture that each mask fills, by its closeup where there is one."""
    areas = np.asarray(masks.mean(axis=(1, 2), dtype=np.float32), np.float32)
    near, index = candidates.closeups, candidates.closeup_index.reshape(-1)
    drawn = (near.logits > 0).mean(axis=(1, 2)) * near.windows[:, 2] ** 2 / (size_hw[0] * size_hw[1])
    finer = np.append(drawn, 0)[index]  # 0 where there is none
    return np.asarray(np.where(finer > 0, finer, areas), np.float32)


def _closeup(candidates: Candidates) -> Float:
    """Return float32 (M,): the IoU that a mask drawn again is thought to have; NaN where none was."""
    index = candidates.closeup_index.reshape(-1)
    out = np.full(len(index), np.nan, np.float32)
    out[index >= 0] = candidates.closeups.predicted_iou[index[index >= 0]]
    return out


def _agreement(masks: Bool, proposals: Proposals, proposal_index: Int, size_hw: tuple[int, int]) -> Float:
    """Return float32 (M,): how well each mask agrees with what the detector saw.

    With rough masks: the IoU with the proposal's own rough mask, or for a text-only proposal with the
    best of its phrase. Without: the IoU of the mask's box with the detector's box. NaN where there is nothing
    to agree with.
    """
    out = np.full(len(masks), np.nan, np.float32)
    detected = np.array([source == "detector" for source in proposals.sources], dtype=bool)
    if not len(masks) or not detected.any():
        return out
    h, w = masks.shape[1:]
    if proposals.mask_logits is not None:
        rough = geometry.resize_logits(proposals.mask_logits[detected], (h, w)) > 0
        overlap = geometry.mask_iou(masks, rough)  # (M, D)
    else:
        scale = np.array([size_hw[1] / w, size_hw[0] / h] * 2, np.float32)
        overlap = geometry.box_iou(geometry.mask_boxes(masks) * scale, proposals.boxes_xyxy[detected])  # (M, D)
    column = np.cumsum(detected) - 1
    for m, i in enumerate(proposal_index):
        if detected[i]:
            out[m] = overlap[m, column[i]]
        else:
            same = proposals.phrase_index[detected] == proposals.phrase_index[i]
            out[m] = overlap[m, same].max() if same.any() else np.nan
    return out
