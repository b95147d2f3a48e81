"""The reference: segment-anything's own classes with the weights of one of our tiny models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch

from textseg.models import sam_checkpoint
from textseg.models.sam import FAMILIES, SamSegmenter
from textseg.models.sam_input import InputSpec
from textseg.models.sam_tiny import tiny_model, tiny_processor


@cache
def pair(gain: float = 400) -> tuple[Any, SamSegmenter]:
    """Return segment-anything's model and our segmenter of the same weights; masks differ by point."""
    model = tiny_model("sam")
    decoder = model.mask_decoder
    with torch.no_grad():
        for block in decoder.transformer.layers:
            for name in ("cross_attn_image_to_token", "cross_attn_token_to_image"):
                for parameter in getattr(block, name).parameters():
                    parameter.mul_(4)
        decoder.upscale_conv1.bias.zero_()
        for head in decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(gain)
            head.proj_out.bias.zero_()
        decoder.iou_prediction_head.proj_out.weight.mul_(3)
        decoder.iou_prediction_head.proj_out.bias.add_(0.4)
    reference = sam_checkpoint.meta_sam(model)
    ours = sam_checkpoint.build(reference.state_dict(), decoder_heads=2)
    spec = replace(InputSpec.from_processor(tiny_processor("sam")), resampler="pil")
    return reference, SamSegmenter("sam", FAMILIES["sam"].network(ours), spec, "meta")


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return uint8 (H, W, 3): a smooth random picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.asarray(cv2.normalize(smooth, np.empty_like(smooth), 0, 255, cv2.NORM_MINMAX), np.uint8)
