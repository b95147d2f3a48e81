"""Training nano SAM, on a tiny model and made-up pictures: prompts, loss, steps, checkpoints, export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EdgeTamModel, Sam2ImageProcessor

from textseg.errors import ConfigError
from textseg.models.edgetam_encode import encode
from textseg.models.text_prompt import TextPrompt
from textseg.train import sam_prompts as sp
from textseg.train.data import LabelledObject, Sample, mask_box
from textseg.train.loop import load_checkpoint, save_checkpoint
from textseg.train.sam import SamTrainConfig, SamTrainer, with_masks
from textseg.train.sam_data import Batch, Draw, PromptMaker, collate
from textseg.train.sam_loss import far_weights, mask_losses, pixel_weights, sam_loss, true_iou
from textseg.train.sam_model import PromptTensors, SamShape, build_sam, decode_prompts, normalise
from textseg.train.sam_val import ValObject, ValPicture, full_iou, validate
from textseg.train.sam_window import Window, WindowConfig

SHAPE = SamShape(image_size=128, trunk="mobilenetv3_small_050", decoder_width=32, decoder_mlp=32, decoder_layers=1)
WINDOW = WindowConfig(side=64, frame=128, stride=4, prompts=3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class FakeClip:
    """Embeddings without a model: every phrase a fixed random direction."""

    def texts(self, phrases: list[str]) -> torch.Tensor:
        rows = [torch.randn(16, generator=torch.Generator().manual_seed(len(text))) for text in phrases]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    def __call__(self, phrases: list[str], crops: list[object]) -> torch.Tensor:
        return self.texts(phrases)

    def center(self) -> torch.Tensor:
        return torch.full((16,), 0.1)


def config(**changes: object) -> SamTrainConfig:
    return SamTrainConfig(model=SHAPE, clip_dim=16, minutes=1.0, batch=2, **changes)  # type: ignore[arg-type]


def sample() -> Sample:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    objects = []
    for name, place in (("car", np.s_[10:40, 10:40]), ("dog", np.s_[20:50, 50:75])):
        mask = np.zeros((60, 80), bool)
        mask[place] = True
        objects.append(LabelledObject(name, frozenset({name}), None, mask_box(mask), mask))
    return Sample(image, tuple(objects), frozenset({"car", "dog", "cat"}), "coco")


def batch(text: bool = True, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    windows, draws, maker = [], [], PromptMaker(text=text)
    while len(windows) < 2:
        window = Window(sample(), WINDOW, rng)
        some = maker.draw(window, rng)
        if some:
            windows.append(window)
            draws.append(some)
    return collate(windows, draws, WINDOW, (2, 3))


def box_prompts(*boxes: tuple[float, ...]) -> PromptTensors:
    n, none = len(boxes), torch.zeros(0, dtype=torch.int64)
    return PromptTensors(
        torch.zeros(n, dtype=torch.int64), torch.tensor(boxes), torch.zeros(n, 1, 2),
        torch.full((n, 1), -1), none, torch.zeros(0, 32, 32), none,
    )  # fmt: skip


def test_every_kind_of_prompt_holds_what_its_name_says() -> None:
    rng = np.random.default_rng(2)
    window = Window(sample(), WindowConfig(side=128, frame=128, stride=4, scale=(1.0, 1.0)), rng)
    maker = PromptMaker(text=True)
    for kind in sp.KINDS:
        draw = maker.one(window, 0, kind, rng)
        assert draw is not None
        assert np.isnan(draw.box).all() == ("box" not in kind)
        assert (len(draw.points) > 0) == ("point" in kind)
        assert draw.rough is not None or "mask" not in kind
        assert draw.rough is None or "mask" in kind or "box" in kind
        assert (draw.text is not None) == ("text" in kind or kind == "absent")
        assert bool(draw.target.any()) == (kind != "absent")


def test_without_clip_no_prompt_has_text() -> None:
    assert batch(text=False).texts == []
    assert not any("text" in kind for kind in batch(text=False).kinds)


def test_a_box_keeps_within_a_tenth_and_the_picture() -> None:
    rng = np.random.default_rng(2)
    box = np.array([0, 10, 20, 50], np.float32)
    for _ in range(50):
        moved = sp.jitter_box(box, (64.0, 52.0), rng, tight=0.0)
        assert (np.abs(moved - box) <= np.array([2, 4, 2, 4]) + 1e-4).all()
        assert moved.min() >= 0
        assert moved[3] <= 52


def test_the_centre_point_lies_deepest() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:7, 3:8] = True
    assert sp.center_point(mask).tolist() == [5, 4]


def test_rough_masks_follow_the_object_and_stay_in_the_box() -> None:
    target = np.zeros((64, 64), np.uint8)
    target[16:48, 16:48] = 255
    box = np.array([16, 16, 48, 48], np.float32)
    rng = np.random.default_rng(3)
    ious = []
    for _ in range(40):
        rough = sp.simulate_rough(sp.RoughContext(target, None, box), rng)
        assert rough.dtype == np.float32
        assert np.abs(rough).max() <= 8
        ious.append(float(((rough > 0) & (target > 0)).sum() / ((rough > 0) | (target > 0)).sum()))
    assert 0.4 < np.mean(ious) < 0.98
    assert np.std(ious) > 0.03


def test_components_come_largest_first() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[1:4, 1:4] = 255
    mask[8:16, 8:16] = 255
    mask[18, 18] = 255  # a speck: left out
    assert [int(part.sum()) // 255 for part in sp.components(mask)] == [64, 9]


@pytest.mark.parametrize("seed", range(6))
def test_masked_crops_are_square_and_small(seed: int) -> None:
    mask = np.zeros((60, 80), bool)
    mask[50:60, 60:80] = True
    crop = sp.masked_crop(np.full((60, 80, 3), 9, np.uint8), mask, np.random.default_rng(seed), side=24)
    assert crop is not None
    assert abs(crop.shape[0] - crop.shape[1]) <= 1
    assert max(crop.shape) <= 24


def test_windows_move_masks_with_the_picture() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:45, 30:70] = True
    image[mask] = 255
    thing = LabelledObject("car", frozenset({"car"}), None, mask_box(mask), mask)
    for seed in range(5):
        window = Window(Sample(image, (thing,), frozenset(), "scene"), WINDOW, np.random.default_rng(seed))
        width, height = window.size_wh
        bright = window.image_rgb[:height, :width, 0] > window.image_rgb[:height, :width, 0].mean()
        same = bright == (window.mask(0)[:height, :width] > 127)
        assert same.mean() > 0.9 or bright.all() or not bright.any()
        assert window.valid().sum() == -(-width // 4) * -(-height // 4)


def test_a_focused_window_holds_one_thing_whole_and_large() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[100:130, 200:224] = True
    thing = LabelledObject("cup", frozenset({"cup"}), None, mask_box(mask), mask)
    seen = Sample(image, (thing,), frozenset(), "coco")
    for seed in range(20):
        window = Window(seen, replace(WINDOW, side=128, focus=1.0), np.random.default_rng(seed))
        box = sp.tight_box(window.mask(0) > 127)
        assert box is not None
        longest = float((box[2:] - box[:2]).max()) / 128
        assert 0.25 < longest < 0.8
        whole = 30 * 24 * (window.size_wh[0] / window.crop_wh[0]) * (window.size_wh[1] / window.crop_wh[1])
        assert int((window.mask(0) > 127).sum()) > 0.85 * whole


def test_collate_shifts_prompts_to_the_frame() -> None:
    window = Window(sample(), WINDOW, np.random.default_rng(0))
    draw = Draw("box", np.zeros((16, 16), np.uint8), np.zeros((16, 16), bool), box=np.array([1, 2, 3, 4], np.float32))
    assert collate([window], [[draw]], WINDOW, (2, 3)).boxes.tolist() == [[49, 34, 51, 36]]


def test_position_codes_have_unit_scale_and_are_shared() -> None:
    model = build_sam(SHAPE)
    code = model.shared_image_embedding.positional_embedding
    assert 0.5 < float(code.std()) < 1.5
    assert model.prompt_encoder.shared_embedding.positional_embedding is code


def test_a_trunk_of_other_strides_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 4, 8, 16 and 32"):
        build_sam(replace(SHAPE, trunk="vit_tiny_patch16_224"))


def test_windows_stretch_pictures_to_the_frame() -> None:
    config = WindowConfig(side=128, frame=128, stride=4, scale=(1.0, 1.0))
    shapes = [Window(sample(), config, np.random.default_rng(seed)).size_wh for seed in range(20)]
    assert all(height == 128 for _, height in shapes)
    assert 100 <= min(width for width, _ in shapes) < max(width for width, _ in shapes) == 128


def test_training_forward_equals_transformers() -> None:
    torch.manual_seed(0)
    model = build_sam(SHAPE).eval()
    pixels = torch.randn(1, 3, 128, 128)
    boxes = ((4.0, 4.0, 60.0, 60.0), (10.0, 40.0, 120.0, 100.0))
    with torch.no_grad():
        logits, claimed = decode_prompts(model, encode(model, pixels), box_prompts(*boxes))
        want = model(pixel_values=pixels, input_boxes=torch.tensor([boxes]), multimask_output=True)
        single = model(pixel_values=pixels, input_boxes=torch.tensor([boxes]), multimask_output=False)
    torch.testing.assert_close(logits[:, 1:], want.pred_masks[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(claimed[:, 1:], want.iou_scores[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(logits[:, :1], single.pred_masks[0], atol=1e-4, rtol=1e-3)


def test_mixed_prompts_give_what_each_gives_alone() -> None:
    torch.manual_seed(0)
    trainer = SamTrainer(config(), FakeClip())  # type: ignore[arg-type]
    given = batch()
    prompts = trainer.prompts(given)
    with torch.no_grad():
        features = encode(trainer.model.sam, normalise(given.image))
        together, _ = decode_prompts(trainer.model.sam, features, prompts, given.offset_yx)
        for row in range(len(together)):
            alone = with_mask_of(prompts, row)
            one, _ = decode_prompts(trainer.model.sam, features, alone, given.offset_yx)
            torch.testing.assert_close(one[0], together[row], atol=1e-4, rtol=1e-3)


def with_mask_of(prompts: PromptTensors, row: int) -> PromptTensors:
    """The prompt at `row` by itself."""
    masked, named = prompts.mask_rows == row, prompts.text_rows == row
    tokens = prompts.text_tokens
    pick, zero = slice(row, row + 1), torch.zeros(1, dtype=torch.int64)
    return PromptTensors(
        prompts.image_index[pick], prompts.boxes[pick], prompts.points[pick], prompts.labels[pick],
        zero[: int(masked.sum())], prompts.mask_logits[masked], zero[: int(named.sum())],
        tokens[named] if tokens is not None and bool(named.any()) else None,
    )  # fmt: skip


def test_true_iou_counts_only_valid_pixels() -> None:
    logits = torch.tensor([[[[1.0, 1.0], [-1.0, -1.0]]]])
    targets = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    assert true_iou(logits, targets, valid).item() == pytest.approx(1 / 3)
    valid[0, 0, 1] = False
    assert true_iou(logits, targets, valid).item() == pytest.approx(1 / 2)
    assert true_iou(-logits.abs(), torch.zeros(1, 2, 2), valid).item() == 0


def test_a_perfect_mask_costs_nothing_and_the_boundary_counts_most() -> None:
    targets = torch.zeros(1, 16, 16)
    targets[0, 4:10, 4:10] = 1
    inside = torch.ones(1, 16, 16)
    weights = pixel_weights(targets, inside, torch.tensor([0.15]))
    assert weights[0, 7, 7] == 1
    assert weights[0, 4, 7] == 3
    assert weights[0, 15, 15] == pytest.approx(0.15)
    right = (targets * 40 - 20)[:, None]
    assert mask_losses(right, targets, inside, weights).item() < 1e-3
    assert mask_losses(-right, targets, inside, weights).item() > 1


def test_only_the_best_of_three_decides() -> None:
    targets = torch.zeros(1, 8, 8)
    targets[0, :4] = 1
    right, wrong = targets * 40 - 20, 20 - targets * 40
    valid, far = torch.ones(1, 8, 8, dtype=torch.bool), torch.tensor([1.0])
    logits = torch.stack([right, wrong, right, wrong], dim=1)
    loss = sam_loss(logits, torch.tensor([[1.0, 0.0, 1.0, 0.0]]), targets, valid, far)
    worse = sam_loss(torch.stack([right, wrong, wrong, wrong], dim=1), torch.zeros(1, 4), targets, valid, far)
    assert loss.true_iou.tolist() == [[1, 0, 1, 0]]
    assert loss.iou.item() < 1e-6
    assert loss.mask.item() < 0.2 * worse.mask.item()


def test_steps_lower_the_loss_and_reach_every_weight() -> None:
    torch.manual_seed(0)
    trainer = SamTrainer(config(refine_every=2, warmup_steps=1, rate=3e-3), FakeClip())  # type: ignore[arg-type]
    given = batch()
    losses = [float(trainer.train_step(given).total.detach()) for _ in range(12)]
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    assert trainer.model.text.hidden.weight.grad is not None
    assert float(trainer.model.text.hidden.weight.grad.abs().sum()) > 0


def test_asking_again_keeps_each_prompts_text() -> None:
    trainer = SamTrainer(config(), FakeClip())  # type: ignore[arg-type]
    prompts = trainer.prompts(batch())
    n = len(prompts.boxes)
    rows = torch.arange(n - 1, -1, -1)
    logits, valid = torch.randn(n, 4, 16, 16), torch.ones(n, 16, 16, dtype=torch.bool)
    again = with_masks(prompts, rows, logits, torch.rand(n, 4), valid)
    assert sorted((n - 1 - again.text_rows).tolist()) == sorted(prompts.text_rows.tolist())
    assert again.mask_logits.shape == (n, 16, 16)


def test_a_checkpoint_goes_on_exactly(tmp_path: Path) -> None:
    one = SamTrainer(config(), None)
    one.train_step(batch(text=False))
    save_checkpoint(tmp_path / "c.pt", one.state())
    two = SamTrainer(config(), None)
    two.restore(load_checkpoint(tmp_path / "c.pt"))
    losses = [float(t.train_step(batch(text=False, seed=5)).total.detach()) for t in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert two.step == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_exports_load_without_a_special_case(tmp_path: Path) -> None:
    trainer = SamTrainer(config(), FakeClip())  # type: ignore[arg-type]
    trainer.center_text()
    trainer.export(tmp_path)
    loaded = EdgeTamModel.from_pretrained(tmp_path / "sam").eval()
    assert loaded.dtype == torch.float32
    code = loaded.prompt_encoder.shared_embedding.positional_embedding
    torch.testing.assert_close(code, loaded.shared_image_embedding.positional_embedding)
    pixels = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        got = loaded.get_image_embeddings(pixels)
        want = encode(trainer.model.sam, pixels)
    for one, two in zip(got[::-1], want, strict=True):
        torch.testing.assert_close(one, two, atol=0.05, rtol=0.05)
    processor = Sam2ImageProcessor.from_pretrained(tmp_path / "sam")
    assert dict(processor.size) == {"height": 128, "width": 128}
    assert float(TextPrompt.load(tmp_path / "text_prompt").center[0]) == pytest.approx(0.1, abs=1e-3)
    assert not list(tmp_path.glob(".*partial"))
    again = SamTrainer(replace(config(), start_from=str(tmp_path)), FakeClip())  # type: ignore[arg-type]
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, atol=2e-3, rtol=2e-3)


def test_validation_scores_every_kind() -> None:
    thing = sample().objects[0]
    assert thing.mask is not None
    things = (ValObject(thing.mask, "car", thing.mask),)
    picture = ValPicture(sample().image_rgb, things, "coco", ("box", "rough", "point", "text"))
    trainer = SamTrainer(config(), FakeClip())  # type: ignore[arg-type]
    scores = trainer.validate([picture])
    assert {
        "coco/box",
        "coco/rough",
        "coco/point",
        "coco/text",
        "coco/single",
        "claim_error/box",
    } <= set(scores)
    assert all(0 <= value <= 1 for value in scores.values())
    assert "coco/text" not in validate(trainer.model.sam, SHAPE, [picture], None)


def test_full_iou_undoes_the_stretching() -> None:
    logits = np.full((32, 32), -5, np.float32)
    logits[:, 16:] = 5
    mask = np.zeros((30, 60), bool)
    mask[:, 30:] = True
    assert full_iou(logits, mask) > 0.97


def test_doubt_about_a_phrase_is_balanced() -> None:
    targets = torch.zeros(3, 10, 10)
    targets[:2, 0] = 1
    far = far_weights(targets, torch.tensor([True, False, True]))
    assert far.tolist() == pytest.approx([0.2 / 0.9, 0.15, 0.3])


def test_no_mask_learns_to_be_always_empty() -> None:
    logits = torch.zeros(1, 4, 8, 8, requires_grad=True)
    valid, far = torch.ones(1, 8, 8, dtype=torch.bool), torch.tensor([0.3])
    sam_loss(logits, torch.zeros(1, 4), torch.zeros(1, 8, 8), valid, far).mask.backward()
    assert logits.grad is not None
    assert (logits.grad[0, 1:].sum(dim=(1, 2)) > 0).all()
    torch.testing.assert_close(logits.grad[0, 1], logits.grad[0, 3])


def test_windows_follow_the_share_done() -> None:
    read = SamTrainConfig(windows=((0.5, 32, 0.5, 1.5), (1.0, 64, 0.5, 2.0)))
    assert [read.window_configs()[read.stage(share)].side for share in (0.0, 0.49, 0.5, 1.0)] == [32, 32, 64, 64]
