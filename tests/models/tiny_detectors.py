"""Tiny detectors of the real transformers classes, random weights, saved as a hub checkpoint is laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

from textseg.models.nano_network import NetworkConfig
from textseg.types import Image, Proposals

WORDS = ("a", "cat", "dog", "red", "car", "remote", "the", "left", "lion", "st", "bernard", "photo", "of", "thing")
ODD_SIZES = ((1, 1), (3, 3), (17, 3000), (3000, 17), (37, 53), (64, 96), (1, 5000))
ODD_TEXTS = (
    "",
    "...",
    "?!.,",
    "猫と犬",
    "Ünïcödé 🐈",
    "[SEP] cat",
    "<|endoftext|> dog",
    "st. bernard",
    "a, b, c",
    "\x00\t",
)

NANO = NetworkConfig(
    text_dim=8,
    width=16,
    fine_width=8,
    embed_dim=4,
    context_width=16,
    context_layers=1,
    context_heads=2,
    box_dim=4,
    text_hidden=16,
)
"""The nano detector's network."""


def picture(height: int, width: int, seed: int = 0) -> Image:
    """A picture of noise, (height, width)."""
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image(rgb, "array", f"{seed}:{height}x{width}")


def check_proposals(found: Proposals, size_hw: tuple[int, int], phrases: int, threshold: float) -> None:
    """Assert what holds for any detector's answer."""
    height, width = size_hw
    x0, y0, x1, y1 = found.boxes_xyxy.T
    assert found.boxes_xyxy.dtype == found.scores.dtype == np.float32
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x1 <= width).all()
    assert (y1 <= height).all()
    assert (x1 > x0).all()
    assert (y1 > y0).all()
    assert (found.scores >= threshold).all()
    assert (found.scores <= 1).all()
    assert set(found.phrase_index.tolist()) <= set(range(phrases))
    assert set(found.sources) <= {"detector"}


def rows(boxes: Any, scores: Any, size_hw: tuple[int, int]) -> np.ndarray:
    """Clip boxes to the picture, drop empty ones; return (N, 5) boxes and scores in a fixed order."""
    height, width = size_hw
    boxes = np.clip(np.asarray(boxes, np.float32), 0, [width, height, width, height])
    both = np.concatenate([boxes, np.asarray(scores, np.float32)[:, None]], axis=1)
    both = both[(boxes[:, 2:] - boxes[:, :2] >= 0.01).all(axis=1)]
    return both[np.lexsort(np.round(both, 2).T)]


def bert_tokenizer() -> Any:
    """A BERT tokenizer whose special tokens and delimiters have the ids that Grounding DINO hard-codes."""
    from transformers import BertTokenizer

    vocab = [f"[unused{i}]" for i in range(1200)]
    fixed = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1010: ",", 1012: ".", 1029: "?"}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [*letters, *("##" + c for c in letters), *(w for w in WORDS if len(w) > 1)]
    for index, token in [*fixed.items(), *enumerate(words, 1031)]:
        vocab[index] = token
    return BertTokenizer(vocab={token: index for index, token in enumerate(vocab)}, model_max_length=512)


def clip_tokenizer(length: int) -> Any:
    """A CLIP byte-pair tokenizer of some 520 tokens; the end of text has the highest id, as in the real one."""
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("r", "e"), ("re", "d</w>")]
    tokens = ["!", *(c for c in alphabet if c != "!"), *(c + "</w>" for c in alphabet), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def clip_text_config(length: int, width: int, tokenizer: Any, cls: Any = None) -> Any:
    """A one-layer text tower's configuration for ``tokenizer``."""
    from transformers import CLIPTextConfig

    return (cls or CLIPTextConfig)(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def swin_config(image_size: int) -> Any:
    """A Swin backbone of four one-block stages, widths 16 to 128."""
    from transformers import SwinConfig

    return SwinConfig(
        image_size=image_size,
        window_size=4,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )


def save(model: nn.Module, processor: Any, folder: Path) -> Path:
    """Give the model livelier weights and write both as a checkpoint folder."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)  # type: ignore[operator]
    processor.save_pretrained(folder)
    return folder


def grounding_dino(folder: Path, *, mm: bool = False) -> Path:
    """Save a tiny Grounding DINO (or MM-Grounding-DINO)."""
    import transformers

    cls = "MMGroundingDino" if mm else "GroundingDino"
    tokenizer = bert_tokenizer()
    config = getattr(transformers, f"{cls}Config")(
        backbone_config=swin_config(64),
        text_config=transformers.BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        ),
        d_model=64,
        num_queries=10,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_feature_levels=4,
    )
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    model = getattr(transformers, f"{cls}ForObjectDetection")(config).eval()
    return save(model, transformers.GroundingDinoProcessor(images, tokenizer), folder)


def owl(folder: Path, *, v2: bool) -> Path:
    """Save a tiny OWLv2 or OWL-ViT."""
    import transformers

    cls = "Owlv2" if v2 else "OwlViT"
    tokenizer = clip_tokenizer(16)
    text = clip_text_config(16, 32, tokenizer, getattr(transformers, f"{cls}TextConfig"))
    vision = getattr(transformers, f"{cls}VisionConfig")(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=96, patch_size=16
    )
    config = getattr(transformers, f"{cls}Config")(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32
    )
    extra = {} if v2 else {"crop_size": {"height": 96, "width": 96}}
    images = getattr(transformers, f"{cls}ImageProcessor")(size={"height": 96, "width": 96}, **extra)
    model = getattr(transformers, f"{cls}ForObjectDetection")(config).eval()
    return save(model, getattr(transformers, f"{cls}Processor")(images, tokenizer), folder)


def omdet(folder: Path) -> Path:
    """Save a tiny OmDet-Turbo."""
    import transformers

    tokenizer = clip_tokenizer(77)
    config = transformers.OmDetTurboConfig(
        backbone_config=swin_config(64),
        text_config=clip_text_config(77, 64, tokenizer),
        image_size=64,
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=64,
        text_projection_out_dim=64,
        class_embed_dim=64,
        task_encoder_hidden_dim=32,
        num_queries=12,
        encoder_hidden_dim=32,
        decoder_hidden_dim=32,
        vision_features_channels=[32, 32, 32],
        encoder_in_channels=[32, 64, 128],
        encoder_attention_heads=2,
        decoder_num_heads=2,
        encoder_dim_feedforward=32,
        decoder_dim_feedforward=32,
        decoder_num_layers=2,
    )
    images = transformers.DetrImageProcessor(size={"height": 64, "width": 64}, do_pad=False)
    model = transformers.OmDetTurboForObjectDetection(config).eval()
    return save(model, transformers.OmDetTurboProcessor(images, tokenizer), folder)


def sam3(folder: Path) -> Path:
    """Save a tiny SAM 3."""
    import transformers

    tokenizer = clip_tokenizer(32)
    part = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32, "num_layers": 1}
    config = transformers.Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 112,
                "window_size": 4,
                "global_attn_indexes": [1],
                "pretrain_image_size": 56,
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config=clip_text_config(32, 32, tokenizer).to_dict(),
        geometry_encoder_config=part,
        detr_encoder_config=part,
        detr_decoder_config={**part, "num_queries": 7},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4},
    )
    images = transformers.Sam3ImageProcessor(size={"height": 112, "width": 112}, mask_size={"height": 32, "width": 32})
    model = transformers.Sam3Model(config).eval()
    return save(model, transformers.Sam3Processor(images, tokenizer), folder)
