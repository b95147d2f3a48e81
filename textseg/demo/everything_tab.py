"""The Everything tab: every mask of a picture, named from a vocabulary if there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import PIL.Image

from textseg import describe, language, sa1b
from textseg import export as exports
from textseg.demo.background import Told, in_background
from textseg.demo.limits import MODELS, Limits, new_folder, page_error, picture_input, read_phrases, read_picture
from textseg.errors import TextsegError
from textseg.everything import Everything, EverythingOptions, everything
from textseg.pipeline import Pipeline
from textseg.types import Query, UInt8

MAX_SIDE = 64
"""Most points along a side of the grid that a stranger may ask for."""

MAX_ROWS = 200

Rows = list[list[str]]


class EverythingTab:
    """Builds the tab inside the page and holds its functions."""

    def __init__(self, pipeline: Pipeline, limits: Limits, options: EverythingOptions) -> None:
        self.pipeline = pipeline
        self.limits = limits
        self.options = options
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self._inputs()
            with gr.Column(scale=7, min_width=300):
                self.overlay = gr.Image(
                    label="Everything", interactive=False, format="png", elem_id="everything-overlay"
                )
                self.said = gr.Textbox(label="Found", interactive=False, lines=1)
                self.table = gr.Dataframe(
                    label="Masks, best first",
                    headers=["label", "score", "area", "predicted IoU", "stability", "box"],
                    datatype="str",
                    interactive=False,
                    max_height=420,
                )
                self.files = gr.File(label="Overlay and SA-1B JSON", file_count="multiple", interactive=False)
        outputs = [self.overlay, self.said, self.table, self.files]
        run = self.run.click(
            self.find,
            [self.picture, self.vocabulary, self.side, self.iou, self.stability],
            outputs,
            concurrency_id=MODELS,
            concurrency_limit=limits.concurrency,
            api_visibility="private",
            show_progress_on=[self.overlay],
        )
        self.stop.click(None, cancels=[run], api_visibility="private")

    def _inputs(self) -> None:
        self.picture = picture_input("Picture", sources=["upload", "clipboard", "webcam"], height=280)
        self.vocabulary = gr.Textbox(
            label="Vocabulary",
            info="Names to choose from, with commas or on lines; without any the masks have none.",
            placeholder="car, tree, dog",
            max_lines=4,
        )
        with gr.Row():
            self.run = gr.Button("Find everything", variant="primary")
            self.stop = gr.Button("Stop", scale=0, min_width=90)
        side = self.options.points_per_side or 32
        with gr.Group():
            self.side = gr.Slider(4, MAX_SIDE, min(side, MAX_SIDE), step=1, label="Points along each side")
            self.iou = gr.Slider(0.0, 1.0, self.options.pred_iou_thresh, step=0.01, label="Least predicted IoU")
            self.stability = gr.Slider(
                0.0, 1.0, self.options.stability_score_thresh, step=0.01, label="Least stability"
            )

    def find(
        self,
        path: str | None,
        words: str,
        side: float,
        iou: float,
        stability: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it so
    ) -> Iterator[tuple[Any, ...]]:
        """Find every mask; the search ends early when the browser goes away or Stop is pressed."""
        try:
            image = read_picture(path, self.limits)
            query = read_vocabulary(words)
            options = replace(
                self.options, points_per_side=int(side), pred_iou_thresh=iou, stability_score_thresh=stability
            )

            def work(tell: Told) -> Everything:
                return everything(self.pipeline, image, options, query, tell)

            for done in in_background(work):
                if isinstance(done, Everything):
                    yield show(done)
                else:
                    progress(done, desc="asking about points", unit="points")
                    yield (gr.skip(),) * 4
        except TextsegError as error:
            raise page_error(error) from error


def read_vocabulary(text: str | None) -> Query | None:
    """Return the vocabulary typed, or None.

    Raises:
        QueryError: a phrase is unusable.
    """
    phrases = read_phrases(text)
    return language.query(phrases) if phrases else None


def show(found: Everything) -> tuple[Any, str, Rows, list[str]]:
    """Return what the tab shows of everything: the overlay, a sentence, rows, files."""
    pixels = found.image.size_hw[0] * found.image.size_hw[1]
    rows = [
        [
            "–" if found.labels is None or found.labels[k] is None else str(found.labels[k]),
            "–" if found.label_scores is None else f"{found.label_scores[k]:.2f}",
            f"{found.areas[k] / pixels:.1%}",
            f"{found.predicted_iou[k]:.2f}",
            f"{found.stability_score[k]:.2f}",
            describe.box_text(found.boxes_xyxy[k]),
        ]
        for k in range(min(len(found), MAX_ROWS))
    ]
    overlay = found.overlay()
    return overlay, sentence(found), rows, [str(path) for path in write(found, overlay)]


def sentence(found: Everything) -> str:
    """Return the count, the points asked about and the time, in words."""
    masks = f"{len(found)} masks" if len(found) != 1 else "1 mask"
    rest = f"{found.prompts} points in {sum(found.seconds.values()):.1f} s"
    return f"{masks} from {rest}" + ("" if len(found) else "; lower the least IoU or stability for more")


def write(found: Everything, drawn: UInt8) -> list[Path]:
    """Write the overlay, drawn already, and the masks as SA-1B's JSON into a new temporary folder."""
    folder = new_folder()
    stem = Path(exports.picture_name(found.image)).stem
    overlay = folder / f"{stem}_everything.png"
    PIL.Image.fromarray(drawn).save(overlay)
    target = folder / f"{stem}_everything.json"
    sa1b.write(sa1b.from_everything(found, 1, f"{stem}.png"), target)
    return [overlay, target]
