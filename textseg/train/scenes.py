"""Composed scenes: cut-outs over photographs, with exact masks, names and colours.

Works with any folder of RGBA pictures (`load_cutouts`) and with things cut out of labelled
photographs (`photo_cutouts`). Copy-paste after Ghiasi et al., CVPR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from textseg.language import COLORS
from textseg.train import nouns
from textseg.train.cutouts import Cutout, Part, load_cutouts, photo_cutouts
from textseg.train.data import LabelledObject, Sample, mask_box
from textseg.train.recolor import recolor

__all__ = ["Cutout", "Part", "SceneComposer", "SceneConfig", "at_size", "load_cutouts", "photo_cutouts"]


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are composed. Lengths are shares of the picture's longer side."""

    size_hw: tuple[int, int] = (256, 256)
    objects: tuple[int, int] = (1, 6)
    scale: tuple[float, float] = (0.15, 0.65)
    large_probability: float = 0.12
    large_scale: float = 0.9
    small_rotation_degrees: float = 25.0
    any_rotation_probability: float = 0.12
    least_visible: float = 0.25
    overlap_limit: float = 0.45
    recolor_probability: float = 0.4
    same_noun_probability: float = 0.3
    car_share: float = 0.35
    """Share of the several-of-one-noun scenes that show cars."""
    photo_probability: float = 0.25
    """Chance that an object is drawn from `photo_cutouts`, where there are any."""
    jitter_probability: float = 0.6


@dataclass
class _Placed:
    name: str
    names: frozenset[str]
    color: str | None
    mask: NDArray[np.bool_]
    whole_area: float
    fixed: bool = False
    crowd: bool = False
    parent: int = field(default=-1)


class SceneComposer:
    """Composes scenes from cut-outs and backgrounds; every draw comes from the caller's generator."""

    def __init__(
        self,
        cutouts: Sequence[Cutout],
        backgrounds: Sequence[Sample | NDArray[np.uint8]],
        config: SceneConfig | None = None,
        photo_cutouts: Sequence[Cutout] = (),
    ) -> None:
        if not cutouts:
            raise ValueError("no cut-outs given; load some with load_cutouts(folder)")
        self.config = config or SceneConfig()
        self._cutouts = list(cutouts)
        self._photo = list(photo_cutouts)
        self._backgrounds = backgrounds
        self._all_nouns = frozenset(n for c in self._cutouts for n in c.names)
        self._by_noun: dict[str, list[int]] = {}
        for i, cutout in enumerate(self._cutouts):
            for noun in cutout.names - nouns.GENERIC:
                self._by_noun.setdefault(noun, []).append(i)
        self._plain_nouns = sorted(n for n in self._by_noun if n in {c.name for c in cutouts})
        self._photo_by_name: dict[str, list[int]] = {}
        for i, cutout in enumerate(self._photo):
            self._photo_by_name.setdefault(cutout.name, []).append(i)
        self._photo_names = sorted(self._photo_by_name)

    @property
    def nouns(self) -> frozenset[str]:
        """Every noun that the cut-outs answer to."""
        return self._all_nouns

    def compose(self, rng: np.random.Generator) -> Sample:
        """One scene: its picture, objects from back to front and exhaustive nouns."""
        canvas, placed, exhaustive = self._background(rng)
        clouds: set[str] = set()
        for cutout, color in self._choose(rng):
            if self._place(canvas, placed, cutout, color, rng):
                clouds |= cutout.clouds
        image = _jitter(canvas, rng) if rng.random() < self.config.jitter_probability else canvas
        picture = np.clip(image + 0.5, 0, 255).astype(np.uint8)
        objects = tuple(o for p in placed if (o := self._finish(p)) is not None)
        return Sample(picture, objects, exhaustive - clouds if clouds else exhaustive, "scene")

    def _finish(self, placed: _Placed) -> LabelledObject | None:
        area = int(placed.mask.sum())
        if area < 20:
            return None
        hidden = area < self.config.least_visible * placed.whole_area
        if hidden and placed.parent >= 0 and area < 60:
            return None
        box = mask_box(placed.mask)
        return LabelledObject(placed.name, placed.names, placed.color, box, placed.mask, placed.crowd or hidden)

    def _background(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], list[_Placed], frozenset[str]]:
        """A photograph cropped to the scene's size, with its own labels moved along."""
        height, width = self.config.size_hw
        if not len(self._backgrounds):
            flat = np.full((height, width, 3), rng.uniform(0, 255, 3), np.float32)
            return flat, [], self._all_nouns
        chosen = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
        sample = chosen if isinstance(chosen, Sample) else Sample(chosen, (), self._all_nouns, "scene")
        crop = _Crop.draw(sample.image_rgb.shape[:2], (height, width), rng)
        image = crop.apply(sample.image_rgb, cv2.INTER_AREA)
        placed = []
        for thing in sample.objects:
            if thing.mask is None:
                continue
            mask = crop.apply(thing.mask.view(np.uint8), cv2.INTER_NEAREST) > 0
            area = float(np.count_nonzero(thing.mask)) * crop.area_scale
            placed.append(_Placed(thing.name, thing.names, thing.color, mask, area, True, thing.crowd))
        return image.astype(np.float32), placed, sample.exhaustive

    def _choose(self, rng: np.random.Generator) -> list[tuple[Cutout, str | None]]:
        """Which cut-outs to paste, each with the colour to give it (None: leave it)."""
        config = self.config
        count = int(rng.integers(config.objects[0], config.objects[1] + 1))
        if rng.random() < config.same_noun_probability and config.objects[1] > 1:
            return self._several_of_one(rng, max(2, min(count, 4)))
        chosen: list[tuple[Cutout, str | None]] = []
        for _ in range(count):
            if self._photo and rng.random() < config.photo_probability:
                name = self._photo_names[int(rng.integers(len(self._photo_names)))]
                if rng.random() < 0.35 and "person" in self._photo_by_name:
                    name = "person"
                pool = self._photo_by_name[name]
                pasted = self._photo[pool[int(rng.integers(len(pool)))]]
                again = pasted.paintable and rng.random() < config.recolor_probability
                chosen.append((pasted, _any_color(rng) if again else None))
                continue
            cutout = self._cutouts[int(rng.integers(len(self._cutouts)))]
            again = rng.random() < config.recolor_probability
            chosen.append((cutout, _any_color(rng) if again else None))
        return chosen

    def _several_of_one(self, rng: np.random.Generator, count: int) -> list[tuple[Cutout, str | None]]:
        """`count` things of one noun in different colours, and sometimes one of another noun."""
        noun = self._plain_nouns[int(rng.integers(len(self._plain_nouns)))] if self._plain_nouns else ""
        if "car" in self._by_noun and rng.random() < self.config.car_share:
            noun = "car"
        pool = [self._cutouts[i] for i in self._by_noun.get(noun, ())] or self._cutouts
        painted = [self._photo[i] for i in self._photo_by_name.get(noun, ()) if self._photo[i].paintable]
        if painted and rng.random() < 0.5:
            pool = painted
        colors = rng.permutation(len(COLORS))[:count]
        chosen: list[tuple[Cutout, str | None]] = [(pool[int(rng.integers(len(pool)))], COLORS[int(c)]) for c in colors]
        if rng.random() < 0.4:
            other = self._cutouts[int(rng.integers(len(self._cutouts)))]
            chosen.insert(0, (other, _any_color(rng) if rng.random() < 0.5 else None))
        return chosen

    def _place(
        self,
        canvas: NDArray[np.float32],
        placed: list[_Placed],
        cutout: Cutout,
        color: str | None,
        rng: np.random.Generator,
    ) -> bool:
        """Paste one cut-out where it hides no other beyond the limits; False where no place is found."""
        size_hw = self.config.size_hw
        share = _draw_share(self.config, rng)
        rgba = _shrunk(cutout.rgba, share * max(size_hw))
        if color is not None:
            rgba = recolor(rgba, color, rng)
        for _ in range(4):
            matrix = _place_matrix(rgba.shape[:2], share, self.config, rng)
            window = _window(rgba.shape[:2], matrix, size_hw)
            if window is None:
                continue
            x0, y0, x1, y1 = window
            local = matrix.copy()
            local[:, 2] -= (x0, y0)
            rgb, alpha = _premultiplied_warp(rgba, local, (y1 - y0, x1 - x0))
            solid = alpha > 0.5
            whole = float(np.count_nonzero(rgba[..., 3] > 127) * abs(np.linalg.det(matrix[:, :2])))
            if np.count_nonzero(solid) < max(20, 0.55 * whole) or self._hides(placed, solid, window):
                continue
            region = canvas[y0:y1, x0:x1]
            region *= _three(1.0 - alpha)
            region += rgb
            for other in placed:
                other.mask[y0:y1, x0:x1] &= ~solid
            shrink = np.diag([rgba.shape[1] / cutout.rgba.shape[1], rgba.shape[0] / cutout.rgba.shape[0]])
            local = np.column_stack([local[:, :2] @ shrink, local[:, 2]])
            self._add(placed, replace(cutout, color=color or cutout.color), solid, local, window, whole)
            return True
        return False

    def _hides(self, placed: list[_Placed], solid: NDArray[np.bool_], window: tuple[int, int, int, int]) -> bool:
        x0, y0, x1, y1 = window
        for other in placed:
            if other.fixed or other.parent >= 0 or other.whole_area < 1:
                continue
            covered = int(np.count_nonzero(other.mask[y0:y1, x0:x1] & solid))
            left = int(np.count_nonzero(other.mask)) - covered
            if left < (1 - self.config.overlap_limit) * other.whole_area and covered:
                return True
        return False

    def _add(
        self,
        placed: list[_Placed],
        cutout: Cutout,
        solid: NDArray[np.bool_],
        local: NDArray[np.float64],
        window: tuple[int, int, int, int],
        whole: float,
    ) -> None:
        """Note what was pasted, and its parts; `local` maps the cut-out's pixels into the window."""
        x0, y0, x1, y1 = window
        mask = np.zeros(self.config.size_hw, dtype=bool)
        mask[y0:y1, x0:x1] = solid
        placed.append(_Placed(cutout.name, cutout.names, cutout.color, mask, whole))
        parent = len(placed) - 1
        scale = abs(np.linalg.det(local[:, :2]))
        for part in cutout.parts:
            part_mask = np.zeros(self.config.size_hw, dtype=bool)
            part_mask[y0:y1, x0:x1] = _warp_mask(part.mask, local, solid.shape) & solid
            area = float(part.mask.sum() * scale)
            placed.append(_Placed(part.name, part.names, part.color, part_mask, area, parent=parent))


def _any_color(rng: np.random.Generator) -> str:
    return COLORS[int(rng.integers(len(COLORS)))]


@dataclass(frozen=True)
class _Crop:
    """A part of a picture, resized to a scene's size and sometimes mirrored."""

    x0: int
    y0: int
    width: int
    height: int
    size_hw: tuple[int, int]
    mirrored: bool

    @classmethod
    def draw(cls, source_hw: tuple[int, ...], size_hw: tuple[int, int], rng: np.random.Generator) -> _Crop:
        """A part of the scene's shape, 0.6 to 1 times the largest that fits."""
        scale = max(size_hw[0] / source_hw[0], size_hw[1] / source_hw[1]) * rng.uniform(1.0, 1.6)
        width = max(1, min(source_hw[1], round(size_hw[1] / scale)))
        height = max(1, min(source_hw[0], round(size_hw[0] / scale)))
        x0 = int(rng.integers(source_hw[1] - width + 1))
        y0 = int(rng.integers(source_hw[0] - height + 1))
        return cls(x0, y0, width, height, size_hw, bool(rng.random() < 0.5))

    @property
    def area_scale(self) -> float:
        """Scene pixels for one pixel of the source."""
        return self.size_hw[0] * self.size_hw[1] / (self.width * self.height)

    def apply(self, pixels: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
        """The part of (H, W) or (H, W, 3) uint8 pixels, at the scene's size."""
        part = pixels[self.y0 : self.y0 + self.height, self.x0 : self.x0 + self.width]
        if self.mirrored:
            part = part[:, ::-1]
        size_wh = (self.size_hw[1], self.size_hw[0])
        return np.asarray(cv2.resize(np.ascontiguousarray(part), size_wh, interpolation=interpolation), np.uint8)


def _draw_share(config: SceneConfig, rng: np.random.Generator) -> float:
    """How long a cut-out's longer side is, as a share of the picture's."""
    low, high = config.scale
    if rng.random() < config.large_probability:
        return float(rng.uniform(high, config.large_scale))
    return float(low * (high / low) ** rng.random())


def _shrunk(rgba: NDArray[np.uint8], longer_side: float) -> NDArray[np.uint8]:
    """The cut-out at about its final size, so that little is left to recolour; never enlarged."""
    scale = longer_side / max(rgba.shape[:2])
    if scale > 0.85:
        return rgba
    size_wh = (max(2, round(rgba.shape[1] * scale)), max(2, round(rgba.shape[0] * scale)))
    return np.asarray(cv2.resize(rgba, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def _place_matrix(
    source_hw: tuple[int, ...], share: float, config: SceneConfig, rng: np.random.Generator
) -> NDArray[np.float64]:
    """2×3 matrix that brings a cut-out to its `share`, with a random turn, flip and place."""
    target_hw = config.size_hw
    scale = share * max(target_hw) / max(source_hw)
    angle = math.radians(rng.normal(0, config.small_rotation_degrees / 2))
    if rng.random() < config.any_rotation_probability:
        angle = rng.uniform(-math.pi, math.pi)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    if rng.random() < 0.5:
        linear[:, 0] *= -1
    center = np.array([(source_hw[1] - 1) / 2, (source_hw[0] - 1) / 2])
    margin = 0.3 * share * max(target_hw)
    place = [rng.uniform(min(margin, side / 2), max(side - margin, side / 2)) for side in (target_hw[1], target_hw[0])]
    return np.column_stack([linear, np.array(place) - linear @ center])


def _window(
    source_hw: tuple[int, ...], matrix: NDArray[np.float64], target_hw: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The target pixels (x0, y0, x1, y1) that a warped source can touch; None where there are none."""
    h, w = source_hw[0], source_hw[1]
    corners = np.array([[-1, w, -1, w], [-1, -1, h, h], [1, 1, 1, 1]], dtype=np.float64)
    moved = matrix @ corners
    x0, y0 = np.floor(moved.min(axis=1)).astype(int)
    x1, y1 = np.ceil(moved.max(axis=1)).astype(int) + 1
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(target_hw[1], x1), min(target_hw[0], y1)
    return (int(x0), int(y0), int(x1), int(y1)) if x1 - x0 > 3 and y1 - y0 > 3 else None


def _three(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) to (h, w, 3); quicker to multiply with than a broadcast."""
    return np.asarray(cv2.merge([plane, plane, plane]), np.float32)


def _premultiplied_warp(
    rgba: NDArray[np.uint8], matrix: NDArray[np.float64], size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(h, w, 3) float32 colour times alpha in 0..255, and (h, w) float32 alpha in 0..1."""
    size_wh = (size_hw[1], size_hw[0])
    alpha = rgba[..., 3].astype(np.float32) * np.float32(1 / 255)
    rgb = rgba[..., :3].astype(np.float32) * _three(alpha)
    return (
        np.asarray(cv2.warpAffine(rgb, matrix, size_wh, flags=cv2.INTER_LINEAR), np.float32),
        np.asarray(cv2.warpAffine(alpha, matrix, size_wh, flags=cv2.INTER_LINEAR), np.float32),
    )


def _warp_mask(mask: NDArray[np.bool_], matrix: NDArray[np.float64], size_hw: tuple[int, ...]) -> NDArray[np.bool_]:
    size_wh = (size_hw[1], size_hw[0])
    return cv2.warpAffine(mask.view(np.uint8), matrix, size_wh, flags=cv2.INTER_NEAREST) > 0


def _jitter(canvas: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Brightness, contrast, and sometimes blur, noise or JPEG; (H, W, 3) float32 in 0..255."""
    out = canvas * np.float32(rng.uniform(0.85, 1.15)) + np.float32(rng.uniform(-10, 10))
    kind = rng.random()
    if kind < 0.2:
        out = np.asarray(cv2.GaussianBlur(out, (3, 3), rng.uniform(0.4, 1.2)), dtype=np.float32)
    elif kind < 0.4:
        noise = rng.standard_normal((out.shape[0], out.shape[1], 1), dtype=np.float32)
        out = out + noise * np.float32(rng.uniform(1, 7))
    elif kind < 0.6:
        quality = int(rng.integers(35, 90))
        pixels = np.clip(out, 0, 255).astype(np.uint8)
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.float32)
    return out


def at_size(config: SceneConfig, side: int) -> SceneConfig:
    """The same configuration for square scenes of `side` pixels."""
    return replace(config, size_hw=(side, side))
