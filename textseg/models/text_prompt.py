"""From a CLIP embedding to sparse tokens that SAM's prompt encoder takes beside boxes and points.

The SAM paper (arXiv 2304.02643, §7.5 and D.5) feeds CLIP's embedding of the masked object in
training and CLIP's embedding of the phrase at inference; it does not say how one becomes a token.
Here a small MLP does it, and it is trained on both kinds of embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from textseg.errors import ShapeError
from textseg.models import nano_files
from textseg.types import Float


@dataclass(frozen=True)
class TextPromptConfig:
    """The shape of a `TextPrompt`."""

    clip_dim: int = 256
    """Width of the CLIP embedding that comes in."""
    text_width: int = 128
    """Width of the tokens that go out: the hidden size of SAM's prompt encoder."""
    token_count: int = 2
    """T, tokens per phrase."""
    hidden_dim: int = 256
    """Width of the hidden layer."""


class TextPrompt(nn.Module):
    """An MLP from ℓ2-normalised CLIP embeddings (N, clip_dim) to SAM tokens (N, T, text_width)."""

    def __init__(self, config: TextPromptConfig | None = None) -> None:
        super().__init__()
        self.config = config or TextPromptConfig()
        c = self.config
        self.center: Tensor
        self.register_buffer("center", torch.zeros(c.clip_dim))  # the mean of CLIP's phrase embeddings
        self.norm = nn.LayerNorm(c.clip_dim)
        self.hidden = nn.Linear(c.clip_dim, c.hidden_dim)
        self.activation = nn.GELU()
        self.out = nn.Linear(c.hidden_dim, c.token_count * c.text_width)

    @property
    def text_width(self) -> int:
        """Width of the tokens."""
        return self.config.text_width

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map float (N, clip_dim) to (N, T, text_width).

        Raises:
            ShapeError: where the embeddings have another width.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.config.clip_dim:
            raise ShapeError(
                f"embeddings: got shape {tuple(embeddings.shape)}, expected (N, {self.config.clip_dim}); "
                "take a text prompt that was trained with this CLIP"
            )
        tokens: Tensor = self.out(self.activation(self.hidden(self.norm(embeddings - self.center))))
        return tokens.reshape(len(embeddings), self.config.token_count, self.config.text_width)  # (N, T, D)

    @torch.no_grad()
    def tokens(self, embeddings: Float) -> Float:
        """Map float32 (N, clip_dim) arrays to float32 (N, T, text_width); N may be 0.

        Raises:
            ShapeError: where the embeddings have another width.
        """
        batch = torch.from_numpy(np.array(embeddings, dtype=np.float32)).to(self.out.weight.device)
        out: Float = self(batch).float().cpu().numpy()
        return out

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and fp16 ``model.safetensors`` into ``folder`` (made if missing)."""
        nano_files.save(folder, self, self.config)

    @classmethod
    def load(cls, folder: str | Path) -> TextPrompt:
        """Read what `save` wrote, as float32 in evaluation mode.

        Raises:
            WeightsError: naming the file that is missing, damaged or does not fit.
        """
        model = nano_files.read_config(folder, "a text prompt", TextPromptConfig, cls)
        nano_files.load_weights(folder, model)
        return model.eval()
