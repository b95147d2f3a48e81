"""SAM or EdgeTAM as two ONNX graphs, and a ``Segmenter`` that onnxruntime runs: ``pip install 'textseg[onnx]'``.

``encoder.onnx``: pixels float32 (1, 3, S, S) → image float32 (1, D, h, w); of EdgeTAM also its finer levels, high_0
(1, D/8, 4h, 4w) and high_1 (1, D/4, 2h, 2w), which its decoder takes too.

``decoder.onnx``: the prompt encoder and the mask decoder, small enough for a web page (2.5 MiB for nano; the
weights of SAM's own, of any size, are 15.5 MiB):

========== ========================= ==============================================================
input      shape                     what
========== ========================= ==============================================================
image      float32 (1, D, h, w)      the encoder's output
points     float32 (N, P, 2)         x, y in pixels of the model's input
labels     int64 (N, P)              1 foreground, 0 background, 2 and 3 a box's corners, -1 "not a point"
masks      float32 (N, 1, 4h, 4w)    mask prompts
has_mask   float32 (1,)              1 if ``masks`` count, 0 if there are none
text       float32 (N, T, D)         text tokens; T may be 0
========== ========================= ==============================================================

Outputs: logits float32 (N, 4, 4h, 4w) and iou float32 (N, 4): the single mask's first, then the three for an
ambiguous prompt. Points without a box need one more point of label -1, as in SAM; in EdgeTAM a box needs one too, and a
mask alone two. ``model.json`` holds the preprocessing.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode

from textseg.errors import ModelError, UnsupportedError, WeightsError
from textseg.models import sam_prompts
from textseg.models.sam import SamSegmenter
from textseg.models.sam_decode import FastDecoder
from textseg.models.sam_input import InputSpec
from textseg.models.sam_load import weights_hash
from textseg.models.sam_networks import EdgeTamNetwork, SamNetwork
from textseg.models.sam_prompts import PromptTensors
from textseg.types import Candidates, Embedding, Float, Frame, Image, Int, Prompts

logger = logging.getLogger(__name__)

FILES = ("encoder.onnx", "decoder.onnx", "model.json")

INPUTS = ("points", "labels", "masks", "has_mask", "text")
OUTPUTS = ("logits", "iou")
OPSET = 18
_CHUNK = 32


class _Encoder(nn.Module):
    """The picture's side."""

    def __init__(self, network: SamNetwork) -> None:
        super().__init__()
        self.network, self.model = network, network.model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.network.features(pixels)
        return tuple(features[name] for name in self.network.feature_shapes)


class _Decoder(nn.Module):
    """The prompts' side, without a branch, so that one graph serves every kind of prompt."""

    def __init__(self, network: SamNetwork) -> None:
        super().__init__()
        self.prompts = network.model.prompt_encoder
        self.decoder = network.model.mask_decoder
        self.position = network.position.clone()
        self.size = float(network.input_hw[0])

    def forward(
        self,
        levels: list[Tensor],
        points: Tensor,
        labels: Tensor,
        masks: Tensor,
        has_mask: Tensor,
        text: Tensor,
    ) -> tuple[Tensor, Tensor]:
        image, *high = levels
        sparse = torch.cat([self._points(points, labels), text], dim=1)  # (N, P + T, D)
        dense = has_mask * self.prompts.mask_embed(masks)
        dense = dense + (1 - has_mask) * self.prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)  # (N, D, h, w)
        fast = FastDecoder(self.decoder, self.position)
        detail = fast.detail(*high) if high else None
        answer = fast.attend(sparse, image + dense, detail=detail, whole=True)
        logits = fast.draw(answer, None, slice(0, None), fast.grid_hw, whole=True)
        return logits, fast.quality(answer)

    def _points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Return the embeddings (N, P, D) of points and box corners by their labels."""
        encoder = self.prompts
        placed = encoder.shared_embedding(((points + 0.5) / self.size)[:, None])[:, 0]
        kind = labels[..., None]
        out = torch.where(kind == -1, encoder.not_a_point_embed.weight, placed)
        table = encoder.point_embed
        rows = table.weight if isinstance(table, nn.Embedding) else torch.cat([row.weight for row in table])
        for number, row in enumerate(rows):
            out = out + row * (kind == number).to(out.dtype)
        return out


def export(segmenter: SamSegmenter, folder: str | Path) -> Path:
    """Write encoder.onnx, decoder.onnx and model.json; return the folder.

    Args:
        segmenter: a SAM or EdgeTAM on the CPU; its encoder is written in float32.
        folder: is made.

    Raises:
        UnsupportedError: another family.
        ModelError: onnx is not installed.
    """
    if type(segmenter.network) not in (SamNetwork, EdgeTamNetwork):
        raise UnsupportedError(f"{segmenter.family.title} cannot be exported: expected a SAM or an EdgeTAM")
    _require("onnx", "onnxscript")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network = segmenter.network
    side, width, (h, w) = network.input_hw[0], network.width, network.mask_hw
    pixels, levels = torch.zeros(1, 3, side, side), list(network.feature_shapes)
    _write(_Encoder(network), (pixels,), folder / FILES[0], ["pixels"], levels, None)
    n, p, t = torch.export.Dim("N", min=1), torch.export.Dim("P"), torch.export.Dim("T")
    example = (
        [torch.zeros(shape) for shape in network.feature_shapes.values()],
        torch.rand(3, 4, 2) * side,
        torch.tensor([[1, 0, -1, 2]] * 3),
        torch.zeros(3, 1, h, w),
        torch.ones(1),
        torch.zeros(3, 2, width),
    )
    shapes = ([None] * len(levels), {0: n, 1: p}, {0: n, 1: p}, {0: n}, None, {0: n, 1: t})
    _write(_Decoder(network), example, folder / FILES[1], [*levels, *INPUTS], list(OUTPUTS), shapes)
    spec = dataclasses.asdict(segmenter.spec) | {"interpolation": segmenter.spec.interpolation.value}
    values = {"format": 1, "model_id": segmenter.model_id, "mask_hw": [h, w], "width": width, "input": spec}
    if not network.single_is_plain:
        decoder = network.model.mask_decoder
        values["stability"] = [decoder.dynamic_multimask_stability_delta, decoder.dynamic_multimask_stability_thresh]
    (folder / FILES[2]).write_text(json.dumps(values, indent=1), encoding="utf-8")
    return folder


def _write(
    module: nn.Module, example: tuple[Any, ...], path: Path, inputs: list[str], outputs: list[str], shapes: Any
) -> None:
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )


def _require(*packages: str) -> None:
    """Raise a ModelError that says what to install if a package is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"{' and '.join(missing)} missing: pip install 'textseg[onnx]'")


def load(folder: str | Path, *, threads: int | None = None, providers: tuple[str, ...] | None = None) -> OnnxSegmenter:
    """Load what ``export`` wrote.

    Args:
        folder: with encoder.onnx, decoder.onnx and model.json.
        threads: of one onnxruntime operator; None: as many as there are cores.
        providers: onnxruntime's execution providers; None: the CPU.

    Raises:
        WeightsError: a file is missing or damaged.
        ModelError: onnxruntime is not installed.
    """
    _require("onnxruntime")
    onnxruntime = importlib.import_module("onnxruntime")
    folder = Path(folder).expanduser()
    for name in FILES:
        if not (folder / name).is_file():
            raise WeightsError(f"ONNX model file missing: {folder / name}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        values = json.loads((folder / FILES[2]).read_text(encoding="utf-8"))
        spec = _spec(values["input"])
        runs = [
            onnxruntime.InferenceSession(str(folder / name), options, providers=providers or ["CPUExecutionProvider"])
            for name in FILES[:2]
        ]
    except (ValueError, KeyError, TypeError) as error:
        came = f"{type(error).__name__} {error}"
        raise WeightsError(f"{folder / FILES[2]} is damaged: {came}; export it again") from error
    except Exception as error:  # onnxruntime's errors have no common base
        raise WeightsError(f"{folder}: damaged ONNX file ({error}); export it again") from error
    model_id = f"onnx:{values['model_id']}#{weights_hash([folder / name for name in FILES[:2]])}"
    stability = tuple(values["stability"]) if "stability" in values else None
    return OnnxSegmenter(runs[0], runs[1], spec, model_id, tuple(values["mask_hw"]), int(values["width"]), stability)


def _spec(values: dict[str, Any]) -> InputSpec:
    return InputSpec(
        tuple(values["input_hw"]),
        values["longest_edge"],
        tuple(values["mean"]),
        tuple(values["std"]),
        InterpolationMode(values["interpolation"]),
        values["resampler"],
    )


class OnnxSegmenter:
    """A SAM or EdgeTAM that onnxruntime runs; it fulfils ``Segmenter`` and agrees with the model it was exported from.

    Args:
        encoder, decoder: onnxruntime sessions.
        spec: the preprocessing.
        model_id: names the weights.
        mask_hw: size of the low-resolution logits.
        width: of text tokens.
        stability: a single mask that is less stable than the second number when the threshold moves by the first gives
            way to the best of the three, as SAM 2 may have it; None: never.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        spec: InputSpec,
        model_id: str,
        mask_hw: tuple[int, int],
        width: int,
        stability: tuple[float, float] | None = None,
    ) -> None:
        self.encoder, self.decoder, self.spec, self.model_id = encoder, decoder, spec, model_id
        self.mask_hw, self.stability = mask_hw, stability
        self.text_width: int | None = width
        self._levels = {one.name: tuple(one.shape) for one in encoder.get_outputs()}
        self._stretched = len(self._levels) > 1  # as SAM 2 sees pictures, and not padded

    def encode(self, image: Image) -> Embedding:
        """Return the picture's embedding; its features are float32 numpy arrays."""
        pixels, frame = self.spec.prepare(image)
        levels = self.encoder.run(list(self._levels), {"pixels": pixels.numpy()})
        return Embedding(dict(zip(self._levels, levels, strict=True)), frame, image.digest, self.model_id)

    def feed_back(self, embedding: Embedding, prompts: Prompts, logits: Float) -> Candidates:
        """As ``SamSegmenter.feed_back``."""
        return self.decode(embedding, dataclasses.replace(prompts, mask_logits=logits), raw_masks=True)

    def decode(self, embedding: Embedding, prompts: Prompts, *, raw_masks: bool = False) -> Candidates:
        """Return the masks of all prompts, in order: C = 3 with ``prompts.multimask``, else 1.

        Args:
            embedding: the picture's.
            prompts: P of them; P may be 0.
            raw_masks: as for ``SamSegmenter.decode``.

        Raises:
            ModelError: the embedding is another model's, or damaged.
            PromptError: a prompt does not fit the picture, or holds nothing.
        """
        if embedding.model_id != self.model_id:
            raise ModelError(f"the embedding was made by {embedding.model_id!r}, this segmenter is {self.model_id!r}")
        levels = {name: np.asarray(value, np.float32) for name, value in embedding.features.items()}
        shapes = {name: level.shape for name, level in levels.items()}
        if shapes != self._levels:
            raise ModelError(f"the embedding is damaged: got features {shapes}, expected {self._levels}")
        count = 3 if prompts.multimask else 1
        logits = np.empty((len(prompts), count, *self.mask_hw), np.float32)
        iou = np.empty((len(prompts), count), np.float32)
        if len(prompts):
            sam_prompts.check_prompts(prompts, embedding.frame.original_hw, self.text_width)
            if raw_masks:
                sam_prompts.check_raw_masks(prompts, self.mask_hw)
            cpu = torch.device("cpu")
            parts = sam_prompts.chunks(prompts, embedding.frame, self.mask_hw, _CHUNK, cpu, raw_masks=raw_masks)
            for index, tensors in parts:
                low, quality = self.decoder.run(list(OUTPUTS), levels | self._inputs(tensors))
                rows, masks = np.arange(len(index))[:, None], self._wanted(low, quality, prompts.multimask)
                logits[index], iou[index] = low[rows, masks], quality[rows, masks]
        frame = embedding.frame
        return Candidates(logits, iou, Frame(frame.original_hw, *[self.mask_hw] * 2) if self._stretched else frame)

    def _wanted(self, logits: Float, quality: Float, multimask: bool) -> Int:
        """Return int64 (N or 1, C): which of N prompts' four masks are wanted."""
        if multimask:
            return np.array([[1, 2, 3]])
        if self.stability is None:
            return np.array([[0]])
        delta, least = self.stability
        inner, outer = ((logits[:, 0] > level).sum(axis=(1, 2)) for level in (delta, -delta))
        stable = inner >= least * np.where(outer, outer, inner)
        return np.where(stable, 0, 1 + quality[:, 1:].argmax(axis=1))[:, None]

    def _spare(self, prompts: PromptTensors) -> int:
        """Return how many "not a point" stand beside alike prompts: see the module's text."""
        if prompts.boxes is not None:
            return int(self._stretched)
        if prompts.points is not None:
            return 1
        return 2 * int(self._stretched and prompts.text is None)

    def _inputs(self, prompts: PromptTensors) -> dict[str, np.ndarray]:
        """Return the decoder's inputs for alike prompts."""
        n = prompts.count
        points = [] if prompts.points is None else [prompts.points.numpy()]
        labels = [] if prompts.labels is None else [prompts.labels.numpy()]
        if prompts.boxes is not None:
            points.append(prompts.boxes.numpy().reshape(n, 2, 2))
            labels.append(np.tile([2, 3], (n, 1)))
        spare = self._spare(prompts)
        points.append(np.zeros((n, spare, 2), np.float32))
        labels.append(np.full((n, spare), -1))
        text = np.zeros((n, 0, self.text_width or 0), np.float32) if prompts.text is None else prompts.text.numpy()
        masks = np.zeros((n, 1, *self.mask_hw), np.float32) if prompts.masks is None else prompts.masks.numpy()
        return {
            "points": np.concatenate([np.zeros((n, 0, 2), np.float32), *points], axis=1).astype(np.float32),
            "labels": np.concatenate([np.zeros((n, 0), np.int64), *labels], axis=1).astype(np.int64),
            "masks": masks,
            "has_mask": np.array([prompts.masks is not None], np.float32),
            "text": text,
        }
