"""Pascal VOC: pictures, XML boxes, a class PNG and an object PNG each, and the lists of the parts.

A pixel of such a PNG belongs to one object. Where masks overlap the smaller one is on top; what the larger ones lose
is measured. Pixel values are class id + 1 and the object's place in the XML (from 1); 0 is the background. More than
254 classes or objects make a 16-bit PNG. VOC's readers insist on pictures called ``.jpg``; other kinds get that name,
too, and keep their bytes: readers go by the content.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import PIL.Image

from textseg.label import outline
from textseg.label.export.base import Entry, Job, Loss
from textseg.label.records import MaskRow

_LAST_8_BIT = 254  # 255 is VOC's "void"


class VocWriter:
    """Writes Pascal VOC 2012's layout."""

    def __init__(self, job: Job) -> None:
        self.loss: Loss | None = Loss()
        self._job = job
        self._images = job.made("JPEGImages")
        self._xml = job.made("Annotations")
        self._class, self._object = job.made("SegmentationClass"), job.made("SegmentationObject")
        main, segmentation = job.made("ImageSets", "Main"), job.made("ImageSets", "Segmentation")
        names = {split: f"{split or 'trainval'}.txt" for split in job.splits}
        self._lists = {s: [job.open(f / n) for f in (main, segmentation)] for s, n in names.items()}

    def add(self, entry: Entry) -> None:
        """Write one picture, its XML and its two PNGs."""
        name = self._job.place(entry, "JPEGImages", suffix=".jpg")
        tree = ElementTree.ElementTree(_annotation(entry, name))
        ElementTree.indent(tree, space=" ")
        tree.write(self._xml / f"{entry.stem}.xml", encoding="utf-8", xml_declaration=True)
        objects = np.zeros(entry.size_hw, np.uint16)
        order = sorted(range(len(entry.rows)), key=lambda k: (-entry.rows[k].area, k))
        for k in order:
            objects[entry.masks[k]] = k + 1
        classes = np.array([0, *(row.class_id + 1 for row in entry.rows)], np.uint16)
        _write_png(self._object / f"{entry.stem}.png", objects)
        _write_png(self._class / f"{entry.stem}.png", classes[objects])
        if self.loss is not None:
            for k, mask in enumerate(entry.masks):
                self.loss.add(outline.iou(objects == k + 1, mask))
        for file in self._lists[entry.split]:
            file.write(f"{entry.stem}\n")

    def close(self) -> None:
        """End the lists; the class names with their pixel values go to ``classes.txt``."""
        for files in self._lists.values():
            for file in files:
                file.close()
        lines = [f"{i + 1}\t{name}\n" for i, name in enumerate(self._job.class_names)]
        (self._job.folder / "classes.txt").write_text("".join(lines), encoding="utf-8")


def _annotation(entry: Entry, name: str) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    height, width = entry.size_hw
    _text(root, "folder", "VOC2012")
    _text(root, "filename", name)
    _text(ElementTree.SubElement(root, "source"), "database", "textseg")
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        _text(size, tag, value)
    _text(root, "segmented", 1 if entry.rows else 0)
    for row in entry.rows:
        root.append(_object(row, entry.size_hw))
    return root


def _object(row: MaskRow, size_hw: tuple[int, int]) -> ElementTree.Element:
    """Return an object with VOC's box: pixels counted from 1, both ends inside."""
    node = ElementTree.Element("object")
    x0, y0, x1, y1 = (round(v) for v in row.box_xyxy)
    _text(node, "name", row.label)
    _text(node, "pose", "Unspecified")
    _text(node, "truncated", int(x0 == 0 or y0 == 0 or x1 == size_hw[1] or y1 == size_hw[0]))
    _text(node, "difficult", 0)
    box = ElementTree.SubElement(node, "bndbox")
    for tag, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
        _text(box, tag, value)
    return node


def _text(parent: ElementTree.Element, tag: str, value: Any) -> None:
    text = "".join(c if c.isprintable() else " " for c in str(value))  # XML 1.0 has no control characters
    ElementTree.SubElement(parent, tag).text = text


def _write_png(path: Path, values: npt.NDArray[np.uint16]) -> None:
    if int(values.max(initial=0)) > _LAST_8_BIT:
        PIL.Image.fromarray(values).save(path)
        return
    image = PIL.Image.fromarray(values.astype(np.uint8)).convert("L")
    image.putpalette(palette())
    image.save(path)


def palette() -> list[int]:
    """Return VOC's 256 colours, RGB after RGB: the bits of the index, spread over the channels."""
    out: list[int] = []
    for index in range(256):
        rgb, rest = [0, 0, 0], index
        for shift in range(7, -1, -1):
            for channel in range(3):
                rgb[channel] |= ((rest >> channel) & 1) << shift
            rest >>= 3
        out += rgb
    return out
