"""Close-ups for SAM's training: what they show, where their boxes lie, and steps on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.test_refiner import Composer, sample
from tests.train.test_sam import SHAPE, config
from textseg import image as images
from textseg.models.close_sam import CloseSam, dim
from textseg.prior import box_prior, box_rough
from textseg.train.data import LabelledObject, Sample
from textseg.train.loop import seed_everything
from textseg.train.sam import SamTrainer
from textseg.train.sam_closeups import Closeups, CloseupShare, Made, WithCloseups
from textseg.train.sam_data import PromptMaker, SamBatches, Sources
from textseg.train.sam_model import build_sam, start_small
from textseg.train.sam_val import ValObject, ValPicture
from textseg.train.sam_window import FILL_RGB, WindowConfig
from textseg.train.things import Drawn, Things, one_piece
from textseg.types import Bool

SHARE = CloseupShare(share=1.0, batch=4, shares={"scene": 1.0}, tight=1.0, rough=0.0, no_box=0.0)
FRAME = SHAPE.image_size
SMALL = replace(SHAPE, image_size=64, stages=3)


def sources() -> Sources:
    return Sources([Composer(), Composer()], {}, {"scene": 1.0})  # type: ignore[list-item]


def one(index: int = 0, share: CloseupShare = SHARE, seed: int = 0) -> Made:
    drawn = Drawn(sample().image_rgb, sample().objects[index], [])
    made = Closeups(sources(), share, FRAME).one(drawn, "scene", 64, np.random.default_rng(seed))
    assert made is not None
    return made


@pytest.mark.parametrize("turned", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_close_up_shows_the_thing_in_its_box(seed: int, turned: float) -> None:
    image, target, valid, box, rough = one(seed=seed, share=replace(SHARE, turned=turned, tinted=turned))
    assert image.shape == (64, 64, 3)
    assert target.shape == valid.shape == (16, 16)
    longest = float((box[2:] - box[:2]).max())
    assert 64 / 1.65 < longest < 64 / 1.2
    rows, columns = np.nonzero(target > 127)
    tight = 4 * np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(tight - box).max() <= 4  # a pixel of the answer
    beside = (image == FILL_RGB).all(axis=2)
    assert abs(float(beside.mean()) - float((valid == 0).mean())) < 0.08
    assert rough.shape == (16, 16)


def test_loose_boxes_are_off_by_a_tenth_at_most() -> None:
    exact, loose = one(seed=1), one(seed=1, share=replace(SHARE, tight=0.0))
    assert not np.allclose(exact.box_xyxy, loose.box_xyxy)


def test_rough_masks_come_with_a_box_or_without() -> None:
    ellipse, both, alone = (one(share=replace(SHARE, **share)) for share in ({}, {"rough": 1.0}, {"no_box": 1.0}))
    assert np.isnan(alone.box_xyxy).all()
    assert not np.isnan(both.box_xyxy).any()
    np.testing.assert_allclose(ellipse.rough, box_prior(ellipse.box_xyxy[None], (64, 64), (16, 16))[0], atol=1e-4)
    shown = np.repeat(np.repeat(both.valid > 0, 4, axis=0), 4, axis=1)
    darker = dim(alone.image_rgb, both.box_xyxy)  # the box shows in the picture, too, and no box does not
    assert np.abs(both.image_rgb.astype(int) - darker)[shown].max() <= 1
    for made in (both, alone):
        assert made.rough[made.target > 250].mean() > made.rough[made.target == 0].mean() + 1


def test_what_cannot_be_asked_for_is_left_out() -> None:
    closeups, rng = Closeups(sources(), SHARE, FRAME), np.random.default_rng(0)
    thing = sample().objects[0]
    for other in (replace(thing, crowd=True), replace(thing, mask=None)):
        assert closeups.one(Drawn(sample().image_rgb, other, []), "scene", 64, rng) is None
    small = Closeups(sources(), replace(SHARE, least_side=100.0), FRAME)
    assert small.one(Drawn(sample().image_rgb, thing, []), "scene", 64, rng) is None


def test_a_batch_lies_in_the_middle_of_the_frame() -> None:
    batch = Closeups(sources(), SHARE, FRAME).batch(64, np.random.default_rng(0))
    assert batch.offset_yx == (2, 2)  # 4 of 8 tokens
    assert batch.image.shape == (4, 64, 64, 3)
    assert batch.mask_logits.shape == batch.targets.shape == batch.ignore.shape == (4, 16, 16)
    middle = (batch.boxes[:, :2] + batch.boxes[:, 2:]) / 2
    assert (middle - FRAME / 2).abs().max() < 8
    assert batch.kinds == ["box"] * 4
    assert ((batch.mask_logits > 0) & (batch.targets > 127)).sum() > 20  # the ellipse lies on the thing


def test_a_step_on_close_ups_and_one_on_windows() -> None:
    seed_everything(0)
    trainer = SamTrainer(config(refine_every=1), None)
    windows = SamBatches(sources(), PromptMaker(text=False), [WindowConfig(64, FRAME, 4, prompts=2)] * 2, 2, 0)
    stream = iter(WithCloseups(windows, Closeups(sources(), replace(SHARE, share=0.5, sides=(32, 64)), FRAME)))
    sides = set()
    for stage in (0, 1) * 4:
        windows.stage[0] = stage
        batch = next(stream)
        sides.add((stage, len(batch.image), int(batch.image.shape[1])))
        assert torch.isfinite(trainer.train_step(batch).total)
    assert sides == {(0, 4, 32), (1, 4, 64), (0, 2, 64), (1, 2, 64)}


def test_a_small_model_starts_from_a_larger_ones_weights() -> None:
    large, small = build_sam(SHAPE), build_sam(SMALL)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters())
    assert start_small(small, large) >= len(small.state_dict()) - 1  # all but what the frame's size says
    stages = large.vision_encoder.backbone.timm_model, small.vision_encoder.backbone.timm_model
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, after = (trunk.eval()(picture) for trunk in stages)
    for one_level, other in zip(before, after, strict=False):
        torch.testing.assert_close(one_level, other)
    # a pixel 10 right of the middle has the same code in both frames
    middle = [(torch.tensor([[[10.0, 0.0]]]) + shape.image_size / 2) / shape.image_size for shape in (SHAPE, SMALL)]
    codes = [model.shared_image_embedding(at) for model, at in zip((large, small), middle, strict=True)]
    torch.testing.assert_close(codes[0], codes[1])


def test_a_run_of_close_ups_alone_exports_a_sam_for_them(tmp_path: Path) -> None:
    seed_everything(0)
    SamTrainer(config(), None).export(tmp_path)
    run = config(closeups=SHARE, sam_folder="close_sam", start_from=str(tmp_path))
    trainer = SamTrainer(replace(run, model=SMALL), None)
    trainer.train_step(Closeups(sources(), SHARE, SMALL.image_size).batch(64, np.random.default_rng(0)))
    thing = sample().objects[0]
    assert thing.mask is not None
    picture = ValPicture(sample().image_rgb, (ValObject(thing.mask, "box", thing.mask),), "coco", ("box",))
    scores = trainer.validate([picture])
    assert list(scores) == ["coco/closeup"]
    trainer.export(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["close_sam", "sam", "text_prompt"]
    drawn = CloseSam.load(tmp_path / "close_sam").refine(
        images.read(sample().image_rgb), [box_rough(thing.box_xyxy)], thing.box_xyxy[None]
    )
    assert drawn.logits.shape == (1, 16, 16)
    again = SamTrainer(replace(run, model=SMALL, start_from=str(tmp_path / "close_sam")), None)
    for name, value in again.model.sam.named_parameters():
        torch.testing.assert_close(value.data, trainer.ema.shadow[f"sam.{name}"].half().float(), msg=name)


def test_scenes_are_composed_anew_after_some_uses() -> None:
    class Counts(Composer):
        made = 0

        def compose(self, rng: np.random.Generator) -> Sample:
            Counts.made += 1
            return super().compose(rng)

    things = Things(Sources([Counts(), Counts()], {}, {"scene": 1.0}), scenes=2, uses=3)  # type: ignore[list-item]
    rng = np.random.default_rng(0)
    for _ in range(12):
        drawn = things.of("scene", rng)
        assert drawn is not None
        assert drawn.thing.mask is not None
    assert 4 <= Counts.made <= 6


def test_a_garment_in_two_pieces_is_often_one_of_them() -> None:
    mask: Bool = np.zeros((40, 40), np.bool_)
    mask[5:15, 5:15] = mask[25:35, 25:35] = True
    shoes = LabelledObject("shoes", frozenset({"shoes"}), None, np.array([5, 5, 35, 35], np.float32), mask)
    rng = np.random.default_rng(0)
    found = [one_piece(shoes, "ccp", 1.0, rng) for _ in range(20)]
    assert {round(float(box[2] - box[0])) for _, box in filter(None, found)} == {10, 30}
    assert all(one_piece(shoes, "coco", 1.0, rng)[1][2] == 35 for _ in range(5))  # type: ignore[index]
