"""Fixed validation prompts for SAM, and what a model scores on them.

Pictures are prepared as at inference (longest side to the frame, padded at the right and bottom)
and masks compared at the pictures' own size. Of the three masks the one with the highest predicted
IoU counts. Composed scenes use held-out backgrounds; their cut-outs are those of training, since
each noun has only one.
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
from transformers import SamModel

from textseg.prior import box_prior
from textseg.train import sam_prompts as sp
from textseg.train.data import PhotoSet, Sample
from textseg.train.sam_data import FILL_RGB
from textseg.train.sam_model import PromptTensors, SamShape, decode_prompts, encode_window, normalise
from textseg.train.scenes import SceneComposer, SceneConfig, at_size, load_cutouts
from textseg.types import Float, UInt8

KINDS = ("box", "prior", "rough", "point", "text")
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
def validate(model: SamModel, shape: SamShape, pictures: list[ValPicture], text: TextTokens | None) -> dict[str, float]:
    """Mean IoU by group and kind of prompt ("coco/box", "coco_large/box", "scene/text" …) and the IoU head's error."""
    found: dict[str, list[float]] = defaultdict(list)
    for picture in pictures:
        framed, size_wh = _frame(picture.image_rgb, shape.image_size)
        with torch.autocast("cpu", torch.bfloat16):
            features = encode_window(model, normalise(torch.from_numpy(framed)[None])).float()
        for kind in picture.kinds:
            if kind == "text" and text is None:
                continue
            prompts = _prompts(picture, kind, shape, size_wh, text)
            with torch.autocast("cpu", torch.bfloat16):
                logits, claimed = decode_prompts(model, features, prompts)
            _score(found, picture, kind, logits, claimed, shape, size_wh)
    return {key: float(np.mean(values)) for key, values in sorted(found.items())}


def _frame(image_rgb: UInt8, side: int) -> tuple[UInt8, tuple[int, int]]:
    """The padded frame (side, side, 3) and the (width, height) of the picture in it."""
    height, width = image_rgb.shape[:2]
    scale = side / max(height, width)
    size_wh = (max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.empty((side, side, 3), np.uint8)
    out[...] = FILL_RGB
    out[: size_wh[1], : size_wh[0]] = cv2.resize(image_rgb, size_wh, interpolation=kind)
    return out, size_wh


def _prompts(
    picture: ValPicture, kind: str, shape: SamShape, size_wh: tuple[int, int], text: TextTokens | None
) -> PromptTensors:
    """One prompt of `kind` for each of the picture's things, the same at every call."""
    n, low = len(picture.objects), 4 * shape.grid
    boxes, points = np.full((n, 4), np.nan, np.float32), np.zeros((n, 1, 2), np.float32)
    labels, rough = np.full((n, 1), -1, np.int64), []
    rng = np.random.default_rng(7)
    for i, thing in enumerate(picture.objects):
        scale = np.array(size_wh, np.float32) / np.array(thing.mask.shape[::-1], np.float32)
        box = sp.tight_box(thing.mask)
        if box is not None and kind in {"box", "prior", "rough"}:
            boxes[i] = box * np.tile(scale, 2)
        if box is not None and kind == "rough":
            boxes[i] = sp.jitter_box(boxes[i], size_wh, rng, tight=0.0)
            context = sp.RoughContext(_low_mask(thing.mask, size_wh, shape, low), None, boxes[i] / shape.stride)
            rough.append(sp.simulate_rough(context, rng))
        if kind == "prior":
            side = (shape.image_size, shape.image_size)
            rough.append(box_prior(boxes[i : i + 1], side, (low, low))[0])
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


def _low_mask(mask: NDArray[np.bool_], size_wh: tuple[int, int], shape: SamShape, low: int) -> UInt8:
    framed = np.zeros((shape.image_size, shape.image_size), np.uint8)
    framed[: size_wh[1], : size_wh[0]] = cv2.resize(mask.astype(np.uint8) * 255, size_wh, interpolation=cv2.INTER_AREA)
    return sp.as_uint8(cv2.resize(framed, (low, low), interpolation=cv2.INTER_AREA))


def _score(
    found: dict[str, list[float]],
    picture: ValPicture,
    kind: str,
    logits: Tensor,
    claimed: Tensor,
    shape: SamShape,
    size_wh: tuple[int, int],
) -> None:
    best = claimed[:, 1:].argmax(dim=1) + 1
    for i, thing in enumerate(picture.objects):
        mask = thing.union if kind == "text" else thing.mask
        iou = full_iou(logits[i, int(best[i])].numpy(), mask, shape.image_size, size_wh)
        found[f"{picture.group}/{kind}"].append(iou)
        if picture.group == "coco" and int(thing.mask.sum()) >= LARGE_AREA:
            found[f"coco_large/{kind}"].append(iou)
        found[f"claim_error/{kind}"].append(abs(iou - min(1.0, max(0.0, float(claimed[i, int(best[i])])))))
        if kind == "box":
            single = full_iou(logits[i, 0].numpy(), thing.mask, shape.image_size, size_wh)
            found[f"{picture.group}/single"].append(single)


def full_iou(logits: Float, mask: NDArray[np.bool_], frame: int, size_wh: tuple[int, int]) -> float:
    """IoU at the picture's own size of low-resolution logits (m, m) over the frame with a bool (H, W) mask."""
    large = cv2.resize(logits, (frame, frame), interpolation=cv2.INTER_LINEAR)[: size_wh[1], : size_wh[0]]
    got = cv2.resize(large, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0
    union = int((got | mask).sum())
    return float((got & mask).sum()) / union if union else 0.0
