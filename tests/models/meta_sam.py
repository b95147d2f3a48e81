"""The reference: segment-anything's own classes with the weights of one of our tiny models."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from textseg.models import sam_checkpoint


def meta_sam(model: Any) -> Any:
    """Return segment-anything's ``Sam`` of a ``SamModel``'s size and weights; its decoder's eps is set to Meta's."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    vision, prompts, decoder = (getattr(model.config, f"{n}_config") for n in ("vision", "prompt_encoder", "mask_decoder"))
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
        use_rel_pos=True,
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
    made = Sam(
        encoder,
        PromptEncoder(
            embed_dim=prompts.hidden_size,
            image_embedding_size=(grid, grid),
            input_image_size=(vision.image_size,) * 2,
            mask_in_chans=prompts.mask_input_channels,
        ),
        MaskDecoder(
            transformer_dim=decoder.hidden_size,
            transformer=transformer,
            num_multimask_outputs=decoder.num_multimask_outputs,
            iou_head_depth=decoder.iou_head_depth,
            iou_head_hidden_dim=decoder.iou_head_hidden_dim,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    made.load_state_dict(sam_checkpoint.to_meta(model.state_dict()))
    return made.eval()
