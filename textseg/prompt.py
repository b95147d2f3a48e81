"""Second stage: what is the segmenter asked? Boxes, points, rough masks and text tokens, mixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from textseg.errors import PromptError, UnsupportedError
from textseg.protocols import Segmenter, TextPrompt
from textseg.types import Float, Int, Prompts, Proposals


@dataclass(frozen=True)
class PromptConfig:
    """What each proposal's prompt carries.

    Attributes:
        rough_mask: hand the detector's rough mask to the segmenter beside the box.
        text_token: hand the phrase's text token to the segmenter beside the box.
    """

    rough_mask: bool = True
    text_token: bool = True


def build_prompts(
    proposals: Proposals, text_tokens: Float | None, config: PromptConfig, *, multimask: bool = True
) -> Prompts:
    """Turn each proposal into one prompt.

    Args:
        proposals: N proposals.
        text_tokens: float32 (phrases, T, D) tokens of every phrase, or None where there is no text prompt.
        config: what to carry.
        multimask: whether all of the segmenter's ambiguity masks are wanted.

    Raises:
        PromptError: a proposal without a box comes without a text token too.
    """
    n = len(proposals)
    text_only = np.array([source == "text" for source in proposals.sources], dtype=bool)
    if text_only.any() and text_tokens is None:
        raise PromptError("a text-only proposal needs a text prompt: set 'text_prompt' or turn 'text_only' off")
    boxes = proposals.boxes_xyxy.copy()
    boxes[text_only] = np.nan
    tokens = None
    if text_tokens is not None:
        tokens = text_tokens[proposals.phrase_index].copy()  # (N, T, D)
        if not config.text_token:
            tokens[~text_only] = np.nan
    return Prompts(
        np.arange(n),
        boxes,
        np.zeros((n, 0, 2), np.float32),
        np.zeros((n, 0), np.int64),
        proposals.mask_logits if config.rough_mask else None,
        tokens,
        multimask,
    )


def user_prompts(
    proposal_index: Int,
    *,
    boxes_xyxy: Float | None = None,
    points_xy: Float | None = None,
    point_labels: Int | None = None,
    mask_logits: Float | None = None,
    text_tokens: Float | None = None,
    multimask: bool = True,
) -> Prompts:
    """Return the caller's own prompts, one row each; what is None is absent.

    Args:
        proposal_index: int64 (P,), the proposal that each prompt belongs to.
        boxes_xyxy: float32 (P, 4) pixels of the original picture.
        points_xy: float32 (P, Q, 2) pixels; point_labels: int64 (P, Q), 1 foreground, 0 background, -1 padding.
        mask_logits: float32 (P, h, w) stretched over the whole picture.
        text_tokens: float32 (P, T, D).
        multimask: whether all ambiguity masks are wanted.
    """
    p = len(proposal_index)
    if points_xy is None:
        points_xy, point_labels = np.zeros((p, 0, 2), np.float32), np.zeros((p, 0), np.int64)
    if point_labels is None:
        point_labels = np.ones(points_xy.shape[:2], np.int64)
    boxes = np.full((p, 4), np.nan, np.float32) if boxes_xyxy is None else boxes_xyxy
    return Prompts(proposal_index, boxes, points_xy, point_labels, mask_logits, text_tokens, multimask)


def text_tokens(text_prompt: TextPrompt | None, segmenter: Segmenter, embeddings: Float | None) -> Float | None:
    """Return float32 (phrases, T, D) tokens for the phrases' CLIP embeddings, or None without a text prompt.

    Raises:
        UnsupportedError: the segmenter's family takes no text tokens, or tokens of another width.
    """
    if text_prompt is None or embeddings is None:
        return None
    tokens = text_prompt.tokens(embeddings)
    if segmenter.text_width != tokens.shape[-1]:
        takes = "no text tokens" if segmenter.text_width is None else f"tokens of width {segmenter.text_width}"
        raise UnsupportedError(
            f"{segmenter.model_id} takes {takes}, the text prompt makes width {tokens.shape[-1]}: "
            "choose a SAM or SAM-HQ model that it was trained for, or set 'text_prompt: null' in the preset"
        )
    return tokens
