"""SAM as two ONNX graphs, and a ``Segmenter`` that onnxruntime runs: ``pip install 'textseg[onnx]'``.

``encoder.onnx``: pixels float32 (1, 3, S, S) → image float32 (1, D, h, w).

``decoder.onnx``: the prompt encoder and the mask decoder, small enough for a web page (3.0 MiB for nano; the
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
ambiguous prompt. Points without a box need one more point of label -1, as in SAM. ``model.json`` holds the
preprocessing.
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
from textseg.models.sam_networks import SamNetwork
from textseg.models.sam_prompts import PromptTensors
from textseg.types import Candidates, Embedding, Float, Image, Prompts

logger = logging.getLogger(__name__)

FILES = ("encoder.onnx", "decoder.onnx", "model.json")
INPUTS = ("image", "points", "labels", "masks", "has_mask", "text")
OUTPUTS = ("logits", "iou")
OPSET = 18
_CHUNK = 32


class _Encoder(nn.Module):
    """The picture's side."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.vision_encoder

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.encoder(pixels).last_hidden_state
        return out


class _Decoder(nn.Module):
    """The prompts' side, without a branch, so that one graph serves every kind of prompt."""

    def __init__(self, network: SamNetwork) -> None:
        super().__init__()
        self.prompts = network.model.prompt_encoder
        self.decoder = network.model.mask_decoder
        self.position = network.position.clone()
        self.size = float(network.input_hw[0])

    def forward(
        self, image: Tensor, points: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor, text: Tensor
    ) -> tuple[Tensor, Tensor]:
        sparse = torch.cat([self._points(points, labels), text], dim=1)  # (N, P + T, D)
        dense = has_mask * self.prompts.mask_embed(masks)
        dense = dense + (1 - has_mask) * self.prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)  # (N, D, h, w)
        fast = FastDecoder(self.decoder, self.position)
        answer = fast.attend(sparse, image + dense, whole=True)
        logits = fast.draw(answer, None, slice(0, None), fast.grid_hw, whole=True)
        return logits, fast.quality(answer)

    def _points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Return the embeddings (N, P, D) of points and box corners by their labels."""
        encoder = self.prompts
        placed = encoder.shared_embedding(((points + 0.5) / self.size)[:, None])[:, 0]
        kind = labels[..., None]
        out = torch.where(kind == -1, encoder.not_a_point_embed.weight, placed)
        for number, embedding in enumerate(encoder.point_embed):
            out = out + embedding.weight * (kind == number).to(out.dtype)
        return out


def export(segmenter: SamSegmenter, folder: str | Path) -> Path:
    """Write encoder.onnx, decoder.onnx and model.json; return the folder.

    Args:
        segmenter: a SAM on the CPU in float32.
        folder: is made.

    Raises:
        UnsupportedError: another family than SAM.
        ModelError: onnx is not installed.
    """
    if type(segmenter.network) is not SamNetwork:
        raise UnsupportedError(f"{segmenter.family.title} cannot be exported: expected a SAM")
    _require("onnx", "onnxscript")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network = segmenter.network
    side, width, (h, w) = network.input_hw[0], network.width, network.mask_hw
    pixels = torch.zeros(1, 3, side, side)
    _write(_Encoder(network.model), (pixels,), folder / FILES[0], ["pixels"], ["image"], None)
    n, p, t = torch.export.Dim("N", min=1), torch.export.Dim("P"), torch.export.Dim("T")
    example = (
        torch.zeros(1, width, h // 4, w // 4),
        torch.rand(3, 4, 2) * side,
        torch.tensor([[1, 0, -1, 2]] * 3),
        torch.zeros(3, 1, h, w),
        torch.ones(1),
        torch.zeros(3, 2, width),
    )
    shapes = (None, {0: n, 1: p}, {0: n, 1: p}, {0: n}, None, {0: n, 1: t})
    _write(_Decoder(network), example, folder / FILES[1], list(INPUTS), list(OUTPUTS), shapes)
    spec = dataclasses.asdict(segmenter.spec) | {"interpolation": segmenter.spec.interpolation.value}
    values = {"format": 1, "model_id": segmenter.model_id, "mask_hw": [h, w], "width": width, "input": spec}
    (folder / FILES[2]).write_text(json.dumps(values, indent=1), encoding="utf-8")
    return folder


def _write(
    module: nn.Module, example: tuple[Tensor, ...], path: Path, inputs: list[str], outputs: list[str], shapes: Any
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
    return OnnxSegmenter(runs[0], runs[1], spec, model_id, tuple(values["mask_hw"]), int(values["width"]))


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
    """A SAM that onnxruntime runs; it fulfils ``Segmenter`` and agrees with the model it was exported from.

    Args:
        encoder, decoder: onnxruntime sessions.
        spec: the preprocessing.
        model_id: names the weights.
        mask_hw: size of the low-resolution logits.
        width: of text tokens.
    """

    def __init__(
        self, encoder: Any, decoder: Any, spec: InputSpec, model_id: str, mask_hw: tuple[int, int], width: int
    ) -> None:
        self.encoder, self.decoder, self.spec, self.model_id = encoder, decoder, spec, model_id
        self.mask_hw = mask_hw
        self.text_width: int | None = width
        self._image_shape = (1, width, mask_hw[0] // 4, mask_hw[1] // 4)

    def encode(self, image: Image) -> Embedding:
        """Return the picture's embedding; its features are a float32 numpy array."""
        pixels, frame = self.spec.prepare(image)
        features = self.encoder.run(["image"], {"pixels": pixels.numpy()})[0]
        return Embedding({"image": features}, frame, image.digest, self.model_id)

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
        image = np.asarray(embedding.features.get("image"), np.float32)
        if image.shape != self._image_shape:
            raise ModelError(f"the embedding is damaged: got shape {image.shape}, expected {self._image_shape}")
        wanted = slice(1, 4) if prompts.multimask else slice(0, 1)
        count = wanted.stop - wanted.start
        logits = np.empty((len(prompts), count, *self.mask_hw), np.float32)
        iou = np.empty((len(prompts), count), np.float32)
        if len(prompts):
            sam_prompts.check_prompts(prompts, embedding.frame.original_hw, self.text_width)
            if raw_masks:
                sam_prompts.check_raw_masks(prompts, self.mask_hw)
            cpu = torch.device("cpu")
            parts = sam_prompts.chunks(prompts, embedding.frame, self.mask_hw, _CHUNK, cpu, raw_masks=raw_masks)
            for index, tensors in parts:
                low, quality = self.decoder.run(list(OUTPUTS), {"image": image, **self._inputs(tensors)})
                logits[index], iou[index] = low[:, wanted], quality[:, wanted]
        return Candidates(logits, iou, embedding.frame)

    def _inputs(self, prompts: PromptTensors) -> dict[str, np.ndarray]:
        """Return the decoder's inputs for alike prompts."""
        n = prompts.count
        points = [] if prompts.points is None else [prompts.points.numpy()]
        labels = [] if prompts.labels is None else [prompts.labels.numpy()]
        if points and prompts.boxes is None:  # as in SAM: points without a box stand beside "not a point"
            points.append(np.zeros((n, 1, 2), np.float32))
            labels.append(np.full((n, 1), -1))
        if prompts.boxes is not None:
            points.append(prompts.boxes.numpy().reshape(n, 2, 2))
            labels.append(np.tile([2, 3], (n, 1)))
        text = np.zeros((n, 0, self.text_width or 0), np.float32) if prompts.text is None else prompts.text.numpy()
        masks = np.zeros((n, 1, *self.mask_hw), np.float32) if prompts.masks is None else prompts.masks.numpy()
        return {
            "points": np.concatenate([np.zeros((n, 0, 2), np.float32), *points], axis=1).astype(np.float32),
            "labels": np.concatenate([np.zeros((n, 0), np.int64), *labels], axis=1).astype(np.int64),
            "masks": masks,
            "has_mask": np.array([prompts.masks is not None], np.float32),
            "text": text,
        }
