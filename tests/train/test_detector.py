"""The detector's targets, losses and a tiny run, on literal pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from textseg.models.clip_load import WEIGHTS_FILE
from textseg.models.nano_network import Answers, NanoNetwork, NetworkConfig
from textseg.train.data import LabelledObject, Sample, mask_box
from textseg.train.detector import TrainConfig, Trainer
from textseg.train.detector_data import side_at
from textseg.train.detector_loss import LossConfig, detector_loss
from textseg.train.detector_names import NameTargets
from textseg.train.detector_targets import (
    Batch,
    ViewConfig,
    collate,
    letterbox,
    phrase_maps,
    random_view,
    split_pairs,
)
from textseg.train.detector_text import TextBank, hashed_text
from textseg.train.detector_validation import Question, auroc, box_iou, network_asker, validate
from textseg.train.phrases import PhraseTarget

TINY = NetworkConfig(width=16, fine_width=8, embed_dim=8, context_width=16, context_layers=1, context_heads=2)


def thing(name: str, mask: NDArray[np.bool_] | None, box: tuple[float, ...] | None = None) -> LabelledObject:
    box_xyxy = np.array(box, np.float32) if box is not None else mask_box(np.asarray(mask))
    return LabelledObject(name, frozenset({name}), None, box_xyxy, mask)


def square(size: int, y0: int, x0: int, y1: int, x1: int) -> NDArray[np.bool_]:
    mask = np.zeros((size, size), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def sample() -> Sample:
    image = np.zeros((64, 64, 3), np.uint8)
    image[8:40, 8:40] = (255, 0, 0)
    objects = (thing("cube", square(64, 8, 8, 40, 40)), thing("car", None, (40, 40, 64, 64)))
    return Sample(image, objects, frozenset({"cube", "ball"}), "scene")


def batch_of(sample: Sample, *phrases: PhraseTarget, count: int = 4) -> Batch:
    return collate([phrase_maps(letterbox(sample, 64), phrases)], count)


def test_a_masked_thing_is_drawn_where_it_is(sample: Sample) -> None:
    maps = phrase_maps(letterbox(sample, 64), [PhraseTarget("a cube", (0,), (), True)])
    assert maps.target.shape == (1, 16, 16) and maps.owner.shape == (1, 8, 8)
    assert maps.target[0, 2:10, 2:10].min() == 255 and maps.target.sum() == 64 * 255
    assert (maps.owner[0, 1:5, 1:5] == 0).all() and (maps.owner >= 0).sum() == 16
    assert maps.weight.all() and maps.presence.tolist() == [1]


def test_a_boxed_thing_counts_in_its_core_and_nowhere_in_the_rest_of_its_box(sample: Sample) -> None:
    maps = phrase_maps(letterbox(sample, 64), [PhraseTarget("a car", (1,), (), False)])
    assert maps.target[0, 13, 13] == 255 and maps.target[0, 10, 10] == 0
    assert maps.weight[0, 10, 10] == 0, "the corner of the box may or may not be car"
    assert maps.weight[0, 5, 5] == 1, "the cube is no car"
    assert maps.weight[0, 15, 0] == 0, "nobody knows about the ground"


def test_ignored_things_have_no_weight_and_presence_is_open(sample: Sample) -> None:
    maps = phrase_maps(
        letterbox(sample, 64), [PhraseTarget("a box", (), (0,), True), PhraseTarget("a ball", (), (), True)]
    )
    assert maps.weight[0, 5, 5] == 0 and maps.weight[0, 0, 15] == 1
    assert maps.presence.tolist() == [-1, 0]


def test_a_view_moves_masks_and_boxes_together(sample: Sample) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        view = random_view(sample, 64, rng, ViewConfig())
        assert view.image_rgb.shape == (64, 64, 3)
        for found in view.objects:
            if found.mask is not None:
                np.testing.assert_array_equal(found.box_xyxy, mask_box(found.mask))
                red = view.image_rgb[found.mask].astype(int)
                assert red[:, 0].mean() > red[:, 1].mean() + 50


def test_a_pair_of_shoes_is_two_things() -> None:
    mask = square(32, 2, 2, 12, 8) | square(32, 2, 20, 12, 26)
    mask[30, 30] = True
    left, right = sorted(split_pairs(thing("shoes", mask)), key=lambda o: float(o.box_xyxy[0]))
    assert left.box_xyxy.tolist() == [2, 2, 8, 12] and right.box_xyxy.tolist() == [20, 2, 26, 12]
    assert left.mask is not None and right.mask is not None
    assert (left.mask | right.mask).sum() == mask.sum(), "the speck is kept, in no box"


def perfect(batch: Batch) -> Answers:
    maps = (batch.target.float() / 255 - 0.5) * 40
    boxes = torch.zeros(*batch.owner.shape[:2], 4, *batch.owner.shape[2:])
    boxes += batch.boxes_xyxy[0, 0][None, None, :, None, None]
    quality = torch.full(batch.owner.shape, 20.0)
    return Answers(maps, boxes, quality, (batch.presence.float() - 0.5) * 40)


def test_the_truth_costs_nothing_and_its_opposite_much(sample: Sample) -> None:
    batch = batch_of(sample, PhraseTarget("a cube", (0,), (), True), PhraseTarget("a ball", (), (), True))
    answers = perfect(batch)
    assert float(detector_loss(answers, batch, LossConfig()).total) < 0.01
    wrong = answers._replace(maps=-answers.maps, presence=-answers.presence)
    assert float(detector_loss(wrong, batch, LossConfig()).total) > 10


def test_a_batch_without_any_known_thing_has_a_finite_loss(sample: Sample) -> None:
    batch = batch_of(Sample(sample.image_rgb, (), frozenset(), "scene"))
    network = NanoNetwork(TINY)
    features = network(torch.zeros(1, 3, 64, 64))
    losses = detector_loss(network.answer(features, network.text(torch.randn(1, 4, 256))), batch, LossConfig())
    assert torch.isfinite(losses.total)
    losses.total.backward()


def test_a_few_steps_lower_the_loss_and_a_run_resumes(sample: Sample, tmp_path: Path) -> None:
    config = TrainConfig(
        clip=str(tmp_path), export=str(tmp_path / "weights"), minutes=0, steps=100, warmup=1, network=TINY, rate=3e-3
    )
    trainer = Trainer(config, tmp_path, hashed_text())
    batch = batch_of(sample, PhraseTarget("a cube", (0,), (), True), PhraseTarget("a ball", (), (), True), count=2)
    losses = [float(trainer.train_step(Batch(*[_twice(v) for v in batch])).total.detach()) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]
    trainer.save()
    trainer.export()
    resumed = Trainer(config, tmp_path, hashed_text())
    assert resumed.step == 12 and resumed.progress == pytest.approx(0.12)
    for name, value in resumed.network.state_dict().items():
        torch.testing.assert_close(value, trainer.network.state_dict()[name])
    assert (tmp_path / "weights" / "model.safetensors").is_file()
    anew = Trainer(replace(config, start_from=config.export), tmp_path / "anew", hashed_text())
    assert anew.step == 0
    with trainer.ema.applied(trainer.network):
        for name, value in trainer.network.state_dict().items():
            if value.is_floating_point():  # batch norm's counters are not exported
                torch.testing.assert_close(anew.network.state_dict()[name], value, atol=2e-3, rtol=2e-3)


def test_a_run_may_take_its_trunk_from_elsewhere(tmp_path: Path) -> None:
    config = TrainConfig(clip=str(tmp_path), export=str(tmp_path / "weights"), minutes=0, steps=10, network=TINY)
    first = Trainer(config, tmp_path / "first", hashed_text(), warm_trunk=False)
    first.export()
    plain = first.network.backbone.state_dict()
    trunk = {f"visual.trunk.{name}": torch.zeros(value.shape) for name, value in plain.items()}
    (tmp_path / "a clip").mkdir()
    save_file(trunk, tmp_path / "a clip" / WEIGHTS_FILE)
    taken = replace(config, start_from=config.export, trunk=str(tmp_path / "a clip"))
    both = Trainer(taken, tmp_path / "both", hashed_text())
    assert all(not parameter.any() for parameter in both.network.backbone.parameters())
    torch.testing.assert_close(both.network.pixel_head.weight, first.network.pixel_head.weight, atol=2e-3, rtol=2e-3)


def test_a_run_goes_on_with_another_trunk_and_what_is_frozen_stays(sample: Sample, tmp_path: Path) -> None:
    config = TrainConfig(clip=str(tmp_path), export=str(tmp_path / "weights"), minutes=0, steps=10, network=TINY)
    first = Trainer(config, tmp_path / "first", hashed_text(), warm_trunk=False)
    first.export()
    other = replace(TINY, backbone="mobilenetv3_small_050")
    anew = replace(config, start_from=config.export, network=other, frozen=("conv_stem", "blocks.0."))
    second = Trainer(anew, tmp_path / "second", hashed_text())
    torch.testing.assert_close(second.network.pixel_head.weight, first.network.pixel_head.weight, atol=2e-3, rtol=2e-3)
    frozen = {name for name, p in second.network.backbone.named_parameters() if not p.requires_grad}
    assert "conv_stem.weight" in frozen and any(name.startswith("blocks.0.") for name in frozen)
    assert not any(name.startswith("blocks.1.") for name in frozen)
    before = {name: value.clone() for name, value in second.network.backbone.state_dict().items()}
    batch = batch_of(sample, PhraseTarget("a cube", (0,), (), True), PhraseTarget("a ball", (), (), True), count=2)
    second.train_step(Batch(*[_twice(v) for v in batch]))
    for name, parameter in second.network.backbone.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in frozen), name


def test_what_a_run_passes_by_is_no_matter_to_what_it_exports(tmp_path: Path) -> None:
    network = replace(TINY, backbone="mobilenetv3_small_050")
    config = TrainConfig(clip=str(tmp_path), export=str(tmp_path / "weights"), minutes=0, steps=10, network=network)
    plain = Trainer(config, tmp_path / "plain", hashed_text(), warm_trunk=False)
    dropping = Trainer(replace(config, drop_path=0.5), tmp_path / "dropping", hashed_text(), warm_trunk=False)
    dropping.network.load_state_dict(plain.network.state_dict())
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole, again = plain.network.eval()(pixels).pixels, dropping.network.eval()(pixels).pixels
        torch.testing.assert_close(whole, again)
        learning = [dropping.network.train()(pixels).pixels for _ in range(2)]
    assert not torch.allclose(*learning), "blocks are passed by at random"


def test_a_caltech_thing_without_a_mask_owns_no_box() -> None:
    box = np.array([0, 0, 64, 64], np.float32)
    thing = LabelledObject("chair", frozenset({"chair"}), None, box, None)
    view = Sample(np.zeros((64, 64, 3), np.uint8), (thing,), frozenset(), "caltech")
    maps = phrase_maps(view, [PhraseTarget("a chair", (0,), (), False)])
    assert (maps.owner == -1).all()
    assert maps.presence.tolist() == [1]
    assert maps.target[0, 8, 8] > 0 and maps.target[0, 0, 0] == 0
    assert maps.weight[0, 0, 0] == 0, "what is at the edge is not known"


def test_a_run_follows_another_text_tower(sample: Sample, tmp_path: Path) -> None:
    config = TrainConfig(clip=str(tmp_path), export=str(tmp_path), minutes=0, steps=100, warmup=1, network=TINY)
    source, turn = hashed_text(), np.linalg.qr(np.random.default_rng(0).standard_normal((256, 256)))[0]
    trainer = Trainer(config, tmp_path, source)
    trainer.bank(texts := [f"{a} {b}" for a in "abcdefgh" for b in "stuvwxyz"])
    before = trainer.network.text.flat(trainer.bank(texts)).detach()
    trainer.save()
    resumed = Trainer(config, tmp_path, lambda asked: (source(asked) @ turn).astype(np.float32))
    after = resumed.network.text.flat(resumed.bank(texts)).detach()
    assert float((after - before).square().mean() / before.var()) < 0.1
    averaged = resumed.ema.shadow["text.hidden.weight"]
    assert not torch.equal(averaged, trainer.ema.shadow["text.hidden.weight"])


def _twice(value: object) -> object:
    if isinstance(value, NameTargets):
        return NameTargets(*(torch.cat([field, field]) for field in value))
    if isinstance(value, torch.Tensor):
        return torch.cat([value, value])
    return None if value is None else (*value, *value)  # type: ignore[misc]


def test_validation_gives_shares(sample: Sample) -> None:
    bank = TextBank(hashed_text())
    view = letterbox(sample, 64)
    cube, ball = PhraseTarget("cube", (0,), (), True), PhraseTarget("ball", (), (), True)
    asked = [
        Question("scene", view, (cube,)),
        Question("auroc_scene", view, (cube, ball)),
        Question("right", view, (cube,)),
        Question("car", view, (PhraseTarget("car", (1,), (), False),)),
    ]
    figures = validate(network_asker(NanoNetwork(TINY).eval(), bank), asked)
    assert set(figures) == {"scene", "auroc_scene", "right", "car"}
    assert all(0 <= v <= 1 for v in figures.values())


def test_auroc_and_iou_by_hand() -> None:
    assert auroc([(0.9, True), (0.5, False), (0.5, True), (0.1, False)]) == 0.875
    assert np.isnan(auroc([(0.9, True)]))
    assert box_iou(np.array([0, 0, 2, 2], np.float32), np.array([1, 0, 3, 2], np.float32)) == pytest.approx(1 / 3)


def test_sides_follow_the_share_done() -> None:
    stages = ((0.0, 192), (0.5, 224), (0.8, 288))
    assert [side_at(stages, p) for p in (0.0, 0.49, 0.5, 0.79, 1.0)] == [192, 192, 224, 224, 288]


def test_texts_are_embedded_once() -> None:
    asked: list[str] = []

    def source(texts: object) -> NDArray[np.float32]:
        asked.extend(texts)  # type: ignore[call-overload]
        return hashed_text(8)(texts)  # type: ignore[arg-type]

    bank = TextBank(source)
    first, again = bank(["a", "b", "a"]), bank(["b", "a"])
    assert asked == ["a", "b"]
    torch.testing.assert_close(first[:2], again.flip(0))
