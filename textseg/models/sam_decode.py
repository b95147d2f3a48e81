"""SAM's mask decoder for many prompts on one picture: the same weights and answers in less than half the work.

Kirillov et al., *Segment Anything*, 2023 (the two-way transformer of its appendix A). Where the time of the plain
decoder goes, and what is done about it here:

- It repeats the picture's tokens for every prompt and projects each copy. Without a mask prompt all copies are the
  same until the first block has run: their projections are made once a picture.
- Later, the tokens of a prompt are few (seven or so) and those of the picture many (4,096), so it is cheaper to carry
  a projection over to the prompt's side: ``q (W k) = (q W) k`` and ``a (W v) = (a v) W``.
- The transposed convolutions have stride = kernel: they are products a token, cut into blocks that stay in the
  cache, and done only for the prompts whose predicted IoU is good enough and for the part that shows the picture.

The answers equal those of ``SamMaskDecoder`` to float32 rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_DRAW_TOKENS = {"cpu": 1024, "cuda": 1 << 18}
"""How many of the picture's tokens (over all prompts) are drawn at a time."""


@dataclass(frozen=True)
class Picture:
    """What all prompts without a mask share.

    Attributes:
        tokens: (1, S, D) the picture's tokens with the "no mask" embedding added.
        key, value: (H, S, d) of the first block's token-to-image attention.
        query: (H, S, d) of the first block's image-to-token attention, scaled.
    """

    tokens: Tensor
    key: Tensor
    value: Tensor
    query: Tensor


@dataclass(frozen=True)
class Answer:
    """The transformer's output for N prompts.

    Attributes:
        tokens: (N, T, D) the prompts' side: the IoU token, the mask tokens, then the prompt.
        image: (N, S, D) the picture's side.
    """

    tokens: Tensor
    image: Tensor


class FastDecoder:
    """Runs a transformers ``SamMaskDecoder``; weights are read once, when it is made.

    Args:
        decoder: the module.
        position: (1, D, h, w) the position code of the picture's tokens.
        dtype: precision of the products on the picture's side; the prompts' side stays float32.
    """

    def __init__(self, decoder: Any, position: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.decoder = decoder
        self.dtype = dtype
        self.grid_hw = (int(position.shape[-2]), int(position.shape[-1]))
        self.masks = int(decoder.num_mask_tokens)
        self.position = position.flatten(2).transpose(1, 2).contiguous().to(dtype)  # (1, S, D)
        self.most_tokens = 2 * _head_width(decoder.transformer.final_attn_token_to_image)
        with torch.no_grad():
            self._start = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # (1 + masks, D)
            self._first = _flat_convolution(decoder.upscale_conv1, dtype)
            self._second = _flat_convolution(decoder.upscale_conv2, dtype)

    def fits(self, prompt_tokens: int) -> bool:
        """Whether a prompt of so many sparse tokens is few enough for this way to be the faster one."""
        return len(self._start) + prompt_tokens <= self.most_tokens

    def picture(self, image: Tensor, no_mask: Tensor) -> Picture:
        """Return what all prompts without a mask share.

        Args:
            image: float32 (1, D, h, w), the encoder's embedding.
            no_mask: (1, D, h, w), the dense embedding of "no mask".
        """
        tokens = self._image_tokens(image, no_mask)
        block = self.decoder.transformer.layers[0]
        inward, outward = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        placed = tokens + self.position
        key = _heads(_linear(inward.k_proj, placed), inward)[0]
        value = _heads(_linear(inward.v_proj, tokens), inward)[0]
        query = _heads(_linear(outward.q_proj, placed), outward)[0] * outward.scaling
        return Picture(tokens, key, value, query)

    def attend(self, sparse: Tensor | None, picture: Picture | Tensor) -> Answer:
        """Run the two-way transformer for N prompts.

        Args:
            sparse: (N, M, D) the prompts' tokens; None: none beside the masks.
            picture: what ``picture`` returned or, for prompts with masks, (N, D, h, w): the embedding plus each
                prompt's dense embedding.
        """
        shared = picture if isinstance(picture, Picture) else None
        image = picture.tokens if isinstance(picture, Picture) else self._image_tokens(picture)
        start = self._start.expand((image if sparse is None else sparse).shape[0], -1, -1)
        prompt = start if sparse is None else torch.cat([start, sparse.to(start.dtype)], dim=1)  # (N, T, D)
        placed = image if shared else image + self.position  # of a shared picture, its projections are used
        tokens = prompt
        for block in self.decoder.transformer.layers:
            tokens = _self_attend(block, tokens, prompt)
            inward = block.cross_attn_token_to_image
            query = _linear(inward.q_proj, tokens + prompt)  # (N, T, I)
            mixed = _read(inward, query, placed, image) if shared is None else _shared_read(inward, query, shared)
            tokens = block.layer_norm2(tokens + mixed)
            tokens = block.layer_norm3(tokens + block.mlp(tokens))
            outward = block.cross_attn_image_to_token
            weights = _weights_on_tokens(outward, tokens + prompt, placed, shared)  # (N, H*T, S)
            image = _write(outward, tokens, weights, image)  # (N, S, D)
            image = _norm(block.layer_norm4, image)
            placed = image + self.position
            shared = None
        final = self.decoder.transformer.final_attn_token_to_image
        mixed = _read(final, _linear(final.q_proj, tokens + prompt), placed, image)
        return Answer(self.decoder.transformer.layer_norm_final_attn(tokens + mixed), image)

    def quality(self, answer: Answer) -> Tensor:
        """Return the unclipped predicted IoU, float32 (N, masks): the single mask's first, then the three."""
        quality: Tensor = self.decoder.iou_prediction_head(answer.tokens[:, 0])
        return quality.float()

    def draw(
        self, answer: Answer, rows: Tensor | None, masks: slice, tokens_hw: tuple[int, int], *, whole: bool = False
    ) -> Tensor:
        """Return float32 (n, C, 4 h, 4 w) mask logits.

        Args:
            answer: of N prompts.
            rows: int64 (n,), the prompts wanted; None: all.
            masks: which of the masks, as a slice.
            tokens_hw: (h, w): the top left part of the picture's tokens that is drawn.
            whole: all at once, without blocks: for an exported graph.
        """
        tokens, image = (answer.tokens, answer.image) if rows is None else (answer.tokens[rows], answer.image[rows])
        heads = list(self.decoder.output_hypernetworks_mlps)[masks]
        first = 1 + masks.indices(self.masks)[0]
        brushes = torch.stack([mlp(tokens[:, first + i]) for i, mlp in enumerate(heads)], dim=2)  # (n, D/8, C)
        n, (h, w), (grid_h, grid_w) = image.shape[0], tokens_hw, self.grid_hw
        image = image.reshape(n, grid_h, grid_w, -1)[:, :h, :w]  # (n, h, w, D)
        if whole:
            return self._strip(image.reshape(n, h * w, -1), brushes, w).reshape(n, len(heads), 4 * h, 4 * w)
        out = torch.empty(n, len(heads), h, 4, w, 4, device=image.device)
        step = max(1, _DRAW_TOKENS.get(image.device.type, 1024) // max(1, n * w))
        for top in range(0, h, step):
            part = image[:, top : top + step].reshape(n, -1, image.shape[-1])  # (n, s, D)
            out[:, :, top : top + step] = self._strip(part, brushes, w)
        return out.reshape(n, len(heads), 4 * h, 4 * w)

    def _strip(self, image: Tensor, brushes: Tensor, width: int) -> Tensor:
        """Return the logits of some rows of tokens: (n, s, D) and (n, D/8, C) → (n, C, s / width, 4, width, 4)."""
        n, s, _ = image.shape
        norm = self.decoder.upscale_layer_norm
        fine = F.linear(image, *self._first).view(n, 4 * s, -1)  # 2 × 2 pixels a token
        fine = F.gelu(F.layer_norm(fine, fine.shape[-1:], _like(norm.weight, fine), _like(norm.bias, fine), norm.eps))
        finest = F.gelu(F.linear(fine, *self._second)).view(n, 16 * s, -1)  # 4 × 4 pixels a token
        logits = torch.bmm(finest, brushes.to(finest.dtype)).float()  # (n, 16 s, C)
        logits = logits.view(n, s // width, width, 2, 2, 2, 2, -1)  # rows, columns, then (y, x) of 2 and of 1 pixel
        logits = logits.permute(0, 7, 1, 3, 5, 2, 4, 6)
        return logits.reshape(n, logits.shape[1], s // width, 4, width, 4)

    def _image_tokens(self, image: Tensor, dense: Tensor | None = None) -> Tensor:
        total = image if dense is None else image + dense
        return total.flatten(2).transpose(1, 2).to(self.dtype).contiguous()  # (B, S, D)


def _self_attend(block: Any, tokens: Tensor, prompt: Tensor) -> Tensor:
    """Return the prompts' tokens (N, T, D) after the block's self-attention and norm."""
    if block.skip_first_layer_pe:
        attended = block.self_attn(query=tokens[None], key=tokens[None], value=tokens[None])[0][0]
        return _norm(block.layer_norm1, attended)
    placed = (tokens + prompt)[None]
    return _norm(block.layer_norm1, tokens + block.self_attn(query=placed, key=placed, value=tokens[None])[0][0])


def _shared_read(attention: Any, query: Tensor, picture: Picture) -> Tensor:
    """Return what the prompts' queries (N, T, I) read from the shared picture: (N, T, D)."""
    n, t, _ = query.shape
    heads = _heads(query, attention).transpose(0, 1).flatten(1, 2)  # (H, N*T, d)
    scores = torch.bmm((heads * attention.scaling).to(picture.key.dtype), picture.key.transpose(1, 2))
    mixed = torch.bmm(scores.softmax(dim=-1), picture.value).float()  # (H, N*T, d)
    mixed = mixed.view(len(mixed), n, t, -1).permute(1, 2, 0, 3).reshape(n, t, -1)  # (N, T, I)
    return _linear(attention.out_proj, mixed)


def _read(attention: Any, query: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Return what queries (N, T, I) read from each prompt's own picture (N, S, D): (N, T, D).

    The key's bias adds the same to all of a query's scores, so the softmax does not see it.
    """
    n, t, _ = query.shape
    heads = _heads(query * attention.scaling, attention)  # (N, H, T, d)
    key_weight = attention.k_proj.weight.view(heads.shape[1], heads.shape[3], -1)  # (H, d, D)
    carried = torch.matmul(heads, key_weight).flatten(1, 2)  # (N, H*T, D)
    scores = torch.bmm(carried.to(placed.dtype), placed.transpose(1, 2))  # (N, H*T, S)
    mixed = torch.bmm(scores.softmax(dim=-1), image).float()  # (N, H*T, D)
    value_weight = attention.v_proj.weight.view(heads.shape[1], heads.shape[3], -1)  # (H, d, D)
    mixed = torch.matmul(mixed.view(n, -1, t, image.shape[-1]), value_weight.transpose(1, 2))  # (N, H, T, d)
    mixed = mixed.transpose(1, 2).reshape(n, t, -1) + attention.v_proj.bias
    return _linear(attention.out_proj, mixed)


def _weights_on_tokens(attention: Any, placed_tokens: Tensor, placed: Tensor, picture: Picture | None) -> Tensor:
    """Return how much each of the picture's tokens attends to the prompts' (N, T, D): (N, H*T, S), heads apart."""
    key = _heads(_linear(attention.k_proj, placed_tokens), attention)  # (N, H, T, d)
    key = key - key.mean(dim=2, keepdim=True)  # the softmax does not see it; smaller scores lose less in bfloat16
    n, h, t, d = key.shape
    if picture is not None:
        flat = key.transpose(0, 1).reshape(h, n * t, d)
        scores = torch.bmm(flat.to(picture.query.dtype), picture.query.transpose(1, 2))  # (H, N*T, S)
        scores = scores.view(h, n, t, -1).transpose(0, 1)  # (N, H, T, S)
        return scores.softmax(dim=2).reshape(n, h * t, -1)
    key = key * attention.scaling
    weight, bias = attention.q_proj.weight.view(h, d, -1), attention.q_proj.bias.view(h, d, 1)
    carried = torch.matmul(key, weight).flatten(1, 2)  # (N, H*T, D)
    constant = torch.matmul(key, bias).flatten(1, 2)  # (N, H*T, 1)
    scores = torch.baddbmm(constant.to(placed.dtype), carried.to(placed.dtype), placed.transpose(1, 2))
    return scores.view(n, h, t, -1).softmax(dim=2).flatten(1, 2)


def _write(attention: Any, tokens: Tensor, weights: Tensor, image: Tensor) -> Tensor:
    """Return the picture's tokens plus what they attend to: (N, S, D).

    A head's weights on the tokens sum to one, so the output's bias is spread over the heads.
    """
    value = _heads(_linear(attention.v_proj, tokens), attention)  # (N, H, T, d)
    n, h, _, d = value.shape
    out_weight = attention.out_proj.weight.t().view(h, d, -1)  # (H, d, D)
    carried = torch.matmul(value, out_weight) + attention.out_proj.bias / h  # (N, H, T, D)
    carried = carried.flatten(1, 2).to(image.dtype)
    return torch.baddbmm(image.expand(n, -1, -1), weights.transpose(1, 2), carried)


def _heads(tensor: Tensor, attention: Any) -> Tensor:
    """Split (N, L, I) into (N, H, L, d)."""
    n, length, _ = tensor.shape
    return tensor.view(n, length, attention.num_attention_heads, -1).transpose(1, 2)


def _head_width(attention: Any) -> int:
    return int(attention.internal_dim) // int(attention.num_attention_heads)


def _linear(layer: nn.Linear, tensor: Tensor) -> Tensor:
    return F.linear(tensor, _like(layer.weight, tensor), _like(layer.bias, tensor))


def _norm(layer: nn.LayerNorm, tensor: Tensor) -> Tensor:
    return F.layer_norm(
        tensor, layer.normalized_shape, _like(layer.weight, tensor), _like(layer.bias, tensor), layer.eps
    )


def _like(weight: Tensor, tensor: Tensor) -> Tensor:
    return weight.to(tensor.dtype)


def _flat_convolution(layer: nn.ConvTranspose2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a 2 × 2 transposed convolution of stride 2 as a linear layer: weight (4 O, I), bias (4 O,)."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()  # (I, O, y, x) → (y, x, O; I)
    assert layer.bias is not None
    return weight.to(dtype), layer.bias.repeat(4).to(dtype)
