"""The mask refiner's crops, its kept rough masks, its loss and a tiny run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fakes import BLUE_BOX, RED_BOX, fake_pipeline, scene
from textseg.errors import ConfigError
from textseg.models.nano_refiner import Refined, RefinerConfig, load_refiner
from textseg.train import refiner, refiner_roughs
from textseg.train.data import LabelledObject, Sample, mask_box
from textseg.train.refiner import RefinerTrainConfig, RefinerTrainer, read_config, refiner_loss
from textseg.train.refiner_data import CropBatch, CropConfig, Crops, CropStream
from textseg.train.refiner_roughs import Rough
from textseg.train.sam_data import Sources
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
    planes, target, valid = made
    assert planes.shape == (6, 32, 32)
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
    assert first.planes.shape == (4, 6, 32, 32)
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


def test_around_one_part_the_others_are_not_meant() -> None:
    both = box_mask(RED_BOX) | box_mask(BLUE_BOX)
    pair = LabelledObject("boxes", frozenset({"boxes"}), None, mask_box(both), both)
    maker = crops(real=1.0, near=(3.0, 3.1))
    maker.roughs = [Rough("scene", 0, 0, np.where(both, 4, -4).astype(np.float32), np.array(RED_BOX, np.float32))]
    maker._numbered[0] = replace(sample(), objects=(pair,))
    made = maker.one(np.random.default_rng(0))
    assert made is not None
    planes, target, _ = made
    assert (target > 127).any()
    assert not (target[planes[4, ::2, ::2] == 0] > 250).any()  # nothing far from the box


def test_a_right_mask_costs_little_and_a_right_claim_less() -> None:
    targets = torch.zeros(1, 16, 16, dtype=torch.uint8)
    targets[0, 4:10, 4:10] = 255
    batch = CropBatch(torch.zeros(1, 6, 32, 32), targets, torch.ones(1, 16, 16, dtype=torch.bool))
    right = torch.where(targets > 0, 8.0, -8.0)
    good = refiner_loss(Refined(right, torch.tensor([6.0])), batch)
    bad = refiner_loss(Refined(-right, torch.tensor([6.0])), batch)
    assert good.iou.item() == 1
    assert bad.iou.item() == 0
    assert good.mask < 0.05 < 1 < bad.mask
    assert good.claim < 0.05 < 1 < bad.claim


def test_a_run_learns_resumes_and_exports(tmp_path: Path) -> None:
    config = RefinerTrainConfig(network=TINY, export=str(tmp_path / "out"), rate=1e-2, warmup=1, steps=60)
    stream, rng = CropStream(crops(batch=16, ellipse=1.0), 0), np.random.default_rng(0)
    trainer = RefinerTrainer(config, tmp_path)
    losses = [float(trainer.train_step(stream.batch(rng)).mask.detach()) for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    trainer.save()
    again = RefinerTrainer(config, tmp_path)
    assert again.step == 30
    assert load_refiner(tmp_path / "out").config == TINY
    figures = again.validate([stream.batch(rng)])
    assert figures["iou"] > figures["rough"]


def test_unknown_keys_name_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "refiner.yaml"
    path.write_text("steps: 5\ncrops: {batches: 3}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"crops\.batches.*'batch'"):
        read_config(path)
    path.write_text("steps: 5\ncrops: {batch: 3, grow: [1, 2]}\nnetwork: {side: 64}\n", encoding="utf-8")
    config = read_config(path)
    assert (config.steps, config.crops.batch, config.crops.grow, config.network.side) == (5, 3, (1, 2), 64)


def test_the_shipped_config_is_read() -> None:
    path = Path(refiner.__file__).parents[2] / "configs" / "train" / "refiner.yaml"
    assert read_config(path).export == "textseg/weights/nano/refiner"
