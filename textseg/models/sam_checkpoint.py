"""Meta's SAM checkpoints (``.pth``) ↔ the transformers layout, for ViT-B, L and H and for any other size.

Both layouts hold the same tensors under other names (segment-anything 1.0; ``SamModel`` of transformers). The
configuration is read off the tensors' shapes. Files are unpickled with ``weights_only=True``: a checkpoint that
holds code is refused, never run.

One number is not in a checkpoint: Meta's mask decoder normalises with eps 1e-5 in its two-way transformer, where
transformers' default is 1e-6. A converted model gets Meta's.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textseg.errors import ConfigError, WeightsError

State = dict[str, Tensor]

SAM_DECODER_HEADS = 8
"""Attention heads of Meta's mask decoder; no tensor's shape tells them."""

_META_EPS = 1e-5
_ENCODER_HEADS = {768: 12, 1024: 16, 1280: 16}  # where relative positions do not tell
_PE = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_SHARED_PE = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
_NAMES = (  # (Meta, transformers), as whole parts of a name
    ("image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection"),
    ("image_encoder.neck.0", "vision_encoder.neck.conv1"),
    ("image_encoder.neck.1", "vision_encoder.neck.layer_norm1"),
    ("image_encoder.neck.2", "vision_encoder.neck.conv2"),
    ("image_encoder.neck.3", "vision_encoder.neck.layer_norm2"),
    ("image_encoder.blocks", "vision_encoder.layers"),
    ("image_encoder", "vision_encoder"),
    ("prompt_encoder.point_embeddings", "prompt_encoder.point_embed"),
    ("prompt_encoder.mask_downscaling.0", "prompt_encoder.mask_embed.conv1"),
    ("prompt_encoder.mask_downscaling.1", "prompt_encoder.mask_embed.layer_norm1"),
    ("prompt_encoder.mask_downscaling.3", "prompt_encoder.mask_embed.conv2"),
    ("prompt_encoder.mask_downscaling.4", "prompt_encoder.mask_embed.layer_norm2"),
    ("prompt_encoder.mask_downscaling.6", "prompt_encoder.mask_embed.conv3"),
    ("mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1"),
    ("mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm"),
    ("mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2"),
    ("mask_decoder.transformer.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"),
)
_MLP = re.compile(
    r"(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.(layers\.\d+|proj_in|proj_out)\."
)


def read_pth(path: str | Path) -> State:
    """Return the tensors of a ``.pth`` file; a wrapping ``{"model": …}`` or ``{"state_dict": …}`` is taken off.

    Raises:
        WeightsError: missing, damaged, holding more than tensors (code is never run), or no state dictionary.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"weights file missing: {path}")
    try:
        with warnings.catch_warnings():  # it warns of pickle protocols before it refuses what is inside
            warnings.simplefilter("ignore", UserWarning)
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: damaged, or it holds more than tensors ({str(error).splitlines()[0]}). Code in a checkpoint is "
            "never run: ask for a file of plain weights"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"weights file damaged: {path} ({error}). Get it again") from error
    for key in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise WeightsError(f"{path}: expected a dictionary of tensors, such as Meta's sam_vit_b_01ec64.pth")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def to_transformers(state: Mapping[str, Tensor]) -> State:
    """Return a state in Meta's layout under transformers' names; values are shared, not copied.

    Raises:
        WeightsError: not the state of a SAM in Meta's layout.
    """
    if _PE not in state:
        raise WeightsError(f"not a SAM in Meta's layout: {_PE!r} is missing (got {sorted(state)[:3]} …)")
    out: State = {}
    for name, tensor in state.items():
        if name in ("pixel_mean", "pixel_std"):
            continue
        if name == _PE:
            out.update(dict.fromkeys(_SHARED_PE, tensor))
            continue
        out[_mlp_name(_renamed(name, forward=True), state, forward=True)] = tensor
    return out


def to_meta(state: Mapping[str, Tensor]) -> State:
    """Return a state in transformers' layout under Meta's names; values are shared, not copied.

    Raises:
        WeightsError: not the state of a ``SamModel``.
    """
    if _SHARED_PE[0] not in state:
        raise WeightsError(f"not the state of a SamModel: {_SHARED_PE[0]!r} is missing (got {sorted(state)[:3]} …)")
    out = {_PE: state[_SHARED_PE[0]]}
    for name, tensor in state.items():
        if name not in _SHARED_PE:
            out[_renamed(_mlp_name(name, state, forward=False), forward=False)] = tensor
    return out


def _renamed(name: str, *, forward: bool) -> str:
    for meta, ours in _NAMES:
        old, new = (meta, ours) if forward else (ours, meta)
        if name.startswith(f"{old}."):
            name = new + name[len(old) :]
            break
    if re.search(r"\.layers\.\d+\.(layer_)?norm\d\.", name):  # the blocks of both transformers
        name = re.sub(r"\.norm(\d)\.", r".layer_norm\1.", name) if forward else name.replace(".layer_norm", ".norm")
    return name if forward else re.sub(r"^(image_encoder\.blocks\.\d+)\.layer_norm", r"\1.norm", name)


def _mlp_name(name: str, state: Mapping[str, Tensor], *, forward: bool) -> str:
    """Rename a head's layers: Meta counts them all, transformers calls the first and last proj_in and proj_out."""
    found = _MLP.match(name)
    if found is None:
        return name
    head, layer = found.groups()
    if forward:
        number = int(layer.removeprefix("layers."))
        last = _count(state, rf"{re.escape(head)}\.layers\.(\d+)\.") - 1
        new = "proj_in" if number == 0 else "proj_out" if number == last else f"layers.{number - 1}"
    else:
        inner = _count(state, rf"{re.escape(head)}\.layers\.(\d+)\.")
        new = {"proj_in": "layers.0", "proj_out": f"layers.{inner + 1}"}.get(layer, "")
        new = new or f"layers.{int(layer.removeprefix('layers.')) + 1}"
    return name.replace(f"{head}.{layer}.", f"{head}.{new}.")


def config_of(state: Mapping[str, Tensor], decoder_heads: int = SAM_DECODER_HEADS) -> Any:
    """Return the ``SamConfig`` of a state in Meta's layout, read off its shapes.

    Args:
        state: what ``read_pth`` returned.
        decoder_heads: attention heads of the mask decoder, which no shape tells.

    Raises:
        WeightsError: a tensor is missing, or the sizes do not fit together.
        ConfigError: ``decoder_heads`` does not divide the decoder's width.
    """
    from transformers import SamConfig

    try:
        vision, prompts, decoder = _vision(state), _prompts(state), _decoder(state, decoder_heads)
    except KeyError as error:
        raise WeightsError(f"not a SAM in Meta's layout: {error.args[0]!r} is missing") from error
    square = {key: vision[key] for key in ("image_size", "patch_size")}
    return SamConfig(vision_config=vision, prompt_encoder_config={**prompts, **square}, mask_decoder_config=decoder)


def _vision(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels, patch, _ = state["image_encoder.patch_embed.proj.weight"].shape
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = _count(state, r"image_encoder\.blocks\.(\d+)\.")
    relative = [state.get(f"image_encoder.blocks.{i}.attn.rel_pos_h") for i in range(depth)]
    tables = [table for table in relative if table is not None]
    if not tables and width not in _ENCODER_HEADS:
        raise WeightsError(f"an image encoder of width {width} without relative positions: its heads are unknown")
    lengths = [len(table) for table in tables] or [2 * 14 - 1]
    window = (min(lengths) + 1) // 2
    return {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": grid * patch,
        "num_hidden_layers": depth,
        "num_attention_heads": width // tables[0].shape[1] if tables else _ENCODER_HEADS[width],
        "use_rel_pos": bool(tables),
        "window_size": window,
        "global_attn_indexes": [i for i, t in enumerate(relative) if t is not None and len(t) != 2 * window - 1],
        "qkv_bias": "image_encoder.blocks.0.attn.qkv.bias" in state,
        "mlp_dim": len(state["image_encoder.blocks.0.mlp.lin1.weight"]),
        "mlp_ratio": len(state["image_encoder.blocks.0.mlp.lin1.weight"]) / width,
        "output_channels": len(state["image_encoder.neck.0.weight"]),
        "num_pos_feats": state[_PE].shape[1],
    }


def _prompts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "hidden_size": state["prompt_encoder.no_mask_embed.weight"].shape[1],
        "mask_input_channels": len(state["prompt_encoder.mask_downscaling.3.weight"]),
        "num_point_embeddings": _count(state, r"prompt_encoder\.point_embeddings\.(\d+)\."),
    }


def _decoder(state: Mapping[str, Tensor], heads: int) -> dict[str, Any]:
    block = "mask_decoder.transformer.layers.0."
    width = state["mask_decoder.iou_token.weight"].shape[1]
    inner = len(state[block + "cross_attn_token_to_image.q_proj.weight"])
    if heads < 1 or inner % heads:
        raise ConfigError(f"decoder_heads: got {heads}, expected a divisor of the decoder's attention width {inner}")
    return {
        "hidden_size": width,
        "num_hidden_layers": _count(state, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        "num_attention_heads": heads,
        "attention_downsample_rate": width // inner,
        "mlp_dim": len(state[block + "mlp.lin1.weight"]),
        "num_multimask_outputs": len(state["mask_decoder.mask_tokens.weight"]) - 1,
        "iou_head_depth": _count(state, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        "iou_head_hidden_dim": len(state["mask_decoder.iou_prediction_head.layers.0.weight"]),
        "layer_norm_eps": _META_EPS,
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return 1 + the highest number that ``pattern`` finds among the names, 0 if it finds none."""
    numbers = [int(found[1]) for name in state if (found := re.match(pattern, name))]
    return 1 + max(numbers, default=-1)


def build(state: Mapping[str, Tensor], decoder_heads: int = SAM_DECODER_HEADS) -> Any:
    """Return a ``SamModel`` with the weights of a state in Meta's layout, float32, in evaluation mode.

    Raises:
        WeightsError: tensors are missing, superfluous or of other shapes than the rest implies.
        ConfigError: see ``config_of``.
    """
    from transformers import SamModel

    config = config_of(state, decoder_heads)
    with torch.device("meta"):
        model = SamModel(config)
    wanted = model.state_dict()
    given = to_transformers(state)
    if wrong := sorted(set(wanted) ^ set(given)):
        raise WeightsError(f"the checkpoint does not fit a SAM: {len(wrong)} tensors missing or unknown ({wrong[:4]})")
    for name, tensor in given.items():
        if wanted[name].shape != tensor.shape:
            raise WeightsError(f"{name}: got shape {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}")
    model.load_state_dict({name: tensor.float() for name, tensor in given.items()}, assign=True)
    model.tie_weights()
    return model.requires_grad_(False).eval()


def load_pth(path: str | Path, decoder_heads: int = SAM_DECODER_HEADS) -> Any:
    """Return the ``SamModel`` of one of Meta's ``.pth`` files; see ``read_pth`` and ``build`` for the errors."""
    return build(read_pth(path), decoder_heads)


def convert(path: str | Path, folder: str | Path, decoder_heads: int = SAM_DECODER_HEADS) -> Path:
    """Turn a ``.pth`` file into a transformers folder (safetensors, configuration, preprocessing); return it.

    Raises:
        WeightsError: see ``read_pth`` and ``build``.
    """
    from transformers import SamImageProcessor

    model = load_pth(path, decoder_heads)
    folder = Path(folder)
    model.save_pretrained(folder)
    side = int(model.config.vision_config.image_size)
    square = {"height": side, "width": side}
    SamImageProcessor(size={"longest_edge": side}, pad_size=square).save_pretrained(folder)
    return folder


def write_pth(model: Any, path: str | Path) -> Path:
    """Write a ``SamModel``'s weights in Meta's layout, for segment-anything; return the path."""
    path = Path(path)
    torch.save({name: tensor.clone() for name, tensor in to_meta(model.state_dict()).items()}, path)
    return path


def meta_sam(model: Any) -> Any:
    """Return a ``segment_anything.modeling.Sam`` of a ``SamModel``'s size and weights; needs that package.

    So that what is said of the two can be checked with one set of weights.
    """
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
    made.load_state_dict(to_meta(model.state_dict()))
    return made.eval()
