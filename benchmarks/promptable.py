"""Prompts, everything and encoding, side by side with transformers and segment-anything: one run, one set of weights.

    python benchmarks/promptable.py [--size vit_b|nano] [--repeats 5] [--only boxes,everything,encode,memory]

The weights are random (no download), tuned so that masks differ from point to point, are stable, and about half of
them pass the generator's thresholds: what is skipped is then neither nothing nor all. Times are medians of
interleaved repeats. Peak memory is that of a process of its own. Writes ``results/promptable_SIZE.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch

from textseg import geometry
from textseg import image as images
from textseg.evaluate.machine import machine_info, machine_line
from textseg.everything import EverythingOptions, generate
from textseg.models import sam_checkpoint
from textseg.models.sam import DTYPES, FAMILIES, SamSegmenter
from textseg.models.sam_input import InputSpec
from textseg.prompt import user_prompts

logger = logging.getLogger("promptable")
RESULTS = Path(__file__).resolve().parent / "results"
SIZE_HW = (480, 640)
GAIN = 20_000.0
"""Of the mask logits: so many that masks are stable."""
SIZES: dict[str, dict[str, int]] = {
    "vit_b": {"hidden": 768, "layers": 12, "heads": 12, "side": 1024, "width": 256, "mlp": 2048},
    "nano": {"hidden": 192, "layers": 6, "heads": 6, "side": 256, "width": 128, "mlp": 512},
}


def build_model(size: str) -> Any:
    """Return a random ``SamModel`` of a size; see the top of this file."""
    from transformers import SamConfig, SamModel

    n = SIZES[size]
    square = {"image_size": n["side"], "patch_size": 16}
    vision = {"hidden_size": n["hidden"], "num_hidden_layers": n["layers"], "num_attention_heads": n["heads"]}
    vision |= {"output_channels": n["width"], "num_pos_feats": n["width"] // 2, "mlp_dim": 4 * n["hidden"], **square}
    decoder = {"hidden_size": n["width"], "mlp_dim": n["mlp"], "iou_head_hidden_dim": n["width"]}
    decoder |= {"layer_norm_eps": 1e-5}
    prompts = {"hidden_size": n["width"], **square}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SamModel(
            SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
        ).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" not in name:
                    parameter.normal_(0, 1.0 if "positional_embedding" in name else 0.03)
            _liven(model)
    return model


def _liven(model: Any) -> None:
    """Make masks depend on their point, be stable, and pass the thresholds about half the time."""
    for block in model.mask_decoder.transformer.layers:
        for attention in (block.cross_attn_image_to_token, block.cross_attn_token_to_image):
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
                layer.weight.mul_(4)
    for layer in (model.mask_decoder.upscale_conv1, model.mask_decoder.upscale_conv2):
        layer.weight.copy_(layer.weight[..., :1, :1].expand_as(layer.weight))  # smooth within a token
    for head in model.mask_decoder.output_hypernetworks_mlps:
        head.proj_out.weight.sub_(head.proj_out.weight.mean(dim=0)).mul_(GAIN)  # so that neither sign prevails
        head.proj_out.bias.zero_()
    model.mask_decoder.iou_prediction_head.proj_out.weight.mul_(3)
    model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(0.9)


def segmenter(model: Any, dtype: str = "float32", decoder_dtype: str = "float32") -> SamSegmenter:
    """Return our segmenter of a model, with Meta's preprocessing."""
    from transformers import SamImageProcessor

    side = model.config.vision_config.image_size
    processor = SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    spec = replace(InputSpec.from_processor(processor), resampler="pil")
    network = FAMILIES["sam"].network(model)
    network.decode_in(DTYPES[decoder_dtype])
    return SamSegmenter("sam", network, spec, "benchmark", dtype=dtype)


def meta_model(model: Any) -> Any:
    """Return segment-anything's model of the same weights."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    vision, decoder = model.config.vision_config, model.config.mask_decoder_config
    grid = vision.image_size // vision.patch_size
    encoder = ImageEncoderViT(
        img_size=vision.image_size,
        patch_size=vision.patch_size,
        embed_dim=vision.hidden_size,
        depth=vision.num_hidden_layers,
        num_heads=vision.num_attention_heads,
        out_chans=vision.output_channels,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=vision.window_size,
        global_attn_indexes=tuple(vision.global_attn_indexes),
    )
    prompts = PromptEncoder(decoder.hidden_size, (grid, grid), (vision.image_size,) * 2, 16)
    transformer = TwoWayTransformer(2, decoder.hidden_size, decoder.num_attention_heads, decoder.mlp_dim)
    heads = MaskDecoder(
        transformer_dim=decoder.hidden_size, transformer=transformer, iou_head_hidden_dim=decoder.iou_head_hidden_dim
    )
    made = Sam(encoder, prompts, heads, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    made.load_state_dict(sam_checkpoint.to_meta(model.state_dict()))
    return made.eval()


def picture() -> Any:
    """Return a smooth random picture with some boxes on it, 640 × 480."""
    rng = np.random.default_rng(0)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8), (0, 0), 9)
    rgb = cv2.normalize(rgb, np.empty_like(rgb), 0, 255, cv2.NORM_MINMAX)
    for x, y, w, h in rng.integers(20, 300, (12, 4)):
        rgb[y : y + h // 2, x : x + w // 2] = rng.integers(0, 256, 3)
    return images.read(rgb)


def boxes(count: int) -> np.ndarray:
    """Return float32 (count, 4) boxes in the picture."""
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 300, (count, 2))
    return np.concatenate([low, low + rng.uniform(30, 170, (count, 2))], axis=1).astype(np.float32)


def timed(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each, interleaved, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def iou_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU of each mask of ``a`` with its own of ``b``; two empty ones agree."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    either = (a | b).sum(axis=1)
    return np.where(either, (a & b).sum(axis=1) / np.maximum(either, 1), 1.0)


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
    out["bf16 IoU"] = {
        "least": float(iou_of(masks[0], masks[2]).min()),
        "mean": float(iou_of(masks[0], masks[2]).mean()),
    }
    return out


def measure_everything(size: str, side: int) -> dict[str, Any]:
    """Return seconds and masks of everything in the picture, encoding apart: segment-anything's generator and ours."""
    from segment_anything import SamAutomaticMaskGenerator

    model, image = build_model(size), picture()
    ours, reference = segmenter(model), meta_model(model)
    generator = SamAutomaticMaskGenerator(reference, points_per_side=side, output_mode="coco_rle")
    start = time.perf_counter()
    generator.predictor.set_image(image.rgb)
    encode = time.perf_counter() - start
    start = time.perf_counter()
    theirs = generator.generate(image.rgb.copy())
    meta_seconds = time.perf_counter() - start - encode
    found = generate(ours, image, EverythingOptions(points_per_side=side))
    masks = np.zeros((len(theirs), *image.size_hw), np.bool_)
    for mask, record in zip(masks, theirs, strict=True):
        mask[:] = geometry.decode_rle(record["segmentation"])
    iou = np.pad(geometry.mask_iou(masks, found.masks), ((0, 1), (0, 1)))
    return {
        "points": side * side,
        "segment-anything": meta_seconds,
        "ours": found.seconds["search"],
        "masks": [len(theirs), len(found)],
        "least matched IoU": [float(iou.max(axis=axis)[:-1].min(initial=1.0)) for axis in (1, 0)],
    }


def measure_encode(size: str, repeats: int) -> dict[str, Any]:
    """Return seconds of encoding: segment-anything, transformers and ours; and the IoU of bfloat16's masks."""
    from segment_anything import SamPredictor

    model, image = build_model(size), picture()
    full, narrow = segmenter(model), segmenter(model, "bfloat16", "bfloat16")
    predictor = SamPredictor(meta_model(model))
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
    out["bf16 IoU"] = {"least": float(iou_of(a, b).min()), "mean": float(iou_of(a, b).mean())}
    return out


def measure_memory(size: str, side: int) -> dict[str, Any]:
    """Return the peak MiB of everything in processes of their own."""
    out = {}
    for who in ("segment-anything", "ours"):
        command = [sys.executable, __file__, "--size", size, "--points", str(side), "--child", who]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        out[who] = float(done.stdout.split()[-1])
    return {"peak MiB of everything": out}


def child(size: str, side: int, who: str) -> None:
    """Do everything once and write this process's peak memory in MiB."""
    model, image = build_model(size), picture()
    if who == "ours":
        generate(segmenter(model), image, EverythingOptions(points_per_side=side))
    else:
        from segment_anything import SamAutomaticMaskGenerator

        reference = meta_model(model)
        del model
        SamAutomaticMaskGenerator(reference, points_per_side=side, output_mode="coco_rle").generate(image.rgb.copy())
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f}\n")


def table(values: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| what | figures |", "|---|---|"]
    for part in values.values():
        for name, figure in part.items():
            text = json.dumps(figure) if not isinstance(figure, dict) else _row(figure)
            lines.append(f"| {name} | {text} |")
    return "\n".join(lines)


def _row(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="vit_b")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--points", type=int, default=32, help="of everything's grid, a side")
    parser.add_argument("--only", default="boxes,encode,everything,memory")
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
        "encode": lambda: measure_encode(given.size, max(1, given.repeats // 2)),
        "everything": lambda: measure_everything(given.size, given.points),
        "memory": lambda: measure_memory(given.size, given.points),
    }
    values = {}
    for name in given.only.split(","):
        values[name] = parts[name]()
        logger.info("%s: %s", name, json.dumps(values[name], indent=1))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"promptable_{given.size}.md"
    path.write_text(f"{machine_line()}\n\n{table(values)}\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps({"machine": machine_info(), **values}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
