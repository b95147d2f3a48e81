"""SAM's mask decoder for many prompts on one picture: the same weights and answers in a fraction of the work.

Kirillov et al., *Segment Anything*, 2023 (the two-way transformer of its appendix A). Where the time of the plain
decoder goes, and what is done about it here:

- It repeats the picture's tokens for every prompt and projects each copy. Without a mask prompt all copies are the
  same until the first block has run: their projections are made once a picture.
- Later, the tokens of a prompt are few (seven or so) and those of the picture many (4,096), so it is cheaper to carry
  a projection over to the prompt's side: ``q (W k) = (q W) k`` and ``a (W v) = (a v) W``.
- It goes over every prompt's picture a dozen times. Here a layer's writing and the next layer's reading are one pass,
  block by block in the cache (``sam_passes``).
- The transposed convolutions have stride = kernel: they are products a token, cut into blocks that stay in the
  cache, and done only for the prompts whose predicted IoU is good enough and for the part that shows the picture.

SAM 2's decoder (Ravi et al., *SAM 2*, 2024), which EdgeTAM and SAM 3's tracker share, has one token more, and adds two
finer levels of the picture while it draws. The answers equal those of ``SamMaskDecoder``, ``Sam2MaskDecoder`` … to
float32 rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textseg.models import onednn
from textseg.models.sam_passes import Detail, Picture, Reader, Writer, blocks, heads, linear, norm, shared_read

_DRAW_BYTES = {"cpu": 1 << 21, "cuda": 1 << 29}
"""What the finest level of the tokens that are drawn at a time, over all prompts, may take: 8 D bytes a token."""


@dataclass(frozen=True)
class Answer:
    """The transformer's output for N prompts.

    Attributes:
        tokens: (N, T, D) the prompts' side: the IoU token (in SAM 2 behind another), the mask tokens, then the prompt.
        image: (N, S, D) the picture's side.
        detail: the picture's finer levels, where the family has them.
    """

    tokens: Tensor
    image: Tensor
    detail: Detail | None = None


class FastDecoder:
    """Runs a transformers ``SamMaskDecoder`` or ``Sam2MaskDecoder``; weights are read once, when it is made.

    Args:
        decoder: the module.
        position: (1, D, h, w) the position code of the picture's tokens.
        dtype: precision of the products on the picture's side; sums, norms and the prompts' side stay float32.
    """

    def __init__(self, decoder: Any, position: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.decoder = decoder
        self.dtype = dtype
        self.grid_hw = (int(position.shape[-2]), int(position.shape[-1]))
        self.masks = int(decoder.num_mask_tokens)
        self.position = _image_tokens(position)  # (1, S, D)
        self.most_tokens = 2 * _head_width(decoder.transformer.final_attn_token_to_image)
        with torch.no_grad():
            before = [decoder.obj_score_token.weight] if hasattr(decoder, "obj_score_token") else []
            self._iou_at = len(before)
            self._start = torch.cat([*before, decoder.iou_token.weight, decoder.mask_tokens.weight])  # (·, D)
            self._first = _flat_convolution(decoder.upscale_conv1, dtype)
            self._second = _flat_convolution(decoder.upscale_conv2, dtype)

    def fits(self, prompt_tokens: int) -> bool:
        """Whether a prompt of so many sparse tokens is few enough for this way to be the faster one."""
        return len(self._start) + prompt_tokens <= self.most_tokens

    def picture(self, image: Tensor, no_mask: Tensor, high: tuple[Tensor, Tensor] | None = None) -> Picture:
        """Return what all prompts on a picture share.

        Args:
            image: float32 (1, D, h, w), the encoder's embedding.
            no_mask: (1, D, h, w), the dense embedding of "no mask".
            high: (1, D/8, 4h, 4w) and (1, D/4, 2h, 2w), the finer levels of SAM 2's families.
        """
        tokens = _image_tokens(image + no_mask)
        block = self.decoder.transformer.layers[0]
        inward, outward = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        placed = tokens + self.position
        key = heads(linear(inward.k_proj, placed), inward)[0]
        value = heads(linear(inward.v_proj, tokens), inward)[0]
        query = heads(linear(outward.q_proj, placed), outward)[0] * outward.scaling
        detail = None if high is None else self.detail(*high)
        return Picture(tokens, key.to(self.dtype), value.to(self.dtype), query.to(self.dtype), detail)

    def detail(self, high_0: Tensor, high_1: Tensor) -> Detail:
        """Return the finer levels (1, D/8, 4h, 4w) and (1, D/4, 2h, 2w) as ``draw`` adds them."""
        detail = detail_of(high_0, high_1)
        return Detail(detail.fine, detail.finest.to(self.dtype))

    def attend(
        self,
        sparse: Tensor | None,
        picture: Picture | Tensor,
        *,
        detail: Detail | None = None,
        whole: bool = False,
    ) -> Answer:
        """Run the two-way transformer for N prompts.

        Args:
            sparse: (N, M, D) the prompts' tokens; None: none beside the masks.
            picture: what ``picture`` returned or, for prompts with masks, (N, D, h, w): the embedding plus each
                prompt's dense embedding.
            detail: the picture's, to draw with.
            whole: all at once, without blocks: for an exported graph.
        """
        shared = picture if isinstance(picture, Picture) else None
        image = picture.tokens if isinstance(picture, Picture) else _image_tokens(picture)
        start = self._start.expand((image if sparse is None else sparse).shape[0], -1, -1)
        prompt = start if sparse is None else torch.cat([start, sparse.to(start.dtype)], dim=1)  # (N, T, D)
        transformer = self.decoder.transformer
        layers, final = list(transformer.layers), transformer.final_attn_token_to_image
        tokens = _self_attend(layers[0], prompt, prompt)
        query = linear(layers[0].cross_attn_token_to_image.q_proj, tokens + prompt)
        mixed = self._first_read(layers[0].cross_attn_token_to_image, query, image, shared, whole)
        for number, layer in enumerate(layers):
            tokens = layer.layer_norm2(tokens + mixed)
            tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
            outward, after = layer.cross_attn_image_to_token, layer.layer_norm4
            writer = Writer(outward, after, tokens + prompt, tokens, shared, self.dtype)
            # the prompts' side of the next layer needs nothing of what this one writes on the picture
            following = layers[number + 1] if number + 1 < len(layers) else None
            tokens = tokens if following is None else _self_attend(following, tokens, prompt)
            inward = final if following is None else following.cross_attn_token_to_image
            reader = Reader(inward, linear(inward.q_proj, tokens + prompt), self.dtype)
            image, shared = self._pass(image, writer, reader, whole), None
            mixed = reader.answer()
        return Answer(transformer.layer_norm_final_attn(tokens + mixed), image, detail)

    def _first_read(self, attention: Any, query: Tensor, image: Tensor, shared: Picture | None, whole: bool) -> Tensor:
        """Return what the first layer's queries (N, T, I) read from the picture that nobody has changed: (N, T, D)."""
        if shared is not None:
            return shared_read(attention, query, shared)
        reader = Reader(attention, query, self.dtype)
        for block in blocks(image, image.shape[0], whole=whole):
            part = image[:, block]
            reader.add((part + self.position[:, block]).to(self.dtype), part.to(self.dtype))
        return reader.answer()

    def _pass(self, image: Tensor, writer: Writer, reader: Reader, whole: bool) -> Tensor:
        """Return the picture (N, S, D) as the writer changes (N or 1, S, D); the reader sees the new one.

        A picture that is no longer shared is changed in place: fresh memory costs more than the products.
        """
        n = reader.shape[0]
        out = image if writer.picture is None or whole else image.new_empty(n, *image.shape[1:])
        for block in blocks(image, n, whole=whole):
            position = self.position[:, block]
            new = writer.change(image[:, block], position, block)
            reader.add((new + position).to(self.dtype), new.to(self.dtype))
            if whole:
                return new
            out[:, block] = new
        return out

    def quality(self, answer: Answer) -> Tensor:
        """Return the unclipped predicted IoU, float32 (N, masks): the single mask's first, then the three."""
        quality: Tensor = self.decoder.iou_prediction_head(answer.tokens[:, self._iou_at])
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
        mlps = list(self.decoder.output_hypernetworks_mlps)[masks]
        first = self._iou_at + 1 + masks.indices(self.masks)[0]
        brushes = torch.stack([mlp(tokens[:, first + i]) for i, mlp in enumerate(mlps)], dim=2)  # (n, D/8, C)
        n, (h, w), (grid_h, grid_w) = image.shape[0], tokens_hw, self.grid_hw
        image = image.reshape(n, grid_h, grid_w, -1)[:, :h, :w]  # (n, h, w, D)
        shown = [] if answer.detail is None else [answer.detail.fine, answer.detail.finest]
        levels = [level.view(1, grid_h, grid_w, *level.shape[2:])[:, :h, :w] for level in shown]
        if whole:
            every = [level.flatten(1, 2) for level in levels]
            return self._strip(image.reshape(n, h * w, -1), brushes, w, every).reshape(n, len(mlps), 4 * h, 4 * w)
        out = torch.empty(n, len(mlps), h, 4, w, 4, device=image.device)
        tokens_at_once = _DRAW_BYTES.get(image.device.type, _DRAW_BYTES["cpu"]) // (8 * image.shape[-1])
        step = max(1, tokens_at_once // max(1, n * w))
        for top in range(0, h, step):
            part = image[:, top : top + step].reshape(n, -1, image.shape[-1])  # (n, s, D)
            some = [level[:, top : top + step].flatten(1, 2) for level in levels]
            out[:, :, top : top + step] = self._strip(part, brushes, w, some)
        return out.reshape(n, len(mlps), 4 * h, 4 * w)

    def _strip(self, image: Tensor, brushes: Tensor, width: int, levels: list[Tensor]) -> Tensor:
        """Return the logits of some rows of tokens: (n, s, D) and (n, D/8, C) → (n, C, s / width, 4, width, 4).

        ``levels`` are those rows of a ``Detail``, or nothing.
        """
        n, s, _ = image.shape
        fine = onednn.linear(image.to(self.dtype), *self._first).view(n, s, 4, -1)  # 2 × 2 pixels a token
        fine = fine + levels[0] if levels else fine
        fine = F.gelu(norm(self.decoder.upscale_layer_norm, fine)).to(self.dtype).view(n, 4 * s, -1)
        finest = onednn.linear(fine, *self._second, gelu=not levels)  # 4 × 4 pixels a token
        finest = F.gelu(finest.view(n, s, 16, -1) + levels[1]) if levels else finest
        finest = finest.reshape(n, 16 * s, -1)
        logits = onednn.bmm(finest, brushes.to(finest.dtype)).float()  # (n, 16 s, C)
        logits = logits.view(n, s // width, width, 2, 2, 2, 2, -1)  # rows, columns, then (y, x) of 2 and of 1 pixel
        logits = logits.permute(0, 7, 1, 3, 5, 2, 4, 6)
        return logits.reshape(n, logits.shape[1], s // width, 4, width, 4)


def detail_of(high_0: Tensor, high_1: Tensor) -> Detail:
    """Return the finer levels (1, D/8, 4h, 4w) and (1, D/4, 2h, 2w) of SAM 2's families by tokens."""
    h, w = high_1.shape[2] // 2, high_1.shape[3] // 2
    fine = high_1.view(1, -1, h, 2, w, 2).permute(0, 2, 4, 3, 5, 1)  # (1, h, w, y, x, D/4)
    finest = high_0.view(1, -1, h, 2, 2, w, 2, 2).permute(0, 2, 5, 3, 6, 4, 7, 1)  # (1, h, w, 2y, 2x, y, x, D/8)
    return Detail(fine.reshape(1, h * w, 4, -1), finest.reshape(1, h * w, 16, -1))


def _self_attend(block: Any, tokens: Tensor, prompt: Tensor) -> Tensor:
    """Return the prompts' tokens (N, T, D) after the block's self-attention and norm."""
    if block.skip_first_layer_pe:
        attended = block.self_attn(query=tokens[None], key=tokens[None], value=tokens[None])[0][0]
        return norm(block.layer_norm1, attended)
    placed = (tokens + prompt)[None]
    return norm(block.layer_norm1, tokens + block.self_attn(query=placed, key=placed, value=tokens[None])[0][0])


def _image_tokens(image: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2).contiguous()  # (B, S, D)


def _head_width(attention: Any) -> int:
    return int(attention.internal_dim) // int(attention.num_attention_heads)


def _flat_convolution(layer: nn.ConvTranspose2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a 2 × 2 transposed convolution of stride 2 as a linear layer: weight (4 O, I), bias (4 O,)."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()  # (I, O, y, x) → (y, x, O; I)
    assert layer.bias is not None
    return weight.to(dtype), layer.bias.repeat(4).to(dtype)
