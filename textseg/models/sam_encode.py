"""SAM's image encoder with the same weights and answers in less time on a CPU.

Li et al., *Exploring Plain Vision Transformer Backbones for Object Detection*, 2022 (ViTDet), with decomposed relative
positions. Where the time of the plain encoder goes beside its matrix products, and what is done about it here:

- It writes out the relative positions of all pairs of tokens (at SAM's size 0.8 GB a layer) in an order that has to
  be copied before the attention can use it: a quarter of the time. Here they are made for some rows at a time, in
  the cache.
- It projects the padding of the last windows (a sixth of the tokens), which is the bias alone.

The answers equal those of ``SamVisionEncoder`` to float32 rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BIAS_ELEMENTS = 1 << 21
"""How many relative positions are held at a time (8 MiB in float32)."""


def encode(encoder: Any, pixels: Tensor) -> Tensor:
    """Return the embedding (1, D, h, w) of pixels (1, 3, H, W) by a transformers ``SamVisionEncoder``."""
    hidden = encoder.patch_embed(pixels)  # (1, h, w, E)
    if encoder.pos_embed is not None:
        hidden = hidden + encoder.pos_embed
    for layer in encoder.layers:
        hidden = hidden + _attention(layer, layer.layer_norm1(hidden))
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    out: Tensor = encoder.neck(hidden)
    return out


def _attention(layer: Any, hidden: Tensor) -> Tensor:
    """Return a layer's attention on (1, h, w, E), over the whole picture or within windows."""
    attention, size = layer.attn, int(layer.window_size)
    qkv = attention.qkv(hidden)  # (1, h, w, 3 E)
    if not size:
        mixed = _attend(attention, qkv)
        return attention.proj(mixed)  # type: ignore[no-any-return]
    height, width = hidden.shape[1:3]
    windows = _windows(qkv, attention.qkv.bias, size)  # (n, size, size, 3 E)
    mixed = _attend(attention, windows)
    rows, columns = -(-height // size), -(-width // size)
    mixed = mixed.view(rows, columns, size, size, -1).transpose(1, 2).reshape(1, rows * size, columns * size, -1)
    return attention.proj(mixed[:, :height, :width])  # type: ignore[no-any-return]


def _windows(qkv: Tensor, bias: Tensor | None, size: int) -> Tensor:
    """Cut (1, h, w, C) into windows (n, size, size, C); what lies beyond is what a token of zeros is projected to."""
    _, height, width, channels = qkv.shape
    rows, columns = -(-height // size), -(-width // size)
    if (rows * size, columns * size) != (height, width):
        beyond = qkv.new_zeros(channels) if bias is None else bias.to(qkv.dtype)
        whole = beyond.expand(1, rows * size, columns * size, channels).clone()
        whole[:, :height, :width] = qkv
        qkv = whole
    return qkv.view(rows, size, columns, size, channels).transpose(1, 2).reshape(-1, size, size, channels)


def _attend(attention: Any, qkv: Tensor) -> Tensor:
    """Return (n, h, w, E): self-attention with relative positions within each of n grids, from (n, h, w, 3 E)."""
    n, h, w, _ = qkv.shape
    heads = attention.num_attention_heads
    query, key, value = qkv.view(n, h * w, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # (n, heads, h w, d)
    if not attention.use_rel_pos:
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).reshape(n, h, w, -1)
    down, across = _relative(attention, query.reshape(n * heads, h, w, -1))  # (n heads, h w, h), (n heads, h w, w)
    parts = [tensor.reshape(n * heads, 1, h * w, -1) for tensor in (query, key, value)]
    out = torch.empty_like(parts[0])
    grids = max(1, _BIAS_ELEMENTS // (h * w) ** 2)
    step = max(1, min(h * w, _BIAS_ELEMENTS // (h * w)))
    for first in range(0, n * heads, grids):
        some = slice(first, first + grids)
        for start in range(0, h * w, step):
            rows = slice(start, start + step)
            bias = (down[some, rows, :, None] + across[some, rows, None, :]).flatten(2)[:, None]  # (g, 1, rows, h w)
            out[some, :, rows] = F.scaled_dot_product_attention(
                parts[0][some, :, rows], parts[1][some], parts[2][some], attn_mask=bias
            )
    return out.view(n, heads, h * w, -1).transpose(1, 2).reshape(n, h, w, -1)


def _relative(attention: Any, query: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a query (m, h, w, d) adds for each row and for each column of keys: (m, h w, h) and (m, h w, w)."""
    m, h, w, _ = query.shape
    by_row = attention.get_rel_pos(h, h, attention.rel_pos_h).to(query.dtype)  # (h, h, d): query's row, key's row
    by_column = attention.get_rel_pos(w, w, attention.rel_pos_w).to(query.dtype)
    down = torch.einsum("mhwc,hkc->mhwk", query, by_row)
    across = torch.einsum("mhwc,wkc->mhwk", query, by_column)
    return down.reshape(m, h * w, h).contiguous(), across.reshape(m, h * w, w).contiguous()
