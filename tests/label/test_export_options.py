"""Around the formats: the split, the pictures' files, names, outlines, what is left out, and folders."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from tests.label.stores import CLASSES, SETTINGS, fill, make_store, mask_of, new_mask, picture
from textseg import image
from textseg.errors import ConfigError, DataError
from textseg.label import outline
from textseg.label.export import FORMATS, Options, export
from textseg.label.export.names import Names, stem
from textseg.label.export.pictures import Mode
from textseg.label.export.split import assign, check, parse
from textseg.label.records import Labelled
from textseg.label.store import Store
from textseg.types import Bool

# ---------------------------------------------------------------- outlines


@settings(max_examples=150, deadline=None)
@given(arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_outlines_hold_any_mask_exactly(mask: Bool) -> None:
    height, width = mask.shape
    assert (outline.fill_edges(outline.edge_polygons(mask), (height, width)) == mask).all()
    assert (outline.fill_centres(outline.centre_polygons(mask), (height, width)) == mask).all()


def test_one_pixel_and_a_ring() -> None:
    pixel = mask_of((3, 4), (2, 1, 3, 2))
    (line,) = outline.edge_polygons(pixel)
    assert {tuple(p) for p in line.tolist()} == {(2, 1), (3, 1), (3, 2), (2, 2)}
    (line,) = outline.centre_polygons(pixel)
    assert line.tolist() == [[2, 1]] * 3
    ring = mask_of((7, 7), (1, 1, 6, 6), (3, 3, 4, 4))
    (line,) = outline.edge_polygons(ring)  # one closed line, the hole joined by a seam
    assert len(line) == 4 + 5 + 2
    assert outline.edge_polygons(np.zeros((3, 3), bool)) == [] == outline.centre_polygons(np.zeros((3, 3), bool))


def test_joined_parts_cost_a_line_of_pixels() -> None:
    mask = mask_of((10, 20), (0, 0, 5, 5), (9, 0, 14, 5))
    back = outline.fill_centres([outline.joined(outline.centre_polygons(mask))], (10, 20))
    assert (back & mask).sum() == mask.sum() == 50
    assert back.sum() == 54  # the shortest bridge


# ---------------------------------------------------------------- split


def test_the_split_is_seeded_and_stratified() -> None:
    pictures = [(f"{i:04d}", frozenset({0, 1} if i % 10 == 0 else {0} if i % 3 else ())) for i in range(1000)]
    parts = assign(pictures, (0.8, 0.1, 0.1), 0)
    assert parts == assign(reversed(pictures), (0.8, 0.1, 0.1), 0)  # the order does not matter
    assert parts != assign(pictures, (0.8, 0.1, 0.1), 1)
    assert Counter(parts.values()) == {"train": 800, "val": 100, "test": 100}
    for wanted in (frozenset({0, 1}), frozenset({0}), frozenset()):
        count = Counter(parts[key] for key, classes in pictures if classes == wanted)
        total = sum(count.values())
        assert abs(count["train"] - 0.8 * total) <= 2 and abs(count["val"] - 0.1 * total) <= 2


def test_a_class_that_is_rare_reaches_training_first() -> None:
    parts = assign([("a", frozenset({5})), *((f"{i}", frozenset({0})) for i in range(20))], (0.8, 0.2), 3)
    assert parts["a"] == "train"


def test_shares() -> None:
    assert parse("80,10,10") == pytest.approx((0.8, 0.1, 0.1))
    assert parse("0.9,0.1") == pytest.approx((0.9, 0.1))
    for wrong in ("0.8,0.1", "a,b", "-0.5,1.5", "0,1", "0.25,0.25,0.25,0.25", "nan,1"):
        with pytest.raises(ConfigError, match="split"):
            parse(wrong)
    with pytest.raises(ConfigError):
        check(())


def test_split_exports(tmp_path: Path) -> None:
    out = tmp_path / "labels"
    mask = mask_of((8, 9), (1, 1, 4, 4))
    path = picture(tmp_path / "in" / "a.png", (8, 9))
    with Store.write(out) as store:
        store.begin(SETTINGS, CLASSES)
        fill(store, {f"{i:02d}.png": (path, [new_mask(mask, CLASSES[i % 2])] if i % 5 else []) for i in range(20)})
        reports = export(store, FORMATS, out, Options((0.7, 0.2, 0.1), seed=4))
    for report in reports:
        assert report.splits == {"train": 14, "val": 4, "test": 2}, report.format
    train = json.loads((out / "coco" / "annotations" / "instances_train.json").read_text("utf-8"))
    assert len(train["images"]) == 14
    assert len(list((out / "yolo-seg" / "labels" / "val").iterdir())) == 4
    assert len((out / "voc" / "ImageSets" / "Main" / "test.txt").read_text("utf-8").split()) == 2
    assert len((out / "hf" / "validation" / "metadata.jsonl").read_text("utf-8").splitlines()) == 4
    assert len(list((out / "sa1b" / "val").glob("*.json"))) == len(list((out / "labelme" / "val").glob("*.json"))) == 4


# ---------------------------------------------------------------- pictures and names


def test_pictures_are_upright_and_otherwise_the_same_bytes(tmp_path: Path) -> None:
    out = make_store(tmp_path)
    with Store.read(out) as store:
        export(store, ["coco"], out)
        sources = {one.key: one.uri for one in store.pictures("done")}
    values = json.loads((out / "coco" / "annotations" / "instances.json").read_text("utf-8"))
    for entry in values["images"]:
        copied, source = out / "coco" / "images" / entry["file_name"], Path(sources[entry["textseg_key"]])
        if entry["textseg_key"] != "turned.jpg":
            assert copied.read_bytes() == source.read_bytes()
            continue
        assert copied.suffix == ".png"
        with PIL.Image.open(copied) as made:
            assert made.getexif().get(0x0112, 1) == 1
            assert (np.asarray(made) == image.read(source).rgb).all()


@pytest.mark.parametrize("mode", ["hardlink", "reference"])
def test_linked_pictures(tmp_path: Path, mode: str) -> None:
    out = make_store(tmp_path)
    with Store.read(out) as store:
        export(store, ["coco", "yolo-seg"], out, Options(pictures=cast(Mode, mode)))
        source = next(Path(one.uri) for one in store.pictures("done") if one.key == "空.png")
    linked = out / "yolo-seg" / "images" / "train" / "空.png"
    assert linked.samefile(source) and linked.is_symlink() == (mode == "reference")
    assert not (out / "yolo-seg" / "images" / "train" / "turned.png").is_symlink()  # it had to be turned
    entries = json.loads((out / "coco" / "annotations" / "instances.json").read_text("utf-8"))["images"]
    named = {entry["textseg_key"]: entry["file_name"] for entry in entries}["空.png"]
    assert named == (str(source) if mode == "reference" else "空.png")


def test_pictures_that_are_gone_or_changed_are_left_out_and_told(tmp_path: Path) -> None:
    out = make_store(tmp_path)
    with Store.read(out) as store:
        paths = {one.key: Path(one.uri) for one in store.pictures("done")}
        paths["空.png"].unlink()
        picture(paths["odd.bmp"], (5, 5))
        (report,) = export(store, ["yolo-boxes"], out)
    assert (report.pictures, report.left_out_count) == (4, 2)
    assert "cannot be read" in report.left_out["空.png"]
    assert "is 5x5 now, was" in report.left_out["odd.bmp"]


def test_pictures_inside_a_zip(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", (6, 7))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(source, "deep/a.png")
    uri = f"zip://deep/a.png::{tmp_path / 'in.zip'}"
    with Store.write(tmp_path / "out") as store:
        store.begin(SETTINGS, CLASSES)
        store.record(Labelled("deep/a.png", uri, "d", (6, 7), (), {}, 0.1))
        export(store, ["hf"], tmp_path / "out", Options(pictures="reference"))
    assert (tmp_path / "out" / "hf" / "train" / "deep__a.png").read_bytes() == source.read_bytes()


def test_names_are_safe_and_never_shared() -> None:
    assert stem("sub/street scene.png") == "sub__street scene"
    assert stem("../../etc/passwd") == "etc__passwd"
    assert stem("a:b*?.jpg") == "a_b_"
    assert stem("__hidden/.x.png") == "hidden__x"
    assert stem("///") == "picture"
    assert stem("clip.mp4#pts=000000000512") == "clip.mp4_pts=000000000512"
    assert len(stem("字" * 300 + ".png").encode()) <= 150
    names = Names()
    made = [names(key) for key in ("a/b.png", "a__b.png", "A/B.jpg", "c.png")]
    assert made[0] == "a__b" and made[3] == "c" and len({name.casefold() for name in made}) == 4


# ---------------------------------------------------------------- folders and verdicts


def test_rejected_masks_are_left_out(tmp_path: Path) -> None:
    out = make_store(tmp_path)
    with Store.write(out) as store:
        store.decide(next(store.masks()).id, "reject")
        assert export(store, ["sa1b"], out)[0].masks == 9
        assert export(store, ["sa1b"], out, Options(rejected=True))[0].masks == 10


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_store(tmp_path)
    with Store.read(out) as store:
        export(store, ["masks"], out)
        (out / "masks" / "stale.txt").write_text("x")
        export(store, ["masks"], out)
        assert not (out / "masks" / "stale.txt").exists()
        (out / "voc").mkdir()
        (out / "voc" / "mine.txt").write_text("x")
        with pytest.raises(DataError, match="is no export of textseg"):
            export(store, ["masks", "voc"], out)
        assert (out / "voc" / "mine.txt").read_text() == "x"
        before = sorted(os.listdir(out / "masks"))

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("textseg.label.export.masks.MasksWriter.add", full)
        with pytest.raises(DataError, match=r"No space left.*unchanged"):
            export(store, ["masks"], out)
        assert sorted(os.listdir(out / "masks")) == before
        assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_wrong_wishes_are_told(tmp_path: Path) -> None:
    out = tmp_path / "labels"
    with Store.write(out) as store:
        with pytest.raises(ConfigError, match=r"unknown format 'cocoo'; did you mean 'coco'"):
            export(store, ["cocoo"], out)
        with pytest.raises(DataError, match="nothing to export"):
            export(store, ["coco"], out)
    with pytest.raises(DataError, match="pictures: got 'move'"):
        Options(pictures=cast(Mode, "move"))
    with pytest.raises(ConfigError, match="confident"):
        Options(confident=0.1)
