"""What people take away: the overlay, masks, cut-outs, COCO JSON, and the Python lines that give this very answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image

from textseg import draw, export
from textseg.demo.answer import Answer, Mend
from textseg.errors import QueryError
from textseg.types import Phrase, UInt8

MAX_MASKS = 50
"""So many masks get a PNG of their own; the COCO JSON has all."""


def write(answer: Answer, folder: Path, preset: str) -> list[Path]:
    """Write all files of an answer into a folder and return them.

    Args:
        answer: what is shown.
        folder: an empty one.
        preset: name or path of the preset, for the Python lines.

    Raises:
        QueryError: nothing was asked yet.
    """
    result = answer.result
    if result is None:
        raise QueryError("nothing to take away yet: type a phrase, or point at the picture")
    name = Path(export.file_name(result)).stem
    files = [
        _png(folder / f"{name}_overlay.png", result.overlay()),
        _png(folder / f"{name}_cutout.png", result.cutout()),
        _png(folder / f"{name}_blurred_background.png", draw.blur_background(result)),
        _png(folder / f"{name}_white_background.png", draw.plain_background(result)),
    ]
    for k in range(min(len(result), MAX_MASKS)):
        label = export.slug(result.labels[k])
        files.append(_png(folder / f"{name}_mask_{k + 1:02d}_{label}.png", result.masks[k].astype(np.uint8) * 255))
    files.append(_text(folder / f"{name}_coco.json", json.dumps(result.to_coco(), ensure_ascii=False)))
    files.append(_text(folder / f"{name}_answer.py", python_lines(answer, export.file_name(result), preset)))
    return files


def python_lines(answer: Answer, picture: str, preset: str) -> str:
    """Return Python that gives the very answer that is shown, when run beside the picture.

    Raises:
        QueryError: nothing was asked yet.
    """
    lines = [f"seg = textseg.load({preset!r})", f"picture = seg.open({picture!r})"]
    imports = ["import textseg"]
    if answer.base is not None:
        phrases = answer.base.query.phrases
        if any(phrase.negatives for phrase in phrases):
            imports.append("from textseg.language import phrase")
        lines.append(f"result = picture.segment([{', '.join(_phrase(one) for one in phrases)}])")
        config = answer.base.config
        lines.append(
            f"result = result.with_threshold({config.threshold!r}, duplicate_iou={config.duplicate_iou!r}, "
            f"min_area={config.min_area!r})"
        )
        if answer.mends:
            imports.append("from textseg.mend import mend")
        for place, one in zip(answer.places, answer.mends, strict=True):
            pointed = _pointed(one, phrase=place is None)
            lines.append(f"result = mend(picture, result, {place}, {pointed}, words={one.words!r})")
    elif answer.mends:
        lines.append(f"result = picture.segment({_pointed(answer.mends[-1], phrase=False)})")
    else:
        raise QueryError("nothing to take away yet: type a phrase, or point at the picture")
    lines.append('result.save("out/")')
    return "\n".join([*imports, "", *lines, ""])


def _phrase(phrase: Phrase) -> str:
    if not phrase.negatives:
        return repr(phrase.text)
    return f"phrase({phrase.text!r}, {phrase.negatives!r})"


def _pointed(one: Mend, phrase: bool) -> str:
    parts = []
    if one.points is not None:
        parts += [f"points={one.points!r}", f"labels={one.labels!r}"]
    if one.box is not None:
        parts.append(f"box={one.box!r}")
    if phrase:
        parts.append(f"phrase_index={one.phrase_index}")
    return ", ".join(parts)


def _png(path: Path, pixels: UInt8) -> Path:
    PIL.Image.fromarray(pixels).save(path, optimize=False)
    return path


def _text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
