"""The first tab: words in, masks out; sliders, mending by clicks, files to take away."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from textseg import describe
from textseg.demo import takeaway, viewer
from textseg.demo.answer import Answer, Choosing, Mark
from textseg.demo.limits import MODELS, Limits, new_folder, picture_input, read_phrases, read_picture, told
from textseg.errors import QueryError
from textseg.pipeline import Pipeline
from textseg.result import Result

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXAMPLE_PHRASES = {
    "street.jpg": "the red car, the blue car",
    "coffee.jpg": "a cup",
    "chelsea.jpg": "a cat",
    "astronaut.jpg": "a person",
}
"""What a visitor tries first: nano finds all of these."""

REMEMBER_SECONDS = 3600  # how long the last answer of an idle session is kept

ADD, TAKE, BOX = "It is here", "Not here", "Box"
TOOLS = [ADD, TAKE, BOX]
NEW = "new:"
MAX_REJECTED = 20  # rows of the table

Rows = list[list[str]]
Outputs = dict[Any, Any]


@dataclass(frozen=True)
class Shown:
    """What a session keeps between two events.

    Attributes:
        answer: the picture and what was asked of it.
        target: what is being mended: a candidate's number as text, or "new:" and a phrase's number.
        corner: the first corner of a box that waits for the second, xy.
        picked: whether a person chose the target, so that its mask is lit.
    """

    answer: Answer
    target: str = f"{NEW}0"
    corner: tuple[float, float] | None = None
    picked: bool = False


class SegmentTab:
    """Builds the tab inside the page and holds its functions."""

    def __init__(self, pipeline: Pipeline, limits: Limits, preset: str) -> None:
        self.pipeline = pipeline
        self.limits = limits
        self.preset = preset
        self.shown = gr.State(None, time_to_live=REMEMBER_SECONDS)
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self._inputs()
            with gr.Column(scale=7, min_width=300):
                self._outputs()
        self._events()

    # ------------------------------------------------------------ layout

    def _inputs(self) -> None:
        self.picture = picture_input(
            "Picture",
            sources=["upload", "clipboard", "webcam"],
            height=280,
            elem_id="picture",
        )
        self.phrases = gr.Textbox(
            label="What to look for",
            info="One phrase, or several with commas or on lines of their own; Enter runs.",
            placeholder="the red car",
            max_lines=4,
            elem_id="phrases",
        )
        with gr.Row():
            self.run = gr.Button("Segment", variant="primary", elem_id="run")
            self.stop = gr.Button("Stop", variant="secondary", scale=0, min_width=90)
        rank = self.pipeline.config.rank
        with gr.Group():
            self.threshold = gr.Slider(
                0.0, 1.0, rank.threshold, step=0.01, label="Threshold: least score of a mask", elem_id="threshold"
            )
            with gr.Accordion("More sliders", open=False):
                self.overlap = gr.Slider(
                    0.0, 1.0, rank.duplicate_iou, step=0.01, label="Overlap from which two masks are one thing"
                )
                self.smallest = gr.Slider(0.0, 20.0, 0.0, step=0.1, label="Smallest mask, percent of the picture")
        self._examples()

    def _outputs(self) -> None:
        self.viewer = viewer.viewer("Masks", elem_id="masks", tools=True)
        self.missing = gr.Textbox(label="Not in this picture", interactive=False, lines=1, visible=False)
        with gr.Accordion("Mend a mask: click on the picture, or drag a box", open=True):
            self.target = gr.Dropdown(
                [], label="Mask to mend", info="A row of the table chooses it, too.", elem_id="target"
            )
            self.tool = gr.Radio(TOOLS, value=ADD, label="A click means", elem_id="tool")
            with gr.Row():
                self.words = gr.Checkbox(True, label="The words count, too", min_width=160)
                self.undo = gr.Button("Undo", min_width=90, elem_id="undo")
        with gr.Accordion("Take it away", open=False, elem_id="takeaway"):
            self.make = gr.Button("Make the files", elem_id="make-files")
            self.files = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")
            self.code = gr.Code(label="The Python lines that give this answer", language="python", interactive=False)
        with gr.Accordion("Rejected candidates, and why", open=False):
            heads = ["phrase", *_heads(self.pipeline), "why"]
            self.rejected = gr.Dataframe(
                label="Rejected", headers=heads, datatype="str", interactive=False, wrap=True, elem_id="rejected"
            )
        self.footer = gr.Textbox(
            label="Preset and times", value=self.pipeline.config.name, interactive=False, elem_classes=["ts-footer"]
        )

    def _examples(self) -> None:
        listed = [[str(EXAMPLES / name), text] for name, text in EXAMPLE_PHRASES.items() if (EXAMPLES / name).is_file()]
        if listed:
            gr.Examples(
                listed, [self.picture, self.phrases], label="Examples", cache_examples=False, elem_id="examples"
            )

    # ------------------------------------------------------------ events

    def _events(self) -> None:
        sliders = [self.threshold, self.overlap, self.smallest]
        shown = [self.shown, self.viewer, self.missing, self.rejected, self.target, self.files, self.code, self.footer]
        models = {"concurrency_id": MODELS, "concurrency_limit": self.limits.concurrency, "api_visibility": "private"}
        quick = {"api_visibility": "private", "show_progress": "hidden"}
        asked = gr.on(
            [self.run.click, self.phrases.submit],
            told(self.ask),
            [self.picture, self.phrases, *sliders],
            shown,
            show_progress="full",
            show_progress_on=[self.viewer],
            **models,
        )
        self.stop.click(None, cancels=[asked], api_visibility="private")
        self.picture.change(told(self.open), [self.picture], shown, **quick)
        for slider in sliders:
            slider.input(told(self.choose_again), [self.shown, *sliders], shown, trigger_mode="always_last", **quick)
        chosen = [self.shown, self.viewer, self.target]
        self.target.input(told(self.pick), [self.shown, self.target], chosen, **quick)
        self.viewer.choose(told(self.pick_row), [self.shown], chosen, **quick)
        pointing = [self.shown, self.tool, self.words, self.phrases, *sliders]
        hidden = {"show_progress": "hidden", **models}
        self.viewer.point(told(self.point), pointing, shown, **hidden)
        self.viewer.box(told(self.box), pointing, shown, **hidden)
        self.undo.click(told(self.take_back), [self.shown], shown, **hidden)
        self.make.click(told(self.take_away), [self.shown], [self.files, self.code], **quick)

    # ------------------------------------------------------------ functions

    def open(self, path: str | None) -> Outputs:
        """Show the picture alone, ready to be pointed at; an example or an upload that is no picture says so."""
        if not path:
            return {self.shown: None, self.viewer: "", **self._cleared()}
        image = read_picture(path, self.limits)
        return self._show(Shown(Answer(self.pipeline.open(image))))

    def ask(self, path: str | None, text: str, threshold: float, overlap: float, smallest: float) -> Outputs:
        """Find what the phrases name."""
        image = read_picture(path, self.limits)
        choosing = Choosing(threshold, overlap, smallest)
        answer = Answer(self.pipeline.open(image)).asked(read_phrases(text), choosing)
        return self._show(Shown(answer, _first_target(answer)))

    def choose_again(self, shown: Shown | None, threshold: float, overlap: float, smallest: float) -> Outputs:
        """Apply other thresholds to the candidates that are there already; no model runs on them."""
        if shown is None or shown.answer.result is None:
            return {self.shown: gr.skip()}
        answer = shown.answer.chosen(Choosing(threshold, overlap, smallest))
        return self._show(replace(shown, answer=answer, target=_kept_target(answer, shown.target)))

    def pick(self, shown: Shown | None, target: str | None) -> Outputs:
        """Choose the mask that the next clicks mend."""
        if shown is None or not target:
            return {self.shown: gr.skip()}
        shown = replace(shown, target=target, corner=None, picked=True)
        return {self.shown: shown, self.viewer: _view(shown)}

    def pick_row(self, shown: Shown | None, event: gr.EventData) -> Outputs:
        """The same from a row of the table."""
        result = None if shown is None else shown.answer.result
        index = _number(event, "index")
        if shown is None or result is None or index is None or not 0 <= index < len(result):
            return {self.shown: gr.skip()}
        shown = replace(shown, target=str(int(result.choice.accepted[int(index)])), corner=None, picked=True)
        return {self.shown: shown, self.viewer: _view(shown), self.target: gr.update(value=shown.target)}

    def point(
        self,
        shown: Shown | None,
        tool: str,
        words: bool,
        text: str,
        threshold: float,
        overlap: float,
        smallest: float,
        event: gr.EventData,
    ) -> Outputs:
        """Add a point, or a corner of a box."""
        x, y = _number(event, "x"), _number(event, "y")
        if shown is None or x is None or y is None:
            return {self.shown: gr.skip()}
        at = (round(x, 1), round(y, 1))
        if tool == BOX and shown.corner is None:
            shown = replace(shown, corner=at)
            return {self.shown: shown, self.viewer: _view(shown)}
        if tool == BOX and shown.corner is not None:
            (x0, y0), (x1, y1) = shown.corner, at
            mark = Mark("box", (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
        else:
            mark = Mark("off" if tool == TAKE else "on", at)
        return self._marked(shown, mark, words, text, Choosing(threshold, overlap, smallest))

    def box(
        self,
        shown: Shown | None,
        tool: str,
        words: bool,
        text: str,
        threshold: float,
        overlap: float,
        smallest: float,
        event: gr.EventData,
    ) -> Outputs:
        """Add a box that was dragged."""
        corners = getattr(event, "_data", {}).get("xyxy")
        if shown is None or not isinstance(corners, list) or len(corners) != 4:
            return {self.shown: gr.skip()}
        mark = Mark("box", tuple(round(float(value), 1) for value in corners))
        return self._marked(shown, mark, words, text, Choosing(threshold, overlap, smallest))

    def take_back(self, shown: Shown | None) -> Outputs:
        """Undo the last point, box or corner."""
        if shown is None:
            return {self.shown: gr.skip()}
        if shown.corner is not None:
            shown = replace(shown, corner=None)
            return {self.shown: shown, self.viewer: _view(shown)}
        answer = shown.answer.undone()
        latest = answer.latest
        target = _kept_target(answer, shown.target) if latest is None else str(latest)
        return self._show(Shown(answer, target))

    def take_away(self, shown: Shown | None) -> tuple[list[str], str]:
        """Write the files of what is shown."""
        if shown is None:
            raise QueryError("nothing to take away yet: choose a picture and type a phrase")
        paths = takeaway.write(shown.answer, new_folder(), self.preset)
        return [str(path) for path in paths], paths[-1].read_text("utf-8")

    # ------------------------------------------------------------ showing

    def _marked(self, shown: Shown, mark: Mark, words: bool, text: str, choosing: Choosing) -> Outputs:
        answer = shown.answer
        if answer.base is None and not answer.mends and words and text.strip():
            answer = answer.asked(read_phrases(text), choosing)  # words and a click together
            shown = replace(shown, answer=answer, target=_first_target(answer))
        is_new = shown.target.startswith(NEW)
        phrase = int(shown.target.removeprefix(NEW)) if is_new else 0
        answer = answer.marked(None if is_new else int(shown.target), phrase, mark, words)
        latest = answer.latest
        return self._show(Shown(answer, f"{NEW}0" if latest is None else str(latest)))

    def _show(self, shown: Shown) -> Outputs:
        """Return everything that the tab shows."""
        result = shown.answer.result
        out: Outputs = {self.viewer: _view(shown), **self._cleared()}
        if result is not None:
            missing = "\n".join(line.removeprefix("not in this picture: ") for line in describe.not_there(result))
            out[self.missing] = gr.update(value=missing, visible=bool(missing) and bool(result.query.phrases[0].prompt))
            out[self.rejected] = _rejected(result)
            out[self.footer] = describe.timing(result)
            out[self.target] = gr.update(choices=_targets(shown.answer), value=shown.target)
        out[self.shown] = replace(shown, answer=_slim(shown.answer))
        return out

    def _cleared(self) -> Outputs:
        return {
            self.missing: gr.update(value="", visible=False),
            self.rejected: [],
            self.target: gr.update(choices=[], value=None),
            self.files: None,
            self.code: "",
            self.footer: self.pipeline.config.name,
        }


def _heads(pipeline: Pipeline) -> list[str]:
    parts = [name for name in pipeline.config.rank.weights if name != "bias"]
    return ["score", *parts, "box", "area"]


def _rejected(result: Result) -> Rows:
    lost = result.rejected
    return [
        [viewer.spoken(lost.labels[k]), *viewer.cells(lost, result, k), lost.reasons[k]]
        for k in range(min(len(lost), MAX_REJECTED))
    ]


def _view(shown: Shown) -> str:
    answer = shown.answer
    place: int | None = None
    marks: tuple[Mark, ...] = ()
    if answer.result is not None and not shown.target.startswith(NEW):
        accepted = answer.result.choice.accepted.tolist()
        place = accepted.index(int(shown.target)) if int(shown.target) in accepted else None
    if answer.mends and place is not None and answer.latest == int(shown.target):
        marks = answer.mends[-1].marks
    return viewer.show(
        answer.picture.image, answer.result, chosen=place, lit=shown.picked, marks=marks, corner=shown.corner
    )


def _targets(answer: Answer) -> list[tuple[str, str]]:
    """Return the choices of the dropdown: every accepted mask, then a new one of each phrase."""
    result = answer.result
    if result is None:
        return []
    choices = [
        (f"{k + 1}: {viewer.spoken(result.labels[k])} {result.scores[k]:.2f}", str(int(candidate)))
        for k, candidate in enumerate(result.choice.accepted)
    ]
    if answer.base is None:
        return choices
    new = [(f"a new mask: {phrase.text}", f"{NEW}{i}") for i, phrase in enumerate(result.query.phrases)]
    return choices + new


def _first_target(answer: Answer) -> str:
    result = answer.result
    return str(int(result.choice.accepted[0])) if result is not None and len(result) else f"{NEW}0"


def _kept_target(answer: Answer, target: str) -> str:
    """Return the same target where it is still there, else the first mask."""
    return target if target in [value for _, value in _targets(answer)] else _first_target(answer)


def _slim(answer: Answer) -> Answer:
    """Return the answer without the full-size masks that were made for showing it: a session keeps little."""
    base, result = answer.base, answer.result
    return replace(
        answer,
        base=None if base is None else replace(base),
        result=None if result is None else replace(result),
    )


def _number(event: gr.EventData, name: str) -> float | None:
    value = getattr(event, "_data", {}).get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
