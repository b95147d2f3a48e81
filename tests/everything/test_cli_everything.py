"""``textseg everything`` and ``textseg edges`` on the fakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import typer
from typer.testing import CliRunner

from tests.fakes import fake_pipeline, scene
from textseg import sa1b
from textseg.cli import everything as cli_everything
from textseg.errors import ConfigError, DataError, TextsegError
from textseg.everything import EverythingOptions

app = typer.Typer()
app.command("everything")(cli_everything.everything)
app.command("edges")(cli_everything.edges)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textseg.build.load", lambda *args, **options: fake_pipeline())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two pictures, one of them in a folder of its own."""
    (tmp_path / "in" / "more").mkdir(parents=True)
    PIL.Image.fromarray(scene()).save(tmp_path / "in" / "a.png")
    PIL.Image.fromarray(scene(boxes={"red": (10, 10, 60, 60)})).save(tmp_path / "in" / "more" / "b.png")
    return tmp_path / "in"


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, TextsegError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_picture_with_names(folder: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("# colours\nthe red box\n\nthe blue box\n", encoding="utf-8")
    said = run("everything", folder / "a.png", "--vocabulary", words, "--points-per-side", 8, "-o", tmp_path / "out")
    assert "64 prompts" in said and "the red box" in said
    written = sa1b.read(tmp_path / "out" / "a.json")
    assert {"the red box", "the blue box"} <= {one["label"] for one in written.annotations}
    assert (tmp_path / "out" / "a_overlay.png").is_file()


def test_a_folder_as_sa1b_resumes(folder: Path, tmp_path: Path) -> None:
    arguments = ("everything", folder, "--format", "sa1b", "--points-per-side", 4, "-o", tmp_path / "out")
    (folder / "c.jpg").write_bytes(b"no picture")
    said = run(*arguments)
    assert "left out" in said and "1 of 3 pictures could not be read" in said
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert names == ["a.json", "more/b.json"]
    (tmp_path / "out" / "a.json").unlink()
    (folder / "c.jpg").unlink()
    said = run(*arguments)
    assert "a.png" in said and "b.png" not in said
    assert "nothing to do" in run(*arguments)


@pytest.mark.parametrize("extra", [("--tile", 64), ("--refine",), ("--crop-n-layers", 1, "--min-mask-region-area", 5)])
def test_options(folder: Path, tmp_path: Path, extra: tuple[Any, ...]) -> None:
    run("everything", folder / "a.png", "--points-per-side", 4, "-o", tmp_path / "out", *extra)
    written = sa1b.read(tmp_path / "out" / "a.json")
    assert len(written) > 0
    for one in written.annotations:
        (x, y), (x0, y0, w, h) = one["point_coords"][0], one["crop_box"]
        assert x0 <= x <= x0 + w and y0 <= y <= y0 + h  # where it was asked for lies in the part that was searched


def test_the_presets_options_hold_unless_others_are_given(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    model = "segmenter: {kind: sam, model: nowhere}"
    preset.write_text(f"name: mine\n{model}\neverything: {{points_per_side: 5, pred_iou_thresh: 0.3}}\n")
    options = cli_everything.preset_options(str(preset), pred_iou_thresh=0.4, box_nms_thresh=None)
    assert (options.points_per_side, options.pred_iou_thresh, options.box_nms_thresh) == (5, 0.4, 0.7)
    assert cli_everything.preset_options("base") == EverythingOptions()
    with pytest.raises(ConfigError, match=r"pred_iou_thresh: got 7\.0"):
        cli_everything.preset_options(str(preset), pred_iou_thresh=7.0)
    preset.write_text(f"name: mine\n{model}\neverything: {{points_a_side: 5}}\n")
    with pytest.raises(ConfigError, match="unknown key 'points_a_side'; did you mean 'points_per_side'"):
        cli_everything.preset_options(str(preset))


def test_a_vocabulary_without_a_clip(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tmp_path / "words.txt"
    words.write_text("a dog\n", encoding="utf-8")
    monkeypatch.setattr("textseg.build.load", lambda *args, **options: fake_pipeline(clip=None, text_prompt=None))
    with pytest.raises(ConfigError, match="needs a preset with a CLIP"):
        run("everything", folder, "--vocabulary", words, "-o", tmp_path / "out")


def test_edges(folder: Path, tmp_path: Path) -> None:
    run("edges", folder / "a.png", "--points-per-side", 4, "-o", tmp_path / "out")
    drawn = np.asarray(PIL.Image.open(tmp_path / "out" / "a_edges.png"))
    assert drawn.shape == (96, 128) and drawn.max() == 255


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'sa1b'"):
        run("everything", folder, "--format", "sa-1b")
    with pytest.raises(ConfigError, match="1,396,736 prompts"):
        run("everything", folder, "--points-per-side", 64, "--crop-n-layers", 4)
    with pytest.raises(DataError, match="vocabulary"):
        run("everything", folder, "--vocabulary", tmp_path / "none.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        run("everything", tmp_path / "empty")
    with pytest.raises(TextsegError, match="no such file"):
        run("everything", tmp_path / "none.jpg", "-o", tmp_path / "out")
    PIL.Image.fromarray(scene()).save(folder / "a.jpg")
    with pytest.raises(DataError, match="rename one"):
        run("everything", folder, "-o", tmp_path / "out")
