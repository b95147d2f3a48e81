"""The mask refiner's crops, its kept rough masks, its loss and a tiny run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.fakes import BLUE_BOX, RED_BOX, fake_pipeline, scene
from textseg.geometry import box_iou
from textseg.models.nano_refiner import PLANES, Refined, RefinerConfig, RefinerNetwork, load_refiner, save_refiner
from textseg.train import refiner_roughs
from textseg.train.data import LabelledObject, Sample, mask_box
from textseg.train.refiner import RefinerTrainConfig, RefinerTrainer, refiner_loss
from textseg.train.refiner_data import CropBatch, CropConfig, Crops, CropStream, meant
from textseg.train.refiner_roughs import Rough
from textseg.train.sam_data import Sources
from textseg.train.sam_prompts import loose_box
from textseg.types import Bool

TINY = RefinerConfig(side=32, widths=(4, 6, 8, 8), blocks=1)


def box_mask(box: tuple[int, int, int, int]) -> Bool:
    mask = np.zeros((96, 128), np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def sample() -> Sample:
    """``fakes.scene()`` with its labels."""
    objects = []
    for color, box in (("red", RED_BOX), ("blue", BLUE_BOX)):
        mask = box_mask(box)
        objects.append(LabelledObject(f"{color} box", frozenset({f"{color} box"}), color, mask_box(mask), mask))
    return Sample(scene(), tuple(objects), frozenset(), "scene")


class Composer:
    """Composes one and the same scene."""

    def compose(self, rng: np.random.Generator) -> Sample:
        return sample()


def crops(**options: object) -> Crops:
    config = replace(CropConfig(batch=4, shares={"scene": 1.0}), **options)  # type: ignore[arg-type]
    sources = Sources([Composer(), Composer()], {}, {"scene": 1.0})  # type: ignore[list-item]
    return Crops(sources, config, TINY)


def test_a_crop_shows_the_thing_and_wants_its_mask() -> None:
    made = crops().crop(scene(), sample().objects[0], [], "scene", np.random.default_rng(0))
    assert made is not None
    planes, target, valid, shown = made
    assert shown
    assert planes.shape == (PLANES, 32, 32)
    assert target.shape == valid.shape == (16, 16)
    inside = planes[:3, ::2, ::2][:, target > 250]
    assert inside[0].mean() > inside[2].mean() + 1  # red
    assert 0.05 < (target > 127).mean() < 0.75


def test_tiny_crowded_and_maskless_things_are_left_out() -> None:
    thing, rng = sample().objects[0], np.random.default_rng(0)
    some = crops(least_side=60.0)
    assert some.crop(scene(), thing, [], "scene", rng) is None
    assert crops().crop(scene(), replace(thing, crowd=True), [], "scene", rng) is None
    assert crops().crop(scene(), replace(thing, mask=None), [], "scene", rng) is None


def test_batches_are_the_same_for_the_same_seed() -> None:
    first, second = (CropStream(crops(), 0).batch(np.random.default_rng(3)) for _ in range(2))
    torch.testing.assert_close(first.planes, second.planes)
    assert first.planes.shape == (4, PLANES, 32, 32)
    assert first.targets.dtype == torch.uint8
    assert first.valid.dtype == torch.bool


def test_what_a_pipeline_is_about_to_draw_again_is_kept_with_what_it_covers(tmp_path: Path) -> None:
    roughs = refiner_roughs.collect(fake_pipeline(), iter([("scene", 5, sample())]), np.random.default_rng(0))
    assert {(r.source, r.picture) for r in roughs} == {("scene", 5)}
    assert {r.label for r in roughs} == {0, 1}
    refiner_roughs.save(tmp_path / "roughs.pt", roughs)
    loaded = refiner_roughs.load(tmp_path / "roughs.pt")
    assert [r.label for r in loaded] == [r.label for r in roughs]
    np.testing.assert_allclose(loaded[0].logits, roughs[0].logits, atol=0.01)
    np.testing.assert_array_equal(loaded[0].box_xyxy, roughs[0].box_xyxy)


def test_a_pipeline_is_asked_for_things_by_their_colours_too() -> None:
    """Both squares are squares, but one is red: masks of "the red thing" are kept with that one alone."""
    red, other = sample().objects
    things = [replace(red, name="square", color="red"), replace(other, name="square", color=None)]
    asks = refiner_roughs.asks_of(things, np.random.default_rng(0))
    assert asks == [("square", None), ("square", "red")]
    assert [refiner_roughs.is_meant(thing, *asks[0]) for thing in things] == [True, True]
    assert [refiner_roughs.is_meant(thing, *asks[1]) for thing in things] == [True, False]


def test_masks_of_something_else_are_thinned_out(tmp_path: Path) -> None:
    nothing, box = np.zeros((4, 4), np.float16), np.zeros(4, np.float32)
    kept = [Rough("scene", number, -1 if number % 2 else 0, nothing, box) for number in range(40)]
    refiner_roughs.save(tmp_path / "roughs.pt", kept)
    loaded = refiner_roughs.load(tmp_path / "roughs.pt")
    assert sum(r.label == 0 for r in loaded) == 20
    assert sum(r.label < 0 for r in loaded) == 5
    assert len(refiner_roughs.load(tmp_path / "roughs.pt", wrong=0.5)) == 40


def of_a_pair(**kept: object) -> Crops:
    """Crops of one kept mask: of two boxes that are one thing, asked for by the red one's box."""
    both = box_mask(RED_BOX) | box_mask(BLUE_BOX)
    pair = LabelledObject("boxes", frozenset({"boxes"}), None, mask_box(both), both)
    maker = crops(real=1.0, near=(3.0, 3.1))
    one = Rough("scene", 0, 0, np.where(both, 4, -4).astype(np.float16), np.array(RED_BOX, np.float32))
    maker.roughs["scene"] = [replace(one, **kept)]  # type: ignore[arg-type]
    maker._numbered[0] = replace(sample(), objects=(pair,))
    return maker


def test_around_one_part_the_others_are_not_meant() -> None:
    made = of_a_pair().one(np.random.default_rng(0))
    assert made is not None
    planes, target, _, _ = made
    assert (target > 127).any()
    assert not (target[planes[4, ::2, ::2] == 0] > 250).any()  # nothing far from the box
    assert not planes[6].any()  # no map


def test_a_box_too_small_still_means_the_whole_piece() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 5:25] = 255
    mask[5:35, 40:50] = 255
    half = meant(mask, np.array([5, 5, 25, 18], np.float32))
    assert (half > 0).sum() == 30 * 20
    np.testing.assert_array_equal(meant(mask, np.array([55, 0, 60, 4], np.float32)), mask)


def test_the_map_of_the_phrase_is_shown_beside_the_mask() -> None:
    maker = of_a_pair(hint=np.full((8, 8), 4, np.float16))
    shown = [maker.one(np.random.default_rng(seed)) for seed in range(60)]
    told = [made[0][6].max() for made in shown if made is not None]
    assert set(told) == {0.0, 1.0}  # kept back now and then


def test_a_mask_of_something_else_teaches_that_nothing_is_right() -> None:
    made = of_a_pair(label=-1).one(np.random.default_rng(0))
    assert made is not None
    planes, target, valid, shown = made
    assert not shown
    assert not target.any()
    parts = (torch.from_numpy(part)[None] for part in (planes, target, valid > 0))
    batch = CropBatch(*parts, torch.tensor([shown]))
    loss = refiner_loss(Refined(torch.full((1, 16, 16), 8.0), torch.tensor([-6.0])), batch)
    assert loss.mask == 0
    assert loss.claim < 0.05


def test_boxes_of_a_weak_detector_are_off_but_never_elsewhere() -> None:
    box, rng = np.array([20, 10, 60, 40], np.float32), np.random.default_rng(0)
    drawn = np.stack([loose_box(box, (100, 80), rng) for _ in range(300)])
    overlaps = box_iou(drawn, box[None])[:, 0]
    assert overlaps.min() > 0.25
    assert (overlaps < 0.7).mean() > 0.15
    assert (overlaps > 0.9).mean() > 0.15


def test_a_right_mask_costs_little_and_a_right_claim_less() -> None:
    targets = torch.zeros(1, 16, 16, dtype=torch.uint8)
    targets[0, 4:10, 4:10] = 255
    everywhere, shown = torch.ones(1, 16, 16, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    batch = CropBatch(torch.zeros(1, PLANES, 32, 32), targets, everywhere, shown)
    right = torch.where(targets > 0, 8.0, -8.0)
    good = refiner_loss(Refined(right, torch.tensor([6.0])), batch)
    bad = refiner_loss(Refined(-right, torch.tensor([6.0])), batch)
    assert good.iou.item() == 1
    assert bad.iou.item() == 0
    assert good.mask < 0.05 < 1 < bad.mask
    assert good.claim < 0.05 < 1 < bad.claim


def test_a_run_goes_on_from_weights_for_smaller_crops(tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_refiner(tmp_path / "small", RefinerNetwork(TINY))
    larger = replace(TINY, side=48)
    config = RefinerTrainConfig(network=larger, start_from=str(tmp_path / "small"), export=str(tmp_path / "out"))
    trainer = RefinerTrainer(config, tmp_path)
    start = load_refiner(tmp_path / "small").state_dict()
    assert all(torch.equal(value, start[name]) for name, value in trainer.network.state_dict().items())
    trainer.save()
    assert load_refiner(tmp_path / "out").config == larger


def test_a_run_learns_resumes_and_exports(tmp_path: Path) -> None:
    config = RefinerTrainConfig(network=TINY, export=str(tmp_path / "out"), rate=1e-2, warmup=1, steps=60)
    stream, rng = CropStream(crops(batch=16, ellipse=1.0, loose=0.0), 0), np.random.default_rng(0)
    trainer = RefinerTrainer(config, tmp_path)
    losses = [float(trainer.train_step(stream.batch(rng)).mask.detach()) for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    trainer.save()
    again = RefinerTrainer(config, tmp_path)
    assert again.step == 30
    assert load_refiner(tmp_path / "out").config == TINY
    figures = again.validate([stream.batch(rng)])
    assert figures["iou"] > figures["rough"]
