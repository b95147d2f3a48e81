"""Tiny SAMs of the real classes with random weights: for tests and for trying the plumbing without a download."""

from __future__ import annotations

from typing import Any

import torch

from textseg.errors import ConfigError, nearest

SIZE = 64
"""Input size in pixels of every tiny model here."""

_WIDTH = 32
_DECODER: dict[str, Any] = {
    "hidden_size": _WIDTH,
    "mlp_dim": 32,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 16,
}
_PROMPTS: dict[str, Any] = {"hidden_size": _WIDTH, "image_size": SIZE, "mask_input_channels": 8}
_FPN: dict[str, Any] = {"fpn_hidden_size": _WIDTH}


def _sam_parts() -> dict[str, Any]:
    vision = {
        "hidden_size": 24,
        "output_channels": _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 8,
        "initializer_range": 0.02,
        "window_size": 3,
        "global_attn_indexes": [1],
        "num_pos_feats": _WIDTH // 2,
        "mlp_ratio": 2.0,
    }
    return {"vision_config": vision, **_heads(8)}


def _sam() -> Any:
    from transformers import SamConfig, SamModel

    return SamModel(SamConfig(**_sam_parts()))


def _sam_hq() -> Any:
    from transformers import SamHQConfig, SamHQModel

    parts = _sam_parts()
    parts["mask_decoder_config"] = {**_DECODER, "vit_dim": parts["vision_config"]["hidden_size"]}
    return SamHQModel(SamHQConfig(**parts))


def _sam2() -> Any:
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIZE, SIZE],
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 4, 4, 4],
        global_attention_blocks=[4],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], backbone_feature_sizes=_levels(4), **_FPN
    )
    return Sam2Model(Sam2Config(vision_config=vision, **_heads(16)))


def _edgetam() -> Any:
    from transformers import EdgeTamConfig, EdgeTamModel, EdgeTamVisionConfig, TimmWrapperConfig

    backbone = TimmWrapperConfig(
        architecture="repvit_m1",
        model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3], "embed_dim": [8, 16, 32, 64]},
    )
    vision = EdgeTamVisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], backbone_feature_sizes=_levels(4), **_FPN
    )
    return EdgeTamModel(EdgeTamConfig(vision_config=vision, **_heads(16)))


def _sam3() -> Any:
    from transformers import Sam3TrackerConfig, Sam3TrackerModel, Sam3VisionConfig, Sam3ViTConfig

    backbone = Sam3ViTConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        pretrain_image_size=SIZE,
        patch_size=8,
        window_size=4,
        global_attn_indexes=[1],
    )
    vision = Sam3VisionConfig(backbone_config=backbone, backbone_feature_sizes=_levels(8), **_FPN)
    return Sam3TrackerModel(Sam3TrackerConfig(vision_config=vision, **_heads(8)))


def _heads(patch_size: int) -> dict[str, Any]:
    return {"prompt_encoder_config": {**_PROMPTS, "patch_size": patch_size}, "mask_decoder_config": _DECODER}


def _levels(grid: int) -> list[list[int]]:
    """Return the sizes of the three feature levels over a (grid, grid) embedding."""
    return [[4 * grid, 4 * grid], [2 * grid, 2 * grid], [grid, grid]]


BUILDERS = {"sam": _sam, "sam_hq": _sam_hq, "sam2": _sam2, "edgetam": _edgetam, "sam3_tracker": _sam3}


def tiny_model(kind: str, seed: int = 0) -> Any:
    """Return a random transformers model of ``kind`` in evaluation mode, without touching the global random state.

    Raises:
        ConfigError: unknown kind.
    """
    if kind not in BUILDERS:
        raise ConfigError(f"tiny model {kind!r} is unknown: {nearest(kind, BUILDERS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BUILDERS[kind]()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.12)  # what starts at zero must count in a test, too
        model.mask_decoder.iou_prediction_head.proj_out.bias.data.add_(0.5)  # predicted IoU within 0..1
    return model.eval()


def tiny_processor(kind: str) -> Any:
    """Return the transformers image processor of ``kind`` at the tiny models' input size."""
    import transformers

    square = {"height": SIZE, "width": SIZE}
    if kind in ("sam", "sam_hq"):
        return transformers.SamImageProcessor(size={"longest_edge": SIZE}, pad_size=square)
    if kind == "sam3_tracker":
        return transformers.Sam3ImageProcessor(size=square)
    return transformers.Sam2ImageProcessor(size=square)
