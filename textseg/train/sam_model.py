"""A small `EdgeTamModel` that learns: made from a config, started, encoded and decoded for training, saved.

1,145 photographs with masks are too few for a transformer from nothing to learn edges. EdgeTAM (Zhou et al., 2025) is
SAM 2's form with a convolutional trunk, which may start from published weights, and its decoder adds the trunk's finer
levels while it draws. What transformers leaves to its checkpoints is mended here in the config and the weights that
are saved, so that ``EdgeTamModel.from_pretrained`` needs no special case: both copies of the position code are one, and
a single mask is always the single mask token's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import (
    EdgeTamConfig,
    EdgeTamMaskDecoderConfig,
    EdgeTamModel,
    EdgeTamPromptEncoderConfig,
    EdgeTamVisionConfig,
    Sam2ImageProcessor,
    TimmWrapperConfig,
)

from textseg.errors import ConfigError
from textseg.models.edgetam_encode import Levels
from textseg.models.nano_network import load_fitting

PIXEL_MEAN = (0.5, 0.5, 0.5)
PIXEL_STD = (0.5, 0.5, 0.5)
TOKEN = 16
"""Input pixels along a side of one of the picture's tokens."""

STRIDE = 4
"""Input pixels along a side of one pixel of the mask logits."""


@dataclass(frozen=True)
class SamShape:
    """Sizes of the model. Masks come out at four times the token grid.

    Attributes:
        image_size: pixels along a side of the input, to which pictures are stretched; a multiple of 32.
        trunk: a timm architecture with stages of strides 4, 8, 16 and 32.
        stages: how many of those it has: 4, or 3 for a small one that is shown close-ups, of which a token sees enough.
        decoder_width: channels of the pyramid, the prompts and the decoder; the other fields are the decoder's too.
    """

    image_size: int = 448
    trunk: str = "tf_efficientnet_lite0"
    stages: int = 4
    decoder_width: int = 128
    decoder_mlp: int = 256
    decoder_layers: int = 2
    decoder_heads: int = 4
    iou_depth: int = 2

    @property
    def grid(self) -> int:
        """Tokens along a side of the full picture."""
        return self.image_size // TOKEN


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


def build_sam(shape: SamShape) -> EdgeTamModel:
    """Make the model with weights that can learn: see the module's text. Its trunk is random yet."""
    grid, width = shape.grid, shape.decoder_width
    asked: dict[str, Any] = {"features_only": True, "out_indices": list(range(1, shape.stages + 1))}
    if shape.stages < 4:
        asked["feature_cls"] = "getter"  # which leaves out the layers behind the last stage that is wanted
    trunk = TimmWrapperConfig(architecture=shape.trunk, model_args={"in_chans": 3, **asked})
    vision = EdgeTamVisionConfig(
        backbone_config=trunk,
        backbone_channel_list=_channels(shape.trunk)[: shape.stages][::-1],
        backbone_feature_sizes=[[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
        fpn_hidden_size=width,
        fpn_top_down_levels=list(range(shape.stages)),
    )
    prompt = EdgeTamPromptEncoderConfig(hidden_size=width, image_size=shape.image_size, patch_size=TOKEN)
    decoder = EdgeTamMaskDecoderConfig(
        hidden_size=width,
        mlp_dim=shape.decoder_mlp,
        num_hidden_layers=shape.decoder_layers,
        num_attention_heads=shape.decoder_heads,
        iou_head_hidden_dim=width,
        iou_head_depth=shape.iou_depth,
        dynamic_multimask_via_stability=False,
    )
    config = EdgeTamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    model = EdgeTamModel(config)
    # Many small attentions: plain products have a far quicker backward pass on a CPU. Not saved.
    model.config.mask_decoder_config._attn_implementation = "eager"
    _mend(model)
    return model


def _channels(trunk: str) -> list[int]:
    features = timm.create_model(trunk, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)).feature_info
    if features.reduction() != [4, 8, 16, 32]:
        raise ConfigError(f"trunk {trunk!r}: got stages of strides {features.reduction()}, expected 4, 8, 16 and 32")
    return [int(channels) for channels in features.channels()]


@torch.no_grad()
def _mend(model: EdgeTamModel) -> None:
    """One position code; layers start as in Meta's original."""
    for part in (model.prompt_encoder, model.mask_decoder, model.vision_encoder.neck):
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
                module.reset_parameters()
    model.prompt_encoder.shared_embedding.positional_embedding = model.shared_image_embedding.positional_embedding


def start_small(model: EdgeTamModel, other: EdgeTamModel) -> int:
    """Copy what fits of a model of four stages into one of three, and return how many tensors that are.

    The pyramid of the small one lacks the coarsest level. Its position code is stretched, so that a pixel in the
    middle of its smaller frame has the code that it has in the middle of the other's.
    """
    state = other.state_dict()
    trunk, neck = "vision_encoder.backbone.timm_model.", "vision_encoder.neck.convs."
    moved = {f"{trunk}model.{key.removeprefix(trunk)}": value for key, value in state.items() if key.startswith(trunk)}
    for key in [key for key in state if key.startswith(neck)]:
        level, _, rest = key.removeprefix(neck).partition(".")
        moved[f"{neck}{int(level) - 1}.{rest}"] = state.pop(key)
    fitted = load_fitting(model, {**state, **moved})
    shrunk = model.prompt_encoder.input_image_size / other.prompt_encoder.input_image_size
    with torch.no_grad():
        model.shared_image_embedding.positional_embedding.mul_(shrunk)
    return fitted


def normalise(image: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) → float32 (B, 3, H, W) in -1..1, as the published trunk learnt."""
    return (image.permute(0, 3, 1, 2).float() / 255.0 - PIXEL_MEAN[0]) / PIXEL_STD[0]


def decode_prompts(
    model: EdgeTamModel, features: Levels, prompts: PromptTensors, offset_yx: tuple[int, int] = (0, 0)
) -> tuple[Tensor, Tensor]:
    """Decode all prompts: logits (N, 4, 4h, 4w) and predicted IoU (N, 4); mask 0 is SAM's single mask.

    Prompts are grouped by their number of sparse tokens, so that none is ever padded further than
    transformers pads it.
    """
    sparse, counts = _sparse(model, prompts)
    order: list[Tensor] = []
    logits: list[Tensor] = []
    scores: list[Tensor] = []
    for count in sorted(set(counts.tolist())):
        rows = torch.nonzero(counts == count)[:, 0]
        of = prompts.image_index[rows]
        dense = _dense(model, prompts, rows, features.image.shape[-2:])
        one = _decode(model, Levels(*(level[of] for level in features)), sparse[rows, :count], dense, offset_yx)
        order.append(rows)
        logits.append(one[0])
        scores.append(one[1])
    back = torch.argsort(torch.cat(order))
    return torch.cat(logits)[back], torch.cat(scores)[back]


def _sparse(model: EdgeTamModel, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
    """Sparse tokens (N, L, D), the real ones first, and how many to keep of each row (N,).

    transformers puts one "not a point" behind points and one behind a box, and two where there is nothing but a
    mask; text alone is exactly its tokens.
    """
    encoder = model.prompt_encoder
    has_box = ~torch.isnan(prompts.boxes).any(dim=1)
    boxes = encoder._embed_boxes(torch.nan_to_num(prompts.boxes)[:, None])[:, 0]  # (N, 3, D)
    points = encoder._embed_points(prompts.points[:, None], prompts.labels[:, None], pad=False)[:, 0]  # (N, Q, D)
    tokens = [boxes, points]
    real = [has_box[:, None].expand(-1, boxes.shape[1]), prompts.labels >= 0]
    has_text = torch.zeros(len(boxes), dtype=torch.bool)
    if prompts.text_tokens is not None and len(prompts.text_rows):
        text = torch.zeros(len(boxes), *prompts.text_tokens.shape[1:])
        tokens.append(text.index_copy(0, prompts.text_rows, prompts.text_tokens.float()))
        has_text[prompts.text_rows] = True
        real.append(has_text[:, None].expand(-1, text.shape[1]))
    spare = encoder.not_a_point_embed.weight[None].expand(len(boxes), 2, -1)
    sparse = torch.cat([*tokens, spare], dim=1)
    flags = torch.cat([*real, torch.zeros(len(boxes), 2, dtype=torch.bool)], dim=1)  # (N, L)
    sparse = torch.where(flags[..., None], sparse, spare[:, :1])
    order = torch.argsort((~flags).int(), dim=1, stable=True)
    pointed = (prompts.labels >= 0).any(dim=1)
    padding = (pointed & ~has_box).long() + 2 * (~pointed & ~has_box & ~has_text).long()
    return sparse.gather(1, order[..., None].expand_as(sparse)), flags.sum(dim=1) + padding


def _dense(model: EdgeTamModel, prompts: PromptTensors, rows: Tensor, grid_hw: Any) -> Tensor:
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
    model: EdgeTamModel, features: Levels, sparse: Tensor, dense: Tensor, offset_yx: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """`EdgeTamMaskDecoder.forward` for one prompt a row, giving the single mask and the three at once."""
    decoder = model.mask_decoder
    n, _, h, w = features.image.shape
    y, x = offset_yx
    positions = model.get_image_wide_positional_embeddings()[..., y : y + h, x : x + w].expand(n, -1, -1, -1)
    # (1 + 1 + 4, D): whether there is anything, which masks of a single picture do not use, the IoU, the masks
    own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(n, -1, -1), sparse], dim=1)[:, None]  # (n, 1, 6 + L, D)
    points, keys = decoder.transformer(
        point_embeddings=tokens,
        image_embeddings=features.image + dense,
        image_positional_embeddings=positions,
        attention_similarity=None,
    )
    points = points[:, 0]
    picture = keys.transpose(2, 3).reshape(n, -1, h, w)
    picture = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(picture) + features.high_1))
    picture = decoder.activation(decoder.upscale_conv2(picture) + features.high_0)  # (n, D / 8, 4h, 4w)
    heads = [mlp(points[:, 2 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    logits = torch.stack(heads, dim=1) @ picture.flatten(2)  # (n, 4, 16hw)
    return logits.reshape(n, -1, 4 * h, 4 * w).float(), decoder.iou_prediction_head(points[:, 1]).float()


def save_sam(model: EdgeTamModel, folder: str | Path) -> None:
    """Write a plain transformers folder with fp16 weights that loads as float32."""
    folder = Path(folder)
    copy = EdgeTamModel(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder)
    path = folder / "config.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    _set_dtype(table)
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    side = int(model.prompt_encoder.input_image_size)
    Sam2ImageProcessor(
        size={"height": side, "width": side},
        mask_size={"height": side // STRIDE, "width": side // STRIDE},
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
