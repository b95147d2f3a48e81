"""How good the labels are: hand-made masks whose figures are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.label.stores import SETTINGS, hard_masks, make_store, mask_of, new_mask
from textseg import geometry
from textseg.cli import app
from textseg.errors import DataError
from textseg.label.export import export
from textseg.label.records import Labelled
from textseg.label.score import match_pictures, score
from textseg.label.store import Store
from textseg.types import Bool

SIZE = (200, 200)


def truth_file(path: Path, masks: list[tuple[str, str, Bool]], names: tuple[str, ...] = ("car", "dog")) -> Path:
    pictures = sorted({name for name, _, _ in masks} | {"empty.png"})
    annotations = [
        {"id": i, "image_id": pictures.index(name) + 1, "category_id": names.index(label) + 3, "iscrowd": 0,
         "segmentation": geometry.encode_rle(mask), "area": int(mask.sum())}
        for i, (name, label, mask) in enumerate(masks)
    ]  # fmt: skip
    images = [{"id": i + 1, "file_name": n, "height": SIZE[0], "width": SIZE[1]} for i, n in enumerate(pictures)]
    values = {"images": images, "annotations": annotations,
              "categories": [{"id": i + 3, "name": n} for i, n in enumerate(names)]}  # fmt: skip
    path.write_text(json.dumps(values), "utf-8")
    return path


def store_of(out: Path, found: dict[str, list[tuple[str, Bool, float]]], names: tuple[str, ...]) -> Path:
    with Store.write(out) as store:
        store.begin(SETTINGS, names)
        for key, masks in found.items():
            rows = tuple(new_mask(mask, label, value) for label, mask, value in masks)
            store.record(Labelled(key, f"/in/{key}", "d", SIZE, rows, {}, 0.1))
    return out


def test_known_figures(tmp_path: Path) -> None:
    small, large = mask_of(SIZE, (0, 0, 10, 10)), mask_of(SIZE, (50, 50, 180, 180))
    shifted = mask_of(SIZE, (0, 0, 10, 8))  # IoU 0.8 with small
    truth = truth_file(tmp_path / "truth.json", [("a.png", "car", small), ("a.png", "dog", large)])
    wrong = mask_of(SIZE, (100, 0, 140, 30))
    found = {
        "in/a.png": [("Car", shifted, 0.9), ("dog", large, 0.8), ("cat", large, 0.7)],
        "empty.png": [("dog", wrong, 0.6)],
        "other.png": [],
    }
    with Store.read(store_of(tmp_path / "out", found, ("Car", "dog", "cat"))) as store:
        result = score(store, truth)
    assert (result.pictures, result.without_truth, result.missing, result.unknown_classes) == (2, 1, 0, ("cat",))
    car, dog = result.classes
    assert (car.truth, car.found, car.matched, car.precision, car.recall) == (1, 1, 1, 1.0, 1.0)
    assert car.mean_iou == pytest.approx(0.8)
    assert car.ap == pytest.approx(0.7) and car.ap50 == pytest.approx(1.0)  # right at 0.50 … 0.80: 7 of 10 thresholds
    assert (dog.precision, dog.recall, dog.mean_iou) == (0.5, 1.0, 1.0)
    assert dog.ap == pytest.approx(1.0)  # the wrong one scores lower
    assert result.total.ap == pytest.approx(0.85)
    assert result.total.f1 == pytest.approx(0.8)
    sizes = {row.name: (row.truth, row.matched) for row in result.sizes}
    assert sizes == {"small": (1, 1), "medium": (0, 0), "large": (1, 1)}
    assert math.isnan({row.name: row for row in result.sizes}["medium"].recall)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["sizes"][1]["recall"] is None


def test_nothing_found_and_rejected_masks(tmp_path: Path) -> None:
    small = mask_of(SIZE, (0, 0, 10, 10))
    truth = truth_file(tmp_path / "truth.json", [("a.png", "car", small)])
    out = store_of(tmp_path / "out", {"a.png": [("car", small, 0.9)]}, ("car",))
    with Store.write(out) as store:
        store.decide(next(store.masks()).id, "reject")
        result = score(store, truth)
        assert (result.total.found, result.total.recall, result.total.ap) == (0, 0.0, 0.0)
        assert math.isnan(result.total.precision)
        assert score(store, truth, rejected=True).total.ap == pytest.approx(1.0)


def test_a_store_against_its_own_export_is_perfect(tmp_path: Path) -> None:
    out = make_store(tmp_path)
    with Store.read(out) as store:
        export(store, ["coco"], out)
        result = score(store, out / "coco" / "annotations" / "instances.json")
    assert (result.pictures, result.missing, result.without_truth) == (6, 0, 0)
    assert result.total.matched == result.total.truth == result.total.found == len(hard_masks()) + 4
    assert result.total.mean_iou == 1.0 and result.total.ap == pytest.approx(1.0)


def test_names_of_pictures() -> None:
    keys = ["a/x.png", "b/x.png", "b/y.jpg", "z.png"]
    names = {1: "a/x.png", 2: "x.png", 3: "y.jpg", 4: "b__x.png", 5: "somewhere/z.png", 6: "none.png"}
    assert match_pictures(names, keys) == {1: "a/x.png", 3: "b/y.jpg", 4: "b/x.png", 5: "z.png"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("no json", "not a COCO file"),
        ({"images": []}, "not a COCO file"),
        ({"images": [], "annotations": [], "categories": [{"id": 1, "name": "tree"}]}, "no class in common"),
        ({"images": [], "annotations": [], "categories": [{"id": 1, "name": "car"}]}, "none of its 0 pictures"),
    ],
)
def test_bad_truth_is_told(tmp_path: Path, values: Any, message: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), "utf-8")
    out = store_of(tmp_path / "out", {"a.png": []}, ("car",))
    with Store.read(out) as store:
        with pytest.raises(DataError, match=message):
            score(store, path)
        with pytest.raises(DataError, match="cannot read"):
            score(store, tmp_path / "none.json")


def test_another_size_is_told(tmp_path: Path) -> None:
    truth = truth_file(tmp_path / "truth.json", [("a.png", "car", mask_of(SIZE, (0, 0, 9, 9)))])
    with Store.write(tmp_path / "out") as store:
        store.begin(SETTINGS, ("car",))
        mask = new_mask(np.ones((4, 6), bool), "car")
        store.record(Labelled("a.png", "/in/a.png", "d", (4, 6), (mask,), {}, 0.1))
        with pytest.raises(DataError, match="is 200x200 there, 6x4 here"):
            score(store, truth)


def test_on_the_command_line(tmp_path: Path) -> None:
    out = make_store(tmp_path)
    with Store.read(out) as store:
        (coco,) = export(store, ["coco"], tmp_path / "exports")
    truth, record = coco.folder / "annotations" / "instances.json", tmp_path / "score.json"
    done = CliRunner().invoke(app, ["eval", str(out), str(truth), "--out", str(record)])
    assert done.exit_code == 0, done.output
    assert all(word in done.output for word in ("precision", "mean IoU", "small", "6 pictures compared"))
    first = CliRunner().invoke(app, ["eval", "--json", str(out), str(truth)])  # options may come first
    assert json.loads(first.output) == json.loads(record.read_text("utf-8"))
    assert json.loads(first.output)["total"]["mean_iou"] == 1.0


def test_wrong_usage_of_the_command(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["eval", str(tmp_path / "nowhere"), "truth.json"])
    assert (refused.exit_code, "is missing" in refused.output) == (2, True)
    assert CliRunner().invoke(app, ["eval", str(make_store(tmp_path))]).exit_code == 2
    told = CliRunner().invoke(app, ["eval", "--help"])
    assert (told.exit_code, "textseg eval LABELS TRUTH.json" in told.output) == (0, True)
