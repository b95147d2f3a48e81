"""The web page: it builds, and its functions answer on fakes; once through a real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
import pytest

import app
from tests.fakes import fake_pipeline, scene
from textseg.errors import QueryError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "scene.png"
    PIL.Image.fromarray(scene()).save(path)
    return str(path)


def test_the_page_builds() -> None:
    page = app.build_page(fake_pipeline(threshold=0.4))
    labels = [getattr(block, "label", None) for block in page.blocks.values()]
    for label in ("Picture", "What to look for", "Masks", "Not in this picture", "Preset and times"):
        assert label in labels
    slider = next(block for block in page.blocks.values() if isinstance(block, gr.Slider))
    assert slider.value == 0.4


def test_segment_shows_everything(picture: str) -> None:
    result, overlay, accepted, rejected, missing, footer = app.segmenter(fake_pipeline())(
        picture, "the red box, a dog\nthe blue box", 0.5
    )
    assert result.labels == ("the red box", "the blue box")
    np.testing.assert_array_equal(overlay, result.overlay())
    assert [row[0] for row in accepted] == ["the red box", "the blue box"]
    assert all(row[-1] for row in rejected)
    assert missing == "a dog (nothing came close)"
    assert footer.startswith("fake: text")


def test_the_slider_runs_no_model(picture: str) -> None:
    pipeline = fake_pipeline()
    result = app.segmenter(pipeline)(picture, "the red box", 0.5)[0]
    before = pipeline.segmenter.decoded, pipeline.clip.crops_seen
    again, _, accepted, _, missing, _ = app.choose_again(result, 1.0)
    assert (pipeline.segmenter.decoded, pipeline.clip.crops_seen) == before
    assert accepted == []
    assert "the red box (closest at 16,24–48,72" in missing
    assert app.choose_again(again, 0.5)[0].labels == ("the red box",)


def test_the_slider_before_any_answer_changes_nothing() -> None:
    assert all(isinstance(value, dict) for value in app.choose_again(None, 0.3))


def test_mistakes_are_told_in_words(picture: str, tmp_path: Path) -> None:
    segment = app.segmenter(fake_pipeline())
    with pytest.raises(gr.Error, match="Choose a picture"):
        segment(None, "red", 0.5)
    for text in ("", " , \n", "x" * 5000, "red, RED"):
        with pytest.raises(gr.Error, match="phrase"):
            segment(picture, text, 0.5)
    with pytest.raises(gr.Error, match="threshold"):
        segment(picture, "red", 3.0)
    (tmp_path / "no.png").write_text("text")
    with pytest.raises(gr.Error, match="not a picture") as caught:
        segment(str(tmp_path / "no.png"), "red", 0.5)
    assert str(tmp_path) not in str(caught.value)


def test_html_in_a_phrase_stays_text(picture: str) -> None:
    evil = "<script>alert(1)</script>"
    with pytest.raises(gr.Error) as caught:
        app.segmenter(fake_pipeline())(picture, f"{evil}, {evil}", 0.5)
    assert "<script>" not in str(caught.value)
    page = app.build_page(fake_pipeline())
    tables = [block for block in page.blocks.values() if isinstance(block, gr.Dataframe)]
    assert [table.datatype for table in tables] == ["str", "str"]
    texts = [block for block in page.blocks.values() if isinstance(block, gr.Markdown | gr.HTML)]
    assert all("alert" not in str(block.value) for block in texts)


def test_columns_fit_the_rows(picture: str) -> None:
    pipeline = fake_pipeline()
    page = app.build_page(pipeline)
    tables = [block for block in page.blocks.values() if isinstance(block, gr.Dataframe)]
    rows = app.segmenter(pipeline)(picture, "red", 0.5)[2]
    assert [len(table.headers) for table in tables] == [len(rows[0])] * 2


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("the red car", ["the red car"]),
        ("car, person\nred bus", ["car", "person", "red bus"]),
        ("car, not: toy car\ndog", ["car", "dog"]),
        ("", []),
    ],
)
def test_phrases_typed(text: str, want: list[str]) -> None:
    assert [phrase.text for phrase in app.read_phrases(text)] == want


def test_negatives_typed() -> None:
    assert app.read_phrases("car, not: toy car")[0].negatives == ("toy car",)
    with pytest.raises(QueryError):
        app.read_phrases("not: toy car")


def test_unknown_preset_on_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--preset", "nanno"])
    with pytest.raises(SystemExit) as caught:
        app.main()
    assert caught.value.code == 2
    assert "did you mean 'nano'" in capsys.readouterr().err


SERVE_AND_ASK = """
import sys
import app
from gradio_client import Client, handle_file
from tests.fakes import fake_pipeline

page = app.build_page(fake_pipeline())
_, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
client = Client(url, verbose=False)
overlay, accepted, *_ = client.predict(handle_file(sys.argv[1]), "the <b>red</b> box", 0.5, api_name="/segment")
print("ANSWER", overlay, accepted["data"][0][0], sep="|")
page.close(verbose=False)
"""


def test_through_a_real_server(picture: str) -> None:
    """In a process of its own: the server's threads leave sockets and warnings behind."""
    done = subprocess.run(
        [sys.executable, "-c", SERVE_AND_ASK, picture], cwd=ROOT, capture_output=True, text=True, check=False
    )
    answer = next((line for line in done.stdout.splitlines() if line.startswith("ANSWER")), None)
    assert answer is not None, done.stderr
    _, overlay, label = answer.split("|")
    assert label == "the <b>red</b> box"
    with PIL.Image.open(overlay) as shown:
        assert (np.asarray(shown.convert("RGB")) != scene()).any()
