"""Everything, Compare and Label on fakes: what each shows, and what it says where something is wrong."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
import pytest

from tests.fakes import fake_pipeline
from textseg.demo.compare_tab import CompareTab, variants
from textseg.demo.everything_tab import EverythingTab
from textseg.demo.label_job import Labels, label
from textseg.demo.limits import Limits, new_folder
from textseg.errors import ConfigError, DataError, TextsegError
from textseg.everything import EverythingOptions


def quiet(done: int, total: int) -> None:
    pass


def job(uploads: list[Any], classes: str = "red, blue", limits: Limits | None = None, **options: Any) -> Labels:
    formats = options.get("formats", ["coco"])
    return label(fake_pipeline(), [str(path) for path in uploads], classes, None, formats, limits or Limits(), quiet)


def test_everything(picture: str) -> None:
    with gr.Blocks():
        tab = EverythingTab(fake_pipeline(), Limits(), EverythingOptions(points_per_side=8))
    overlay, said, rows, files = list(tab.find(picture, "red, blue", 8, 0.5, 0.5, lambda *a, **k: None))[-1]
    assert overlay.shape == (96, 128, 3)
    assert said.endswith(" s") and "from 64 points" in said
    assert {row[0] for row in rows} >= {"red", "blue"}
    assert {len(row) for row in rows} == {6}
    assert [Path(path).suffix for path in files] == [".png", ".json"]
    assert len(json.loads(Path(files[1]).read_text("utf-8"))["annotations"]) == len(rows)
    nothing = list(tab.find(picture, "", 8, 1.0, 1.0, lambda *a, **k: None))[-1]
    assert nothing[1].endswith("lower the least IoU or stability for more")
    with pytest.raises(gr.Error, match="choose, paste or drop"):
        list(tab.find(None, "", 8, 0.5, 0.5, lambda *a, **k: None))


def test_compare(picture: str) -> None:
    with gr.Blocks():
        tab = CompareTab(fake_pipeline(), Limits(), ["base"])
    names = list(tab.variants)
    assert names[0] == "fake" and names[-1] == "base"
    assert {"fake without the detector", "fake without the text prompt"} <= set(names)
    for name in names[1:-1]:
        left, said, right, other = tab.compare(picture, "the red box, a dog", "fake", name)
        assert [mask["label"] for mask in json.loads(left)["masks"]] == ["the red box"]
        assert json.loads(right)["width"] == 128
        assert said.startswith("fake: text") and "not in this picture: a dog" in said
        assert other.startswith(f"{name}: text")
    with pytest.raises(ConfigError, match="unknown side"):
        tab.compare(picture, "red", "fake", "../../preset.yaml")


def test_stages_are_really_off(picture: str) -> None:
    pipeline = fake_pipeline()
    sides = variants(pipeline)
    blind = sides["fake without CLIP's look at the masks"].make()
    seen = pipeline.clip.crops_seen
    result = blind(picture, "the red box")
    assert pipeline.clip.crops_seen == seen
    assert np.isnan(result.parts["clip"]).all()
    alone = sides["fake without the detector"].make()(picture, "the red box")
    assert set(alone.scored.sources) == {"text"}
    assert sides["fake"].make() is pipeline
    single = sides["fake without the choice among SAM's masks"].make()(picture, "the red box")
    assert single.scored.candidates.predicted_iou.shape[1] == 1


def test_labelling_pictures_and_a_zip(picture: str, tmp_path: Path) -> None:
    second = tmp_path / "second.png"
    shutil.copy(picture, second)
    (tmp_path / "other").mkdir()
    same_name = tmp_path / "other" / "second.png"
    shutil.copy(picture, same_name)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    made = job([picture, second, same_name, bad])
    assert (made.done, made.failed, made.masks) == (3, 1, 6)
    assert made.per_class == {"red": 3, "blue": 3}
    assert made.failures[0][0] == "bad.jpg"
    assert made.sentence().startswith("3 pictures labelled, 6 masks: 3 red, 3 blue")
    assert len(made.gallery) == 3 and made.gallery[0][0].shape == (96, 128, 3)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as opened:
        opened.write(picture, "a/one.png")
        opened.write(picture, "b/two.png")
    zipped = job([tmp_path / "many.zip"], formats=["coco", "masks"])
    assert zipped.done == 2
    with zipfile.ZipFile(zipped.data_set) as opened:
        assert {name.split("/")[0] for name in opened.namelist()} >= {"coco", "masks"}
    left = [path.name for path in zipped.data_set.parent.iterdir()]
    assert left == ["textseg_labels.zip"], "the pictures and the store are gone"


def test_a_job_has_limits(picture: str, tmp_path: Path) -> None:
    copies = [Path(shutil.copy(picture, tmp_path / f"{n}.png")) for n in range(4)]
    made = job(copies, limits=Limits(max_files=3))
    assert (made.done, made.left_over) == (3, 1)
    assert "1 more pictures were not tried" in made.sentence()
    PIL.Image.new("1", (1200, 1200)).save(tmp_path / "wide.png")
    made = job([picture, tmp_path / "wide.png"], limits=Limits(max_pixels=1_000_000))
    assert "1200x1200 is 1 Mpx" in made.failures[0][1]


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        ([], "red", "no picture: choose some"),
        (["scene.png", "a.zip"], "red", "one ZIP alone"),
        (["broken.zip"], "red", "cannot be opened as a ZIP"),
        (["empty.zip"], "red", "no picture among the files"),
        (["note.txt"], "red", "no picture among the files"),
        (["bad.png"], "red", "no picture could be labelled"),
        (["scene.png"], "", "no class"),
        (["scene.png"], "red, RED", "twice"),
    ],
)
def test_mistakes(picture: str, tmp_path: Path, names: list[str], classes: str, message: str) -> None:
    for name in ("a.zip", "empty.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as opened:
            opened.writestr("note.txt", "x")
    for name in ("broken.zip", "note.txt", "bad.png"):
        (tmp_path / name).write_text("x")
    with pytest.raises(TextsegError, match=message):
        job([tmp_path / name for name in names], classes)
    assert [path for path in new_folder().parent.rglob("*") if path.is_file()] == [], "nothing is left of the job"


def test_an_unknown_format(picture: str) -> None:
    with pytest.raises((ConfigError, DataError), match="cocoo"):
        job([picture], formats=["cocoo"])
