"""The web page: type words, see masks. Built from a ``Pipeline`` and nothing else.

    python app.py --preset nano --port 7860

Whatever people type is shown as text, never as HTML.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from textseg import describe, language
from textseg.errors import TextsegError
from textseg.pipeline import Pipeline
from textseg.result import Result
from textseg.types import Phrase, Segments, UInt8

EXAMPLES = Path(__file__).resolve().parent / "examples"
EXAMPLE_PHRASES = {
    "street.jpg": "the red car, the blue car",
    "chelsea.jpg": "a cat",
    "coffee.jpg": "a cup",
    "astronaut.jpg": "a person",
}
REMEMBER_SECONDS = 3600  # how long the last answer of an idle session is kept for its slider

Rows = list[list[str]]
Shown = tuple[UInt8, Rows, Rows, str, str]
"""Overlay (H, W, 3), accepted rows, rejected rows, "not in this picture", times."""


def build_page(pipeline: Pipeline) -> gr.Blocks:
    """Return the page of a pipeline; ``launch()`` serves it."""
    with gr.Blocks(title="textseg", analytics_enabled=False) as page:
        gr.Markdown("# textseg\nType words, get masks.")
        answer = gr.State(None, time_to_live=REMEMBER_SECONDS)
        with gr.Row():
            with gr.Column():
                picture = gr.Image(
                    label="Picture",
                    type="filepath",
                    image_mode=None,  # the file as it came: textseg reads it
                    sources=["upload", "clipboard", "webcam"],
                )
                phrases = gr.Textbox(
                    label="What to look for",
                    info="One phrase, or several with commas or on lines of their own; Enter runs.",
                    placeholder="the red car",
                    max_lines=4,
                )
                run = gr.Button("Segment", variant="primary")
                threshold = gr.Slider(
                    0.0, 1.0, pipeline.config.rank.threshold, step=0.01, label="Threshold: least score of a mask"
                )
                _examples(picture, phrases)
            with gr.Column():
                overlay = gr.Image(label="Masks", interactive=False, format="png")
                missing = gr.Textbox(label="Not in this picture", interactive=False, lines=1)
                accepted = _table("Masks and their scores", pipeline)
                with gr.Accordion("Rejected candidates, and why", open=False):
                    rejected = _table("Rejected", pipeline)
        footer = gr.Textbox(label="Preset and times", value=pipeline.config.name, interactive=False)
        shown = [overlay, accepted, rejected, missing, footer]
        gr.on([run.click, phrases.submit], segmenter(pipeline), [picture, phrases, threshold], [answer, *shown])
        threshold.release(choose_again, [answer, threshold], [answer, *shown], show_progress="hidden")
    return page


def segmenter(pipeline: Pipeline) -> Callable[[str | None, str, float], tuple[Any, ...]]:
    """Return the function behind the button: (picture's path, typed text, threshold) → the result and its looks."""

    def segment(picture: str | None, text: str, threshold: float) -> tuple[Any, ...]:
        """Find what the phrases name in the picture and return its masks, drawn and listed."""
        if not picture:
            raise gr.Error("Choose a picture first.", print_exception=False)
        try:
            result = pipeline.open(picture).segment(read_phrases(text), threshold=threshold)
        except TextsegError as error:
            raise _page_error(error, picture) from error
        return result, *show(result)

    return segment


def choose_again(result: Result | None, threshold: float) -> tuple[Any, ...]:
    """Apply another threshold to the candidates that are there already; no model runs."""
    if result is None:
        return tuple(gr.skip() for _ in range(6))
    result = result.with_threshold(threshold)
    return result, *show(result)


def show(result: Result) -> Shown:
    """Return what the page shows of a result."""
    missing = "\n".join(line.removeprefix("not in this picture: ") for line in describe.not_there(result))
    accepted, rejected = _rows(result.accepted, result), _rows(result.rejected, result)
    return result.overlay(), accepted, rejected, missing, describe.timing(result)


def read_phrases(text: str) -> list[Phrase]:
    """Return the phrases typed: split at line ends and commas, but "car, not: toy car" is one."""
    found: list[Phrase] = []
    for line in (text or "").splitlines():
        typed = language.parse_phrase(line) if "not:" in line.lower() else None
        found += [typed] if typed else [language.phrase(part) for part in language.split_list(line)]
    return found


def _page_error(error: TextsegError, picture: str) -> gr.Error:
    """Return an error for the browser: escaped, and without the server's path of the upload."""
    message = str(error).replace(picture, Path(picture).name)
    return gr.Error(html.escape(message), print_exception=False)


def _table(label: str, pipeline: Pipeline) -> gr.Dataframe:
    parts = [name for name in pipeline.config.rank.weights if name != "bias"]
    heads = ["phrase", "score", *parts, "box", "area", "why"]
    return gr.Dataframe(label=label, headers=heads, datatype="str", interactive=False, wrap=True)


def _rows(segments: Segments, result: Result) -> Rows:
    """Return one row a mask: phrase, score, the parts in the columns' order, box, area, reason."""
    pixels = np.prod(result.image.size_hw)
    parts = [name for name in result.config.weights if name != "bias"]
    return [
        [
            segments.labels[k],
            f"{segments.scores[k]:.2f}",
            *(_part(segments, name, k) for name in parts),
            describe.box_text(segments.boxes_xyxy[k]),
            f"{segments.masks[k].sum() / pixels:.1%}",
            segments.reasons[k],
        ]
        for k in range(len(segments))
    ]


def _part(segments: Segments, name: str, k: int) -> str:
    values = segments.parts.get(name)
    return "–" if values is None or np.isnan(values[k]) else f"{values[k]:.2f}"


def _examples(picture: gr.Image, phrases: gr.Textbox) -> None:
    listed = [[str(EXAMPLES / name), text] for name, text in EXAMPLE_PHRASES.items() if (EXAMPLES / name).is_file()]
    if listed:
        gr.Examples(listed, [picture, phrases], label="Examples", cache_examples=False)


def main() -> None:
    """Serve the page of a preset."""
    parser = argparse.ArgumentParser(description="Serve textseg's web page.")
    parser.add_argument("--preset", default="nano", help="a preset's name or a YAML file")
    parser.add_argument("--device", default=None, help="auto, cpu, cuda …")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    from textseg.build import load

    try:
        pipeline = load(options.preset, device=options.device)
    except TextsegError as error:
        parser.error(str(error))
    build_page(pipeline).launch(server_name=options.host, server_port=options.port)


if __name__ == "__main__":
    main()
