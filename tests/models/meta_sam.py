"""The reference: segment-anything's own classes with the weights of one of our tiny models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
import torch

from textseg.models import sam_checkpoint
from textseg.models.sam import FAMILIES, SamSegmenter
from textseg.models.sam_input import InputSpec
from textseg.models.sam_tiny import tiny_model, tiny_processor


def meta_sam(model: Any) -> Any:
    """Return segment-anything's ``Sam`` of a ``SamModel``'s size and weights."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    config = model.config
    vision, prompts, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    grid = vision.image_size // vision.patch_size
    encoder = ImageEncoderViT(
        img_size=vision.image_size,
        patch_size=vision.patch_size,
        embed_dim=vision.hidden_size,
        depth=vision.num_hidden_layers,
        num_heads=vision.num_attention_heads,
        mlp_ratio=vision.mlp_dim / vision.hidden_size,
        out_chans=vision.output_channels,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=vision.use_rel_pos,
        window_size=vision.window_size,
        global_attn_indexes=tuple(vision.global_attn_indexes),
    )
    transformer = TwoWayTransformer(
        depth=decoder.num_hidden_layers,
        embedding_dim=decoder.hidden_size,
        num_heads=decoder.num_attention_heads,
        mlp_dim=decoder.mlp_dim,
        attention_downsample_rate=decoder.attention_downsample_rate,
    )
    prompt_encoder = PromptEncoder(
        embed_dim=prompts.hidden_size,
        image_embedding_size=(grid, grid),
        input_image_size=(vision.image_size,) * 2,
        mask_in_chans=prompts.mask_input_channels,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=decoder.hidden_size,
        transformer=transformer,
        num_multimask_outputs=decoder.num_multimask_outputs,
        iou_head_depth=decoder.iou_head_depth,
        iou_head_hidden_dim=decoder.iou_head_hidden_dim,
    )
    made = Sam(encoder, prompt_encoder, mask_decoder, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    made.load_state_dict(sam_checkpoint.to_meta(model.state_dict()))
    return made.eval()


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
    reference = meta_sam(model)
    ours = sam_checkpoint.build(reference.state_dict(), decoder_heads=2)
    spec = replace(InputSpec.from_processor(tiny_processor("sam")), resampler="pil")
    return reference, SamSegmenter("sam", FAMILIES["sam"].network(ours), spec, "meta")


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return uint8 (H, W, 3): a smooth random picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.asarray(cv2.normalize(smooth, np.empty_like(smooth), 0, 255, cv2.NORM_MINMAX), np.uint8)
