"""The doors for programs: ``/segment``, ``/everything`` and ``/label``, as API endpoints and as MCP tools.

Every result is a picture or a file, and a value of one of the types below; their JSON schema is the endpoint's
documentation. Masks are COCO's compressed RLE at the picture's own size; ``pycocotools.mask.decode`` opens them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from textseg.demo.everything_tab import MAX_SIDE, read_vocabulary
from textseg.demo.label_job import label as label_job
from textseg.demo.limits import MODELS, Limits, picture_input, read_phrases, read_picture, told
from textseg.errors import ConfigError
from textseg.everything import EverythingOptions
from textseg.everything import everything as find_everything
from textseg.export import to_dict
from textseg.label.export import FORMATS
from textseg.pipeline import Pipeline
from textseg.types import UInt8


class Rle(TypedDict):
    """A mask in COCO's compressed run lengths."""

    size: list[int]
    counts: str


class FoundMask(TypedDict):
    """One accepted mask: its phrase, its calibrated score 0..1 and what that is made of, box xyxy in pixels."""

    label: str
    score: float
    parts: dict[str, float | None]
    box_xyxy: list[float]
    area: int
    segmentation: Rle


class MissingPhrase(TypedDict):
    """A phrase that is not in the picture, and the best score that any place reached for it."""

    text: str
    best_score: float


class SegmentAnswer(TypedDict):
    """The answer of /segment. No mask is an answer, too: the phrase is among the missing."""

    width: int
    height: int
    preset: str
    threshold: float
    masks: list[FoundMask]
    missing: list[MissingPhrase]
    seconds: dict[str, float]


class EverythingMask(TypedDict):
    """One mask of /everything; label and score are null without a vocabulary, or where no word fits."""

    label: str | None
    label_score: float | None
    predicted_iou: float
    stability_score: float
    box_xyxy: list[float]
    area: int
    segmentation: Rle


class EverythingAnswer(TypedDict):
    """The answer of /everything, masks best first."""

    width: int
    height: int
    preset: str
    prompts: int
    masks: list[EverythingMask]
    seconds: dict[str, float]


class LabelFailure(TypedDict):
    """A picture that could not be labelled."""

    picture: str
    reason: str


class LabelAnswer(TypedDict):
    """The answer of /label, beside the ZIP with one folder a format."""

    pictures: int
    masks: int
    per_class: dict[str, int]
    failed: list[LabelFailure]
    not_tried: int


def typed(kind: Any) -> gr.JSON:
    """Return a JSON result whose schema is told to clients."""
    schema = TypeAdapter(kind).json_schema()
    made = gr.JSON(label=kind.__name__)
    made.api_info = lambda: schema
    return made


def many_files(label: str) -> gr.File:
    """Return an input for files whose schema has no references: MCP clients look for them elsewhere, and fail."""
    schema = gr.FileData.model_json_schema()
    schema["properties"]["meta"] = schema.pop("$defs")["FileDataMeta"]
    made = gr.File(label=label, file_count="multiple")
    made.api_info = lambda: {"type": "array", "items": copy.deepcopy(schema)}
    return made


class Doors:
    """Makes the endpoints inside a page."""

    def __init__(self, pipeline: Pipeline, limits: Limits, options: EverythingOptions) -> None:
        self.pipeline = pipeline
        self.limits = limits
        self.options = options
        with gr.Group(visible=False):
            self._segment()
            self._everything()
            self._label()

    def _segment(self) -> None:
        inputs = [
            picture_input("picture"),
            gr.Textbox(label="phrases"),
            gr.Number(label="threshold", value=-1),
        ]
        self._door(self.segment, "segment", inputs, [gr.Image(label="overlay", format="png"), typed(SegmentAnswer)])

    def _everything(self) -> None:
        inputs = [
            picture_input("picture"),
            gr.Textbox(label="vocabulary", value=""),
            gr.Number(label="points_per_side", value=self.options.points_per_side, precision=0),
            gr.Number(label="pred_iou_thresh", value=self.options.pred_iou_thresh),
            gr.Number(label="stability_score_thresh", value=self.options.stability_score_thresh),
        ]
        outputs = [gr.Image(label="overlay", format="png"), typed(EverythingAnswer)]
        self._door(self.everything, "everything", inputs, outputs)

    def _label(self) -> None:
        inputs = [
            many_files("pictures"),
            gr.Textbox(label="classes"),
            gr.Number(label="threshold", value=-1),
            gr.CheckboxGroup(list(FORMATS), value=["coco"], label="formats"),
        ]
        self._door(self.label, "label", inputs, [gr.File(label="data_set"), typed(LabelAnswer)])

    def _door(self, function: Callable[..., Any], name: str, inputs: list[Any], outputs: list[Any]) -> None:
        gr.Button(name).click(
            told(function),
            inputs,
            outputs,
            api_name=name,
            concurrency_id=MODELS,
            concurrency_limit=self.limits.concurrency,
        )

    # ------------------------------------------------------------ what they do

    def segment(self, picture: str, phrases: str, threshold: float = -1) -> tuple[UInt8, SegmentAnswer]:
        """Find what words name in a picture and cut it out, pixel by pixel; or say that it is not there.

        Args:
            picture: an uploaded picture file (for MCP a data URI with base64); URLs are not fetched.
            phrases: what to look for, such as "the red car, a dog"; with commas or one a line.
            threshold: least score of a mask, 0..1; -1 takes the preset's own.

        Returns:
            The picture with the masks drawn on it, and the masks with their scores as JSON.
        """
        image = read_picture(picture, self.limits)
        result = self.pipeline.open(image).segment(read_phrases(phrases), threshold=_least(threshold))
        winners = replace(result.choice, rejected=result.choice.rejected[:0])  # the rejected need not be drawn up
        values = to_dict(replace(result, choice=winners))
        keys = FoundMask.__annotations__
        answer: SegmentAnswer = {
            "width": values["picture"]["width"],
            "height": values["picture"]["height"],
            "preset": result.preset,
            "threshold": result.config.threshold,
            "masks": [{key: one[key] for key in keys} for one in values["accepted"]],  # type: ignore[misc]
            "missing": [
                {"text": one["text"], "best_score": one["best_score"]} for one in values["phrases"] if not one["found"]
            ],
            "seconds": values["seconds"],
        }
        return result.overlay(), answer

    def everything(
        self,
        picture: str,
        vocabulary: str = "",
        points_per_side: int | None = None,
        pred_iou_thresh: float | None = None,
        stability_score_thresh: float | None = None,
    ) -> tuple[UInt8, EverythingAnswer]:
        """Find every mask of a picture; with a vocabulary, name each.

        Args:
            picture: an uploaded picture file (for MCP a data URI with base64); URLs are not fetched.
            vocabulary: names to choose from, with commas or one a line; "" leaves the masks without names.
            points_per_side: the grid of points asked about, up to 64 along each side.
            pred_iou_thresh: least quality of a mask by the segmenter's own estimate, 0..1.
            stability_score_thresh: least stability of a mask, 0..1.

        Returns:
            The picture with the masks drawn on it, and the masks as JSON.
        """
        image = read_picture(picture, self.limits)
        given: dict[str, Any] = {
            "points_per_side": points_per_side,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
        }
        options = replace(self.options, **{name: value for name, value in given.items() if value is not None})
        if (options.points_per_side or 0) > MAX_SIDE:
            raise ConfigError(f"points_per_side: got {options.points_per_side}, expected {MAX_SIDE} at most here")
        found = find_everything(self.pipeline, image, options, read_vocabulary(vocabulary))
        masks: list[EverythingMask] = [
            {
                "label": None if found.labels is None else found.labels[k],
                "label_score": None if found.label_scores is None else float(found.label_scores[k]),
                "predicted_iou": float(found.predicted_iou[k]),
                "stability_score": float(found.stability_score[k]),
                "box_xyxy": found.boxes_xyxy[k].tolist(),
                "area": int(found.areas[k]),
                "segmentation": {"size": list(found.rles[k]["size"]), "counts": str(found.rles[k]["counts"])},
            }
            for k in range(len(found))
        ]
        answer: EverythingAnswer = {
            "width": image.size_hw[1],
            "height": image.size_hw[0],
            "preset": self.pipeline.config.name,
            "prompts": found.prompts,
            "masks": masks,
            "seconds": found.seconds,
        }
        return found.overlay(), answer

    def label(
        self, pictures: list[str], classes: str, threshold: float = -1, formats: list[str] | None = None
    ) -> tuple[str, LabelAnswer]:
        """Label many pictures by class names and return the data set as a ZIP.

        Args:
            pictures: uploaded picture files, or one ZIP of them (for MCP data URIs with base64).
            classes: class names with commas, such as "car, person".
            threshold: least score of a mask, 0..1; -1 takes the preset's own.
            formats: formats of the data set; COCO by default.

        Returns:
            The ZIP with one folder a format, and the counts as JSON.
        """
        made = label_job(
            self.pipeline,
            pictures or [],
            classes,
            _least(threshold),
            formats or ["coco"],
            self.limits,
            lambda done, total: None,
        )
        answer: LabelAnswer = {
            "pictures": made.done,
            "masks": made.masks,
            "per_class": made.per_class,
            "failed": [{"picture": key, "reason": reason} for key, reason in made.failures],
            "not_tried": made.left_over,
        }
        return str(made.data_set), answer


def _least(threshold: float | None) -> float | None:
    return None if threshold is None or threshold == -1 else threshold
