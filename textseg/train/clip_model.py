"""The nano CLIP itself: its shape, its short text pass, its package. Plain open_clip classes throughout."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from textseg.models.clip_load import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from textseg.models.clip_text import encode_text
from textseg.models.nano_files import write_whole
from textseg.train.vocab import NanoTokenizer

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipModelConfig:
    """The model's shape; written out as open_clip's `model_cfg`."""

    image_tower: str = "regnetx_004"
    image_size: int = 112
    embed_dim: int = 256
    text_width: int = 192
    text_heads: int = 3
    text_layers: int = 4
    init_logit_scale: float = 3.0
    """Logarithm of the factor on cosines."""
    init_logit_bias: float = -4.0
    """About the log-odds that a phrase of a batch fits a crop. SigLIP's -10 suits batches of 32,768:
    with some 150 phrases it draws all embeddings into one narrow cone."""

    def open_clip(self, vocab_size: int, context_length: int) -> dict[str, Any]:
        """Keyword arguments of `open_clip.CLIP`."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "timm_model_name": self.image_tower,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": self.image_size,
            },
            "text_cfg": {
                "context_length": context_length,
                "vocab_size": vocab_size,
                "width": self.text_width,
                "heads": self.text_heads,
                "layers": self.text_layers,
            },
            "init_logit_scale": self.init_logit_scale,
            "init_logit_bias": self.init_logit_bias,
        }


def build_nano_clip(model_cfg: dict[str, Any]) -> open_clip.CLIP:
    """An `open_clip.CLIP` with random weights from a `model_cfg` (see `ClipModelConfig.open_clip`)."""
    return open_clip.CLIP(**model_cfg)


def encode_short_text(model: open_clip.CLIP, ids: Tensor) -> Tensor:
    """What `model.encode_text(ids, normalize=True)` gives, (M, D), without computing the padding of the (M, L) ids."""
    return functional.normalize(encode_text(model, ids).float(), dim=-1)


def normalise(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 to float32 with CLIP's mean and deviation, channels last."""
    mean = torch.tensor(MEAN).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD).view(1, 3, 1, 1) * 255
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def export(weights: dict[str, Tensor], model_cfg: dict[str, Any], tokenizer_json: Path, folder: Path) -> Path:
    """Write a loadable package: `open_clip_config.json`, `open_clip_model.safetensors` (fp16), `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    text = json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess}, indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    halves = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in weights.items()}
    write_whole(folder / WEIGHTS_FILE, save(halves, metadata={"format": "pt"}))
    if tokenizer_json.resolve() != (folder / TOKENIZER_FILE).resolve():
        shutil.copyfile(tokenizer_json, folder / TOKENIZER_FILE)
    return folder


class ExportedClip(NamedTuple):
    """What `export` wrote: the model in float32, not training; its tokenizer; `preprocess_cfg`."""

    model: open_clip.CLIP
    tokenizer: NanoTokenizer
    preprocess_cfg: dict[str, Any]


def is_exported(folder: str | Path) -> bool:
    """Whether a folder holds all that `export` writes."""
    return all((Path(folder) / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE))


def load_exported(folder: str | Path) -> ExportedClip:
    """Read what `export` wrote, for other trainings to stand on.

    Raises:
        FileNotFoundError: a file is missing.
    """
    folder = Path(folder)
    table = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    model = build_nano_clip(table["model_cfg"])
    model.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS_FILE).items()})
    return ExportedClip(model.eval(), NanoTokenizer.load(folder / TOKENIZER_FILE), table["preprocess_cfg"])
