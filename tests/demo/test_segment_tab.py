"""The Segment tab's functions on fakes: what is shown, sliders, mending, undo, files, the Python lines."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco_mask

from tests.fakes import BLUE_BOX, fake_pipeline, scene
from textseg.build import load
from textseg.demo import viewer
from textseg.demo.limits import Limits, told
from textseg.demo.segment_tab import ADD, BOX, EXAMPLE_PHRASES, EXAMPLES, NEW, TAKE, SegmentTab, Shown
from textseg.errors import ImageError, PromptError, QueryError
from textseg.language import split_list
from textseg.pipeline import Pipeline

SLIDERS = (0.5, 0.6, 0.0)


def make_tab(**parts: Any) -> SegmentTab:
    with gr.Blocks():
        return SegmentTab(fake_pipeline(**parts), Limits(max_pixels=1_000_000), "nano")


def event(**data: Any) -> gr.EventData:
    return gr.EventData(None, data)


def pixels(path: str) -> Any:
    with PIL.Image.open(path) as opened:
        return np.asarray(opened)


def ask(tab: SegmentTab, picture: str, text: str = "the red box, a dog\nthe blue box") -> dict[Any, Any]:
    return tab.ask(picture, text, *SLIDERS)


def click(tab: SegmentTab, shown: Shown, x: float, y: float, tool: str = ADD, **changes: Any) -> dict[Any, Any]:
    words = changes.get("words", False)
    return tab.point(shown, tool, words, changes.get("text", ""), *SLIDERS, event(x=x, y=y))


def test_an_answer_shows_everything(picture: str) -> None:
    tab = make_tab()
    out = ask(tab, picture)
    result = out[tab.shown].answer.result
    assert result.labels == ("the red box", "the blue box")
    shown = json.loads(out[tab.viewer])
    assert [mask["label"] for mask in shown["masks"]] == ["the red box", "the blue box"]
    assert shown["heads"][0] == "phrase" and len(shown["heads"]) == 1 + len(shown["masks"][0]["cells"])
    assert (shown["width"], shown["height"], shown["chosen"]) == (128, 96, 0)
    assert out[tab.missing]["value"] == "a dog (nothing came close)"
    assert all(row[-1] for row in out[tab.rejected])
    assert {len(row) for row in out[tab.rejected]} == {len(tab.rejected.headers)}
    assert out[tab.footer].startswith("fake: text")
    names = [name for name, _ in out[tab.target]["choices"]]
    assert names[0].startswith("1: the red box ") and names[-1] == "a new mask: the blue box"


def test_layers_are_the_masks(picture: str) -> None:
    tab = make_tab()
    out = ask(tab, picture)
    layer = json.loads(out[tab.viewer])["masks"][0]["png"]
    with PIL.Image.open(io.BytesIO(base64.b64decode(layer.split(",")[1]))) as shown:
        alpha = np.asarray(shown.convert("RGBA"))[..., 3]
    np.testing.assert_array_equal(alpha > 0, out[tab.shown].answer.result.masks[0])


def test_sliders_run_no_model(picture: str) -> None:
    pipeline = fake_pipeline()
    with gr.Blocks():
        tab = SegmentTab(pipeline, Limits(), "nano")
    out = ask(tab, picture, "the red box")
    before = pipeline.segmenter.decoded, pipeline.clip.crops_seen
    strict = tab.choose_again(out[tab.shown], 1.0, 0.6, 0.0)
    large = tab.choose_again(out[tab.shown], 0.5, 0.6, 20.0)
    assert (pipeline.segmenter.decoded, pipeline.clip.crops_seen) == before
    for again in (strict, large):
        assert json.loads(again[tab.viewer])["masks"] == []
        assert "the red box (closest at 16,24–48,72" in again[tab.missing]["value"]
    assert tab.choose_again(strict[tab.shown], *SLIDERS)[tab.shown].answer.result.labels == ("the red box",)
    assert tab.choose_again(None, *SLIDERS) == {tab.shown: gr.skip()}


def test_mending_and_undo(picture: str) -> None:
    pipeline = fake_pipeline()
    with gr.Blocks():
        tab = SegmentTab(pipeline, Limits(), "nano")
    first = ask(tab, picture)[tab.shown]
    encoded = pipeline.segmenter.encoded
    second = click(tab, first, 95, 50)[tab.shown]
    assert second.answer.result.masks[0][50, 95]
    out = click(tab, second, 20, 30, TAKE)
    third = out[tab.shown]
    assert [mark["kind"] for mark in json.loads(out[tab.viewer])["marks"]] == ["on", "off"]
    assert third.answer.mends[0].labels == [1, 0]
    assert pipeline.segmenter.encoded == encoded, "the embedding is kept"
    back = tab.take_back(third)[tab.shown]
    np.testing.assert_array_equal(back.answer.result.masks, second.answer.result.masks)
    start = tab.take_back(back)[tab.shown]
    np.testing.assert_array_equal(start.answer.result.masks, first.answer.result.masks)
    with pytest.raises(PromptError, match="nothing to undo"):
        tab.take_back(start)


def test_a_mended_mask_outlives_the_sliders(picture: str) -> None:
    tab = make_tab()
    shown = click(tab, ask(tab, picture)[tab.shown], 95, 50)[tab.shown]
    strict = tab.choose_again(shown, 1.0, 0.6, 0.0)[tab.shown]
    assert strict.answer.result.labels == ("the red box",)


def test_a_box_by_two_corners_and_by_a_drag(picture: str) -> None:
    tab = make_tab()
    shown = ask(tab, picture, "the red box")[tab.shown]
    x0, y0, x1, y1 = BLUE_BOX
    half = click(tab, shown, x1, y1, BOX)
    assert json.loads(half[tab.viewer])["corner"] == [x1, y1]
    assert tab.take_back(half[tab.shown])[tab.shown].corner is None
    by_corners = click(tab, half[tab.shown], x0, y0, BOX)[tab.shown]
    dragged = tab.box(shown, ADD, False, "", *SLIDERS, event(xyxy=[x0, y0, x1, y1]))[tab.shown]
    for after in (by_corners, dragged):
        assert after.answer.mends[0].box == BLUE_BOX
        assert after.answer.result.masks[0][50, 95]


def test_rows_and_the_dropdown_choose(picture: str) -> None:
    tab = make_tab()
    shown = ask(tab, picture)[tab.shown]
    out = tab.pick_row(shown, event(index=1))
    assert json.loads(out[tab.viewer])["chosen"] == 1 and json.loads(out[tab.viewer])["lit"]
    new = tab.pick(out[tab.shown], f"{NEW}1")[tab.shown]
    added = click(tab, new, 95, 50)[tab.shown].answer
    assert added.result.labels == ("the red box", "a dog", "the blue box")
    for bad in (event(index=9), event(index="0"), event(index=float("nan")), event()):
        assert tab.pick_row(shown, bad) == {tab.shown: gr.skip()}


def test_pointing_without_words_and_with_both(picture: str) -> None:
    tab = make_tab()
    opened = tab.open(picture)
    assert json.loads(opened[tab.viewer])["masks"] == []
    alone = click(tab, opened[tab.shown], 30, 40)
    assert json.loads(alone[tab.viewer])["masks"][0]["label"] == "(pointed at)"
    both = click(tab, opened[tab.shown], 30, 40, text="the red box", words=True)[tab.shown]
    assert both.answer.result.labels == ("the red box",) and both.answer.mends[0].words


def test_files_open_and_the_lines_give_the_answer(
    picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = make_tab()
    shown = ask(tab, picture, "the red box, a dog\nthe blue box, not: toy")[tab.shown]
    shown = click(tab, shown, 20, 30, TAKE)[tab.shown]
    shown = click(tab, tab.pick(shown, f"{NEW}1")[tab.shown], 5, 5)[tab.shown]
    files, code = tab.take_away(shown)
    result = shown.answer.result
    by_end = {Path(path).name.removeprefix("scene_"): path for path in files}
    np.testing.assert_array_equal(pixels(by_end["overlay.png"]), result.overlay())
    masks = sorted(path for name, path in by_end.items() if name.startswith("mask_"))
    for path, mask in zip(masks, result.masks, strict=True):
        np.testing.assert_array_equal(pixels(path) > 0, mask)
    np.testing.assert_array_equal(pixels(by_end["cutout.png"]), result.cutout())
    inside = result.masks.any(axis=0)
    for name in ("blurred_background.png", "white_background.png"):
        np.testing.assert_array_equal(pixels(by_end[name])[inside], scene()[inside])
    assert (pixels(by_end["white_background.png"])[~inside] == 255).all()
    coco = json.loads(Path(by_end["coco.json"]).read_text("utf-8"))
    decoded = [coco_mask.decode(one["segmentation"]).astype(bool) for one in coco["annotations"]]
    np.testing.assert_array_equal(np.array(decoded), result.masks)

    assert Path(by_end["answer.py"]).read_text("utf-8") == code
    monkeypatch.setattr("textseg.build.load", lambda preset: fake_pipeline())
    monkeypatch.chdir(os.path.dirname(picture))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["result"].labels == result.labels
    np.testing.assert_array_equal(names["result"].masks, result.masks)


def test_lines_without_words_and_with_negatives(picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = make_tab()
    monkeypatch.setattr("textseg.build.load", lambda preset: fake_pipeline())
    monkeypatch.chdir(os.path.dirname(picture))
    pointed = click(tab, tab.open(picture)[tab.shown], 30, 40)[tab.shown]
    negative = ask(tab, picture, "the red box, not: the blue box")[tab.shown]
    for shown in (pointed, negative):
        _, code = tab.take_away(shown)
        names: dict[str, Any] = {}
        exec(code, names)
        np.testing.assert_array_equal(names["result"].masks, shown.answer.result.masks)
    assert "phrase('the red box', ('the blue box',))" in code


def test_nothing_to_take_away(picture: str) -> None:
    tab = make_tab()
    for shown in (None, tab.open(picture)[tab.shown]):
        with pytest.raises(QueryError, match="nothing to take away"):
            tab.take_away(shown)


def test_mistakes_are_told_in_words(picture: str, tmp_path: Path) -> None:
    tab = make_tab()
    with pytest.raises(QueryError, match="choose, paste or drop"):
        tab.ask(None, "red", *SLIDERS)
    for text in ("", " , \n", "x" * 5000, "x" * 10_001, "red, RED", ",".join(f"thing {i}" for i in range(40))):
        with pytest.raises(QueryError, match="phrase"):
            tab.ask(picture, text, *SLIDERS)
    (tmp_path / "no.png").write_text("text")
    with pytest.raises(ImageError, match="not a picture"):
        tab.open(str(tmp_path / "no.png"))
    PIL.Image.new("1", (1200, 1200)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="more than the limit of 1 Mpx"):
        tab.ask(str(tmp_path / "bomb.png"), "red", *SLIDERS)


def test_markup_stays_text(picture: str, tmp_path: Path) -> None:
    evil = "<script>alert('red')</script>"
    tab = make_tab()
    out = ask(tab, picture, f"{evil}, <img src=x onerror=alert(1)>")
    assert out[tab.shown].answer.result.labels == (evil,)
    assert "<" not in out[tab.viewer]
    assert json.loads(out[tab.viewer])["masks"][0]["label"] == evil
    assert tab.rejected.datatype == "str"
    with pytest.raises(gr.Error) as caught:
        told(tab.ask)(picture, f"{evil}, {evil}", *SLIDERS)
    assert "<script>" not in str(caught.value)
    (tmp_path / "gradio").mkdir(exist_ok=True)
    bad = tmp_path / "gradio" / "no.png"
    bad.write_text("text")
    with pytest.raises(gr.Error) as caught:
        told(tab.open)(str(bad))
    assert str(tmp_path) not in str(caught.value)


def test_a_session_keeps_little(picture: str) -> None:
    tab = make_tab()
    kept = ask(tab, picture)[tab.shown].answer
    for result in (kept.base, kept.result):
        assert not {"accepted", "rejected"} & set(vars(result))


def test_viewer_with_no_mask_and_many() -> None:
    pipeline = fake_pipeline()
    nothing = pipeline(scene(), "a dog")
    assert json.loads(viewer.show(nothing.image, nothing))["masks"] == []
    boxes = {name: (8 * i, 8, 8 * i + 6, 40) for i, name in enumerate(["red", "blue", "green", "yellow"])}
    many = pipeline(scene(boxes=boxes), list(boxes))
    assert len(json.loads(viewer.show(many.image, many))["masks"]) == 4


@pytest.fixture(scope="module")
def nano() -> Pipeline:
    return load("nano")


@pytest.mark.parametrize(("picture", "line"), EXAMPLE_PHRASES.items())
def test_nano_finds_what_a_visitor_tries_first(picture: str, line: str, nano: Pipeline) -> None:
    """Each phrase has one mask, and it is of a thing rather than of a speck."""
    phrases = split_list(line)
    found = nano(EXAMPLES / picture, phrases)
    assert list(found.labels) == phrases
    assert (found.masks.mean(axis=(1, 2)) > 0.05).all()
