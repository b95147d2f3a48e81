"""A small `SamModel` that learns: made from a config, mended, encoded and decoded for training, saved.

As transformers makes it from a config, SAM does not learn: its vision encoder starts at a standard
deviation of 1e-10, and its Fourier position code is scaled by half the hidden size where Meta's
original uses 1.0. Both are mended here in the config and the weights that are saved, so that
``SamModel.from_pretrained`` needs no special case.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
INITIAL_STD = 0.02


@dataclass(frozen=True)
class SamShape:
    """Sizes of the model. Masks come out at four times the token grid."""

    image_size: int = 288
    patch_size: int = 12
    width: int = 192
    depth: int = 6
    heads: int = 6
    window: int = 8
    global_layers: tuple[int, ...] = (1, 3, 5)
    decoder_width: int = 128
    decoder_mlp: int = 256
    decoder_layers: int = 2
    decoder_heads: int = 4
    iou_depth: int = 2

    @property
    def grid(self) -> int:
        """Tokens along a side of the full picture."""
        return self.image_size // self.patch_size

    @property
    def stride(self) -> int:
        """Input pixels along a side of one pixel of the mask logits."""
        return self.patch_size // 4


@dataclass(frozen=True)
class PromptTensors:
    """The prompts of a batch, flat: N prompts over B pictures, coordinates in input pixels of the full frame.

    Attributes:
        image_index: int64 (N,), the picture of each prompt.
        boxes: float32 (N, 4) xyxy; NaN rows: none.
        points: float32 (N, Q, 2); labels: int64 (N, Q), -1 where there is no point.
        mask_rows: int64 (M,), the prompts with a rough mask; mask_logits: float32 (M, 4h, 4w).
        text_rows: int64 (K,), the prompts with text; text_tokens: float (K, T, D).
    """

    image_index: Tensor
    boxes: Tensor
    points: Tensor
    labels: Tensor
    mask_rows: Tensor
    mask_logits: Tensor
    text_rows: Tensor
    text_tokens: Tensor | None = None


def build_sam(shape: SamShape) -> SamModel:
    """Make the model with weights that can learn: see the module's text."""
    vision = SamVisionConfig(
        hidden_size=shape.width,
        output_channels=shape.decoder_width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        initializer_range=INITIAL_STD,
        use_rel_pos=False,
        window_size=shape.window,
        global_attn_indexes=list(shape.global_layers),
        num_pos_feats=shape.decoder_width // 2,
        mlp_dim=4 * shape.width,
    )
    prompt = SamPromptEncoderConfig(
        hidden_size=shape.decoder_width, image_size=shape.image_size, patch_size=shape.patch_size
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=shape.decoder_width,
        mlp_dim=shape.decoder_mlp,
        num_hidden_layers=shape.decoder_layers,
        num_attention_heads=shape.decoder_heads,
        iou_head_hidden_dim=shape.decoder_width,
        iou_head_depth=shape.iou_depth,
    )
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    config.vision_config.scale = 1.0
    model = SamModel(config)
    # Many small attentions: plain products have a far quicker backward pass on a CPU. Not saved.
    model.config.mask_decoder_config._attn_implementation = "eager"
    _mend(model, shape)
    return model


@torch.no_grad()
def _mend(model: SamModel, shape: SamShape) -> None:
    """Unit-scale position codes, sine-cosine positions, local attention; the rest starts as in Meta's original."""
    for part in (model.prompt_encoder, model.mask_decoder, model.vision_encoder.neck):
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
                module.reset_parameters()
    code = model.shared_image_embedding.positional_embedding
    code.copy_(torch.randn_like(code))
    code.requires_grad_(False)
    model.prompt_encoder.shared_embedding.positional_embedding = code
    model.vision_encoder.pos_embed.copy_(sine_cosine(shape.grid, shape.width)[None])
    for layer in model.vision_encoder.layers:
        _start_local(layer.attn.qkv, shape.heads)


def sine_cosine(grid: int, width: int) -> Tensor:
    """Two-dimensional sine-cosine positions (grid, grid, width), float32; half the width for y, half for x."""
    quarter = width // 4
    rates = 1.0 / (100.0 ** (torch.arange(quarter) / quarter))  # wavelengths from 6 to 600 tokens
    angles = torch.arange(grid)[:, None] * rates[None]  # (grid, quarter)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, width / 2)
    rows = line[:, None].expand(grid, grid, -1)
    columns = line[None].expand(grid, grid, -1)
    out = torch.zeros(grid, grid, width)
    out[..., : 4 * quarter] = torch.cat([rows, columns], dim=2) * 0.5
    return out


def _start_local(qkv: nn.Linear, heads: int) -> None:
    """Let each head's query-key product start near the identity, so that near positions attend to each other.

    Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", 2023, the query-key half.
    """
    width = qkv.in_features
    size = width // heads
    for head in range(heads):
        target = 0.7 * torch.randn(width, width) / math.sqrt(width) + 0.7 * torch.eye(width)
        u, s, vt = torch.linalg.svd(target)
        root = s[:size].sqrt()
        qkv.weight[head * size : (head + 1) * size] = (u[:, :size] * root).T * 0.7
        qkv.weight[width + head * size : width + (head + 1) * size] = vt[:size] * root[:, None] * 0.7


def normalise(image: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) → float32 (B, 3, H, W), ImageNet mean and deviation."""
    mean = torch.tensor(PIXEL_MEAN)[:, None, None]
    std = torch.tensor(PIXEL_STD)[:, None, None]
    return (image.permute(0, 3, 1, 2).float() / 255.0 - mean) / std  # (B, 3, H, W)


def encode_window(model: SamModel, pixels: Tensor, offset_yx: tuple[int, int] = (0, 0)) -> Tensor:
    """Encode a part of the frame: pixels (B, 3, H, W) at token `offset_yx` → features (B, C, h, w).

    With the whole frame and no offset this is the vision encoder's own forward pass. Training on
    parts costs less and leaves every weight as it is.
    """
    encoder = model.vision_encoder
    hidden = encoder.patch_embed.projection(pixels).permute(0, 2, 3, 1)  # (B, h, w, width)
    y, x = offset_yx
    hidden = hidden + encoder.pos_embed[:, y : y + hidden.shape[1], x : x + hidden.shape[2]]
    for layer in encoder.layers:
        hidden = _layer(layer, hidden)
    features: Tensor = encoder.neck(hidden)
    return features


def _layer(layer: Any, hidden: Tensor) -> Tensor:
    """`SamVisionLayer.forward` with attention as plain products, whose backward pass is far quicker on a CPU."""
    inner, rows = layer.layer_norm1(hidden), hidden.shape[1:3]
    padding = rows
    if layer.window_size > 0:
        inner, padding = layer.window_partition(inner, layer.window_size)
    inner = _attention(layer.attn, inner)
    if layer.window_size > 0:
        inner = layer.window_unpartition(inner, layer.window_size, padding, rows)
    hidden = hidden + inner
    out: Tensor = hidden + layer.mlp(layer.layer_norm2(hidden))
    return out


def _attention(attention: Any, hidden: Tensor) -> Tensor:
    """`SamVisionAttention.forward` without relative positions, for hidden (B, h, w, width)."""
    b, h, w, width = hidden.shape
    qkv = attention.qkv(hidden).reshape(b, h * w, 3, attention.num_attention_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, hw, d)
    share = ((query * attention.scale) @ key.transpose(-2, -1)).softmax(dim=-1)
    mixed = (share @ value).transpose(1, 2).reshape(b, h, w, width)
    out: Tensor = attention.proj(mixed)
    return out


def decode_prompts(
    model: SamModel, features: Tensor, prompts: PromptTensors, offset_yx: tuple[int, int] = (0, 0)
) -> tuple[Tensor, Tensor]:
    """Decode all prompts: logits (N, 4, 4h, 4w) and predicted IoU (N, 4); mask 0 is SAM's single mask.

    Prompts are grouped by their number of sparse tokens, so that none is ever padded further than
    transformers pads it (points without a box get one "not a point").
    """
    sparse, counts = _sparse(model, prompts)
    order: list[Tensor] = []
    logits: list[Tensor] = []
    scores: list[Tensor] = []
    for count in sorted(set(counts.tolist())):
        rows = torch.nonzero(counts == count)[:, 0]
        dense = _dense(model, prompts, rows, features.shape[-2:])
        one = _decode(model, features[prompts.image_index[rows]], sparse[rows, :count], dense, offset_yx)
        order.append(rows)
        logits.append(one[0])
        scores.append(one[1])
    back = torch.argsort(torch.cat(order))
    return torch.cat(logits)[back], torch.cat(scores)[back]


def _sparse(model: SamModel, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
    """Sparse tokens (N, L, D), the real ones first, and how many to keep of each row (N,)."""
    encoder = model.prompt_encoder
    has_box = ~torch.isnan(prompts.boxes).any(dim=1)
    boxes = encoder._embed_boxes(torch.nan_to_num(prompts.boxes)[:, None])[:, 0]  # (N, 2, D)
    points = encoder._embed_points(prompts.points[:, None], prompts.labels[:, None], pad=False)[:, 0]  # (N, Q, D)
    tokens = [boxes, points]
    real = [has_box[:, None].expand(-1, 2), prompts.labels >= 0]
    if prompts.text_tokens is not None and len(prompts.text_rows):
        text = torch.zeros(len(boxes), *prompts.text_tokens.shape[1:])
        tokens.append(text.index_copy(0, prompts.text_rows, prompts.text_tokens.float()))
        has_text = torch.zeros(len(boxes), dtype=torch.bool)
        has_text[prompts.text_rows] = True
        real.append(has_text[:, None].expand(-1, text.shape[1]))
    spare = encoder.not_a_point_embed.weight[None].expand(len(boxes), -1, -1)
    sparse = torch.cat([*tokens, spare], dim=1)
    flags = torch.cat([*real, torch.zeros(len(boxes), 1, dtype=torch.bool)], dim=1)  # (N, L)
    sparse = torch.where(flags[..., None], sparse, spare)
    order = torch.argsort((~flags).int(), dim=1, stable=True)
    padding = (prompts.labels >= 0).any(dim=1) & ~has_box
    return sparse.gather(1, order[..., None].expand_as(sparse)), flags.sum(dim=1) + padding.long()


def _dense(model: SamModel, prompts: PromptTensors, rows: Tensor, grid_hw: Any) -> Tensor:
    """Dense prompt embeddings (n, D, h, w) of the chosen rows."""
    encoder = model.prompt_encoder
    none: Tensor = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(len(rows), -1, *grid_hw)
    place = {int(row): i for i, row in enumerate(prompts.mask_rows.tolist())}
    chosen = [(i, place[row]) for i, row in enumerate(rows.tolist()) if row in place]
    if not chosen:
        return none
    into = torch.tensor([i for i, _ in chosen])
    masks = prompts.mask_logits[torch.tensor([j for _, j in chosen])]
    out: Tensor = none.contiguous().index_copy(0, into, encoder.mask_embed(masks[:, None]).to(none.dtype))
    return out


def _decode(
    model: SamModel, features: Tensor, sparse: Tensor, dense: Tensor, offset_yx: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """`SamMaskDecoder.forward` for one prompt a row, giving the single mask and the three at once."""
    decoder = model.mask_decoder
    n, _, h, w = features.shape
    y, x = offset_yx
    positions = model.get_image_wide_positional_embeddings()[..., y : y + h, x : x + w].expand(n, -1, -1, -1)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # (1 + 4, D)
    tokens = torch.cat([own.expand(n, -1, -1), sparse], dim=1)[:, None]  # (n, 1, 5 + L, D)
    points, keys = decoder.transformer(
        point_embeddings=tokens,
        image_embeddings=features + dense,
        image_positional_embeddings=positions,
        attention_similarity=None,
    )
    points = points[:, 0]
    picture = keys.transpose(2, 3).reshape(n, -1, h, w)
    picture = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(picture)))
    picture = decoder.activation(decoder.upscale_conv2(picture))  # (n, D / 8, 4h, 4w)
    heads = [mlp(points[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    logits = torch.stack(heads, dim=1) @ picture.flatten(2)  # (n, 4, 16hw)
    return logits.reshape(n, -1, 4 * h, 4 * w).float(), decoder.iou_prediction_head(points[:, 0]).float()


def save_sam(model: SamModel, folder: str | Path) -> None:
    """Write a plain transformers folder with fp16 weights that loads as float32."""
    folder = Path(folder)
    copy = SamModel(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder)
    path = folder / "config.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    _set_dtype(table)
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    side = int(model.config.vision_config.image_size)
    low = 4 * (side // int(model.config.vision_config.patch_size))
    SamImageProcessor(
        size={"longest_edge": side},
        mask_size={"longest_edge": low},
        pad_size={"height": side, "width": side},
        mask_pad_size={"height": low, "width": low},
        image_mean=list(PIXEL_MEAN),
        image_std=list(PIXEL_STD),
    ).save_pretrained(folder)


def _set_dtype(table: dict[str, Any]) -> None:
    """Say float32 wherever a saved config names the dtype of its fp16 file."""
    for key, value in table.items():
        if isinstance(value, dict):
            _set_dtype(value)
        elif key in {"dtype", "torch_dtype"}:
            table[key] = "float32"
