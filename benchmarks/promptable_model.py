"""The weights, pictures and prompts of ``promptable.py``: one random SAM for segment-anything, transformers and us.

Plain random weights give masks that are all of the picture or nothing of it, the same for every point: the generator
would keep one or two of them, and a comparison would compare nothing. ``_liven`` turns them into something that
behaves like a SAM without a download: masks lie where their point is, have edges, are stable, and about half of the
predicted IoU pass the generator's threshold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from textseg import image as images
from textseg.models.sam import DTYPES, FAMILIES, SamSegmenter
from textseg.models.sam_decode import FastDecoder
from textseg.models.sam_input import InputSpec

SIZE_HW = (480, 640)

STABLE = 20_000.0
"""Factor of the mask logits with which masks are stable under a shift of one logit."""

REAL = 800.0
"""Factor with which logits are as large as those of SAM's own weights (some tens): for comparing logits."""

SIZES: dict[str, dict[str, int]] = {
    "vit_b": {"hidden": 768, "layers": 12, "heads": 12, "side": 1024, "width": 256, "mlp": 2048},
    "small": {"hidden": 192, "layers": 6, "heads": 6, "side": 256, "width": 128, "mlp": 512},
}

_NEARNESS = 8.0  # factor of queries and keys: how sharply a point's neighbourhood is told from the rest
_SHARE = 0.15  # of the picture is inside, over all masks
_COMMON = 5  # directions in which whole pictures differ from point to point


def build_model(size: str, gain: float = STABLE) -> Any:
    """Return a random ``SamModel`` of a size; see the top of this file."""
    from transformers import SamConfig, SamModel

    n = SIZES[size]
    square = {"image_size": n["side"], "patch_size": 16}
    vision = {"hidden_size": n["hidden"], "num_hidden_layers": n["layers"], "num_attention_heads": n["heads"]}
    vision |= {"output_channels": n["width"], "num_pos_feats": n["width"] // 2, "mlp_dim": 4 * n["hidden"], **square}
    decoder = {"hidden_size": n["width"], "mlp_dim": n["mlp"], "iou_head_hidden_dim": n["width"]}
    decoder |= {"layer_norm_eps": 1e-5}
    prompts = {"hidden_size": n["width"], **square}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SamModel(
            SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
        ).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" not in name:
                    parameter.normal_(0, 1.0 if "positional_embedding" in name else 0.03)
            _liven(model, gain)
    return model


def _liven(model: Any, gain: float) -> None:
    """Make masks lie where their point is, be stable, and pass the thresholds about half the time."""
    decoder = model.mask_decoder
    for block in decoder.transformer.layers:
        outward, inward = block.cross_attn_image_to_token, block.cross_attn_token_to_image
        outward.k_proj.weight.copy_(outward.q_proj.weight)  # like finds like: position codes that lie near
        for attention, factor in ((outward, _NEARNESS), (inward, 4.0)):
            attention.q_proj.weight.mul_(factor)
            attention.k_proj.weight.mul_(factor)
            attention.v_proj.weight.mul_(4)
            attention.out_proj.weight.mul_(4)
    for layer in (decoder.upscale_conv1, decoder.upscale_conv2):
        layer.weight.copy_(layer.weight[..., :1, :1].expand_as(layer.weight))  # smooth within a token
    for head in decoder.output_hypernetworks_mlps:
        head.proj_out.weight.mul_(gain)
        head.proj_out.bias.zero_()
    decoder.iou_prediction_head.proj_out.weight.mul_(3)
    decoder.iou_prediction_head.proj_out.bias.fill_(0.9)
    _level(model)


def _level(model: Any) -> None:
    """Take what is common to a whole picture out of the mask logits, and cut them so that ``_SHARE`` is inside.

    Measured on twelve points in a smooth random embedding.
    """
    position = model.get_image_wide_positional_embeddings()  # (1, D, h, w)
    fast = FastDecoder(model.mask_decoder, position)
    coarse = torch.randn(1, position.shape[1], 12, 12, generator=torch.Generator().manual_seed(5))
    smooth = F.interpolate(coarse, fast.grid_hw, mode="bicubic", align_corners=False)
    points = torch.rand(1, 12, 1, 2, generator=torch.Generator().manual_seed(1)) * model.config.vision_config.image_size
    labels = torch.ones(1, 12, 1, dtype=torch.int64)
    sparse, _ = model.prompt_encoder(input_points=points, input_labels=labels, input_boxes=None, input_masks=None)
    no_mask = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    answer = fast.attend(sparse[0], fast.picture(smooth / smooth.std(), no_mask))
    drawn = _drawn(model.mask_decoder, answer.image[:, ::5])  # (12, pixels, D / 8)
    common = torch.linalg.svd(drawn.mean(dim=1)).Vh[:_COMMON]  # (_COMMON, D / 8)
    mean = drawn.mean(dim=(0, 1))
    for number, head in enumerate(model.mask_decoder.output_hypernetworks_mlps):
        head.proj_out.weight.sub_(common.T @ (common @ head.proj_out.weight))
        logits = fast.draw(answer, None, slice(number, number + 1), fast.grid_hw)
        cut = torch.quantile(logits.flatten()[::97], 1 - _SHARE)
        head.proj_out.bias.sub_(cut * mean / (mean @ mean))


def _drawn(decoder: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the upscaled embedding (N, pixels, D / 8) of some of the picture's tokens (N, s, D)."""
    flat = tokens.flatten(0, 1)[..., None, None]  # each token a picture of its own
    fine = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(flat)))
    finest = decoder.activation(decoder.upscale_conv2(fine))  # (N s, D / 8, 4, 4)
    out: torch.Tensor = finest.flatten(2).transpose(1, 2).reshape(len(tokens), -1, finest.shape[1])
    return out


def segmenter(model: Any, dtype: str = "float32", decoder_dtype: str = "float32") -> SamSegmenter:
    """Return our segmenter of a model, with Meta's preprocessing."""
    from transformers import SamImageProcessor

    side = model.config.vision_config.image_size
    processor = SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    spec = replace(InputSpec.from_processor(processor), resampler="pil")
    network = FAMILIES["sam"].network(model)
    network.decode_in(DTYPES[decoder_dtype])
    return SamSegmenter("sam", network, spec, "benchmark", dtype=dtype)


def picture(seed: int = 0, size_hw: tuple[int, int] = SIZE_HW) -> Any:
    """Return a smooth random picture with some boxes on it."""
    rng = np.random.default_rng(seed)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8), (0, 0), 9)
    rgb = cv2.normalize(rgb, np.empty_like(rgb), 0, 255, cv2.NORM_MINMAX)
    for x, y, w, h in rng.integers(20, 300, (12, 4)):
        rgb[y : y + h // 2, x : x + w // 2] = rng.integers(0, 256, 3)
    return images.read(rgb)


def boxes(count: int) -> np.ndarray:
    """Return float32 (count, 4) boxes in the picture."""
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 300, (count, 2))
    return np.concatenate([low, low + rng.uniform(30, 170, (count, 2))], axis=1).astype(np.float32)
