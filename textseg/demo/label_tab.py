"""The Label tab: many pictures or a ZIP and class names in, progress, a gallery and a data set out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from textseg.demo.background import Told, in_background
from textseg.demo.label_job import Labels, label
from textseg.demo.limits import MODELS, Limits, page_error
from textseg.errors import TextsegError
from textseg.label.export import FORMATS
from textseg.label.sources import SUFFIXES
from textseg.pipeline import Pipeline


class LabelTab:
    """Builds the tab inside the page and holds its function."""

    def __init__(self, pipeline: Pipeline, limits: Limits) -> None:
        self.pipeline = pipeline
        self.limits = limits
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self._inputs()
            with gr.Column(scale=7, min_width=300):
                self.said = gr.Textbox(label="Progress", interactive=False, lines=2, elem_id="label-progress")
                self.gallery = gr.Gallery(label="Labelled pictures", columns=3, object_fit="contain", height="auto")
                self.files = gr.File(label="The data set", interactive=False, elem_id="label-files")
        run = self.run.click(
            self.label,
            [self.uploads, self.classes, self.threshold, self.formats],
            [self.said, self.gallery, self.files],
            concurrency_id=MODELS,
            concurrency_limit=limits.concurrency,
            api_visibility="private",
            show_progress_on=[self.said],
        )
        self.stop.click(None, cancels=[run], api_visibility="private")

    def _inputs(self) -> None:
        self.uploads = gr.File(
            label=f"Pictures (at most {self.limits.max_files}), or one ZIP",
            file_count="multiple",
            file_types=[".zip", *SUFFIXES],
            height=180,
            elem_id="label-uploads",
        )
        self.classes = gr.Textbox(
            label="Class names",
            info="With commas; 'car, not: toy car, person' leaves something out.",
            placeholder="car, person",
            elem_id="label-classes",
        )
        self.threshold = gr.Slider(
            0.0, 1.0, self.pipeline.config.rank.threshold, step=0.01, label="Threshold: least score of a mask"
        )
        self.formats = gr.CheckboxGroup(list(FORMATS), value=["coco"], label="Formats of the data set")
        with gr.Row():
            self.run = gr.Button("Label", variant="primary", elem_id="label-run")
            self.stop = gr.Button("Stop", scale=0, min_width=90)

    def label(
        self,
        uploads: list[str] | None,
        classes: str,
        threshold: float,
        formats: Sequence[str],
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it so
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Label the pictures; it ends early when the browser goes away or Stop is pressed."""
        if not formats:
            raise gr.Error("Choose at least one format of the data set.", print_exception=False)

        def work(tell: Told) -> Labels:
            return label(self.pipeline, uploads or [], classes, threshold, formats, self.limits, tell)

        try:
            for done in in_background(work):
                if isinstance(done, Labels):
                    yield done.sentence(), list(done.gallery), str(done.data_set)
                else:
                    progress(done, desc="labelling", unit="pictures")
                    yield f"{done[0]} of {done[1]} pictures", gr.skip(), gr.skip()
        except TextsegError as error:
            raise page_error(error) from error
