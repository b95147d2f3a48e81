"""Fixed validation prompts for SAM, and what a model scores on them.

Pictures are prepared as at inference (stretched to the frame) and masks compared at the pictures' own
size. Of the three masks the one with the highest predicted IoU counts. Composed scenes use held-out
backgrounds; their cut-outs are those of training, since each noun has only one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from transformers import EdgeTamModel

from textseg import image as images
from textseg.closeup import full_mask
from textseg.models import onednn
from textseg.models.close_sam import CloseSam
from textseg.models.edgetam_encode import Levels, encode
from textseg.models.sam_input import InputSpec
from textseg.models.sam_networks import EdgeTamNetwork
from textseg.prior import box_prior, box_rough
from textseg.train import sam_prompts as sp
from textseg.train.data import PhotoSet, Sample, mask_box
from textseg.train.sam_model import PIXEL_MEAN, PIXEL_STD, STRIDE, PromptTensors, SamShape, decode_prompts, normalise
from textseg.train.scenes import SceneComposer, SceneConfig, at_size, load_cutouts
from textseg.types import Float, UInt8

KINDS = ("box", "prior", "rough", "point", "text")
MEAN_8BIT, STD_8BIT = tuple(255 * m for m in PIXEL_MEAN), tuple(255 * s for s in PIXEL_STD)
LARGE_AREA = 32 * 32
TextTokens = Callable[[list[str]], Tensor]
"""Phrases → tokens (N, T, D)."""


@dataclass(frozen=True)
class ValObject:
    """One thing to segment: its bool (H, W) mask, its noun, and the mask of all things of that noun."""

    mask: NDArray[np.bool_]
    text: str
    union: NDArray[np.bool_]


@dataclass(frozen=True)
class ValPicture:
    """A picture with the things to segment in it, and the kinds of prompt to try."""

    image_rgb: UInt8
    objects: tuple[ValObject, ...]
    group: str
    kinds: tuple[str, ...]


def load_val(root: str | Path, *, coco: int = 42, ccp: int = 30, scenes: int = 40, most: int = 6) -> list[ValPicture]:
    """The fixed subsets: `coco` and `ccp` photographs and single-object scenes, at most `most` things a picture."""
    pictures = [*_photos(root, "coco", coco, most), *_photos(root, "ccp", ccp, most)]
    composer = SceneComposer(
        load_cutouts(Path(root) / "fluent"),
        list(PhotoSet.load(root, "background", "val")),
        at_size(SceneConfig(objects=(1, 1), photo_probability=0.0), 288),
    )
    rng = np.random.default_rng(2024)
    while scenes > 0:
        sample = composer.compose(rng)
        if len(sample.objects) == 1 and not sample.objects[0].crowd:
            pictures.append(_picture(sample, "scene", ("prior", "text"), 1))
            scenes -= 1
    return pictures


def _photos(root: str | Path, name: str, count: int, most: int) -> Iterator[ValPicture]:
    """The first `count` validation photographs of a set that have masks."""
    taken = 0
    for sample in PhotoSet.load(root, name, "val"):
        picture = _picture(sample, name, KINDS, most)
        if taken < count and picture.objects:
            taken += 1
            yield picture


def _picture(sample: Sample, group: str, kinds: tuple[str, ...], most: int) -> ValPicture:
    usable = [o for o in sample.objects if o.mask is not None and not o.crowd and int(o.mask.sum()) >= 64]
    if group == "ccp":
        usable = [o for o in usable if o.name != "person"]
    step = max(1, len(usable) // most)
    chosen = usable[::step][:most]
    objects = tuple(ValObject(o.mask, o.name, _union(sample, o.name)) for o in chosen if o.mask is not None)
    return ValPicture(sample.image_rgb, objects, group, kinds)


def _union(sample: Sample, name: str) -> NDArray[np.bool_]:
    masks = [o.mask for o in sample.objects if o.name == name and o.mask is not None]
    return np.asarray(np.logical_or.reduce(masks), np.bool_)


@torch.no_grad()
def validate(
    model: EdgeTamModel, shape: SamShape, pictures: list[ValPicture], text: TextTokens | None
) -> dict[str, float]:
    """Mean IoU by group and kind of prompt ("coco/box", "coco_large/box", "scene/text" …) and the IoU head's error."""
    found: dict[str, list[float]] = defaultdict(list)
    for picture in pictures:
        framed = _stretched(picture.image_rgb, shape.image_size)
        with onednn.autocast():
            features = encode(model, normalise(torch.from_numpy(framed)[None]))
        features = Levels(*(level.float() for level in features))
        for kind in picture.kinds:
            if kind == "text" and text is None:
                continue
            prompts = _prompts(picture, kind, shape, text)
            with onednn.autocast():
                logits, claimed = decode_prompts(model, features, prompts)
            _score(found, picture, kind, logits, claimed)
    return {key: float(np.mean(values)) for key, values in sorted(found.items())}


def _stretched(array: UInt8, side: int) -> UInt8:
    """An (H, W) or (H, W, 3) array as the model's input holds it, ``side`` pixels square."""
    kind = cv2.INTER_AREA if max(array.shape[:2]) > side else cv2.INTER_LINEAR
    return sp.as_uint8(cv2.resize(array, (side, side), interpolation=kind))


def _prompts(picture: ValPicture, kind: str, shape: SamShape, text: TextTokens | None) -> PromptTensors:
    """One prompt of `kind` for each of the picture's things, the same at every call."""
    n, side = len(picture.objects), shape.image_size
    low = side // STRIDE
    boxes, points = np.full((n, 4), np.nan, np.float32), np.zeros((n, 1, 2), np.float32)
    labels, rough = np.full((n, 1), -1, np.int64), []
    rng = np.random.default_rng(7)
    for i, thing in enumerate(picture.objects):
        scale = np.array(side, np.float32) / np.array(thing.mask.shape[::-1], np.float32)
        box = sp.tight_box(thing.mask)
        if box is not None and kind in {"box", "prior", "rough"}:
            boxes[i] = box * np.tile(scale, 2)
        if box is not None and kind == "rough":
            boxes[i] = sp.jitter_box(boxes[i], (side, side), rng, tight=0.0)
            target = _stretched(thing.mask.astype(np.uint8) * 255, low)
            rough.append(sp.simulate_rough(sp.RoughContext(target, None, boxes[i] / STRIDE), rng))
        if kind == "prior":
            rough.append(box_prior(boxes[i : i + 1], (side, side), (low, low))[0])
        if kind == "point":
            points[i, 0], labels[i] = sp.center_point(thing.mask) * scale, 1
    tokens = text([o.text for o in picture.objects]) if kind == "text" and text is not None else None
    none = torch.zeros(0, dtype=torch.int64)
    return PromptTensors(
        image_index=torch.zeros(n, dtype=torch.int64),
        boxes=torch.from_numpy(boxes),
        points=torch.from_numpy(points),
        labels=torch.from_numpy(labels),
        mask_rows=torch.arange(n) if rough else none,
        mask_logits=torch.from_numpy(np.stack(rough)) if rough else torch.zeros(0, low, low),
        text_rows=torch.arange(n) if tokens is not None else none,
        text_tokens=tokens,
    )


def validate_closeups(model: EdgeTamModel, pictures: list[ValPicture]) -> dict[str, float]:
    """Mean IoU, by group, of the masks that a SAM for close-ups draws from exact boxes and their ellipses."""
    found: dict[str, list[float]] = defaultdict(list)
    still = EdgeTamModel(model.config)  # what is wrapped is made quick for good: not the one that learns
    still.load_state_dict(model.state_dict())
    network = EdgeTamNetwork(still)
    sam = CloseSam(
        network, InputSpec(network.input_hw, None, MEAN_8BIT, STD_8BIT, InterpolationMode.BILINEAR), "learning"
    )
    for picture in pictures:
        image = images.read(picture.image_rgb)
        boxes = np.stack([mask_box(o.mask) for o in picture.objects])
        closeups = sam.refine(image, [box_rough(box) for box in boxes], boxes)
        for n, thing in enumerate(picture.objects):
            found[f"{picture.group}/closeup"].append(_iou(full_mask(closeups, n, image.size_hw), thing.mask))
    return {key: float(np.mean(values)) for key, values in sorted(found.items())}


def _score(found: dict[str, list[float]], picture: ValPicture, kind: str, logits: Tensor, claimed: Tensor) -> None:
    best = claimed[:, 1:].argmax(dim=1) + 1
    for i, thing in enumerate(picture.objects):
        mask = thing.union if kind == "text" else thing.mask
        iou = full_iou(logits[i, int(best[i])].numpy(), mask)
        found[f"{picture.group}/{kind}"].append(iou)
        if picture.group == "coco" and int(thing.mask.sum()) >= LARGE_AREA:
            found[f"coco_large/{kind}"].append(iou)
        found[f"claim_error/{kind}"].append(abs(iou - min(1.0, max(0.0, float(claimed[i, int(best[i])])))))
        if kind == "box":
            found[f"{picture.group}/single"].append(full_iou(logits[i, 0].numpy(), thing.mask))


def full_iou(logits: Float, mask: NDArray[np.bool_]) -> float:
    """IoU at the picture's own size of low-resolution logits (m, m) over the picture with a bool (H, W) mask."""
    return _iou(cv2.resize(logits, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0, mask)


def _iou(got: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """IoU of two (H, W) masks; 0 where both are empty."""
    union = int((got | mask).sum())
    return float((got & mask).sum()) / union if union else 0.0
