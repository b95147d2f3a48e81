"""The Compare tab: the same phrases through two presets, or with a stage switched off, side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from textseg import describe
from textseg.cache import EmbeddingCache
from textseg.demo import viewer
from textseg.demo.limits import MODELS, Limits, picture_input, read_phrases, read_picture, told
from textseg.errors import ConfigError
from textseg.pipeline import Pipeline
from textseg.result import Result
from textseg.types import Image, Phrase


@dataclass(frozen=True)
class Variant:
    """One side of a comparison.

    Attributes:
        name: what the dropdown says.
        make: returns its pipeline; models that are not here yet are loaded then, once.
    """

    name: str
    make: Callable[[], Pipeline]


def variants(pipeline: Pipeline, presets: Sequence[str] = ()) -> dict[str, Variant]:
    """Return what can be compared: the pipeline, the pipeline without one of its stages, other presets."""
    name = pipeline.config.name
    found = [Variant(name, lambda: pipeline)]

    def off(what: str, **changes: Any) -> None:
        made = _without(pipeline, **changes)
        found.append(Variant(f"{name} without {what}", lambda: made))

    if pipeline.detector is not None and pipeline.text_prompt is not None:
        off("the detector", detector=None)
    if pipeline.text_prompt is not None and pipeline.detector is not None:
        off("the text prompt", text_prompt=None)
    if pipeline.clip is not None:
        off("CLIP's look at the masks", clip_weight=0.0)
    if pipeline.refiner is not None:
        off("drawing masks again", refiner=None, own_refiner=None)
    off("the choice among SAM's masks", multimask=False)
    for preset in presets:
        found.append(Variant(preset, _Loaded(preset)))
    return {one.name: one for one in found}


class CompareTab:
    """Builds the tab inside the page and holds its functions."""

    def __init__(self, pipeline: Pipeline, limits: Limits, presets: Sequence[str] = ()) -> None:
        self.limits = limits
        self.variants = variants(pipeline, presets)
        names = list(self.variants)
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self.picture = picture_input("Picture", sources=["upload", "clipboard"], height=240)
            with gr.Column(scale=7, min_width=300):
                self.phrases = gr.Textbox(
                    label="What to look for", info="Enter runs both sides.", placeholder="the red car", max_lines=4
                )
                with gr.Row():
                    self.left = gr.Dropdown(names, value=names[0], label="Left side", min_width=200)
                    self.right = gr.Dropdown(
                        names, value=names[min(1, len(names) - 1)], label="Right side", min_width=200
                    )
                self.run = gr.Button("Compare", variant="primary")
        with gr.Row():
            self.views, self.words = [], []
            for side in ("Left", "Right"):
                with gr.Column(min_width=300):
                    self.views.append(viewer.viewer(f"{side} side", elem_id=f"compare-{side.lower()}"))
                    self.words.append(gr.Textbox(label=f"{side} side: times, and what is not there", interactive=False))
        gr.on(
            [self.run.click, self.phrases.submit],
            told(self.compare),
            [self.picture, self.phrases, self.left, self.right],
            [self.views[0], self.words[0], self.views[1], self.words[1]],
            concurrency_id=MODELS,
            concurrency_limit=limits.concurrency,
            api_visibility="private",
        )

    def compare(self, path: str | None, text: str, left: str, right: str) -> tuple[str, str, str, str]:
        """Ask both sides the same."""
        image, phrases = read_picture(path, self.limits), read_phrases(text)
        first, second = (self._side(name, image, phrases) for name in (left, right))
        return *first, *second

    def _side(self, name: str, image: Image, phrases: Sequence[Phrase]) -> tuple[str, str]:
        if name not in self.variants:
            raise ConfigError(f"compare: unknown side {name!r}; choices: {', '.join(self.variants)}")
        result = self.variants[name].make().open(image).segment(phrases)
        return viewer.show(image, result), in_words(name, result)


def in_words(name: str, result: Result) -> str:
    """Return the times under the side's name, and what is not there."""
    times = describe.timing(result).removeprefix(f"{result.preset}: ")
    return "\n".join([f"{name}: {times}", *describe.not_there(result)])


class _Loaded:
    """A preset that is loaded when it is first asked, and kept."""

    def __init__(self, preset: str) -> None:
        self._preset = preset
        self._lock = threading.Lock()
        self._pipeline: Pipeline | None = None

    def __call__(self) -> Pipeline:
        from textseg.build import load

        with self._lock:
            if self._pipeline is None:
                self._pipeline = load(self._preset, cache=EmbeddingCache(2))
            return self._pipeline


def _without(
    pipeline: Pipeline, *, clip_weight: float | None = None, multimask: bool | None = None, **off: Any
) -> Pipeline:
    """Return a pipeline of the same models and cache with a stage switched off."""
    config = pipeline.config
    if clip_weight is not None:
        weights = {**config.rank.weights, "clip": clip_weight}
        config = replace(config, rank=replace(config.rank, weights=weights, clip_budget=0))
    if multimask is not None:
        config = replace(config, segment=replace(config.segment, multimask=multimask))
    return pipeline.with_parts(config=config, **off)
