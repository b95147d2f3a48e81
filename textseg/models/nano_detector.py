"""The nano detector: our own small network behind the `Detector` protocol.

A picture goes through the network once; a phrase costs the text tower and a few dot products.
The weights are a folder with ``config.json`` and ``model.safetensors`` (float16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from textseg.errors import WeightsError
from textseg.language import bare_noun, other_colors
from textseg.models import nano_files, onednn
from textseg.models.nano_boxes import ProposalConfig, find_boxes, join_looks, worth_a_second_look
from textseg.models.nano_network import PIXEL_STRIDE, Answers, Features, NanoNetwork, NetworkConfig, TextCodes
from textseg.models.quick_convolutions import quicken
from textseg.models.text_rows import TextRows
from textseg.propose import concatenate
from textseg.protocols import ImageTextEncoder, KnowsNouns
from textseg.types import Bool, Float, Frame, Image, Int, Proposals, UInt8

_MEAN = (122.77, 116.75, 104.09)
_STD = (68.50, 66.63, 70.32)
_PAD = 118
_STEP = 32
_OUTSIDE = -12.0
_KEPT_TEXTS = 1024
_EXACT = ("text.mean", "text.whiten")
"""Tensors saved as float32: they set nearly equal text embeddings apart."""


class NanoEncoded(NamedTuple):
    """One picture as the detector keeps it.

    Attributes:
        features: the network's; frame: how the picture was scaled for them.
        far: the same of a second look at a smaller scale; None: there was none.
    """

    features: Features
    frame: Frame
    far: NanoEncoded | None = None


class _Asked(NamedTuple):
    """What a picture is asked for.

    Attributes:
        codes: of T phrases, then of the bare nouns of those that say how a thing looks.
        numbers: int64 (T,), what the caller counts the phrases by.
        described: int64, which of the T those are.
    """

    codes: TextCodes
    numbers: Tensor
    described: Tensor

    def of(self, some: Tensor) -> _Asked:
        """What ``some`` of the phrases ask for, int64, in order."""
        if len(some) == len(self.numbers):
            return self
        kept = torch.isin(self.described, some)
        rows = torch.cat([some, len(self.numbers) + torch.nonzero(kept)[:, 0]])
        codes = TextCodes(*(part[:, rows] for part in self.codes))
        return _Asked(codes, self.numbers[some], torch.searchsorted(some, self.described[kept]))


class _Names(NamedTuple):
    """What regions are matched with for some phrases.

    Attributes:
        codes: of the phrases, then for each the same in the other colours.
        starts: int64, where in ``codes`` the phrases end, and then each one's other colours but the last's.
        rivals: for each phrase, by its number, the int64 indices of the nouns that it does not mean.
    """

    codes: TextCodes
    starts: Int
    rivals: dict[int, Int]


def normalise(images_rgb: Tensor) -> Tensor:
    """Map uint8 (B, H, W, 3) pictures to the network's float32 (B, 3, H, W), channels last in memory."""
    mean, std = torch.tensor(_MEAN), torch.tensor(_STD)
    scaled = (images_rgb.float() - mean) / std
    return scaled.permute(0, 3, 1, 2)  # (B, H, W, 3) → (B, 3, H, W)


def fit(image_rgb: UInt8, long_side: int) -> tuple[UInt8, Frame]:
    """Scale a picture to `long_side` and pad it at the right and bottom to multiples of 32 pixels."""
    height, width = image_rgb.shape[:2]
    scale = long_side / max(height, width)
    resized_h, resized_w = max(1, round(height * scale)), max(1, round(width * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image_rgb, (resized_w, resized_h), interpolation=method)
    input_h, input_w = (-(-side // _STEP) * _STEP for side in (resized_h, resized_w))
    padded = np.full((input_h, input_w, 3), _PAD, np.uint8)
    padded[:resized_h, :resized_w] = resized
    return padded, Frame((height, width), (resized_h, resized_w), (input_h, input_w))


class NanoDetector:
    """A `Detector`: small network, cached picture features, phrases through a CLIP's text tower.

    Args:
        network: the trained network.
        encoder: whose text embeddings the network was trained with.
        config: how maps become boxes.
        model_id: name for records and caches.
    """

    def __init__(
        self,
        network: NanoNetwork,
        encoder: ImageTextEncoder,
        config: ProposalConfig | None = None,
        model_id: str = "nano-detector",
    ) -> None:
        if encoder.dim != network.config.text_dim:
            raise WeightsError(
                f"{model_id} takes text embeddings of width {network.config.text_dim}, "
                f"{encoder.model_id} gives {encoder.dim}; load the text encoder it was trained with"
            )
        self.network = network.eval()
        self.encoder = encoder
        self.config = config or ProposalConfig()
        self.model_id = model_id
        self._codes = TextRows(self._flat, sum(network.text.sizes), _KEPT_TEXTS)
        self._vocabulary = encoder.vocabulary if isinstance(encoder, KnowsNouns) else None
        self._nouns: TextCodes | None = None
        self._last: tuple[tuple[tuple[str, ...], tuple[int, ...]], _Names] | None = None

    @classmethod
    def load(cls, folder: str | Path, encoder: ImageTextEncoder, image_size: int | None = None) -> NanoDetector:
        """Build the detector from a folder that `save_detector` wrote; `image_size` replaces the saved one.

        Raises:
            WeightsError: a file is missing, damaged or does not fit.
        """
        network, config = load_detector(folder)
        quicken(network, rounded=onednn.has_bfloat16())
        if image_size is not None:
            config = ProposalConfig(**{**asdict(config), "image_size": image_size})
        return cls(network, encoder, config)

    @torch.inference_mode()
    def encode(self, image: Image) -> NanoEncoded:
        """Run the picture through the network, once a look."""
        near = self._look(image, self.config.image_size)
        if not 0 < self.config.far_size < self.config.image_size:
            return near
        return near._replace(far=self._look(image, self.config.far_size))

    def _look(self, image: Image, long_side: int) -> NanoEncoded:
        pixels, frame = fit(image.rgb, long_side)
        with onednn.autocast():  # as it was trained
            features = self.network(normalise(torch.from_numpy(pixels)[None]))
        kept = (part.to(torch.float32, memory_format=torch.contiguous_format) for part in features)  # as phrases read
        return NanoEncoded(Features(*kept), frame)

    @torch.inference_mode()
    def detect(self, encoded: NanoEncoded, prompts: Sequence[str], threshold: float) -> Proposals:
        """Return boxes scoring at least `threshold`, best first within a phrase, each with its rough mask.

        ``mask_logits`` are at a quarter of the network's input resolution, over the unpadded picture;
        outside a slightly grown box they are strongly negative. Boxes are of the whole phrase; how far the thing
        reaches is asked of its noun as well, for the wheels of a red car are black.
        """
        near: list[Proposals] = []
        far: list[Proposals] = []
        for start in range(0, len(prompts), self.config.chunk):
            asked = self._asked(prompts[start : start + self.config.chunk], start)
            answers = self._answers(encoded, asked)
            near.append(self._found(encoded, asked, answers, threshold))
            if encoded.far is not None:
                asked = asked.of(worth_a_second_look(answers.maps[0, : len(asked.numbers)], self.config))
                if len(asked.numbers):
                    far.append(self._found(encoded.far, asked, self._answers(encoded.far, asked), threshold))
        return join_looks(concatenate(near), concatenate(far), encoded.frame.original_hw, self.config)

    @torch.inference_mode()
    def name_regions(
        self, encoded: NanoEncoded, masks: Bool, prompts: Sequence[str], phrase_index: Int
    ) -> Float | None:
        """See ``NamesRegions``: each region's mean pixel code is matched with its phrase and with all nouns.

        The log-odds are the mean of the phrase's own logit and of its lead over the likeliest noun, or colour, that it
        does not mean; halved, since the ranking cuts log-odds off at ±5.
        """
        names = self._names(tuple(prompts), tuple(np.unique(phrase_index).tolist()))
        if names is None:
            return None
        assert self._nouns is not None
        places = encoded.features._replace(pixels=_pooled(encoded, masks))  # M regions are a row of M places
        nouns = self.network.match_pixels(places, self._nouns)[0, :, 0].numpy()  # (V, M)
        logits = self.network.match_pixels(places, names.codes)[0, :, 0].numpy()  # (matched, M)
        own, *in_others = np.split(logits, names.starts)
        odds = np.empty(len(masks), np.float32)
        for i, (phrase, rivals_of) in enumerate(names.rivals.items()):
            of = phrase_index == phrase
            rivals = np.concatenate([nouns[rivals_of], in_others[i]])[:, of]
            odds[of] = (own[i, of] + (own[i, of] - rivals.max(axis=0, initial=_OUTSIDE))) / 4
        return np.asarray(1 / (1 + np.exp(-odds)), np.float32)

    def _names(self, prompts: tuple[str, ...], named: tuple[int, ...]) -> _Names | None:
        """Return what regions are matched with for the prompts ``named``; None where there are no nouns.

        The last answer is kept: of one question, regions are named before and after they are drawn.
        """
        vocabulary = self._vocabulary
        if vocabulary is None:
            return None
        if self._nouns is None:
            self._nouns = self._split(self.network.text.flat(torch.from_numpy(vocabulary.embeddings)))
        key, kept = (prompts, named), self._last
        if kept is not None and kept[0] == key:
            return kept[1]
        others = [other_colors(prompts[phrase]) for phrase in named]
        matched = [*(prompts[phrase] for phrase in named), *(text for of_one in others for text in of_one)]
        codes = self._coded(matched)
        texts = np.asarray(self.encoder.encode_text(prompts), np.float32)
        rivals = {phrase: vocabulary.rivals(prompts[phrase], texts[phrase]) for phrase in named}
        names = _Names(codes, np.cumsum([len(named), *map(len, others)])[:-1], rivals)
        self._last = key, names
        return names

    def _asked(self, prompts: Sequence[str], start: int) -> _Asked:
        bare = {i: noun for i, prompt in enumerate(prompts) if (noun := bare_noun(prompt)) is not None}
        codes = self._coded([*prompts, *bare.values()])
        return _Asked(codes, start + torch.arange(len(prompts)), torch.tensor(list(bare), dtype=torch.int64))

    def _coded(self, texts: Sequence[str]) -> TextCodes:
        """Return the codes of T texts, (1, T, …)."""
        return self._split(torch.from_numpy(self._codes(texts)))

    def _flat(self, texts: list[str]) -> Float:
        embeddings = torch.from_numpy(np.array(self.encoder.encode_text(texts), np.float32))
        flat: Float = self.network.text.flat(embeddings).numpy()
        return flat

    def _split(self, flat: Tensor) -> TextCodes:
        codes = self.network.text.split(flat[None])
        pixels = codes.pixels.transpose(1, 2).contiguous()  # (1, parts, T, D): as they are read
        return codes._replace(pixels=pixels.transpose(1, 2))

    def _answers(self, look: NanoEncoded, asked: _Asked) -> Answers:
        return self.network.answer(look.features, asked.codes, boxed=len(asked.numbers))

    def _found(self, look: NanoEncoded, asked: _Asked, every: Answers, threshold: float) -> Proposals:
        """Return what one look finds, from its answers to the phrases and their nouns."""
        t, frame = len(asked.numbers), look.frame
        answers = every._replace(maps=every.maps[:, :t], presence=every.presence[:, :t])
        found = find_boxes(answers, self.config, threshold)
        if not len(found.scores):
            return Proposals.empty()
        (height, width), (scale_x, scale_y) = frame.original_hw, frame.scale_xy
        boxes = (found.boxes_xyxy / torch.tensor([scale_x, scale_y] * 2)).numpy()
        boxes = _at_least_a_pixel(np.clip(boxes, 0, np.array([width, height] * 2, np.float32)), width, height)
        maps = _unpadded(_extents(asked, every.maps[0]), frame)[found.phrase_index].numpy()
        return Proposals(
            boxes,
            found.scores.clamp(0, 1).numpy(),
            asked.numbers[found.phrase_index].numpy(),
            ("detector",) * len(boxes),
            _limited(maps, boxes, frame.original_hw, self.config.grow),
        )


def _extents(asked: _Asked, maps: Tensor) -> Tensor:
    """Return (T, h, w): the phrases' maps; where one says how its thing looks, the mean with its noun's map.

    ``maps`` are of the phrases and the nouns, in the order of ``asked.codes``.
    """
    phrases, nouns = maps[: len(asked.numbers)], maps[len(asked.numbers) :]
    return phrases.index_copy(0, asked.described, (phrases[asked.described] + nouns) / 2)


def _pooled(encoded: NanoEncoded, masks: Bool) -> Tensor:
    """Return (1, C, 1, M): the pixel features' means over M masks of the unpadded picture."""
    rows, columns = (max(1, round(side / PIXEL_STRIDE)) for side in encoded.frame.resized_hw)
    shares = np.empty((len(masks), rows, columns), np.float32)
    for i, mask in enumerate(masks):
        inside = mask.astype(np.float32)
        same = mask.shape == (rows, columns)
        shares[i] = inside if same else cv2.resize(inside, (columns, rows), interpolation=cv2.INTER_AREA)
    touched = np.flatnonzero(shares.any(axis=(0, 2)))  # reading all features takes longer than the products
    some = slice(touched[0], touched[-1] + 1) if len(touched) else slice(0, 1)
    weights = torch.from_numpy(shares[:, some]).flatten(1)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
    return (encoded.features.pixels[0, :, some, :columns].flatten(1) @ weights.T)[None, :, None]


def _at_least_a_pixel(boxes_xyxy: Float, width: int, height: int) -> Float:
    """Widen boxes that clipping left thinner than a pixel, inside the picture."""
    low = np.minimum(boxes_xyxy[:, :2], np.array([width, height], np.float32) - 1)
    high = np.maximum(boxes_xyxy[:, 2:], low + 1)
    return np.concatenate([low, high], axis=1)


def _unpadded(maps: Tensor, frame: Frame) -> Tensor:
    """Resample (T, h, w) maps at stride 4 over the padded input to a grid over the picture alone."""
    (resized_h, resized_w), (input_h, input_w) = frame.resized_hw, frame.input_hw
    rows, columns = (max(1, round(side / PIXEL_STRIDE)) for side in (resized_h, resized_w))
    y = (torch.arange(rows) + 0.5) / rows * (2 * resized_h / input_h) - 1
    x = (torch.arange(columns) + 0.5) / columns * (2 * resized_w / input_w) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (rows, columns, 2)
    return functional.grid_sample(maps[None], grid[None], padding_mode="border", align_corners=False)[0]


def _limited(maps: Float, boxes_xyxy: Float, original_hw: tuple[int, int], grow: float) -> Float:
    """Lower each (h, w) map smoothly outside its grown box; (N, h, w)."""
    height, width = original_hw
    rows, columns = maps.shape[1:]
    x = (np.arange(columns, dtype=np.float32) + 0.5) * (width / columns)
    y = (np.arange(rows, dtype=np.float32) + 0.5) * (height / rows)
    x0, y0, x1, y1 = (side[:, None] for side in boxes_xyxy.T)
    margin_x, margin_y = (x1 - x0) * grow + width / columns, (y1 - y0) * grow + height / rows
    beyond_x = np.maximum(np.maximum(x0 - x, x - x1), 0) / margin_x  # (N, w), 1 at the grown box
    beyond_y = np.maximum(np.maximum(y0 - y, y - y1), 0) / margin_y  # (N, h)
    beyond = np.minimum(np.maximum(beyond_y[:, :, None], beyond_x[:, None, :]), 1)
    limited: NDArray[np.float32] = (maps * (1 - beyond) + np.minimum(maps, _OUTSIDE) * beyond).astype(np.float32)
    return limited


@dataclass(frozen=True)
class _Saved:
    """What ``config.json`` holds."""

    network: NetworkConfig
    proposals: ProposalConfig


def save_detector(folder: str | Path, network: NanoNetwork, config: ProposalConfig) -> None:
    """Write ``config.json`` and float16 ``model.safetensors`` into ``folder`` (made if missing)."""
    nano_files.save(folder, network, _Saved(network.config, config), exact=_EXACT)


def load_detector(folder: str | Path) -> tuple[NanoNetwork, ProposalConfig]:
    """Read what `save_detector` wrote, as float32.

    Raises:
        WeightsError: naming the file that is missing, damaged or does not fit.
    """

    def make(saved: _Saved) -> tuple[NanoNetwork, ProposalConfig]:
        return nano_files.unfilled(lambda: NanoNetwork(saved.network)), saved.proposals

    network, proposals = nano_files.read_config(folder, "a nano detector", _Saved, make)
    nano_files.load_weights(folder, network)
    return network.eval().to(memory_format=torch.channels_last), proposals
