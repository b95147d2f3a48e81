"""One pass of SAM's decoder over the picture's tokens, in blocks that stay in the cache.

A prompt's copy of the picture is 4 MB at SAM's size, and the decoder's steps on it are short: what they cost is
memory. So a block of tokens is read once, changed by the prompts (image-to-token attention, residual, norm), written
once and read by the next layer's queries (token-to-image attention) while it is in the cache. The softmax over all
tokens is put together from the blocks' parts (Milakov & Gimelshein, *Online normalizer calculation for softmax*,
2018; Dao et al., *FlashAttention*, 2022). Residuals, norms and softmaxes are float32 whatever the products are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textseg.models.onednn import bmm

_BLOCK_TOKENS = {"cpu": 2048, "cuda": 1 << 18}
"""How many of the picture's tokens (over all prompts) a block holds.

At SAM ViT-B's size, milliseconds a prompt on two cores: 13 with blocks of 2,048, 16 of 8,192, 20 of 16,384.
"""


@dataclass(frozen=True)
class Detail:
    """The finer levels of a picture that SAM 2's decoders add while they draw, by tokens: their pixels side by side.

    Attributes:
        fine: (1, S, 4, D/4) what 2 × 2 pixels a token add.
        finest: (1, S, 16, D/8) what 4 × 4 pixels a token add, in the order (y, x) of 2 and then of 1 pixel.
    """

    fine: Tensor
    finest: Tensor


@dataclass(frozen=True)
class Picture:
    """What all prompts on a picture share; all but ``detail`` only those without a mask.

    Attributes:
        tokens: (1, S, D) the picture's tokens with the "no mask" embedding added.
        key, value: (H, S, d) of the first block's token-to-image attention.
        query: (H, S, d) of the first block's image-to-token attention, scaled.
        detail: the finer levels, where the family has them.
    """

    tokens: Tensor
    key: Tensor
    value: Tensor
    query: Tensor
    detail: Detail | None = None


def blocks(image: Tensor, prompts: int, *, whole: bool = False) -> Iterator[slice]:
    """Yield the parts of a (·, S, D) picture's tokens that are worked on at a time; all of them if ``whole``."""
    tokens = image.shape[1]
    step = tokens if whole else max(64, _BLOCK_TOKENS.get(image.device.type, 2048) // max(1, prompts))
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))


class Reader:
    """What the queries of N prompts read from their pictures, which come block by block.

    A projection of the picture's tokens is carried over to the prompts' side, ``q (W k) = (q W) k``. The key's bias
    adds the same to all of a query's scores, so the softmax does not see it.

    Args:
        attention: token-to-image.
        query: (N, T, I) projected queries.
        dtype: of the products.
    """

    def __init__(self, attention: Any, query: Tensor, dtype: torch.dtype) -> None:
        self.attention, self.dtype = attention, dtype
        self.shape = (query.shape[0], query.shape[1])
        split = heads(query * attention.scaling, attention)  # (N, H, T, d)
        weight = attention.k_proj.weight.view(split.shape[1], split.shape[3], -1)  # (H, d, D)
        self._carried = torch.matmul(split, weight).flatten(1, 2).to(dtype)  # (N, H*T, D)
        self._most: Tensor | None = None  # (N, H*T, 1) greatest score so far
        self._sum = self._mixed = self._carried

    def add(self, placed: Tensor, block: Tensor) -> None:
        """Read a block: (N, s, D), with and without its position code, both in the products' dtype."""
        scores = bmm(self._carried, placed.transpose(1, 2)).float()  # (N, H*T, s)
        most = scores.amax(dim=2, keepdim=True)
        if self._most is not None:
            most = torch.maximum(most, self._most)
        weights = torch.exp(scores - most)
        total, mixed = weights.sum(dim=2, keepdim=True), bmm(weights.to(self.dtype), block).float()
        if self._most is not None:
            fade = torch.exp(self._most - most)
            total, mixed = total + fade * self._sum, mixed + fade * self._mixed
        self._most, self._sum, self._mixed = most, total, mixed

    def answer(self) -> Tensor:
        """Return what was read, projected: (N, T, D)."""
        (n, t), attention = self.shape, self.attention
        mixed = (self._mixed / self._sum).view(n, -1, t, self._mixed.shape[-1])  # (N, H, T, D)
        value_weight = attention.v_proj.weight.view(mixed.shape[1], -1, mixed.shape[-1])  # (H, d, D)
        out = torch.matmul(mixed, value_weight.transpose(1, 2)).transpose(1, 2).reshape(n, t, -1)
        return linear(output_of(attention), out + attention.v_proj.bias)


class Writer:
    """What N prompts change in their pictures, block by block: image-to-token attention, residual and norm.

    A head's weights on the prompt's tokens sum to one, so the output's bias is spread over the heads.

    Args:
        attention: image-to-token.
        layer_norm: after it.
        placed: (N, T, D) the prompts' tokens with their own embeddings added.
        tokens: (N, T, D) without.
        picture: what is shared, if the pictures are still the same for all prompts.
        dtype: of the products.
    """

    def __init__(
        self,
        attention: Any,
        layer_norm: nn.LayerNorm,
        placed: Tensor,
        tokens: Tensor,
        picture: Picture | None,
        dtype: torch.dtype,
    ) -> None:
        self.layer_norm, self.picture, self.dtype = layer_norm, picture, dtype
        key = heads(linear(attention.k_proj, placed), attention)  # (N, H, T, d)
        key = key - key.mean(dim=2, keepdim=True)  # the softmax does not see it; smaller scores lose less
        self.shape = n, h, t, d = key.shape
        value = heads(linear(attention.v_proj, tokens), attention)
        output = output_of(attention)
        carried = torch.matmul(value, output.weight.t().view(h, d, -1)) + output.bias / h  # (N, H, T, D)
        self._value = carried.flatten(1, 2).to(dtype)  # (N, H*T, D)
        if picture is not None:
            self._key = key.transpose(0, 1).reshape(h, n * t, d).to(dtype)
            return
        key = key * attention.scaling
        weight, bias = attention.q_proj.weight.view(h, d, -1), attention.q_proj.bias.view(h, d, 1)
        self._key = torch.matmul(key, weight).flatten(1, 2).to(dtype)  # (N, H*T, D)
        self._constant = torch.matmul(key, bias).flatten(1, 2)  # (N, H*T, 1)

    def change(self, old: Tensor, position: Tensor, block: slice) -> Tensor:
        """Return float32 (N, s, D): the block ``old`` (N or 1, s, D), changed."""
        n, h, t, _ = self.shape
        if self.picture is not None:
            scores = torch.bmm(self._key, self.picture.query[:, block].transpose(1, 2))  # (H, N*T, s)
            scores = scores.view(h, n, t, -1).transpose(0, 1).float()
        else:
            placed = (old + position).to(self.dtype).transpose(1, 2)
            scores = (bmm(self._key, placed).float() + self._constant).view(n, h, t, -1)
        weights = scores.softmax(dim=2).reshape(n, h * t, -1).to(self.dtype)
        return norm(self.layer_norm, old + bmm(weights.transpose(1, 2), self._value).float())


def shared_read(attention: Any, query: Tensor, picture: Picture) -> Tensor:
    """Return what the prompts' queries (N, T, I) read from the shared picture: (N, T, D)."""
    n, t, _ = query.shape
    split = heads(query, attention).transpose(0, 1).flatten(1, 2)  # (H, N*T, d)
    scores = torch.bmm((split * attention.scaling).to(picture.key.dtype), picture.key.transpose(1, 2)).float()
    mixed = torch.bmm(scores.softmax(dim=-1).to(picture.value.dtype), picture.value).float()  # (H, N*T, d)
    mixed = mixed.view(len(mixed), n, t, -1).permute(1, 2, 0, 3).reshape(n, t, -1)  # (N, T, I)
    return linear(output_of(attention), mixed)


def output_of(attention: Any) -> nn.Linear:
    """Return an attention's last layer: ``out_proj`` in SAM, ``o_proj`` in SAM 2 and what came after it."""
    layer: nn.Linear = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj
    return layer


def heads(tensor: Tensor, attention: Any) -> Tensor:
    """Split (N, L, I) into (N, H, L, d)."""
    n, length, _ = tensor.shape
    return tensor.view(n, length, attention.num_attention_heads, -1).transpose(1, 2)


def linear(layer: nn.Linear, tensor: Tensor) -> Tensor:
    """Apply a layer in the tensor's dtype."""
    return F.linear(tensor, layer.weight.to(tensor.dtype), layer.bias.to(tensor.dtype))


def norm(layer: nn.LayerNorm, tensor: Tensor) -> Tensor:
    """Apply a layer norm in the tensor's dtype."""
    weight, bias = layer.weight.to(tensor.dtype), layer.bias.to(tensor.dtype)
    return F.layer_norm(tensor, layer.normalized_shape, weight, bias, layer.eps)
