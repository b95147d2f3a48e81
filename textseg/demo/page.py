"""The page: a head, one tab for each use, and the doors for programs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import gradio as gr

from textseg.demo.api import Doors
from textseg.demo.compare_tab import CompareTab
from textseg.demo.everything_tab import EverythingTab
from textseg.demo.label_tab import LabelTab
from textseg.demo.limits import GuardedBlocks, Limits
from textseg.demo.segment_tab import SegmentTab
from textseg.pipeline import Pipeline

SWEEP_SECONDS, KEEP_SECONDS = 300, 3600
"""How often temporary files are looked through, and how long they stay."""

NAME_EXAMPLES = """() => {
  const name = () => document.querySelectorAll("#examples td.image:not([aria-label])").forEach((cell) =>
    cell.setAttribute("aria-label", "Example: " + cell.parentElement.textContent.trim()));
  name();
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
}"""
"""Gives the examples' pictures, which gradio leaves unnamed, a name for screen readers."""


def build_page(
    pipeline: Pipeline, limits: Limits | None = None, *, preset: str | None = None, compare: Sequence[str] = ()
) -> gr.Blocks:
    """Return the page of a pipeline; ``serve.launch`` serves it.

    Args:
        pipeline: its answers are what is shown.
        limits: what strangers may do.
        preset: name or path behind the pipeline, for the Python lines; its config's name by default.
        compare: other presets that the Compare tab offers; each is loaded when it is first asked.
    """
    limits = limits or Limits()
    name = preset or pipeline.config.name
    options = pipeline.config.everything
    with GuardedBlocks(title="textseg", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEEP_SECONDS)) as page:
        gr.Markdown("# textseg\nType words, get masks.", elem_classes=["ts-title"])
        Doors(pipeline, limits, options)
        with gr.Tabs():
            with gr.Tab("Segment", id="segment"):
                SegmentTab(pipeline, limits, name)
            with gr.Tab("Everything", id="everything"):
                EverythingTab(pipeline, limits, options)
            with gr.Tab("Compare", id="compare"):
                CompareTab(pipeline, limits, compare)
            with gr.Tab("Label", id="label"):
                LabelTab(pipeline, limits)
        page.load(None, js=NAME_EXAMPLES, api_visibility="private")
    page.queue(max_size=limits.max_queue, default_concurrency_limit=4)
    return page


def looks() -> dict[str, object]:
    """Return what ``launch`` takes to make the page look as it does."""
    css = resources.files("textseg.demo").joinpath("page.css").read_text("utf-8")
    return {"theme": gr.themes.Default(primary_hue="blue", neutral_hue="slate"), "css": css}
