"""The SAM family as one ``Segmenter``: SAM, SAM-HQ, SAM 2 and 2.1, EdgeTAM and SAM 3's tracker.

``encode`` runs the picture's side once and returns a value that can be kept in memory or, through
``features_to_numpy``, on disk; ``decode`` answers any mixture of boxes, points, rough masks and text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from textseg.errors import ConfigError, ModelError, UnsupportedError, nearest
from textseg.models import onednn, sam_prompts
from textseg.models.sam_input import InputSpec
from textseg.models.sam_load import Family, check_spec, load_network, resolve_device
from textseg.models.sam_networks import EdgeTamNetwork, Features, Sam2Network, SamHqNetwork, SamNetwork
from textseg.models.sam_passes import Picture
from textseg.stream import MaskBatch, geometry_part
from textseg.types import Candidates, Embedding, Float, Image, Prompts

FAMILIES: dict[str, Family] = {
    "sam": Family("SAM", "SamModel", "SamImageProcessor", ("sam",), SamNetwork),
    "sam_hq": Family("SAM-HQ", "SamHQModel", "SamImageProcessor", ("sam_hq",), SamHqNetwork),
    "sam2": Family("SAM 2", "Sam2Model", "Sam2ImageProcessor", ("sam2", "sam2_video"), Sam2Network),
    "edgetam": Family("EdgeTAM", "EdgeTamModel", "Sam2ImageProcessor", ("edgetam", "edgetam_video"), EdgeTamNetwork),
    "sam3_tracker": Family(
        "SAM 3",
        "Sam3TrackerModel",
        "Sam3ImageProcessor",
        ("sam3_tracker", "sam3_tracker_video", "sam3_video"),
        Sam2Network,
    ),
}
"""The kinds of segmenter that ``load`` builds."""

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Precisions of the image encoder, and of SAM's mask decoder."""

AUTO = "auto"
"""Of the image encoder: bfloat16 on a processor that multiplies it itself, else float32."""

MOST_PROMPTS = 32
_CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


def family(kind: str) -> Family:
    """Return the family called ``kind``.

    Raises:
        ConfigError: unknown; the message lists the kinds.
    """
    if kind not in FAMILIES:
        raise ConfigError(f"segmenter kind {kind!r} is unknown: {nearest(kind, FAMILIES)}")
    return FAMILIES[kind]


def load(
    kind: str,
    model: str | Path,
    *,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    decoder_dtype: str = "float32",
    chunk: int | None = None,
) -> SamSegmenter:
    """Load a segmenter.

    Args:
        kind: a key of ``FAMILIES``.
        model: a folder of a transformers model (safetensors), ``org/name[@revision]`` on the hub, or one of Meta's
            ``.pth`` checkpoints of SAM (weights only, no code is run).
        revision: branch, tag or commit of a hub model.
        device: "cpu", "cuda" …
        dtype: precision of the image encoder, a key of ``DTYPES`` or ``AUTO``; features and weights stay in float32.
        decoder_dtype: precision of the mask decoder on the picture's side; SAM-HQ uses float32 whatever is said.
        chunk: the most prompts in one call of the decoder; None chooses by the model's size and the device.

    Raises:
        ConfigError: unknown ``kind`` or ``dtype``, or ``chunk`` below 1.
        HubError: the hub is out of reach, or the model is gated.
        WeightsError: a file is missing or damaged, or the weights do not fill the model.
        ModelError: the model is of another family, or the device is missing.
    """
    chosen = family(kind)
    where = resolve_device(device)
    if dtype == AUTO:
        dtype = "bfloat16" if where.type == "cpu" and onednn.has_bfloat16() else "float32"
    check_options(dtype, chunk)
    check_options(decoder_dtype, chunk)
    if kind == "edgetam" and where.type == "cpu" and decoder_dtype == "float32":
        from textseg.models.sam_phrases import PhraseSegmenter

        quick = PhraseSegmenter.find(model, dtype, chunk)
        if quick is not None:
            return quick
    name = model if revision is None or Path(model).expanduser().is_dir() else f"{model}@{revision}"
    network, spec, model_id = load_network(chosen, name, str(where))
    network.decode_in(DTYPES[decoder_dtype])
    return SamSegmenter(kind, network, spec, model_id, dtype=dtype, chunk=chunk)


def default_chunk(network: SamNetwork) -> int:
    """Return how many prompts to decode in one call.

    The decoder keeps the picture's tokens for each prompt, so a call is fastest while the copies fit the processor's
    cache. Measured at SAM ViT-B's size, milliseconds a prompt: by the fast decoder on two cores 13.9 by twos, 13.4 by
    fours; by the plain one on one core 69 by ones, 68 by twos, 95 by eights, 127 by sixteens.
    """
    one = 4 * int(np.prod(network.feature_shapes["image"]))
    budget = _CHUNK_BYTES.get(network.device.type, _CHUNK_BYTES["cpu"]) * (1 if network.fast is None else 2)
    return max(1, min(MOST_PROMPTS, budget // one))


def check_options(dtype: str, chunk: int | None) -> None:
    """Raise a ConfigError unless ``dtype`` is a key of ``DTYPES`` and ``chunk`` at least 1."""
    if dtype not in DTYPES:
        raise ConfigError(f"segmenter dtype {dtype!r} is unknown: {nearest(dtype, DTYPES)}")
    if chunk is not None and chunk < 1:
        raise ConfigError(f"segmenter chunk: got {chunk}, expected 1 or more prompts a call")


def full_id(kind: str, model_id: str, dtype: str) -> str:
    """Return what a segmenter is called in embeddings and cache keys."""
    return f"{kind}:{model_id}" + ("" if dtype == "float32" else f"+{dtype}")


class SamSegmenter:
    """A promptable segmenter. It keeps no picture: two threads may use one.

    Args:
        kind: a key of ``FAMILIES``.
        network: the wrapped model.
        spec: its preprocessing.
        model_id: names the weights; part of every embedding and of cache keys.
        dtype: precision of the image encoder.
        chunk: the most prompts in one call of the decoder; None: see ``default_chunk``.
    """

    def __init__(
        self,
        kind: str,
        network: SamNetwork,
        spec: InputSpec,
        model_id: str,
        *,
        dtype: str = "float32",
        chunk: int | None = None,
    ) -> None:
        check_options(dtype, chunk)
        check_spec(spec, network)
        self.family = family(kind)
        self.network = network
        self._shapes = network.feature_shapes
        self.spec = spec
        self.model_id = full_id(kind, model_id, dtype)
        self.text_width = network.text_width
        self.dtype = DTYPES[dtype]
        self.chunk = default_chunk(network) if chunk is None else chunk
        self.device = network.device

    def encode(self, image: Image) -> Embedding:
        """Return the picture's embedding; its features are float32 torch tensors on the segmenter's device."""
        pixels, frame = self.spec.prepare(image)
        reduced = self.dtype != torch.float32
        narrow = self.dtype if reduced else torch.bfloat16
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=narrow, enabled=reduced):
            features = self._encode(pixels.to(self.device))
        kept = {name: tensor.to(torch.float32, copy=True).contiguous() for name, tensor in features.items()}
        return Embedding(kept, frame, image.digest, self.model_id)

    def decode(self, embedding: Embedding, prompts: Prompts, *, raw_masks: bool = False) -> Candidates:
        """Return the masks of all prompts, in order: C = 3 with ``prompts.multimask``, else 1.

        Each prompt's answer is that of asking for it alone, whatever else is in ``prompts``.

        Args:
            embedding: the picture's.
            prompts: P of them; P may be 0.
            raw_masks: the prompts' masks are logits of an earlier answer, padding and all, and go back into the
                model as they are (``mask_input`` of segment-anything). Otherwise masks cover the picture alone.

        Raises:
            ModelError: the embedding is another model's, or damaged.
            UnsupportedError: text tokens for a family that takes none.
            PromptError: a prompt does not fit the picture, or holds nothing.
        """
        features = self._features(embedding)
        count = self.network.multimask_count if prompts.multimask else 1
        logits = np.empty((len(prompts), count, *self.network.mask_hw), dtype=np.float32)
        iou = np.empty((len(prompts), count), dtype=np.float32)
        if len(prompts):
            self._check(prompts, embedding.frame.original_hw)
            if raw_masks:
                sam_prompts.check_raw_masks(prompts, self.network.mask_hw)
            parts = sam_prompts.chunks(
                prompts, embedding.frame, self.network.mask_hw, self.chunk, self.device, raw_masks=raw_masks
            )
            with torch.inference_mode():
                picture = self._picture(embedding, features)
                for index, tensors in parts:
                    low, quality = self.network.masks(features, tensors, prompts.multimask, picture)
                    logits[index] = low.float().cpu().numpy()
                    iou[index] = quality.float().cpu().numpy()
        return Candidates(logits, iou, self.network.logits_frame(embedding.frame))

    def feed_back(self, embedding: Embedding, prompts: Prompts, logits: Float) -> Candidates:
        """Decode the prompts again, each with the logits of an earlier answer: a round of refinement.

        Args:
            embedding: the picture's.
            prompts: P of them; masks of their own are replaced.
            logits: float32 (P, h, w), one low-resolution mask each, with the padding.

        Raises:
            ModelError, UnsupportedError, PromptError: as ``decode``.
        """
        return self.decode(embedding, replace(prompts, mask_logits=logits), raw_masks=True)

    def stream(self, embedding: Embedding, prompts: Prompts, min_iou: float) -> Iterator[MaskBatch]:
        """Yield the masks whose predicted IoU is greater than ``min_iou``, a chunk of prompts at a time.

        They are those of ``decode``, but the predicted IoU is not clipped, only the logits that show the picture are
        drawn, and prompts without such a mask cost no drawing at all.

        Raises:
            ModelError, UnsupportedError, PromptError: as ``decode``.
        """
        features = self._features(embedding)
        if not len(prompts):
            return
        self._check(prompts, embedding.frame.original_hw)
        frame, mask_hw = self.network.logits_frame(embedding.frame), self.network.mask_hw
        part_hw = geometry_part(frame, mask_hw)
        picture = self._picture(embedding, features)
        for index, tensors in sam_prompts.chunks(prompts, embedding.frame, mask_hw, self.chunk, self.device):
            with torch.inference_mode():
                logits, iou, place = self.network.best(features, tensors, prompts.multimask, picture, min_iou, part_hw)
                prompt, mask = place.cpu().numpy().T
                low, quality = logits.float().cpu().numpy(), iou.float().cpu().numpy()
            if len(prompt):
                yield MaskBatch(index[prompt], mask, low, quality, frame, mask_hw)

    def _encode(self, pixels: torch.Tensor) -> Features:
        return self.network.features(pixels)

    def _picture(self, embedding: Embedding, features: Features) -> Picture | None:
        """Return what all prompts on a picture share, worked out once."""
        key = "picture", self.network.fast  # the decoder's precision may be chosen anew
        if key not in embedding.kept:
            with torch.inference_mode():
                embedding.kept[key] = self.network.picture(features)
        shared: Picture | None = embedding.kept[key]
        return shared

    def _check(self, prompts: Prompts, size_hw: tuple[int, int]) -> None:
        if self.text_width is None and prompts.has_text.any():
            able = ", ".join(f.title for f in FAMILIES.values() if getattr(f.network, "takes_text", False))
            raise UnsupportedError(f"{self.family.title} takes no text tokens; {able} do. Give it boxes instead")
        sam_prompts.check_prompts(prompts, size_hw, self.text_width)

    def _features(self, embedding: Embedding) -> Features:
        """Return an embedding's features as float32 tensors on the device, after checking whose they are."""
        if embedding.model_id != self.model_id:
            raise ModelError(
                f"the embedding was made by {embedding.model_id!r}, this segmenter is {self.model_id!r}: "
                "encode the picture with this one"
            )
        shapes = {name: tuple(np.shape(value)) for name, value in embedding.features.items()}
        if shapes != self._shapes:
            raise ModelError(f"the embedding is damaged: got features {shapes}, expected {self._shapes}")
        return {
            name: torch.as_tensor(value).to(device=self.device, dtype=torch.float32)
            for name, value in embedding.features.items()
        }


def features_to_numpy(embedding: Embedding, dtype: npt.DTypeLike = np.float32) -> Embedding:
    """Return the embedding with its features as numpy arrays, for a file; ``decode`` takes it as it is.

    Args:
        embedding: of any segmenter here.
        dtype: float32 keeps the answers exact; float16 halves the size.
    """
    arrays: dict[str, Any] = {
        name: (value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)).astype(dtype)
        for name, value in embedding.features.items()
    }
    return replace(embedding, features=arrays)
