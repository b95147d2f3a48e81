"""The nano mask refiner: a crop around each rough mask is looked at closely and the mask drawn again.

SAM sees a whole picture in 28 × 28 tokens, and a prompt reaches its finer levels through these alone; that says what
is where, but draws edges loosely. A crop shows small things large, and here the prompt is one more plane of it. The
network takes the crop, the rough mask, the prompt's box and the detector's map of the phrase, where there is one, and
knows no classes: what is meant is what these point at. A weak detector's boxes are off, so that it also learns to look
beyond them.
The idea is CascadePSP's (Cheng et al., CVPR 2020), the network a small U-Net (Ronneberger et al., 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from textseg import closeup
from textseg.closeup import Rough, cover, cut_level
from textseg.models import graphs, nano_files, onednn
from textseg.models.graphs import Graph
from textseg.models.nano_network import conv_bn
from textseg.models.packed_convolutions import add_relu
from textseg.models.quick_convolutions import quicken
from textseg.types import Closeups, Float, Image, UInt8

PLANES = 7
"""Of the input: red, green, blue, the rough mask, the box, what of the crop is picture, and the phrase's map."""

ROUGH_SCALE = 4.0
"""Rough logits, and those of maps, are divided by this and kept within ±2."""

PIXEL_MEAN, PIXEL_STD = 118.0, 60.0


@dataclass(frozen=True)
class RefinerConfig:
    """The shape of the network and of its crops; saved beside the weights.

    Attributes:
        side: pixels of the square crop; masks come out at half of it. A multiple of 16.
        widths: channels at strides 2, 4, 8 and 16.
        blocks: residual blocks at each of them.
        grow: the crop is the mask's box, made square and grown by this factor.
        least: least side of a crop in pixels of the picture.
    """

    side: int = 112
    widths: tuple[int, ...] = (24, 48, 96, 112)
    blocks: int = 2
    grow: float = 1.6
    least: float = 24.0


class Refined(NamedTuple):
    """Logits (N, side / 2, side / 2) over the crops, and the logit of each mask's IoU, (N,)."""

    logits: Tensor
    iou: Tensor


class Block(nn.Module):
    """Two convolutions around a shortcut (He et al., 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(width, width), conv_bn(width, width, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        enter, leave = self.body
        return add_relu(leave, enter(x), x)


class RefinerNetwork(nn.Module):
    """See the module's text. About 1.2 M parameters as configured by default."""

    def __init__(self, config: RefinerConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or RefinerConfig()
        self.down = nn.ModuleList()
        for inputs, width in zip((PLANES, *c.widths), c.widths, strict=False):
            enter = nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False)
            blocks = [Block(width) for _ in range(c.blocks)]
            self.down.append(nn.Sequential(enter, nn.BatchNorm2d(width), nn.ReLU(inplace=True), *blocks))
        pairs = list(zip(c.widths[:0:-1], c.widths[-2::-1], strict=True))  # from the coarsest up
        self.lateral = nn.ModuleList(conv_bn(coarse, fine, 1, act=False) for coarse, fine in pairs)
        self.up = nn.ModuleList(Block(fine) for _, fine in pairs)
        self.draw = nn.Conv2d(c.widths[0], 1, 3, padding=1)
        self.trust = nn.Parameter(torch.ones(()))
        self.judge = nn.Sequential(nn.Linear(c.widths[-1] + c.widths[0], 64), nn.ReLU(inplace=True), nn.Linear(64, 1))

    def forward(self, planes: Tensor) -> Refined:
        """Map (N, 7, side, side) to the masks; ``planes`` as ``crop_planes`` makes them."""
        levels = [planes]
        for down in self.down:
            levels.append(down(levels[-1]))
        deep = x = levels[-1]
        for lateral, up, fine in zip(self.lateral, self.up, levels[-2:0:-1], strict=True):
            x = up(fine + functional.interpolate(lateral(x), scale_factor=2.0, mode="nearest"))
        rough = functional.avg_pool2d(planes[:, 3:4], 2) * ROUGH_SCALE
        logits = (self.draw(x) + self.trust * rough)[:, 0].float()  # (N, side / 2, side / 2)
        share = logits.detach().sigmoid()[:, None]
        inside = (x * share).sum((2, 3)) / share.sum((2, 3)).clamp_min(1.0)
        return Refined(logits, self.judge(torch.cat([deep.mean((2, 3)), inside], dim=1))[:, 0].float())


def crop_planes(
    levels: Sequence[UInt8],
    rough: Float,
    window: Float,
    box_xyxy: Float | None,
    hint: Float | None,
    config: RefinerConfig,
) -> Float:
    """Return float32 (7, side, side), what the network sees of one rough mask.

    Args:
        levels: the picture, uint8 (H, W, 3), then smaller versions of it, where there are any (``Image.levels``).
        rough: float32 (m, m), the rough mask's logits over the crop.
        window: float32 (3,), from ``closeup.windows_around``.
        box_xyxy: float32 (4,), the prompt's box in pixels of the picture; None where there is none.
        hint: float32 (m, m), the logits of the phrase's map over the crop; None where there is none.
        config: sizes.
    """
    size = config.side
    planes = np.empty((PLANES, size, size), np.float32)
    height, width = levels[0].shape[:2]
    inside = cover(window, np.array([0, 0, width, height], np.float32), size)
    pixels = np.moveaxis(cut_level(levels, window, size).astype(np.float32), 2, 0)
    planes[:3] = (pixels - PIXEL_MEAN) / PIXEL_STD * (inside > 0.5)
    planes[3] = _soft(rough, size)
    planes[4] = 0.0 if box_xyxy is None else cover(window, box_xyxy, size)
    planes[5] = inside
    planes[6] = 0.0 if hint is None else _soft(hint, size)
    return planes


def _soft(logits: Float, size: int) -> Float:
    return np.clip(cv2.resize(logits, (size, size), interpolation=cv2.INTER_LINEAR) / ROUGH_SCALE, -2, 2)


class NanoRefiner:
    """Draws masks again; see the module's text.

    Args:
        network: the trained network.
        model_id: how it is called.
        graph: of the network, which is asked in its place; None: there is none.
    """

    def __init__(self, network: RefinerNetwork, model_id: str, graph: Graph | None = None) -> None:
        self.network = network
        self.model_id = model_id
        self.graph = graph

    @classmethod
    def load(cls, folder: str | Path) -> NanoRefiner:
        """Read the weights in a folder; errors as ``load_refiner`` says."""
        network, graph = load_refiner(folder), graphs.find(folder, "refine")
        if graph is None:
            quicken(network, rounded=onednn.has_bfloat16())
        return cls(network, "nano-refiner", graph)

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        """Draw N masks of one picture again.

        Args:
            image: the picture.
            roughs: the N masks as they are so far; N may be 0.
            boxes_xyxy: float32 (N, 4), the prompts' boxes in pixels of the picture; NaN rows: none.
            hints: float32 (N, h', w') logits over the whole picture, where a detector sees the phrase; rows of
                zeros, and None: none.
        """
        config, size = self.network.config, self.network.config.side // 2
        if not roughs:
            none = np.zeros((0, size, size), np.float32)
            return Closeups(none[:, 0, :3], none, none[:, 0, 0])
        windows = closeup.windows_of(boxes_xyxy, roughs, config.grow, config.least)
        planes = []
        maps = closeup.each_hint(hints, len(roughs))
        for rough, window, box, whole in zip(roughs, windows, boxes_xyxy, maps, strict=True):
            near = closeup.look(rough, window, size)
            hint = None if whole is None else closeup.look(Rough.whole(whole, image.size_hw), window, size)
            planes.append(crop_planes(image.levels, near, window, None if np.isnan(box).any() else box, hint, config))
        return Closeups(windows, *self._ask(np.stack(planes)))

    @torch.inference_mode()
    def _ask(self, planes: Float) -> tuple[Float, Float]:
        """Return logits (N, s, s), and the IoU that each mask is thought to have, (N,)."""
        if self.graph is not None:
            refined = Refined(*map(torch.from_numpy, self.graph.each(planes)))
        else:
            batch = torch.from_numpy(planes).contiguous(memory_format=torch.channels_last)
            with onednn.autocast():  # as it was trained
                refined = self.network(batch)
        return refined.logits.clamp(-closeup.LIMIT, closeup.LIMIT).numpy(), refined.iou.sigmoid().numpy()


def save_refiner(folder: str | Path, network: RefinerNetwork) -> None:
    """Write ``config.json`` and float16 ``model.safetensors`` into ``folder`` (made if missing)."""
    nano_files.save(folder, network, network.config)


def load_refiner(folder: str | Path) -> RefinerNetwork:
    """Read what ``save_refiner`` wrote, as float32, ready to be asked.

    Raises:
        WeightsError: naming the file that is missing, damaged or does not fit.
    """

    def make(config: RefinerConfig) -> RefinerNetwork:
        return nano_files.unfilled(lambda: RefinerNetwork(config))

    network = nano_files.read_config(folder, "a mask refiner", RefinerConfig, make)
    nano_files.load_weights(folder, network)
    return network.eval().to(memory_format=torch.channels_last)
