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
    ends = _ends(model, ids)
    if ends is None:
        whole: Tensor = model.encode_text(ids)
        return whole
    length = int(ends.max()) + 1
    dtype = model.transformer.get_cast_dtype()
    x: Tensor = model.token_embedding(ids[:, :length]).to(dtype) + model.positional_embedding[:length].to(
        dtype
    )  # (N, l, W)
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(x), device=x.device), ends]
    projection = model.text_projection
    if projection is None:
        return x
    embedding: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return embedding


def _ends(model: Any, ids: Tensor) -> Tensor | None:
    """Return int64 (N,), which token of each text becomes its embedding; None where later ones matter, too."""
    import open_clip

    if type(model) is not open_clip.CLIP or model.attn_mask is None:
        return None
    if model.text_pool_type == "argmax":  # the end mark has the highest number
        return ids.argmax(dim=-1)
    if model.text_pool_type == "eos":
        is_end: Tensor = ids == model.text_eos_id
        return is_end.int().argmax(dim=-1)
    return None
