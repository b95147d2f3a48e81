"""Prompts, everything and encoding, side by side with transformers and segment-anything: one run, one set of weights.

    python benchmarks/promptable.py [--size vit_b|small] [--repeats 5] [--only boxes,encode,everything,memory,exactness]

``--only`` takes ``onnx``, too. The weights are random (no download); see ``promptable_model``. Times are medians of
interleaved repeats, with the machine's load beside them. Peak memory is that of a process of its own. ``exactness``
compares logits of the size of SAM's own, point for point, with segment-anything's predictor. Parts that are measured
replace those of earlier runs in ``results/promptable_SIZE.md`` and ``.json``; the others stay.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from promptable_model import REAL, SIZES, boxes, build_model, picture, segmenter

from textseg import geometry
from textseg.evaluate.machine import machine_info, machine_line, peak_mib
from textseg.everything import EverythingOptions, generate
from textseg.models.sam import SamSegmenter
from textseg.models.sam_checkpoint import meta_sam
from textseg.prompt import user_prompts

logger = logging.getLogger("promptable")
RESULTS = Path(__file__).resolve().parent / "results"


def timed(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each, interleaved, after one round that does not count (if there are two).

    The processor's seconds stand beside: on one thread they tell the work whatever else the machine does.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works} | {f"{name}, CPU": [] for name in works}
    for number in range(repeats + (repeats > 1)):
        for name, work in works.items():
            start, spent = time.perf_counter(), time.process_time()
            work()
            if number or repeats == 1:
                seconds[name].append(time.perf_counter() - start)
                seconds[f"{name}, CPU"].append(time.process_time() - spent)
    return {name: median(values) for name, values in seconds.items()}


def iou_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU of each mask of ``a`` with its own of ``b``; two empty ones agree."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    either = (a | b).sum(axis=1)
    return np.where(either, (a & b).sum(axis=1) / np.maximum(either, 1), 1.0)


def agreement(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return how well masks agree with their own."""
    iou = iou_of(a, b)
    return {"least": float(iou.min()), "mean": float(iou.mean()), "share of at least 0.99": float((iou >= 0.99).mean())}


def measure_boxes(size: str, repeats: int) -> dict[str, Any]:
    """Return seconds of one box and of 32: transformers' forward and ours in float32 and bfloat16."""
    model, image = build_model(size), picture()
    ours, narrow = segmenter(model), segmenter(model, decoder_dtype="bfloat16")
    embedding = ours.encode(image)
    features = embedding.features["image"]

    def transformers(count: int) -> np.ndarray:
        given = torch.from_numpy(geometry.to_input(boxes(count), embedding.frame))[None]
        with torch.inference_mode():
            out = model(image_embeddings=features, input_boxes=given, multimask_output=True)
        return np.asarray(out.pred_masks[0].numpy())

    def decode(which: SamSegmenter, count: int) -> np.ndarray:
        return which.decode(embedding, user_prompts(np.arange(count), boxes_xyxy=boxes(count))).logits

    out: dict[str, Any] = {}
    for count in (1, 32):
        works = {
            "transformers": partial(transformers, count),
            "ours": partial(decode, ours, count),
            "ours bf16": partial(decode, narrow, count),
        }
        out[f"{count} boxes"] = timed(works, repeats)
    reference, exact, near = transformers(32), decode(ours, 32), decode(narrow, 32)
    masks = [logits.reshape(-1, *logits.shape[2:]) > 0 for logits in (reference, exact, near)]
    out["greatest difference of logits"] = float(np.abs(reference - exact).max())
    out["greatest logit"] = float(np.abs(reference).max())
    out["least IoU"] = float(iou_of(masks[0], masks[1]).min())
    out["bf16 IoU"] = agreement(masks[0], masks[2])
    return out


def measure_everything(size: str, side: int) -> dict[str, Any]:
    """Return seconds and masks of everything in the picture, encoding apart: segment-anything's generator and ours."""
    from segment_anything import SamAutomaticMaskGenerator

    model, image = build_model(size), picture()
    ours, reference = segmenter(model), meta_sam(model)
    generator = SamAutomaticMaskGenerator(reference, points_per_side=side, output_mode="coco_rle")
    generator.predictor.set_image(image.rgb)
    theirs, meta = _clocked(lambda: _search(generator, image))
    _, encode = _clocked(lambda: ours.encode(image))
    found, total = _clocked(lambda: generate(ours, image, EverythingOptions(points_per_side=side)))
    masks = np.zeros((len(theirs), *image.size_hw), np.bool_)
    for mask, record in zip(masks, theirs, strict=True):
        mask[:] = geometry.decode_rle(record["segmentation"])
    iou = np.pad(geometry.mask_iou(masks, found.masks), ((0, 1), (0, 1)))
    return {
        "points": side * side,
        "segment-anything": meta[0],
        "segment-anything, CPU": meta[1],
        "ours": found.seconds["search"],
        "ours, CPU": total[1] - encode[1],
        "masks": [len(theirs), len(found)],
        "least matched IoU": [float(iou.max(axis=axis)[:-1].min(initial=1.0)) for axis in (1, 0)],
    }


def _search(generator: Any, image: Any) -> list[dict[str, Any]]:
    """Return segment-anything's records; the picture is encoded already, and encoding again does nothing."""
    generator.predictor.set_image = lambda *_: None
    generator.predictor.reset_image = lambda: None
    records: list[dict[str, Any]] = generator.generate(image.rgb)
    return records


def _clocked(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """Return what some work returns, and its seconds: passed, and of the processor."""
    start, spent = time.perf_counter(), time.process_time()
    value = work()
    return value, (time.perf_counter() - start, time.process_time() - spent)


def measure_encode(size: str, repeats: int) -> dict[str, Any]:
    """Return seconds of encoding: segment-anything, transformers and ours; and the IoU of bfloat16's masks."""
    from segment_anything import SamPredictor

    model, image = build_model(size), picture()
    full, narrow = segmenter(model), segmenter(model, "bfloat16", "bfloat16")
    predictor = SamPredictor(meta_sam(model))
    pixels = full.spec.prepare(image)[0]

    def transformers() -> None:
        with torch.inference_mode():
            model.get_image_embeddings(pixels)

    works: dict[str, Callable[[], Any]] = {
        "segment-anything": lambda: predictor.set_image(image.rgb),
        "transformers": transformers,
        "ours": lambda: full.encode(image),
        "ours bf16": lambda: narrow.encode(image),
    }
    out: dict[str, Any] = {"encode": timed(works, repeats)}
    prompts = user_prompts(np.arange(32), boxes_xyxy=boxes(32))
    masks = [which.decode(which.encode(image), prompts) for which in (full, narrow)]
    a, b = (geometry.upscale_masks(m.logits.reshape(-1, *m.logits.shape[2:]), m.frame) for m in masks)
    out["bf16 IoU"] = agreement(a, b)
    return out


def measure_memory(size: str, side: int) -> dict[str, Any]:
    """Return the peak MiB of everything in processes of their own, and what they held before it began."""
    out = {}
    for who in ("segment-anything", "ours"):
        command = [sys.executable, __file__, "--size", size, "--points", str(side), "--child", who]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, peak = (float(number) for number in done.stdout.split()[-2:])
        out[who] = peak
        out[f"{who}, before"] = before
    return {"peak MiB of everything": out, "points": side * side}


def child(size: str, side: int, who: str) -> None:
    """Do everything once; write this process's peak memory in MiB before and after."""
    model, image = build_model(size), picture()
    if who == "ours":
        ours = segmenter(model)
        before = peak_mib()
        generate(ours, image, EverythingOptions(points_per_side=side))
    else:
        from segment_anything import SamAutomaticMaskGenerator

        reference = meta_sam(model)
        del model
        before = peak_mib()
        SamAutomaticMaskGenerator(reference, points_per_side=side, output_mode="coco_rle").generate(image.rgb.copy())
    sys.stdout.write(f"{before:.1f} {peak_mib():.1f}\n")


def measure_exactness(size: str, number_of_pictures: int) -> dict[str, Any]:
    """Return the greatest difference of logits and the least IoU to segment-anything, by kind of prompt."""
    from segment_anything import SamPredictor

    model = build_model(size, REAL)
    ours, predictor = segmenter(model), SamPredictor(meta_sam(model))
    pictures = [picture(0), picture(1, (640, 480)), picture(2, (512, 512))][:number_of_pictures]
    out: dict[str, Any] = {"pictures": len(pictures), "embedding": 0.0, "greatest logit": 0.0, "prompts": 0}
    kinds: dict[str, dict[str, float]] = {}
    for number, image in enumerate(pictures):
        predictor.set_image(image.rgb)
        embedding = ours.encode(image)
        difference = np.abs(embedding.features["image"].numpy() - predictor.features.numpy()).max()
        out["embedding"] = max(out["embedding"], float(difference))
        for kind, asked in prompts_of_all_kinds(predictor, number).items():
            for multimask in (True, False):
                masks, iou, logits = predictor.predict(**asked, multimask_output=multimask)
                got = ours.decode(embedding, _ours(asked, multimask), raw_masks=True)
                full = geometry.upscale_masks(got.logits[0], got.frame)
                worst = kinds.setdefault(kind, {"logits": 0.0, "predicted IoU": 0.0, "least IoU": 1.0})
                worst["logits"] = max(worst["logits"], float(np.abs(got.logits[0] - logits).max()))
                apart = float(np.abs(got.predicted_iou[0] - iou).max())
                worst["predicted IoU"] = max(worst["predicted IoU"], apart)
                worst["least IoU"] = min(worst["least IoU"], float(iou_of(full, masks).min()))
                out["greatest logit"] = max(out["greatest logit"], float(np.abs(logits).max()))
                out["prompts"] += 1
    return out | kinds


def measure_onnx(size: str) -> dict[str, Any]:
    """Return the graphs' MiB, and the greatest differences of what onnxruntime and torch answer."""
    from tempfile import TemporaryDirectory

    from textseg.models import sam_onnx

    ours, image = segmenter(build_model(size, REAL)), picture()
    with TemporaryDirectory() as folder:
        path = sam_onnx.export(ours, folder)
        sizes = {name: (path / name).stat().st_size / 2**20 for name in sam_onnx.FILES[:2]}
        graphs = sam_onnx.load(path)
    one, two = ours.encode(image), graphs.encode(image)
    out: dict[str, Any] = {"MiB": sizes}
    out["embedding"] = float(np.abs(one.features["image"].numpy() - two.features["image"]).max())
    out["logits"], out["predicted IoU"], out["least IoU"] = 0.0, 0.0, 1.0
    asked = {"box": {"boxes_xyxy": boxes(4)}, "point": {"points_xy": boxes(4)[:, None, :2]}}
    asked["box and point"] = asked["box"] | {"points_xy": boxes(4).reshape(4, 2, 2).mean(axis=1, keepdims=True)}
    for given in asked.values():
        prompts = user_prompts(np.arange(4), **given)
        a, b = ours.decode(one, prompts), graphs.decode(two, prompts)
        masks = [c.logits.reshape(-1, *c.logits.shape[2:]) > 0 for c in (a, b)]
        out["logits"] = max(out["logits"], float(np.abs(a.logits - b.logits).max()))
        out["predicted IoU"] = max(out["predicted IoU"], float(np.abs(a.predicted_iou - b.predicted_iou).max()))
        out["least IoU"] = min(out["least IoU"], float(iou_of(*masks).min()))
    return out


def prompts_of_all_kinds(predictor: Any, seed: int) -> dict[str, dict[str, Any]]:
    """Return arguments of ``SamPredictor.predict`` by kind of prompt; a mask is that of an earlier answer."""
    height, width = predictor.original_size
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.1, 0.9, (3, 2)) * (width, height)
    low = rng.uniform(0.1, 0.4, 2) * (width, height)
    box = np.concatenate([low, low + rng.uniform(0.2, 0.5, 2) * (width, height)])
    point = {"point_coords": points[:1], "point_labels": np.array([1])}
    clicks = {"point_coords": points, "point_labels": np.array([1, 0, 1])}
    mask = {"mask_input": predictor.predict(**point)[2][:1]}
    return {
        "point": point,
        "points": clicks,
        "box": {"box": box},
        "box and points": {"box": box, **clicks},
        "mask": mask,
        "point and mask": {**point, **mask},
        "box, points and mask": {"box": box, **clicks, **mask},
    }


def _ours(asked: dict[str, Any], multimask: bool) -> Any:
    """Return the same prompt for us."""
    return user_prompts(
        np.zeros(1, np.int64),
        boxes_xyxy=asked["box"][None] if "box" in asked else None,
        points_xy=asked["point_coords"][None] if "point_coords" in asked else None,
        point_labels=asked["point_labels"][None] if "point_coords" in asked else None,
        mask_logits=asked.get("mask_input"),
        multimask=multimask,
    )


def table(values: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| part | what | figures |", "|---|---|---|"]
    for title, part in values.items():
        for name, figure in part.items():
            text = json.dumps(figure) if not isinstance(figure, dict) else _row(figure)
            lines.append(f"| {title} | {name} | {text} |")
    return "\n".join(lines)


def _row(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="vit_b")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--points", type=int, default=32, help="of everything's grid, a side")
    parser.add_argument("--only", default="boxes,encode,everything,memory,exactness,onnx")
    parser.add_argument("--pictures", type=int, default=3, help="of exactness, 1 to 3")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.child:
        child(given.size, given.points, given.child)
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "boxes": lambda: measure_boxes(given.size, given.repeats),
        "encode": lambda: measure_encode(given.size, given.repeats),
        "everything": lambda: measure_everything(given.size, given.points),
        "memory": lambda: measure_memory(given.size, given.points),
        "exactness": lambda: measure_exactness(given.size, given.pictures),
        "onnx": lambda: measure_onnx(given.size),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"promptable_{given.size}.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in given.only.split(","):
        values[name] = parts[name]() | {"load and threads": [round(os.getloadavg()[0], 1), torch.get_num_threads()]}
        logger.info("%s: %s", name, json.dumps(values[name], indent=1))
        values["machine"] = machine_info()
        path.write_text(json.dumps(values, indent=1), encoding="utf-8")
        shown = {name: value for name, value in values.items() if name in parts}
        path.with_suffix(".md").write_text(f"{machine_line()}\n\n{table(shown)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
