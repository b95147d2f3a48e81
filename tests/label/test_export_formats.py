"""Every format read back by the library that its users use: the masks are the store's, pixel for pixel."""

from __future__ import annotations

import base64
import io
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import pytest
import yaml

from tests.label.stores import CLASSES, KEYS, make_store, stored
from textseg import image, sa1b
from textseg.label import outline
from textseg.label.export import FORMATS, Report, export
from textseg.label.store import Store
from textseg.types import Bool

Wanted = dict[str, list[tuple[str, Bool]]]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def reports(out: Path) -> dict[str, Report]:
    with Store.read(out) as store:
        return {report.format: report for report in export(store, FORMATS, out)}


@pytest.fixture(scope="module")
def wanted(out: Path) -> Wanted:
    return stored(out)


def same(found: list[tuple[str, Bool]], expected: list[tuple[str, Bool]]) -> None:
    assert [label for label, _ in found] == [label for label, _ in expected]
    for (label, mask), (_, truth) in zip(found, expected, strict=True):
        assert mask.shape == truth.shape and (mask == truth).all(), label


def keys_by_stem(out: Path) -> dict[str, str]:
    lines = (out / "masks" / "index.jsonl").read_text("utf-8").splitlines()
    return {Path(json.loads(line)["picture"]).stem: json.loads(line)["key"] for line in lines}


def test_reports_count_everything_and_say_what_is_exact(reports: dict[str, Report]) -> None:
    assert set(reports) == set(FORMATS)
    for name, report in reports.items():
        assert (report.pictures, report.without_objects, report.masks, report.left_out) == (6, 1, 10, {}), name
        about = json.loads((report.folder / "provenance.json").read_text("utf-8"))
        assert about["runs"][0]["models"] == {"segmenter": "fake/sam sha256:abc"}
        assert about["runs"][0]["settings_hash"] and about["textseg"]
        assert about["export"]["read_back"] == report.loss
    inexact = {name for name, report in reports.items() if report.loss is not None and report.loss["inexact"]}
    assert inexact == {"yolo-seg", "voc"}  # bridges between parts; overlaps
    assert reports["yolo-boxes"].loss is None
    assert reports["coco"].loss_text() == "exact"
    assert "IoU" in reports["voc"].loss_text()


@pytest.mark.parametrize("name", ["coco", "coco-polygons"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_coco_by_pycocotools(reports: dict[str, Report], wanted: Wanted, name: str) -> None:
    from pycocotools.coco import COCO

    folder = reports[name].folder
    coco = COCO(str(folder / "annotations" / "instances.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.imgs) == len(KEYS)
    for number, entry in coco.imgs.items():
        annotations = coco.loadAnns(coco.getAnnIds([number]))
        found = [(CLASSES[a["category_id"] - 1], coco.annToMask(a).astype(bool)) for a in annotations]
        same(found, wanted[entry["textseg_key"]])
        assert image.read(folder / "images" / entry["file_name"]).size_hw == (entry["height"], entry["width"])
        for a, (_, mask) in zip(annotations, wanted[entry["textseg_key"]], strict=True):
            assert a["area"] == mask.sum()


def test_coco_by_supervision(reports: dict[str, Report], wanted: Wanted) -> None:
    import supervision as sv

    folder = reports["coco"].folder
    data = sv.DetectionDataset.from_coco(str(folder / "images"), str(folder / "annotations" / "instances.json"))
    assert len(data) == len(KEYS)
    keys = keys_by_stem(folder.parent)
    for path, _, found in data:
        expected = wanted[keys[Path(path).stem]]
        assert len(found) == len(expected)
        if len(found):
            assert found.mask is not None and found.class_id is not None
            same([(data.classes[c], m) for c, m in zip(found.class_id, found.mask, strict=True)], expected)


def test_yolo_segments_by_supervision(reports: dict[str, Report], wanted: Wanted) -> None:
    report = reports["yolo-seg"]
    total = []
    for _, expected, masks in _yolo(report, wanted, True):
        for (_, truth), mask in zip(expected, masks, strict=True):
            total.append(outline.iou(np.asarray(mask, np.bool_), truth))
            one_part = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)[0] == 2
            assert total[-1] == 1.0 or not one_part  # holes and single pixels come back exactly
    assert report.loss is not None  # what was promised is what a reader gets
    assert report.loss["mean_iou"] == pytest.approx(np.mean(total))
    assert report.loss["min_iou"] == pytest.approx(min(total))


def test_yolo_segments_as_readers_that_cut_off_decimals(reports: dict[str, Report], wanted: Wanted) -> None:
    folder, keys = reports["yolo-seg"].folder, keys_by_stem(reports["yolo-seg"].folder.parent)
    for path in (folder / "labels" / "train").glob("*.txt"):
        for line, (_, truth) in zip(path.read_text("utf-8").splitlines(), wanted[keys[path.stem]], strict=True):
            numbers = np.array(line.split()[1:], np.float32).reshape(-1, 2)
            points = (numbers * np.array(truth.shape[::-1], np.float32)).astype(np.int32)
            expected = outline.joined(outline.centre_polygons(truth))
            assert (points == expected).all()


def test_yolo_boxes_by_supervision(reports: dict[str, Report], wanted: Wanted) -> None:
    for found, expected, _ in _yolo(reports["yolo-boxes"], wanted, False):
        truth = [cv2.boundingRect(mask.astype(np.uint8)) for _, mask in expected]
        for box, (x, y, w, h) in zip(found.xyxy, truth, strict=True):
            assert box.tolist() == pytest.approx([x, y, x + w, y + h], abs=1e-3)


def _yolo(report: Report, wanted: Wanted, masks: bool) -> Iterator[tuple[Any, list[tuple[str, Bool]], Any]]:
    import supervision as sv

    folder, keys = report.folder, keys_by_stem(report.folder.parent)
    about = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    assert about["names"] == dict(enumerate(CLASSES)) and about["train"] == about["val"] == "images/train"
    images, labels = str(folder / "images" / "train"), str(folder / "labels" / "train")
    data = sv.DetectionDataset.from_yolo(images, labels, str(folder / "data.yaml"), force_masks=masks)
    assert len(data) == len(KEYS) and data.classes == list(CLASSES)
    for path, _, found in data:
        expected = wanted[keys[Path(path).stem]]
        assert len(found) == len(expected)
        if expected:
            assert [data.classes[c] for c in found.class_id] == [label for label, _ in expected]
            yield found, expected, found.mask


def test_voc_boxes_by_supervision_and_pngs_by_pillow(reports: dict[str, Report], wanted: Wanted) -> None:
    import supervision as sv

    folder, keys = reports["voc"].folder, keys_by_stem(reports["voc"].folder.parent)
    data = sv.DetectionDataset.from_pascal_voc(str(folder / "JPEGImages"), str(folder / "Annotations"))
    assert len(data) == len(KEYS)
    for path, _, found in data:
        expected = wanted[keys[Path(path).stem]]
        assert [data.classes[c] for c in found.class_id] == [label for label, _ in expected]
        for box, (_, mask) in zip(found.xyxy, expected, strict=True):
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            assert box.tolist() == [x, y, x + w, y + h]
        objects = _png(folder / "SegmentationObject" / f"{Path(path).stem}.png")
        classes = _png(folder / "SegmentationClass" / f"{Path(path).stem}.png")
        union = np.zeros(objects.shape, bool)
        for k, (label, mask) in enumerate(expected):
            union |= mask
            mine = objects == k + 1
            assert mine.any() and not (mine & ~mask).any()  # a single pixel on a large object stays
            assert set(np.unique(classes[mine])) == {CLASSES.index(label) + 1}
        assert ((objects > 0) == union).all()
    assert len((folder / "ImageSets" / "Segmentation" / "trainval.txt").read_text("utf-8").splitlines()) == len(KEYS)
    root = ElementTree.parse(folder / "Annotations" / "空.xml").getroot()
    assert root.findtext("filename") == "空.jpg"


def _png(path: Path) -> npt.NDArray[Any]:
    with PIL.Image.open(path) as opened:
        assert opened.mode == "P"
        return np.asarray(opened)


def test_voc_by_torchvision(reports: dict[str, Report], tmp_path: Path) -> None:
    from torchvision.datasets import VOCSegmentation

    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "VOC2012").symlink_to(reports["voc"].folder)
    data = VOCSegmentation(str(tmp_path), "2012", "trainval")
    assert len(data) == len(KEYS)
    for shown, classes in data:
        assert shown.size == classes.size
        classes.close()


def test_labelme_masks_as_labelme_reads_them(reports: dict[str, Report], wanted: Wanted) -> None:
    for values, size_hw in _labelme(reports["labelme"].folder):
        found = []
        for shape in values["shapes"]:
            assert shape["shape_type"] == "mask"
            (x0, y0), (x1, y1) = np.array(shape["points"]).astype(int)
            with PIL.Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as opened:
                inside = np.asarray(opened).astype(bool)
            mask = np.zeros(size_hw, bool)
            mask[y0 : y1 + 1, x0 : x1 + 1] = inside
            found.append((shape["label"], mask))
        same(found, wanted[values["textseg_key"]])


def test_labelme_polygons_as_labelme_fills_them(reports: dict[str, Report], wanted: Wanted) -> None:
    for values, (height, width) in _labelme(reports["labelme-polygons"].folder):
        found: dict[Any, tuple[str, Bool]] = {}
        for n, shape in enumerate(values["shapes"]):
            canvas = PIL.Image.new("1", (width, height))
            assert len(shape["points"]) > 2  # as labelme.utils.shape_to_mask has it
            points = [(x, y) for x, y in shape["points"]]
            PIL.ImageDraw.Draw(canvas).polygon(points, outline=1, fill=1)
            group = shape["group_id"] if shape["group_id"] is not None else f"alone {n}"
            label, mask = found.get(group, (shape["label"], np.zeros((height, width), bool)))
            found[group] = (label, mask | np.asarray(canvas))
        same(list(found.values()), wanted[values["textseg_key"]])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves a file open
def test_labelme_by_labelme_itself(reports: dict[str, Report], wanted: Wanted) -> None:
    files = pytest.importorskip("labelme._label_file", exc_type=ImportError)
    shapes_to_label = pytest.importorskip("labelme.utils.shape", exc_type=ImportError).shapes_to_label
    numbers = {name: i + 1 for i, name in enumerate(CLASSES)}
    for name in ("labelme", "labelme-polygons"):
        for values, size_hw in _labelme(reports[name].folder):
            path = reports[name].folder / f"{Path(values['imagePath']).stem}.json"
            groups: dict[Any, list[Any]] = {}
            for n, shape in enumerate(files.read_label_file(str(path)).shapes):
                group = f"alone {n}" if shape["group_id"] is None else shape["group_id"]
                groups.setdefault(group, []).append(shape)
            found = [(g[0]["label"], shapes_to_label(size_hw, g, numbers)[0] > 0) for g in groups.values()]
            same(found, wanted[values["textseg_key"]])


def _labelme(folder: Path) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
    files = [path for path in folder.glob("*.json") if path.name != "provenance.json"]
    assert len(files) == len(KEYS)
    for path in files:
        values = json.loads(path.read_text("utf-8"))
        size_hw = values["imageHeight"], values["imageWidth"]
        shown = cv2.imread(str(folder / values["imagePath"]))
        assert shown is not None and shown.shape[:2] == size_hw
        yield values, size_hw


def test_masks_as_pngs(reports: dict[str, Report], wanted: Wanted) -> None:
    folder = reports["masks"].folder
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text("utf-8").splitlines()]
    assert [line["key"] for line in lines] == sorted(KEYS)
    for line in lines:
        found = [(one["label"], cv2.imread(str(folder / one["mask"]), cv2.IMREAD_GRAYSCALE)) for one in line["objects"]]
        assert all(set(np.unique(mask)) <= {0, 255} for _, mask in found if mask is not None)
        same([(label, mask > 0) for label, mask in found if mask is not None], wanted[line["key"]])


def decode_brush(data: list[int]) -> npt.NDArray[np.uint8]:
    """Decode Label Studio's run lengths, from their description (thi.ng/rle-pack), bit by bit."""
    bits, at = "".join(f"{byte:08b}" for byte in data), 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


def test_label_studio_by_its_own_run_lengths(reports: dict[str, Report], wanted: Wanted) -> None:
    folder = reports["labelstudio"].folder
    tasks = json.loads((folder / "tasks.json").read_text("utf-8"))
    assert [task["data"]["key"] for task in tasks] == sorted(KEYS)
    for task in tasks:
        found = []
        for result in task["predictions"][0]["result"]:
            height, width = result["original_height"], result["original_width"]
            rgba = decode_brush(result["value"]["rle"]).reshape(height, width, 4)
            assert result["type"] == "brushlabels" and result["value"]["format"] == "rle"
            found.append((result["value"]["brushlabels"][0], rgba[:, :, 3] > 0))
        same(found, wanted[task["data"]["key"]])
        query = urllib.parse.urlsplit(task["data"]["image"]).query
        assert (folder / urllib.parse.parse_qs(query)["d"][0]).is_file()
    root = ElementTree.parse(folder / "config.xml").getroot()
    assert [node.get("value") for node in root.iter("Label")] == list(CLASSES)


def test_label_studio_by_its_own_decoder(reports: dict[str, Report], wanted: Wanted) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    for task in json.loads((reports["labelstudio"].folder / "tasks.json").read_text("utf-8")):
        found = []
        for result in task["predictions"][0]["result"]:
            rgba = brush.decode_rle(result["value"]["rle"])
            mask = rgba.reshape(result["original_height"], result["original_width"], 4)[:, :, 3] > 0
            found.append((result["value"]["brushlabels"][0], mask))
        same(found, wanted[task["data"]["key"]])


def test_label_studio_runs_longer_than_its_longest_field() -> None:
    from textseg.label.export.labelstudio import brush_rle

    mask = np.zeros((300, 400), bool)
    mask[250:, 1:] = True
    back = decode_brush(brush_rle(mask)).reshape(300, 400, 4)
    assert ((back[:, :, 3] > 0) == mask).all()


def test_sa1b_by_its_reader(reports: dict[str, Report], wanted: Wanted) -> None:
    folder, keys = reports["sa1b"].folder, keys_by_stem(reports["sa1b"].folder.parent)
    files = [path for path in folder.glob("*.json") if path.name != "provenance.json"]
    assert len(files) == len(KEYS)
    for path in files:
        content = sa1b.read(path)
        found = [(one["label"], content.mask(k)) for k, one in enumerate(content.annotations)]
        same(found, wanted[keys[path.stem]])
        assert image.read(folder / content.file_name).size_hw == content.size_hw
        for k, one in enumerate(content.annotations):
            ((x, y),) = one["point_coords"]
            assert content.mask(k)[int(y), int(x)]


def test_hugging_face_by_datasets(
    reports: dict[str, Report], wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    from textseg import geometry

    folder = reports["hf"].folder
    datasets.disable_progress_bars()
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path))["train"]
    assert len(rows) == len(KEYS)
    for row in rows:
        size_hw = (row["height"], row["width"])
        objects = row["objects"]
        masks = [geometry.decode_rle({"size": size_hw, "counts": counts}) for counts in objects["rle_counts"]]
        same(list(zip(objects["label"], masks, strict=True)), wanted[row["key"]])
        assert row["image"].size == (row["width"], row["height"])
        row["image"].close()
