"""Every kind of source: keys, order, laziness, reading again by address."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import PALETTE, scene
from tests.label.helpers import make_picture, make_pictures
from textseg.errors import ConfigError, DataError, ImageError
from textseg.label.items import GivenBox, read_uri
from textseg.label.sources import Shard, open_source


def keys(what: str | Path, **options: object) -> list[str]:
    return [item.key for item in open_source(what, **options).items()]  # type: ignore[arg-type]


def test_a_folder_gives_its_pictures_below_in_order(tmp_path: Path) -> None:
    make_pictures(tmp_path, 5)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._0001.png").write_bytes(b"x")
    make_picture(tmp_path / ".cache" / "a.png")
    make_picture(tmp_path / "labels" / "b.png")
    make_picture(tmp_path / "LOUD.PNG")
    wanted = ["0001.png", "0002.png", "0003.png", "LOUD.PNG", "sub/0000.png", "sub/0004.png"]
    assert keys(tmp_path, leave_out=[tmp_path / "labels"]) == wanted
    assert open_source(tmp_path).name == str(tmp_path)
    item = next(iter(open_source(tmp_path).items()))
    assert item.read().size_hw == read_uri(item.uri).size_hw == (48, 64)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode there")
def test_a_folder_called_like_a_picture_is_told_unless_it_holds_some(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").mkdir()
    make_picture(tmp_path / "some.jpg" / "a.png")
    items = list(open_source(tmp_path).items())
    assert [item.key for item in items] == ["empty.jpg/", "some.jpg/a.png"]
    with pytest.raises(ImageError, match="a folder without pictures, expected a picture file"):
        items[0].read()


def test_names_that_are_not_utf8_can_be_kept_and_read(tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe4.png"))
    (item,) = open_source(tmp_path).items()
    assert item.key == "\\udcff\\udce4.png"
    item.uri.encode("utf-8")
    assert read_uri(item.uri).size_hw == (48, 64)


def test_a_glob(tmp_path: Path) -> None:
    make_pictures(tmp_path / "in", 5)
    assert keys(f"{tmp_path}/in/**/*.png") == ["0001.png", "0002.png", "0003.png", "sub/0000.png", "sub/0004.png"]
    assert keys(f"{tmp_path}/in/sub/*.png") == ["0000.png", "0004.png"]
    assert keys(f"{tmp_path}/in/none*.png") == []


def test_a_list_file(tmp_path: Path) -> None:
    make_pictures(tmp_path / "in", 2)
    lines = ["\ufeff# pictures", "", "in/0001.png", f"{tmp_path}/in/sub/0000.png", "in/missing.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines), "utf-8")
    items = list(open_source(tmp_path / "list.txt").items())
    assert [item.key for item in items] == ["in/0001.png", f"{tmp_path}/in/sub/0000.png", "in/missing.png"]
    assert [item.read().size_hw for item in items[:2]] == [(48, 64)] * 2
    with pytest.raises(ImageError, match="No such file"):
        items[2].read()


def test_a_zip_is_read_without_being_unpacked(tmp_path: Path) -> None:
    path = make_picture(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(path, "photos/a.png")
        archive.writestr("photos/bad.jpg", b"no picture")
        archive.writestr("readme.txt", b"x")
        archive.writestr("__MACOSX/photos/._a.png", b"x")
    good, bad = open_source(tmp_path / "in.zip").items()
    assert (good.key, bad.key) == ("photos/a.png", "photos/bad.jpg")
    assert good.read().digest == read_uri(str(path)).digest
    assert good.read().source == f"zip://photos/a.png::{tmp_path}/in.zip"
    with pytest.raises(ImageError, match=r"bad\.jpg.*not a picture"):
        bad.read()
    data = bytearray((tmp_path / "in.zip").read_bytes())
    data[60:80] = bytes(20)
    (tmp_path / "in.zip").write_bytes(data)
    with pytest.raises(ImageError, match="cannot be read"):
        good.read()
    (tmp_path / "in.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="cannot be opened as a ZIP"):
        open_source(tmp_path / "in.zip")


def coco(folder: Path, annotations: list[dict[str, object]]) -> Path:
    make_pictures(folder / "images", 3)
    values = {
        "images": [{"id": 7, "file_name": "0001.png"}, {"id": 9, "file_name": "0002.png"}],
        "categories": [{"id": 3, "name": "blue box"}, {"id": 1, "name": "red box"}],
        "annotations": annotations,
    }
    path = folder / "coco.json"
    path.write_text(json.dumps(values))
    return path


def test_coco_boxes(tmp_path: Path) -> None:
    one = {"id": 5, "image_id": 9, "category_id": 1, "bbox": [1, 2, 10, 20]}
    source = open_source(coco(tmp_path, [one, {**one, "id": 6, "iscrowd": 1}]))
    assert source.class_names == ("red box", "blue box")
    empty, full = source.items()
    assert empty.boxes == ()
    assert full.boxes == (GivenBox("red box", (1, 2, 11, 22), "5"),)
    assert full.read().size_hw == (48, 64)


def test_coco_class_names(tmp_path: Path) -> None:
    first, second = open_source(coco(tmp_path, [{"id": 1, "image_id": 7, "category_id": 3}])).items()
    assert (first.labels, first.boxes, second.labels) == (("blue box",), None, ())
    first, _ = open_source(coco(tmp_path, [])).items()
    assert (first.labels, first.boxes) == (None, None)


def test_coco_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="annotation 1: no image 8 or no category 3"):
        open_source(coco(tmp_path, [{"id": 1, "image_id": 8, "category_id": 3}]))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match="expected a COCO file"):
        open_source(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        open_source(tmp_path / "x.json")


def test_an_address_of_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    import io

    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(scene((20, 30), {})).save(buffer, "PNG")
    for name in ("/bucket/a/1.png", "/bucket/2.png", "/bucket/notes.txt"):
        system.pipe(name, buffer.getvalue())
    items = list(open_source("memory://bucket").items())
    assert [item.key for item in items] == ["2.png", "a/1.png"]
    assert items[1].read().size_hw == (20, 30)
    assert keys("memory://bucket/*.png") == ["2.png"]
    with pytest.raises(ImageError, match="cannot be read"):
        read_uri("memory://bucket/none.png")
    with pytest.raises(DataError, match=r"cannot be listed|pip install"):
        keys("nosuchprotocol://bucket")


def make_video(path: Path, seconds: int = 3, rate: int = 4) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(seconds * rate):
            frame = av.VideoFrame.from_ndarray(scene((48, 64), {"red": (2 + i, 10, 22 + i, 30)}), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_video_by_sampled_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4")
    source = open_source(path, every_seconds=1.0)
    assert (source.countable, source.options) == (False, (("every_seconds", 1.0),))
    items = list(source.items())
    assert len(items) == 3
    assert len({item.key for item in items}) == 3
    assert [item.key for item in items] == sorted(item.key for item in items)
    assert len(keys(path, every_seconds=0.5)) == 6
    for item in items:
        assert item.read().size_hw == (48, 64)
        assert read_uri(item.uri).digest == item.read().digest
    red = np.abs(items[2].read().rgb[20, 20].astype(int) - PALETTE["red"]).sum()
    assert red < 90
    with pytest.raises(ImageError, match="has no frame"):
        read_uri(f"{path}#pts=3")
    with pytest.raises(ConfigError, match="expected more than 0"):
        keys(path, every_seconds=0)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="cannot be opened as a video"):
        keys(tmp_path / "bad.mp4")


def test_a_video_without_pyav_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"textseg\[video\]"):
        keys(tmp_path / "v.mp4")


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(tmp_path / "none")
    (tmp_path / "x.docx").write_bytes(b"x")
    with pytest.raises(DataError, match="expected a folder, a glob"):
        open_source(tmp_path / "x.docx")
    assert keys(make_picture(tmp_path / "one.png")) == ["one.png"]


@given(st.text(max_size=40), st.integers(1, 20))
def test_every_key_is_in_exactly_one_shard(key: str, count: int) -> None:
    assert sum(key in Shard(index, count) for index in range(1, count + 1)) == 1


def test_shards_are_even_and_the_same_on_every_machine() -> None:
    names = [f"{i:05d}.jpg" for i in range(4000)]
    sizes = [sum(name in Shard(i, 8) for name in names) for i in range(1, 9)]
    assert min(sizes) > 400
    assert [i for i in range(60) if names[i] in Shard(3, 8)] == FIXED
    assert Shard.parse(" 3/8 ") == Shard(3, 8)
    for wrong in ("0/8", "9/8", "3", "a/b", "3/0"):
        with pytest.raises(ConfigError, match="expected such as 3/8"):
            Shard.parse(wrong)


FIXED = [18, 27, 28, 30, 41]
"""Which of the first sixty are in shard 3/8: stays as it is for ever, or runs on several versions would overlap."""
