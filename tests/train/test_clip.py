"""Nano CLIP's vocabulary, targets, loss and a run of a few steps on pictures drawn here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from textseg.colors import name_color
from textseg.crops import MEAN_RGB
from textseg.errors import ConfigError
from textseg.geometry import mask_iou
from textseg.train.clip import ClipTrainConfig, _groups, _stored, _Trainer, noun_loss, pair_loss
from textseg.train.clip_data import (
    Crop,
    _cover,
    _painted,
    _warp,
    crop_targets,
    crop_window,
    cut_crop,
    rough_mask,
)
from textseg.train.clip_model import ClipModelConfig, build_nano_clip, encode_short_text, export
from textseg.train.data import LabelledObject
from textseg.train.loop import Ema, cosine_rate, load_checkpoint, save_checkpoint
from textseg.train.noun_table import BACKGROUND, NounTable
from textseg.train.vocab import NanoTokenizer, build_tokenizer

TEXTS = ["the red car", "a photo of a dog", "the blue ball", "a green apple"] * 4
SMALL = ClipModelConfig(
    image_tower="regnetx_002", image_size=32, embed_dim=16, text_width=32, text_heads=2, text_layers=1
)


@pytest.fixture(scope="module")
def tokenizer() -> NanoTokenizer:
    return NanoTokenizer(build_tokenizer(TEXTS, vocab_size=400))


@pytest.fixture(scope="module")
def model(tokenizer: NanoTokenizer) -> open_clip.CLIP:
    torch.manual_seed(0)
    return build_nano_clip(SMALL.open_clip(tokenizer.vocab_size, 16)).eval()


def test_the_end_mark_is_the_highest_id(tokenizer: NanoTokenizer) -> None:
    ids = tokenizer(["the red car", "自動車", "", "x" * 500])
    assert ids.shape == (4, 16) and ids.dtype == torch.int64
    assert (ids.max(dim=1).values == tokenizer.vocab_size - 1).all()
    assert (ids[:, 0] == tokenizer.vocab_size - 2).all()
    assert ids[3, -1] == tokenizer.vocab_size - 1, "a long text keeps its end mark"
    assert (ids[2, 2:] == 0).all()


def test_case_is_no_matter_and_marks_are_text(tokenizer: NanoTokenizer) -> None:
    lower, upper, mark = tokenizer(["the red car", " The RED Car ", "<end> car"])
    assert torch.equal(lower, upper)
    assert int((mark == tokenizer.vocab_size - 1).sum()) == 1


def test_no_texts_and_other_lengths(tokenizer: NanoTokenizer) -> None:
    assert tokenizer([]).shape == (0, 16)
    with pytest.raises(ValueError, match="this vocabulary has 16"):
        tokenizer("car", context_length=77)


def test_the_vocabulary_survives_saving(tokenizer: NanoTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    assert torch.equal(NanoTokenizer.load(tmp_path / "tokenizer.json")(TEXTS), tokenizer(TEXTS))
    with pytest.raises(FileNotFoundError):
        NanoTokenizer.load(tmp_path / "none.json")


def test_short_texts_encode_as_open_clip_does(model: open_clip.CLIP, tokenizer: NanoTokenizer) -> None:
    ids = tokenizer(TEXTS)
    with torch.no_grad():
        whole = model.encode_text(ids, normalize=True)
        short = encode_short_text(model, ids)
    torch.testing.assert_close(short, whole, atol=1e-5, rtol=1e-4)


def test_targets_know_what_nobody_knows() -> None:
    table = NounTable(["car", "animal", "dog", "boots", "shoes"], frozenset())
    pixels = np.zeros((4, 4, 3), np.uint8)
    red = Crop(pixels, frozenset({"car"}), "car", "red")
    plain = Crop(pixels, frozenset({"car"}), "car", None)
    boots = Crop(pixels, frozenset({"boots"}), "boots", "black")
    nothing = Crop(pixels, frozenset(), BACKGROUND, None)
    asked = [("car", None), ("car", "red"), ("car", "blue"), ("animal", None), ("shoes", None), (BACKGROUND, None)]
    targets, weights = crop_targets(table, [red, plain, boots, nothing], asked)
    assert targets.tolist() == [[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 1]]
    assert weights.tolist() == [[1, 1, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1], [1, 1, 1, 0, 0, 1], [1] * 6]


def test_cut_outs_answer_to_broad_words_for_certain() -> None:
    names = frozenset({"car"})
    table = NounTable(["animal"], frozenset({names}))
    assert table.row(names)[0] == 0 and table.row(frozenset({"dog"}))[0] == -1


@pytest.mark.parametrize("box", [(10, 10, 30, 20), (-5, -5, 4, 4), (39, 0, 40, 40), (100, 100, 120, 120)])
def test_crops_are_square_and_filled(box: tuple[int, int, int, int]) -> None:
    picture = np.full((40, 40, 3), 200, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:30] = True
    crop = cut_crop(picture, np.array(box, np.float32), mask, 16)
    assert crop.shape == (16, 16, 3) and crop.dtype == np.uint8
    assert crop[0, 0].tolist() in ([200] * 3, list(MEAN_RGB))


def test_only_the_mask_is_left() -> None:
    picture = np.full((40, 40, 3), 200, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:20] = True
    crop = cut_crop(picture, np.array([0, 0, 40, 40], np.float32), mask, 40, grow=1.0)
    assert (crop[10:20, 10:20] == 200).all()
    assert crop.reshape(-1, 3).tolist().count(list(MEAN_RGB)) == 1500


def test_rough_masks_lie_where_the_true_one_does() -> None:
    mask = np.zeros((60, 60), bool)
    mask[15:45, 15:45] = True
    window = crop_window(np.array([15, 15, 45, 45], np.float32), 1.4, (0.0, 0.0))
    np.testing.assert_allclose(window, [9, 9, 42])
    rng = np.random.default_rng(0)
    drawn = np.stack([rough_mask(mask, window, 42, rng) for _ in range(60)])
    overlaps = mask_iou(drawn, mask[None, 9:51, 9:51])[:, 0]
    assert 0.6 < overlaps.mean() < 0.95
    assert drawn.any(axis=(1, 2)).all()


def test_the_loss_is_siglips_on_a_unit_matrix() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    expected = -functional.logsigmoid(torch.tensor([2.0, 1.0, -0.5, 3.0])).sum() / 2
    torch.testing.assert_close(pair_loss(logits, torch.eye(2), torch.ones(2, 2), 0.0), expected)


def test_unknown_pairs_cost_nothing() -> None:
    logits = torch.tensor([[2.0, 50.0], [0.5, 3.0]], requires_grad=True)
    weights = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    pair_loss(logits, torch.eye(2), weights, 1.0).backward()
    assert logits.grad is not None and logits.grad[0, 1] == 0 and logits.grad[0, 0] != 0


def test_a_few_steps_learn(model: open_clip.CLIP, tokenizer: NanoTokenizer) -> None:
    torch.manual_seed(1)
    learner = build_nano_clip(SMALL.open_clip(tokenizer.vocab_size, 16))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    colors = torch.eye(3).repeat_interleave(2, dim=0)[:, :, None, None].expand(6, 3, 32, 32).contiguous()
    ids = tokenizer(["red", "green", "blue"])
    targets = torch.eye(3).repeat_interleave(2, dim=0)
    losses = []
    for _ in range(12):
        pictures = functional.normalize(learner.encode_image(colors), dim=-1)
        logits = learner.logit_scale.exp() * pictures @ encode_short_text(learner, ids).T + learner.logit_bias
        loss = pair_loss(logits, targets, torch.ones_like(targets), 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1


def test_a_package_loads_into_open_clip(model: open_clip.CLIP, tokenizer: NanoTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    config = SMALL.open_clip(tokenizer.vocab_size, 16)
    folder = export(model.state_dict(), config, tmp_path / "tokenizer.json", tmp_path / "package")
    assert {p.name for p in folder.iterdir()} == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer.json",
    }
    read = json.loads((folder / "open_clip_config.json").read_text())
    again = open_clip.CLIP(**read["model_cfg"]).eval()
    weights = load_file(folder / "open_clip_model.safetensors")
    assert weights["token_embedding.weight"].dtype == torch.float16
    again.load_state_dict(weights)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(pixels), model.encode_image(pixels), atol=2e-2, rtol=2e-2)


def test_the_average_follows_and_checkpoints_come_back(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    ema = Ema(layer, decay=0.5)
    before = ema.shadow["weight"].clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
    ema.update(layer)
    moved = ema.shadow["weight"] - before
    assert ((moved > 0.4) & (moved < 1.0)).all()
    own = layer.weight.detach().clone()
    with ema.applied(layer):
        assert torch.equal(layer.weight, ema.shadow["weight"])
    assert torch.equal(layer.weight, own)
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", {"ema": ema.state_dict(), "step": 3})
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["step"] == 3 and torch.equal(state["ema"]["shadow"]["weight"], ema.shadow["weight"])
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoint.pt"]


def test_the_rate_warms_up_and_ends_at_the_floor() -> None:
    rates = [cosine_rate(s, 100, peak=1.0, warmup=10, floor=0.1) for s in range(120)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1) and max(rates) == 1.0


def test_a_masked_crop_survives_an_empty_mask() -> None:
    picture = np.full((8, 8, 3), 9, np.uint8)
    crop = cut_crop(picture, np.array([0, 0, 8, 8], np.float32), np.zeros((8, 8), bool), 8)
    assert (crop == cv2.merge([np.full((8, 8), v, np.uint8) for v in MEAN_RGB])).all()


def test_every_noun_of_a_crop_is_asked_by_itself() -> None:
    known = torch.tensor([[1, 1, 0, -1], [0, 0, 0, 0]], dtype=torch.int8)
    logits = torch.tensor([[4.0, 0.0, 1.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    want = (np.log1p(np.exp(1 - 4)) + np.log1p(np.exp(1 - 0))) / 2  # the unknown noun and the row without one stay out
    assert float(noun_loss(logits, known)) == pytest.approx(want, rel=1e-5)


def test_nouns_need_a_frozen_text_tower(tokenizer: NanoTokenizer, tmp_path: Path) -> None:
    trainer = _Trainer(
        ClipTrainConfig(noun_weight=1.0), build_nano_clip(SMALL.open_clip(tokenizer.vocab_size, 16)), tmp_path
    )
    with pytest.raises(ConfigError, match="freeze_text"):
        trainer.learn_nouns(tokenizer, ["car"])


def test_a_run_may_start_from_a_checkpoint_or_an_exported_model(
    model: open_clip.CLIP, tokenizer: NanoTokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    config = SMALL.open_clip(tokenizer.vocab_size, 16)
    folder = export(model.state_dict(), config, tmp_path / "tokenizer.json", tmp_path / "package")
    save_checkpoint(tmp_path / "checkpoint.pt", {"ema": {"shadow": model.state_dict()}})
    for start in (folder, tmp_path / "checkpoint.pt"):
        for name, value in _stored(start).items():
            torch.testing.assert_close(value.float(), model.state_dict()[name].float(), atol=1e-2, rtol=1e-2)


def test_the_trunk_learns_at_a_rate_of_its_own(model: open_clip.CLIP) -> None:
    groups = _groups(model, ClipTrainConfig(trunk_rate=0.5))
    rates = {id(p): group.get("rate_scale", 1.0) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(list(model.parameters()))
    assert {rates[id(p)] for p in model.visual.trunk.parameters()} == {0.5}
    assert rates[id(model.visual.head.proj.weight)] == 1.0 and rates[id(model.logit_scale)] == 5.0


def test_warped_and_covered_crops_keep_their_size_and_their_fill() -> None:
    image = np.full((48, 48, 3), MEAN_RGB, np.uint8)
    image[12:36, 12:36] = (200, 30, 30)
    rng = np.random.default_rng(0)
    kept, left = [], []
    for _ in range(30):
        warped, covered = _warp(image, rng), _cover(image, rng)
        assert warped.shape == covered.shape == image.shape and warped.dtype == covered.dtype == np.uint8
        assert warped[0, 0].tolist() == list(MEAN_RGB), "what comes in from outside is no thing"
        kept.append((warped[..., 0] > 160).sum() / 24**2)
        left.append((covered[..., 0] > 160).sum() / 24**2)
    assert 0.7 < np.mean(kept) < 1.4, "about as large as before"
    assert 0.4 < np.mean(left) < 0.98 and min(left) < 0.8
    assert (image[12:36, 12:36] == (200, 30, 30)).all(), "the crop itself stays as it was"


def test_a_painted_car_has_the_colour_that_it_is_said_to_have() -> None:
    picture = np.full((60, 60, 3), (128, 129, 131), np.uint8)
    mask = np.zeros((60, 60), bool)
    mask[15:45, 10:50] = True
    car = LabelledObject("car", frozenset({"car"}), "gray", np.array([10, 15, 50, 45], np.float32), mask)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        image, thing = _painted(picture, car, rng)
        assert name_color(image[mask]) == thing.color
        assert (image[~mask] == picture[~mask]).all() and thing.name == "car"
        seen.add(thing.color)
    assert len(seen) > 8
    for other in (replace(car, mask=None), replace(car, name="license plate")):
        image, thing = _painted(picture, other, rng)
        assert image is picture and thing is other
