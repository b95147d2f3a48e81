"""Texts through a CLIP's text tower without their padding.

open_clip pads every text to the tower's context, 77 tokens mostly, for a phrase of five. In a tower with a causal mask
(Radford et al. 2021) nothing after a text's end mark reaches its embedding, so that it need not be computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def encode_text(model: Any, ids: Tensor) -> Tensor:
    """Return what ``model.encode_text(ids)`` gives, of an open_clip model: (N, dim), not normalised.

    Args:
        model: its own ``encode_text`` is called where it is no plain CLIP with a causal text tower.
        ids: int64 (N, L) tokens, padded behind the end mark; N at least 1.
    """
    if not ends_at_a_mark(model):
        whole: Tensor = model.encode_text(ids)
        return whole
    return embed(model, without_padding(ids, _ends(model, ids)))


def embed(model: Any, ids: Tensor) -> Tensor:
    """Return the embeddings, (N, dim), of int64 (N, l) tokens that need not be padded; see ``ends_at_a_mark``."""
    length = ids.shape[1]
    dtype = model.transformer.get_cast_dtype()
    x: Tensor = model.token_embedding(ids).to(dtype) + model.positional_embedding[:length].to(dtype)  # (N, l, W)
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(x.shape[0], device=x.device), _ends(model, ids)]
    projection = model.text_projection
    if projection is None:
        return x
    embedding: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return embedding


def without_padding(ids: Tensor, ends: Tensor | None = None) -> Tensor:
    """Cut (N, L) tokens behind the last end mark: at ``ends`` (N,) or, by default, where the highest number is."""
    ends = ids.argmax(dim=-1) if ends is None else ends
    return ids[:, : int(ends.max()) + 1]


def ends_at_a_mark(model: Any) -> bool:
    """Whether nothing behind a text's end mark reaches its embedding: an open_clip CLIP with a causal text tower."""
    import open_clip

    return type(model) is open_clip.CLIP and model.attn_mask is not None and model.text_pool_type in ("argmax", "eos")


def _ends(model: Any, ids: Tensor) -> Tensor:
    """Return int64 (N,), which token of each text becomes its embedding."""
    if model.text_pool_type == "argmax":  # the end mark has the highest number
        return ids.argmax(dim=-1)
    is_end: Tensor = ids == model.text_eos_id
    return is_end.int().argmax(dim=-1)
