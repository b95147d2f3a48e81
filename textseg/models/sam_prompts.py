"""From ``Prompts`` in picture pixels to the tensors that a SAM's prompt encoder takes.

Prompts of different kinds never share a call: they are grouped by what they hold, so no padding token can
change an answer, and every group is cut into chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from textseg import geometry
from textseg.errors import PromptError
from textseg.types import Frame, Int, Prompts


@dataclass(frozen=True)
class PromptTensors:
    """N prompts that hold the same things; None where they hold none.

    Attributes:
        count: N.
        points: float32 (N, Q, 2), pixels of the model's input.
        labels: int64 (N, Q), 1 foreground, 0 background.
        boxes: float32 (N, 4) ``xyxy``, pixels of the model's input.
        masks: float32 (N, 1, h, w) logits over the model's padded input.
        text: float32 (N, T, D) tokens in the prompt encoder's width.
    """

    count: int
    points: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    text: torch.Tensor | None = None

    @property
    def layout(self) -> tuple[int, int]:
        """The (batch, prompts per picture) that the transformers classes need.

        A mask changes the picture's side of the decoder, so each masked prompt is a picture of its own.
        """
        return (1, self.count) if self.masks is None else (self.count, 1)


def check_prompts(prompts: Prompts, size_hw: tuple[int, int], text_width: int | None) -> None:
    """Check that prompts (at least one) fit a picture of ``size_hw`` pixels and tokens of ``text_width``.

    Raises:
        PromptError: naming the first prompt that does not fit, what came and what was expected.
    """
    height, width = size_hw
    where = f"the picture (width {width}, height {height})"
    boxes, has_box = prompts.boxes_xyxy, prompts.has_box
    x1, y1, x2, y2 = boxes.T
    _refuse(has_box & ~np.isfinite(boxes).all(axis=1), "box has infinite corners", boxes)
    _refuse(has_box & ~((x1 < x2) & (y1 < y2)), "box is empty or inverted; expected x1 < x2 and y1 < y2", boxes)
    outside = (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)
    _refuse(has_box & outside, f"box lies outside {where}", boxes)
    points, given = prompts.points_xy, prompts.point_labels >= 0
    inside = ((points >= 0) & (points <= (width, height))).all(axis=2)
    _refuse((given & ~inside).any(axis=1), f"a point is NaN or lies outside {where}", points)
    if prompts.mask_logits is not None:
        finite = np.isfinite(prompts.mask_logits).all(axis=(1, 2))
        _refuse(~finite, "mask has NaN or infinite logits")
    if prompts.text_tokens is not None:
        tokens = prompts.text_tokens
        if prompts.has_text.any() and tokens.shape[2] != text_width:
            raise PromptError(f"text tokens: got width {tokens.shape[2]}, expected {text_width} (the segmenter's)")
        _refuse(np.isinf(tokens).any(axis=(1, 2)), "text token has infinite values")
    held = has_box | given.any(axis=1) | prompts.has_mask | prompts.has_text
    _refuse(~held, "prompt is empty: expected a box, a point, a mask or a text token")


def check_raw_masks(prompts: Prompts, mask_hw: tuple[int, int]) -> None:
    """Raise a PromptError unless the masks have the size of the model's own low-resolution logits."""
    if prompts.mask_logits is not None and prompts.mask_logits.shape[1:] != mask_hw:
        raise PromptError(
            f"raw masks: got shape {prompts.mask_logits.shape}, expected (P, {mask_hw[0]}, {mask_hw[1]}), as the "
            "segmenter's own logits"
        )


def _refuse(bad: npt.NDArray[Any] | np.bool_, reason: str, values: npt.NDArray[Any] | None = None) -> None:
    """Raise a PromptError for the first True of ``bad`` (P,), with its row of ``values`` where that helps."""
    rows = np.flatnonzero(bad)
    if len(rows):
        came = "" if values is None else f" (got {values[rows[0]].tolist()})"
        raise PromptError(f"prompt {rows[0]}: {reason}{came}")


def chunks(
    prompts: Prompts,
    frame: Frame,
    mask_hw: tuple[int, int],
    chunk: int,
    device: torch.device,
    *,
    raw_masks: bool = False,
) -> Iterator[tuple[Int, PromptTensors]]:
    """Yield (indices into ``prompts``, tensors) of at most ``chunk`` alike prompts each, covering all once.

    Args:
        prompts: at least one, already checked.
        frame: how the picture lies in the model's input.
        mask_hw: size of the mask that the prompt encoder takes.
        chunk: the most prompts in one call of the model.
        device: where the tensors go.
        raw_masks: the masks are (P, *mask_hw) logits over the model's padded input, to be taken as they are.
    """
    count = (prompts.point_labels >= 0).sum(axis=1)
    signature = np.stack([prompts.has_box, count, prompts.has_mask, prompts.has_text], axis=1).astype(np.int64)
    if (signature == signature[:1]).all():  # of a phrase they are mostly alike
        kinds, group = signature[:1], np.zeros(len(signature), np.int64)
    else:
        kinds, group = np.unique(signature, axis=0, return_inverse=True)
    for number in range(len(kinds)):
        members = np.flatnonzero(group.reshape(-1) == number)
        for start in range(0, len(members), chunk):
            index = members[start : start + chunk]
            yield index, _tensors(prompts, index, tuple(kinds[number]), frame, None if raw_masks else mask_hw, device)


def _tensors(
    prompts: Prompts,
    index: Int,
    kind: tuple[int, ...],
    frame: Frame,
    mask_hw: tuple[int, int] | None,
    device: torch.device,
) -> PromptTensors:
    """Return the alike prompts at ``index`` as tensors.

    ``kind`` is (has box, points, has mask, has text); ``mask_hw`` is None for masks to be taken as they are.
    """
    has_box, n_points, has_mask, has_text = kind
    points = labels = boxes = masks = text = None
    if n_points:
        given = prompts.point_labels[index] >= 0  # (N, Q)
        points_xy = prompts.points_xy[index][given].reshape(len(index), n_points, 2)
        points = _to(geometry.to_input(points_xy, frame), torch.float32, device)
        labels = _to(prompts.point_labels[index][given].reshape(len(index), n_points), torch.int64, device)
    if has_box:
        boxes = _to(geometry.to_input(prompts.boxes_xyxy[index], frame), torch.float32, device)
    if has_mask and prompts.mask_logits is not None:
        given_masks = _to(prompts.mask_logits[index], torch.float32, device)
        masks = given_masks[:, None] if mask_hw is None else mask_inputs(given_masks, frame, mask_hw)
    if has_text and prompts.text_tokens is not None:
        text = _to(prompts.text_tokens[index], torch.float32, device)
    return PromptTensors(len(index), points, labels, boxes, masks, text)


def _to(array: npt.NDArray[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device=device, dtype=dtype)


def mask_inputs(masks: torch.Tensor, frame: Frame, mask_hw: tuple[int, int]) -> torch.Tensor:
    """Bring rough masks from the whole picture to the frame of the prompt encoder's mask input.

    Args:
        masks: float32 (N, h, w) logits stretched over the whole picture, at any resolution.
        frame: how the picture lies in the model's input.
        mask_hw: (H, W) of the mask input, which covers the model's padded input.

    Returns:
        float32 (N, 1, H, W). Where the input is padding, each mask holds its own lowest logit ("outside"). A mask
        that already has the resolution of the picture's part of the mask input (low-resolution logits without
        their padding) keeps its values.
    """
    masks = masks[:, None]  # (N, 1, h, w)
    content = [side * part / whole for side, part, whole in zip(mask_hw, frame.resized_hw, frame.input_hw, strict=True)]
    whole_hw = (math.ceil(content[0]), math.ceil(content[1]))
    if masks.shape[-2:] != whole_hw:
        masks = F.interpolate(masks, whole_hw, mode="bilinear", align_corners=False, antialias=True)
        masks = masks if content == list(whole_hw) else _sample(masks, content)
    if masks.shape[-2:] == mask_hw:
        return masks
    low = masks.amin(dim=(2, 3), keepdim=True)
    outside = torch.where(low < 0, low, -masks.amax(dim=(2, 3), keepdim=True))
    out = outside.expand(-1, -1, *mask_hw).clone()  # (N, 1, H, W)
    out[..., : masks.shape[-2], : masks.shape[-1]] = masks
    return out


def _sample(masks: torch.Tensor, content: list[float]) -> torch.Tensor:
    """Resample (N, 1, h, w) masks onto pixels of which ``content`` (a fractional number each way) span them."""
    axes = []
    for side in content:
        inside = max(1, math.ceil(side - 0.5))  # the pixels whose centre lies within the picture
        axes.append((torch.arange(inside, device=masks.device, dtype=torch.float32) + 0.5) * (2 / side) - 1)
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(masks), -1, -1, -1)  # (N, H, W, 2)
    return F.grid_sample(masks, grid, mode="bilinear", padding_mode="border", align_corners=False)
