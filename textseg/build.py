"""From a preset to a ``Pipeline``: the only file that knows which adapters exist."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textseg.cache import EmbeddingCache
from textseg.config import ModelConfig, Preset, read_preset
from textseg.errors import ConfigError, WeightsError
from textseg.models import graphs
from textseg.pipeline import Pipeline, PipelineConfig
from textseg.protocols import ROLES

PACKAGE_WEIGHTS = Path(__file__).resolve().parent / "weights"
DTYPES = ("float32", "bfloat16", "float16")


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector of cycles from running inside.

    Importing torch, open_clip and transformers makes millions of objects that stay; looking through them again and
    again takes an eighth of the time from a process' start to its first mask. Afterwards they count as old, or the
    first answer would pay for a walk over all of them.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()  # into the oldest generation
            gc.enable()


@collector_paused()
def load(
    preset: str | Path | Preset = "nano",
    *,
    device: str | None = None,
    dtype: str | None = None,
    cache: EmbeddingCache | None = None,
) -> Pipeline:
    """Build the pipeline of a preset.

    Args:
        preset: "nano" (embedded, offline), another shipped preset, a path to a YAML file, or a ``Preset``.
        device: "auto", "cpu", "cuda" …; None takes the preset's.
        dtype: "float32", "bfloat16" or "float16"; None takes the preset's, or what it says of a single model.
        cache: embeddings to share with other pipelines.

    Raises:
        ConfigError: unknown preset, key, family, device or dtype.
        HubError: a hub checkpoint is out of reach; WeightsError: weights are missing or damaged.
    """
    settings = preset if isinstance(preset, Preset) else read_preset(preset)
    if (device or settings.device) in ("cpu", "auto"):
        _begin_graphs(settings)
    where: dict[str, Any] = {"device": pick_device(device or settings.device), "dtype": dtype or settings.dtype}
    if where["dtype"] not in DTYPES:
        raise ConfigError(f"dtype: got {where['dtype']!r}, expected one of {', '.join(DTYPES)}")
    from textseg.models import clip, detector, refiner, sam, text_prompt

    asked = {} if dtype is None else {"dtype": dtype}

    def run(model: ModelConfig) -> dict[str, Any]:
        return where | _arguments(model) | asked

    encoder = None if settings.clip is None else clip.load(**run(settings.clip))
    segmenter = sam.load(**run(settings.segmenter))
    finder = None if settings.detector is None else detector.load(**run(settings.detector), text_encoder=encoder)
    token = None if settings.text_prompt is None else text_prompt.TextPrompt.load(resolve(settings.text_prompt.model))
    drawer = None if settings.refiner is None else refiner.load(**_arguments(settings.refiner))
    own = None if settings.own_refiner is None else refiner.later(**_arguments(settings.own_refiner))
    config = pipeline_config(settings)
    return Pipeline(segmenter, finder, encoder, token, drawer, own, config, cache)


def load_rest(pipeline: Pipeline) -> None:
    """Load what was left for when it is first asked for: for servers, whose visitors should not wait for it.

    A phrase asked of nano on a CPU needs neither the whole SAM nor the refiner of the caller's own boxes.

    Raises:
        WeightsError: weights are missing or damaged.
    """
    from textseg.models.refiner import Later
    from textseg.models.sam_phrases import PhraseSegmenter

    if isinstance(pipeline.segmenter, PhraseSegmenter):
        _ = pipeline.segmenter.network
    if isinstance(pipeline.own_refiner, Later):
        pipeline.own_refiner.ready()


def pipeline_config(settings: Preset) -> PipelineConfig:
    """Return the stages' settings of a preset."""
    stages = (settings.propose, settings.prompt, settings.segment, settings.redraw, settings.rank)
    return PipelineConfig(settings.name, *stages, settings.everything)


def resolve(model: str) -> str:
    """Turn "package:nano/sam" into the folder inside the package; anything else is returned as it is.

    Raises:
        WeightsError: the package lacks that folder.
    """
    if not model.startswith("package:"):
        return model
    folder = PACKAGE_WEIGHTS / model.removeprefix("package:")
    if not folder.is_dir():
        raise WeightsError(f"{model}: {folder} is missing from this installation; reinstall textseg")
    return str(folder)


def pick_device(device: str) -> str:
    """Return a device that exists: "auto" prefers cuda, then mps, then the CPU.

    Raises:
        ConfigError: the device asked for is not there (never a silent fall to the CPU).
    """
    import torch

    usable = ["cpu"]
    if torch.cuda.is_available():
        usable.insert(0, "cuda")
    elif torch.backends.mps.is_available():
        usable.insert(0, "mps")
    if device == "auto":
        return usable[0]
    if device.split(":")[0] not in usable:
        raise ConfigError(f"device {device!r} is not available here; choices: {', '.join(['auto', *usable])}")
    return device


def _begin_graphs(settings: Preset) -> None:
    """Begin to compile the models' graphs, before torch is imported; see ``graphs.begin``."""
    for role in ROLES:
        model = getattr(settings, role)
        if model is not None:
            graphs.begin(resolve(model.model))


def _arguments(model: ModelConfig) -> dict[str, Any]:
    return {"kind": model.kind, "model": resolve(model.model), **model.options}
