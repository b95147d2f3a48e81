"""Semi-automatic mode: the queue, corrections from COCO and LabelMe files, and the layout's migration."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.label.stores import CLASSES, KEYS, SETTINGS, fill, make_store, mask_of, new_mask, picture, stored
from textseg.errors import ConfigError, DataError
from textseg.label import queue, schema
from textseg.label.corrections import apply
from textseg.label.export import Options, export
from textseg.label.records import Labelled
from textseg.label.store import Store

SIZE = (20, 30)
BOX = (2, 3, 12, 13)


def small_store(folder: Path) -> Path:
    out = folder / "labels"
    mask = mask_of(SIZE, BOX)
    scores = {"sure.png": 0.95, "unsure.png": 0.55, "sub/low.png": 0.7}
    with Store.write(out) as store:
        store.begin(SETTINGS, CLASSES)
        fill(store, {key: (picture(folder / "in" / key, SIZE), [new_mask(mask, score=s)]) for key, s in scores.items()})
        near = Labelled("near.png", str(picture(folder / "in" / "near.png", SIZE)), "d", SIZE, (), {CLASSES[2]: 0.4}, 0)
        store.record(near)
        store.finish("done")
    return out


def test_the_queue_holds_what_is_uncertain(tmp_path: Path) -> None:
    with Store.write(small_store(tmp_path)) as store:
        assert list(queue.waiting(store, 0.8)) == ["unsure.png", "near.png", "sub/low.png"]
        assert queue.waiting(store, 0.8)["near.png"] == f"perhaps a {CLASSES[2]} 0.40"
        assert list(queue.waiting(store, 0.65)) == ["unsure.png", "near.png"]
        assert list(queue.waiting(store, 1.0))[-1] == "sure.png"
        store.decide(next(store.masks("unsure.png")).id, "accept")
        assert queue.mark(store, {"near.png": "seen", "no such": "seen"}) == 1
        assert list(queue.waiting(store, 0.8)) == ["sub/low.png"]
        queue.mark(store, {"near.png": ""})
        assert list(queue.waiting(store, 0.8)) == ["near.png", "sub/low.png"]
        with pytest.raises(ConfigError, match=r"0.5..1"):
            queue.waiting(store, 0.2)


def test_export_leaves_out_what_waits(tmp_path: Path) -> None:
    out = small_store(tmp_path)
    with Store.read(out) as store:
        (report,) = export(store, ["coco"], out, Options(confident=0.8))
        with pytest.raises(DataError, match="opened to read"):
            queue.mark(store, {"sure.png": "seen"})
    assert (report.pictures, report.left_out_count) == (1, 3)
    assert report.left_out["unsure.png"] == f"waits for a person: {CLASSES[0]} 0.55"


def test_coco_corrections_replace_a_pictures_masks(tmp_path: Path) -> None:
    out = small_store(tmp_path)
    with Store.read(out) as store:
        export(store, ["coco"], out)
    path = out / "coco" / "annotations" / "instances.json"
    values = json.loads(path.read_text("utf-8"))
    by_key = {entry["textseg_key"]: entry["id"] for entry in values["images"]}
    polygon = [5, 5, 15, 5, 15, 10, 5, 10]
    keep = {by_key["unsure.png"], by_key["near.png"]}
    values["images"] = [e for e in values["images"] if e["id"] in keep] + [
        {"id": 99, "file_name": "stranger.png", "width": 3, "height": 3}
    ]
    for entry in values["images"]:
        entry.pop("textseg_key", None)  # as other tools leave it: the file name has to do
    values["annotations"] = [
        {"id": 0, "image_id": by_key["unsure.png"], "category_id": 2, "segmentation": [polygon], "iscrowd": 0}
    ]
    path.write_text(json.dumps(values), "utf-8")
    before = stored(out)
    with Store.write(out) as store:
        done = apply(store, path)
        assert (done.pictures, done.masks, done.replaced) == (2, 1, 1)
        assert done.skipped == {"stranger.png": "not in the store"}
        (row,) = store.masks("unsure.png")
        assert (row.label, row.source, row.score, row.origin) == (CLASSES[1], "person", 1.0, "0")
        assert (row.mask() == mask_of(SIZE, (5, 5, 15, 10))).all()
        assert queue.reviewed(store) == {"unsure.png": "corrected", "near.png": "corrected"}
        assert list(queue.waiting(store, 0.8)) == ["sub/low.png"]
        assert apply(store, path).replaced == 1  # again: the same
        assert store.runs()[-1].settings_hash == SETTINGS.hash  # the labeller goes on as before
        store.begin(SETTINGS, CLASSES)
        assert store.check() == []
    after = stored(out)
    for key in ("sure.png", "sub/low.png"):
        assert (before[key][0][1] == after[key][0][1]).all()


@pytest.mark.parametrize("name", ["labelme", "labelme-polygons"])
def test_labelme_folders_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    out = make_store(tmp_path)
    with Store.read(out) as store:
        export(store, [name], out)
    before = stored(out)
    with Store.write(out) as store:
        done = apply(store, out / name)
        assert (done.pictures, done.masks, done.skipped) == (len(KEYS), 10, {})
        assert {row.source for row in store.masks()} == {"person"}
    after = stored(out)
    for key, masks in before.items():
        assert [label for label, _ in masks] == [label for label, _ in after[key]]
        assert all((a == b).all() for (_, a), (_, b) in zip(masks, after[key], strict=True))


def labelme(path: Path, shapes: list[dict[str, Any]], **changes: Any) -> Path:
    values = {"shapes": shapes, "imagePath": "sure.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1], **changes}
    path.write_text(json.dumps(values), "utf-8")
    return path


def test_labelme_shapes(tmp_path: Path) -> None:
    out = small_store(tmp_path)
    label = CLASSES[0]
    shapes: list[dict[str, Any]] = [
        {"label": label, "points": [[1, 1], [4, 1], [4, 5]], "shape_type": "polygon", "group_id": 7},
        {"label": label, "points": [[20, 10], [25, 15]], "shape_type": "rectangle", "group_id": 7},
        {"label": CLASSES[1], "points": [[10, 10], [13, 10]], "shape_type": "circle", "group_id": None},
    ]
    with Store.write(out) as store:
        apply(store, labelme(tmp_path / "a.json", shapes))
        first, second = store.masks("sure.png")
        assert first.mask()[10:16, 20:26].all() and first.mask()[1, 4]
        assert first.area == 36 + int(first.mask()[:9].sum())
        assert second.mask()[10, 7] and second.mask()[10, 13] and not second.mask()[10, 14]


def test_what_does_not_fit_is_told_and_changes_nothing(tmp_path: Path) -> None:
    out = small_store(tmp_path)
    box = {"label": "bird", "points": [[1, 1], [5, 5]], "shape_type": "rectangle"}
    line = {"label": CLASSES[0], "points": [[1, 1], [5, 5]], "shape_type": "line"}
    with Store.write(out) as store:
        with pytest.raises(DataError, match="unknown class 'bird'"):
            apply(store, labelme(tmp_path / "a.json", [box]))
        assert len(store.runs()) == 1
        done = apply(store, labelme(tmp_path / "a.json", [box]), new_classes=True)
        assert (done.new_classes, store.classes()[-1]) == (("bird",), "bird")
        bad = apply(store, labelme(tmp_path / "b.json", [line]))
        assert bad.pictures == 0 and "'line' with 2 points" in bad.skipped["sure.png"]
        turned = apply(store, labelme(tmp_path / "c.json", [], imageHeight=SIZE[1], imageWidth=SIZE[0]))
        assert turned.skipped["sure.png"] == "is 20x30 there, 30x20 in the store (upright)"
        assert [row.label for row in store.masks("sure.png")] == ["bird"]
        for values, message in [("x", "cannot be read as JSON"), ("{}", "neither COCO"), ("[]", "neither COCO")]:
            (tmp_path / "d.json").write_text(values, "utf-8")
            with pytest.raises(DataError, match=message):
                apply(store, tmp_path / "d.json")
        with pytest.raises(DataError, match="none of its 1 pictures"):
            apply(store, labelme(tmp_path / "e.json", [], imagePath="z.png"))
        (tmp_path / "nothing").mkdir()
        with pytest.raises(DataError, match="no JSON file"):
            apply(store, tmp_path / "nothing")


def test_a_store_of_the_first_layout_is_read_and_brought_up(tmp_path: Path) -> None:
    path = tmp_path / schema.FILE
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(
        f"PRAGMA journal_mode = WAL; BEGIN; {schema.SCHEMA} PRAGMA application_id = {schema.APPLICATION_ID}; "
        "PRAGMA user_version = 1; COMMIT;"
        "INSERT INTO runs (id, started, settings_hash, settings, models, version) VALUES (1, 0, 'h', '{}', '{}', '0');"
        "INSERT INTO classes VALUES (0, 'car');"
        "INSERT INTO pictures VALUES (1, 'a', 'a', 'done', 'd', 4, 6, 0, 1, '', '', '', '{}', 1, 0);"
    )
    old.close()
    with Store.read(tmp_path) as store:
        assert queue.reviewed(store) == {}
        assert store.count() == 1
    with Store.write(tmp_path) as store:
        assert queue.mark(store, {"a": "seen"}) == 1
        assert queue.reviewed(store) == {"a": "seen"}
        store.begin(SETTINGS, ("car",), override=True)
        store.record(Labelled("a", "a", "d", (4, 6), (new_mask(np.ones((4, 6), bool), "car"),), {}, 0.1))
        assert queue.reviewed(store) == {}  # labelled again: nobody has seen that
        assert store.check() == []
    made = sqlite3.connect(path)
    assert made.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    made.close()
