"""The network of the nano detector: pictures to features once, then one dot product per phrase.

A small convolutional trunk, two attention layers at its coarsest level (so that wholes are
understood) and a light feature pyramid (Lin et al., CVPR 2017) end in three kinds of features:

* pixel features at stride 4: a phrase's map is the soft AND of a few dot products with the
  phrase's codes, so that "red" and "car" may be asked separately and must both hold;
* box features at stride 8: distances to the four sides (FCOS, Tian et al., ICCV 2019) and a
  quality, each a dot product with the phrase's code, because the same pixel lies in a shirt
  and in a person;
* one context vector: whether the phrase is in the picture at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from textseg.models.packed_convolutions import add_relu

PIXEL_STRIDE = 4
BOX_STRIDE = 8
SIDES = 4
PEAK_PIXELS = 16
"""How many of a map's highest pixels the presence score looks at."""


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the network; saved beside the weights.

    Attributes:
        backbone: a timm architecture with features at strides 4, 8, 16 and 32.
        text_dim: width of the text embeddings it takes.
        width: channels of the pyramid at strides 8 to 32.
        fine_width: channels of the pyramid at stride 4.
        embed_dim: width of one pixel code; ``parts`` of them make a phrase.
        parts: how many dot products must all hold.
        context_width, context_layers, context_heads: the attention layers at the coarsest level.
        box_dim: width of one box code.
        text_hidden: hidden width of the text projection.
        deep_stride: stride of the coarsest level, 32 or 16; 16 sees the parts of small things apart.
    """

    backbone: str = "regnetx_004"
    text_dim: int = 256
    width: int = 128
    fine_width: int = 96
    embed_dim: int = 96
    parts: int = 2
    context_width: int = 192
    context_layers: int = 2
    context_heads: int = 6
    box_dim: int = 32
    text_hidden: int = 384
    deep_stride: int = 32


class Features(NamedTuple):
    """What is kept of B pictures.

    Attributes:
        pixels: (B, parts · embed_dim, h, w) at stride 4.
        boxes: (B, 5 · (box_dim + 1), h / 2, w / 2) at stride 8: four sides and the quality.
        context: (B, context_width).
    """

    pixels: Tensor
    boxes: Tensor
    context: Tensor


class TextCodes(NamedTuple):
    """What is kept of phrases; the leading axes are the caller's.

    Attributes:
        pixels: (..., parts, embed_dim); pixel_bias: (..., parts).
        boxes: (..., 5, box_dim).
        presence: (..., context_width); presence_bias: (...,).
    """

    pixels: Tensor
    pixel_bias: Tensor
    boxes: Tensor
    presence: Tensor
    presence_bias: Tensor


class Answers(NamedTuple):
    """What T phrases find in each of B pictures.

    Attributes:
        maps: (B, T, h, w) logits at stride 4.
        boxes_xyxy: (B, T, 4, h / 2, w / 2) pixels of the network's input.
        quality: (B, T, h / 2, w / 2) logits: how well that box fits.
        presence: (B, T) logits: is it in the picture at all.
    """

    maps: Tensor
    boxes_xyxy: Tensor
    quality: Tensor
    presence: Tensor


def conv_bn(inputs: int, outputs: int, kernel: int = 3, act: bool = True) -> nn.Sequential:
    """A convolution of stride 1 with batch norm and, if wanted, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if act else nn.Sequential(*layers)


class ContextLayer(nn.Module):
    """Attention over all places; a depthwise convolution tells them where they are."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        x = x + self.position(x)
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # (B, hw, C)
        qkv = self.qkv(self.norm_attention(tokens)).reshape(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, hw, C / heads)
        if self.training:  # plain products: on a CPU their backward pass is three times as fast
            mixed = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(b, h * w, c))
        tokens = tokens + self.mlp(self.norm_mlp(tokens))
        out: Tensor = tokens.transpose(1, 2).reshape(b, c, h, w)
        return out


class TextProjection(nn.Module):
    """Text embeddings to the phrase's codes: whitening, one hidden layer, one table of outputs.

    A small text tower puts most nouns close together, along a few directions. Whitening spreads them,
    in float32 throughout: what sets two nouns apart may be a thousandth of their length.
    """

    mean: Tensor
    whiten: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        pixels = config.parts * (config.embed_dim + 1)
        self.sizes = [pixels, 5 * config.box_dim, config.context_width + 1]
        self.register_buffer("mean", torch.zeros(config.text_dim))
        self.register_buffer("whiten", torch.eye(config.text_dim) * config.text_dim**0.5)
        self.hidden = nn.Linear(config.text_dim, config.text_hidden)
        self.codes = nn.Linear(config.text_hidden, sum(self.sizes))
        nn.init.constant_(self.codes.bias[:pixels].view(config.parts, -1)[:, -1], -2.0)

    def standardise(self, embeddings: Tensor, floor: float = 1e-5) -> None:
        """Fix the whitening from (N, text_dim) samples; directions below ``floor`` of all variance are left weak."""
        samples = embeddings.double()
        centered = samples - samples.mean(0)
        values, vectors = torch.linalg.eigh(centered.T @ centered / len(samples))
        gains = (values.clamp_min(0) + floor * values.sum()).rsqrt()
        whiten = vectors * gains @ vectors.T
        whiten /= (centered @ whiten).std().clamp_min(1e-6)
        self.mean.copy_(samples.mean(0))
        self.whiten.copy_(whiten)

    def flat(self, embeddings: Tensor) -> Tensor:
        """Map (..., text_dim) to all codes side by side, (..., sum of the sizes)."""
        with torch.autocast(embeddings.device.type, enabled=False):
            spread = (embeddings.float() - self.mean) @ self.whiten
            codes: Tensor = self.codes(functional.gelu(self.hidden(spread)))
        return codes

    def forward(self, embeddings: Tensor) -> TextCodes:
        """Map (..., text_dim) to codes."""
        return self.split(self.flat(embeddings))

    def split(self, flat: Tensor) -> TextCodes:
        """Return the codes that lie side by side, (..., sum of the sizes)."""
        c = self.config
        pixels, boxes, presence = torch.split(flat, self.sizes, dim=-1)
        pixels = pixels.reshape(*pixels.shape[:-1], c.parts, c.embed_dim + 1)  # (..., parts, D + 1)
        return TextCodes(
            pixels[..., :-1],
            pixels[..., -1],
            boxes.reshape(*boxes.shape[:-1], SIDES + 1, c.box_dim),  # (..., 5, box_dim)
            presence[..., :-1],
            presence[..., -1],
        )


class NanoNetwork(nn.Module):
    """See the module's text. About 6.7 M parameters as configured by default, 6.3 M as nano ships it."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or NetworkConfig()
        stride = {} if c.deep_stride == 32 else {"output_stride": c.deep_stride}
        self.backbone = timm.create_model(
            c.backbone, features_only=True, pretrained=False, out_indices=(-4, -3, -2, -1), **stride
        )
        s4, s8, s16, s32 = self.backbone.feature_info.channels()
        self.enter = conv_bn(s32, c.context_width, 1)
        self.context = nn.Sequential(*(ContextLayer(c.context_width, c.context_heads) for _ in range(c.context_layers)))
        self.top = conv_bn(c.context_width, c.width, 1, act=False)
        self.lateral16, self.smooth16 = conv_bn(s16, c.width, 1, act=False), conv_bn(c.width, c.width)
        self.lateral8, self.smooth8 = conv_bn(s8, c.width, 1, act=False), conv_bn(c.width, c.width)
        self.down8 = conv_bn(c.width, c.fine_width, 1, act=False)
        self.lateral4, self.smooth4 = conv_bn(s4, c.fine_width, 1, act=False), conv_bn(c.fine_width, c.fine_width)
        self.pixel_head = nn.Conv2d(c.fine_width, c.parts * c.embed_dim, 1)
        self.box_tower = nn.Sequential(conv_bn(c.width, c.width), conv_bn(c.width, c.width))
        self.box_head = nn.Conv2d(c.width, (SIDES + 1) * (c.box_dim + 1), 1)
        self.text = TextProjection(c)
        self.presence_scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Features:
        """Map normalised (B, 3, H, W) pictures, H and W multiples of 32, to features."""
        c4, c8, c16, deepest = self.backbone(images)
        deep = self.context(self.enter(deepest))  # (B, context_width, H / deep_stride, W / deep_stride)
        p16 = self.smooth16(add_relu(self.lateral16, c16, _spread(self.top(deep), c16)))
        p8 = self.smooth8(add_relu(self.lateral8, c8, _spread(p16, c8)))
        p4 = self.smooth4(add_relu(self.lateral4, c4, _spread(self.down8(p8), c4)))
        return Features(self.pixel_head(p4), self.box_head(self.box_tower(p8)), deep.mean((2, 3)))

    def answer(self, features: Features, codes: TextCodes, boxed: int | None = None) -> Answers:
        """Match B pictures with T phrases each: ``codes`` have leading axes (B, T).

        Boxes and quality are worked out for the first ``boxed`` phrases alone, where given.
        """
        maps = self.match_pixels(features, codes)
        boxes_xyxy, quality = self.match_boxes(features, codes._replace(boxes=codes.boxes[:, :boxed]))
        return Answers(maps, boxes_xyxy, quality, self.match_presence(features, codes, maps))

    def match_pixels(self, features: Features, codes: TextCodes) -> Tensor:
        """Return the phrases' logits, (B, T, h, w): a soft minimum over the parts."""
        c = self.config
        b, _, h, w = features.pixels.shape
        pixels = features.pixels.reshape(b, c.parts, c.embed_dim, h * w)
        parts = torch.matmul(codes.pixels.transpose(1, 2), pixels)  # (B, parts, T, hw)
        parts = parts.float() * c.embed_dim**-0.5 + codes.pixel_bias.float().transpose(1, 2)[..., None]
        logits: Tensor = -reduce(torch.logaddexp, (-parts).unbind(1))  # (B, T, hw); several times as fast as logsumexp
        return logits.reshape(b, logits.shape[1], h, w)

    def match_boxes(self, features: Features, codes: TextCodes) -> tuple[Tensor, Tensor]:
        """Return boxes, (B, T, 4, h, w) input pixels, and quality logits, (B, T, h, w), at stride 8."""
        d = self.config.box_dim
        b, _, h, w = features.boxes.shape
        t = codes.boxes.shape[1]
        places = features.boxes.reshape(b, SIDES + 1, d + 1, h * w)
        raw = torch.matmul(codes.boxes.transpose(1, 2), places[:, :, :d]).float() * d**-0.5  # (B, 5, T, hw)
        raw = (raw + places[:, :, d:].float()).transpose(1, 2).reshape(b, t, SIDES + 1, h, w)
        sides = torch.exp(raw[:, :, :SIDES].clamp(-4, 5) + 1.0) * BOX_STRIDE  # (B, T, 4, h, w): left top right bottom
        x = (torch.arange(w, device=raw.device) + 0.5) * BOX_STRIDE
        y = (torch.arange(h, device=raw.device) + 0.5) * BOX_STRIDE
        left, top, right, bottom = sides.unbind(2)
        y = y[:, None]
        return torch.stack([x - left, y - top, x + right, y + bottom], dim=2), raw[:, :, SIDES]

    def match_presence(self, features: Features, codes: TextCodes, maps: Tensor) -> Tensor:
        """Return (B, T) logits from the map's highest pixels and from the picture as a whole."""
        flat = maps.flatten(2)  # (B, T, hw)
        peak = flat.topk(min(PEAK_PIXELS, flat.shape[-1]), dim=-1).values.mean(-1)
        whole = torch.matmul(codes.presence, features.context[:, :, None]).squeeze(-1).float()  # (B, T)
        whole = whole * self.config.context_width**-0.5 + codes.presence_bias.float()
        presence: Tensor = self.presence_scale * peak + whole
        return presence


def _spread(x: Tensor, over: Tensor) -> Tensor:
    """Repeat the places of (B, C, h, w) until there are as many as `over` has."""
    return x if x.shape[2:] == over.shape[2:] else functional.interpolate(x, size=over.shape[2:], mode="nearest")


def load_fitting(module: nn.Module, state: dict[str, Tensor]) -> int:
    """Copy the tensors that ``module`` has under the same name and shape; return how many those are."""
    own = module.state_dict()
    fitting = {k: v.to(own[k].dtype) for k, v in state.items() if k in own and own[k].shape == v.shape}
    module.load_state_dict({**own, **fitting})
    return len(fitting)
