"""Our small detector against a small OWL-ViT: same pictures, same text embeddings, same minutes.

    python benchmarks/detector_vs_owlvit.py --config configs/train/detector.yaml --minutes 10 --side 224

Both start from random weights, on the same stream of batches with one thread each, one after the
other. OWL-ViT (Minderer et al., ECCV 2022) is transformers' own class, with the set-matching loss
of its paper (Hungarian assignment; focal classification, L1 and GIoU boxes). It has no maps, so
only boxes and scores are compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss, sigmoid_focal_loss
from transformers import OwlViTConfig, OwlViTForObjectDetection

from textseg.config import read_yaml
from textseg.models.nano_detector import normalise
from textseg.models.nano_network import Answers
from textseg.train import loop
from textseg.train.detector import TrainConfig, Trainer
from textseg.train.detector_data import BatchStream, Sources
from textseg.train.detector_targets import Batch
from textseg.train.detector_text import TextBank, open_text_source
from textseg.train.detector_validation import Asker, Question, network_asker, questions, validate

KINDS = ("car", "right", "auroc_scene", "auroc_ccp")


def small_owlvit(side: int, text_dim: int) -> OwlViTForObjectDetection:
    """An OWL-ViT with a vision tower of width 192 and depth 6; the text tower is left out (embeddings are fed).

    transformers starts the heads of a fresh model with a standard deviation of 1, from which they do not
    learn; 0.02 is used here, so that the comparison is fair.
    """
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "image_size": side,
        "patch_size": 16,
    }
    text = {
        "hidden_size": text_dim,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = OwlViTForObjectDetection(OwlViTConfig(text_config=text, vision_config=vision, projection_dim=text_dim))
    for head in (model.class_head, model.box_head):
        for layer in head.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight, std=0.02)
    return model


def owlvit_outputs(model: OwlViTForObjectDetection, images: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (B, Q, T) and boxes (B, Q, 4), centre and size as shares of the picture."""
    grid, _ = model.image_embedder(images)  # (B, h, w, C)
    places = grid.flatten(1, 2)  # (B, Q, C)
    logits, _ = model.class_predictor(places, embeddings)
    return logits.float(), model.box_predictor(places, grid).float()


def owlvit_loss(logits: Tensor, boxes: Tensor, batch: Batch) -> Tensor:
    """Set matching: every thing takes the place that suits it best."""
    side = batch.images_rgb.shape[1]
    total, things = logits.sum() * 0.0, 0
    for b in range(len(logits)):
        meant = (batch.owner[b].flatten(1)[:, :, None] == torch.arange(batch.boxes_xyxy.shape[1])).any(1)  # (T, K)
        present = meant.any(0).nonzero().flatten()  # (M,)
        target = torch.zeros_like(logits[b])  # (Q, T)
        truth = batch.boxes_xyxy[b, present] / side
        if len(present):
            rows = _match(logits[b].detach(), boxes[b].detach(), meant[:, present].float(), truth)
            target[rows] = meant[:, present].float().T
            found = box_convert(boxes[b, rows], "cxcywh", "xyxy")
            total = total + 5.0 * functional.l1_loss(found, truth, reduction="sum") / 4
            total = total + 2.0 * generalized_box_iou_loss(found, truth, reduction="sum")
        known = (batch.presence[b] >= 0) & (batch.weight[b].flatten(1).float().mean(1) > 0.5)
        counts = torch.maximum(target, known.float().expand_as(target))
        total = total + 2.0 * (sigmoid_focal_loss(logits[b], target) * counts).sum()
        things += len(present)
    return total / max(1, things)


def _match(logits: Tensor, boxes: Tensor, meant: Tensor, truth_xyxy: Tensor) -> Tensor:
    """Return the place, (M,), that each of M things takes."""
    found = box_convert(boxes, "cxcywh", "xyxy")
    chance = logits.sigmoid() @ meant / meant.sum(0)  # (Q, M)
    cost = -2.0 * chance + 5.0 * torch.cdist(found, truth_xyxy, p=1) / 4 - 2.0 * generalized_box_iou(found, truth_xyxy)
    places, things = linear_sum_assignment(cost.numpy())
    return torch.from_numpy(places[np.argsort(things)])


def owlvit_asker(model: OwlViTForObjectDetection, bank: TextBank) -> Asker:
    """Its boxes and scores as `Answers`: one place per patch, quality and presence certain."""

    def ask(image_rgb: NDArray[np.uint8], texts: Sequence[str]) -> Answers:
        images = normalise(torch.from_numpy(image_rgb)[None])
        logits, boxes = owlvit_outputs(model, images, bank(texts)[None])
        side = round(boxes.shape[1] ** 0.5)
        places = (box_convert(boxes[0], "cxcywh", "xyxy") * image_rgb.shape[0]).T.reshape(1, 1, 4, side, side)
        grid = logits[0].T.reshape(1, len(texts), side, side)
        sure = torch.full_like(grid, 30.0)
        maps = functional.interpolate(grid, scale_factor=2.0, mode="nearest")
        return Answers(maps, places.expand(-1, len(texts), -1, -1, -1), sure, sure[..., 0, 0])

    return ask


def train_owlvit(config: TrainConfig, stream: BatchStream, side: int, minutes: float) -> tuple[Asker, int, float]:
    """Train for so many minutes; return what to ask, the pictures seen and millions of trained parameters."""
    torch.set_num_threads(config.threads)
    loop.seed_everything(config.seed)
    bank = TextBank(open_text_source(config.clip))
    model = small_owlvit(side, config.network.text_dim)
    trained = [p for n, p in model.named_parameters() if "text_" not in n]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=config.decay, fused=True)
    average = loop.Ema(model, config.ema)

    def step(batch: Batch, share: float, number: int) -> None:
        loop.set_rate(optimizer, 5e-4 * min(1.0, (number + 1) / 200) * (0.5 + 0.5 * float(np.cos(np.pi * share))))
        embeddings = torch.stack([bank(texts) for texts in batch.texts])
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits, boxes = owlvit_outputs(model, normalise(batch.images_rgb), embeddings)
        loss = owlvit_loss(logits, boxes, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(model)

    seen = timed(config, stream, minutes, step)
    average.copy_to(model)
    return owlvit_asker(model.eval(), bank), seen, sum(p.numel() for p in trained) / 1e6


def train_ours(config: TrainConfig, stream: BatchStream, minutes: float) -> tuple[Asker, int, float]:
    """The same for our network, from random weights."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(replace(config, minutes=minutes), folder, open_text_source(config.clip), warm_trunk=False)

        def step(batch: Batch, share: float, number: int) -> None:
            trainer.spent = share * minutes * 60
            trainer.train_step(batch)

        seen = timed(config, stream, minutes, step)
        trainer.ema.copy_to(trainer.network)
        asker = network_asker(trainer.network.eval(), trainer.bank)
    return asker, seen, sum(p.numel() for p in trainer.network.parameters()) / 1e6


def timed(config: TrainConfig, stream: BatchStream, minutes: float, step: Callable[[Batch, float, int], None]) -> int:
    """Feed batches to `step` for so many minutes after the first has come; return the pictures seen."""
    batches = loop.start_workers(stream, min(1, config.workers))
    batch = next(batches)
    start = time.monotonic()
    for number in itertools.count():
        share = (time.monotonic() - start) / (60 * minutes)
        if share >= 1:
            return number * config.data.batch_size
        step(batch, share, number)
        batch = next(batches)
    raise AssertionError("unreachable")


def report(rows: dict[str, dict[str, float]], out: str | None) -> None:
    """Print the table; write it as JSON where asked."""
    table = Table("model", "M params", "pictures", *KINDS)
    for name, row in rows.items():
        figures = (f"{row[k]:.3f}" for k in KINDS)
        table.add_row(name, f"{row['parameters_m']:.2f}", f"{row['pictures']:.0f}", *figures)
    Console().print(table)
    if out:
        Path(out).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/train/detector.yaml")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--side", type=int, default=224, help="pictures' side for both, a multiple of 32")
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = read_yaml(options.config, TrainConfig)
    config = replace(config, data=replace(config.data, stages=((0.0, options.side),)))
    sources = Sources(config.data_root, config.data)
    asked: list[Question] = questions(config.data_root, options.side, config.validate_pictures)
    asked = [q for q in asked if q.kind in KINDS]
    rows: dict[str, dict[str, float]] = {}
    for name in ("ours", "owlvit"):
        stream = BatchStream(sources, config.data, config.seed)
        if name == "ours":
            asker, seen, parameters = train_ours(config, stream, options.minutes)
        else:
            asker, seen, parameters = train_owlvit(config, stream, options.side, options.minutes)
        rows[name] = {"parameters_m": parameters, "pictures": seen, **validate(asker, asked)}
    report(rows, options.out)


if __name__ == "__main__":
    main()
