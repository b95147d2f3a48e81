"""SAM's image encoder with the same weights and answers in less time on a CPU.

Li et al., *Exploring Plain Vision Transformer Backbones for Object Detection*, 2022 (ViTDet), with decomposed relative
positions. Where the time of the plain encoder goes beside its matrix products, and what is done about it here:

- It writes out the relative positions of all pairs of tokens (at SAM's size 0.8 GB a layer) in an order that has to
  be copied before the attention can use it: a quarter of the time. Here they are made for some rows at a time, in
  the cache.
- It projects the padding of the last windows (a sixth of the tokens), which is the bias alone.
- Its float32 products go through MKL, which on AMD's processors takes twice oneDNN's time (``onednn``).

The answers equal those of ``SamVisionEncoder`` to float32 rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textseg.models.onednn import linear, usable

_BIAS_ELEMENTS = 1 << 21
"""How many relative positions are held at a time (8 MiB in float32)."""


def encode(encoder: Any, pixels: Tensor) -> Tensor:
    """Return the embedding (1, D, h, w) of pixels (1, 3, H, W) by a transformers ``SamVisionEncoder``."""
    hidden = encoder.patch_embed(pixels)  # (1, h, w, E)
    if encoder.pos_embed is not None:
        hidden = hidden + encoder.pos_embed
    for layer in encoder.layers:
        hidden = hidden + _attention(layer, layer.layer_norm1(hidden))
        hidden = hidden + _mlp(layer.mlp, layer.layer_norm2(hidden))
    out: Tensor = encoder.neck(hidden)
    return out


def _mlp(mlp: Any, hidden: Tensor) -> Tensor:
    if type(mlp.act).__name__ != "GELUActivation":  # transformers takes long to import
        return mlp(hidden)  # type: ignore[no-any-return]
    return _linear(mlp.lin2, linear(hidden, mlp.lin1.weight, mlp.lin1.bias, gelu=True))


def _linear(layer: nn.Linear, hidden: Tensor) -> Tensor:
    return linear(hidden, layer.weight, layer.bias)


def _attention(layer: Any, hidden: Tensor) -> Tensor:
    """Return a layer's attention on (1, h, w, E), over the whole picture or within windows."""
    attention, size = layer.attn, int(layer.window_size)
    qkv = _linear(attention.qkv, hidden)  # (1, h, w, 3 E)
    if not size:
        mixed = _attend(attention, qkv)
        return _linear(attention.proj, mixed)
    height, width = hidden.shape[1:3]
    windows = _windows(qkv, attention.qkv.bias, size)  # (n, size, size, 3 E)
    mixed = _attend(attention, windows)
    rows, columns = -(-height // size), -(-width // size)
    mixed = mixed.view(rows, columns, size, size, -1).transpose(1, 2).reshape(1, rows * size, columns * size, -1)
    return _linear(attention.proj, mixed[:, :height, :width])


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
    parts = [tensor.reshape(n * heads, h * w, -1) for tensor in (query, key, value)]
    large = (h * w) ** 2 > _BIAS_ELEMENTS and usable(qkv)
    attend = _attend_in_rows if large else _attend_in_grids
    out = attend(parts[0], parts[1], parts[2], down, across)
    return out.view(n, heads, h * w, -1).transpose(1, 2).reshape(n, h, w, -1)


def _attend_in_rows(query: Tensor, key: Tensor, value: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Return (m, h w, d): attention within m large grids, some rows of the scores at a time, by oneDNN's products.

    Args:
        query, key, value: (m, h w, d).
        down: (m, h w, h); across: (m, h w, w): what a query adds for each row and for each column of keys.
    """
    m, places, width = query.shape
    out = query.new_empty(query.shape)
    step = max(1, _BIAS_ELEMENTS // places)
    for grid in range(m):
        keys, columns = key[grid].contiguous(), value[grid].t().contiguous()  # once, not for every part
        for start in range(0, places, step):
            rows = slice(start, start + step)
            scores = linear(query[grid, rows] * width**-0.5, keys)  # (rows, h w)
            placed = scores.view(len(scores), down.shape[2], across.shape[2])
            placed += down[grid, rows, :, None]
            placed += across[grid, rows, None, :]
            out[grid, rows] = linear(scores.softmax(dim=-1), columns)
    return out


def _attend_in_grids(query: Tensor, key: Tensor, value: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """As ``_attend_in_rows``, for any tensors, and faster for small grids: some of them at a time, by torch."""
    m, places, _ = query.shape
    parts = [tensor[:, None] for tensor in (query, key, value)]  # (m, 1, h w, d)
    out = query.new_empty(parts[0].shape)
    grids = max(1, _BIAS_ELEMENTS // places**2)
    step = max(1, min(places, _BIAS_ELEMENTS // places))
    for first in range(0, m, grids):
        some = slice(first, first + grids)
        for start in range(0, places, step):
            rows = slice(start, start + step)
            bias = (down[some, rows, :, None] + across[some, rows, None, :]).flatten(2)[:, None]  # (g, 1, rows, h w)
            out[some, :, rows] = F.scaled_dot_product_attention(
                parts[0][some, :, rows], parts[1][some], parts[2][some], attn_mask=bias
            )
    return out[:, 0]


def _relative(attention: Any, query: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a query (m, h, w, d) adds for each row and for each column of keys: (m, h w, h) and (m, h w, w)."""
    m, h, w, _ = query.shape
    by_row = attention.get_rel_pos(h, h, attention.rel_pos_h).to(query.dtype)  # (h, h, d): query's row, key's row
    by_column = attention.get_rel_pos(w, w, attention.rel_pos_w).to(query.dtype)
    down = torch.einsum("mhwc,hkc->mhwk", query, by_row)
    across = torch.einsum("mhwc,wkc->mhwk", query, by_column)
    return down.reshape(m, h * w, h).contiguous(), across.reshape(m, h * w, w).contiguous()
