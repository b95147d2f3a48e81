"""Which masks are drawn again, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.fakes import RED_BOX, fake_pipeline, scene
from textseg import closeup
from textseg.closeup import Rough
from textseg.errors import ConfigError
from textseg.prompt import user_prompts
from textseg.redraw import Both, RedrawConfig, redraw
from textseg.types import Bool, Candidates, Closeups, Float, Frame, Image, Proposals

NOTHING = Rough.whole(np.zeros((8, 8), np.float32), (40, 40))


class Stamp:
    """A refiner that draws a square in the middle of its window and is sure of it."""

    model_id = "stamp"

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.hints: Float | None = None

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        self.asked.append(len(roughs))
        self.hints = hints
        near = np.full((len(roughs), 8, 8), -8, np.float32)
        near[:, 2:6, 2:6] = 8
        windows = closeup.windows_around(np.nan_to_num(boxes_xyxy, nan=4.0), 2.0, 4.0)
        return Closeups(windows, near, np.full(len(roughs), 0.7, np.float32))


def given(phrases: list[int], scores: list[float], source: str = "detector") -> tuple[Proposals, Candidates]:
    n = len(phrases)
    boxes = np.tile(np.array([10, 10, 30, 30], np.float32), (n, 1))
    proposals = Proposals(boxes, np.array(scores, np.float32), np.array(phrases), (source,) * n)
    claimed = np.tile(np.array([0.2, 0.9], np.float32), (n, 1))
    logits = np.full((n, 2, 40, 40), -8.0, np.float32)
    for i in range(n):
        logits[i, :, 4 * i : 4 * i + 4] = 8.0  # a stripe of its own
        logits[i, 0, :, 20:] = -8.0
    return proposals, Candidates(logits, claimed, Frame((40, 40), (40, 40), (40, 40)))


def drawn(proposals: Proposals, candidates: Candidates, config: RedrawConfig, likely: Bool | None = None) -> Candidates:
    prompts = user_prompts(np.arange(len(proposals)), boxes_xyxy=proposals.boxes_xyxy)
    image = fake_pipeline().open(scene((40, 40), {})).image
    return redraw(Stamp(), image, proposals, prompts, candidates, config, likely)


def chosen(candidates: Candidates) -> list[bool]:
    """Return for each prompt whether a mask of it was drawn again."""
    return (candidates.closeup_index >= 0).any(axis=1).tolist()


class Wide(Stamp):
    """Fills its whole window, twice as wide as the other's, and is less sure."""

    roughs: Sequence[Rough]

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        self.asked.append(len(roughs))
        self.roughs = roughs
        windows = closeup.windows_around(boxes_xyxy, 4.0, 4.0)
        return Closeups(windows, np.full((len(roughs), 4, 4), 4, np.float32), np.full(len(roughs), 0.5, np.float32))


def test_the_second_refiner_starts_from_what_the_first_drew() -> None:
    image = fake_pipeline().open(scene((40, 40), {})).image
    second = Wide()
    boxes = np.array([[10, 10, 30, 30]], np.float32)  # a stamp is half of a window twice as wide: the box itself
    Both(Stamp(), second).refine(image, [NOTHING], boxes)
    np.testing.assert_allclose(closeup.extent(second.roughs[0]), boxes[0])
    none = Both(Stamp(), second).refine(image, [], np.zeros((0, 4), np.float32))
    assert len(none) == 0


def test_two_refiners_give_the_mean_of_their_drawings() -> None:
    image = fake_pipeline().open(scene((40, 40), {})).image
    boxes = np.array([[10, 10, 30, 30], [4, 4, 12, 12]], np.float32)
    rough = [NOTHING] * 2
    one, both = Stamp().refine(image, rough, boxes), Both(Stamp(), Wide()).refine(image, rough, boxes)
    np.testing.assert_array_equal(both.windows, one.windows)
    np.testing.assert_allclose(both.logits, (one.logits + 4) / 2)
    np.testing.assert_allclose(both.predicted_iou, 0.6)


def test_the_callers_box_may_be_drawn_by_both_refiners() -> None:
    mine, phrases = Stamp(), Stamp()
    pipeline = fake_pipeline(refiner=phrases, own_refiner=mine)
    config = replace(pipeline.config, redraw=RedrawConfig(own_both=True))
    pipeline.with_config(config).open(scene()).segment(box=RED_BOX)
    assert mine.asked == phrases.asked == [1]
    pipeline.with_config(config)(scene(), "the red box")
    assert mine.asked == [1]


def test_the_callers_box_has_a_refiner_of_its_own() -> None:
    mine, phrases = Stamp(), Stamp()
    pipeline = fake_pipeline(refiner=phrases, own_refiner=mine)
    pipeline(scene(), "the red box")
    pipeline.open(scene()).segment(points=(RED_BOX[0] + 5, RED_BOX[1] + 5))  # says not how far the thing reaches
    assert phrases.asked
    assert not mine.asked
    phrases.asked.clear()
    pipeline.open(scene()).segment("the red box", box=RED_BOX)
    assert mine.asked
    assert not phrases.asked
    mine.asked.clear()
    pipeline.with_parts(own_refiner=None).open(scene()).segment(box=RED_BOX)
    assert phrases.asked
    assert not mine.asked


def test_the_best_mask_is_drawn_again_and_the_others_give_way_to_it() -> None:
    after = drawn(*given([0], [0.9]), RedrawConfig())
    assert after.predicted_iou[0].tolist() == pytest.approx([0.2, 0.9])  # the segmenter's claims stay
    assert after.closeups.predicted_iou.tolist() == pytest.approx([0.7])
    np.testing.assert_array_equal(after.logits[0, 0], after.logits[0, 1])
    ys, xs = np.nonzero(after.logits[0, 1] > 0)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (10, 10, 29, 29)
    assert after.closeup_index.tolist() == [[0, 0]]


def test_each_phrases_best_come_first_within_the_budgets() -> None:
    proposals, candidates = given([0, 0, 0, 1], [0.9, 0.8, 0.7, 0.1])
    after = drawn(proposals, candidates, RedrawConfig(per_phrase=2, total=2))
    assert chosen(after) == [True, False, False, True]
    after = drawn(proposals, candidates, RedrawConfig(per_phrase=2, total=9))
    assert chosen(after) == [True, True, False, True]


def test_two_boxes_of_the_callers_are_drawn_each_however_alike_the_segmenter_masks_them() -> None:
    image = fake_pipeline().open(scene((40, 40), {})).image
    proposals, candidates = given([0, 0, 0], [1, 1, 1], "user")
    masks = np.repeat(candidates.logits[:1, :1], 3, axis=0)
    alike = replace(candidates, logits=masks, predicted_iou=candidates.predicted_iou[:, :1])
    boxes = np.array([[10, 10, 12, 12], [10, 10, 12, 12], [12, 10, 14, 12]], np.float32)
    prompts = user_prompts(np.arange(3), boxes_xyxy=boxes, multimask=False)
    after = redraw(Stamp(), image, proposals, prompts, alike, RedrawConfig(own_ellipses=True))
    assert after.closeup_index.tolist() == [[0], [0], [1]]  # the same box twice is one
    assert after.closeups.windows[:, 0].tolist() == [9, 11]


def test_a_small_box_of_a_large_picture_is_drawn_from_its_own_ellipse() -> None:
    class Kept(Stamp):
        def refine(
            self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None
        ) -> Closeups:
            self.roughs = roughs
            return super().refine(image, roughs, boxes_xyxy, hints)

    rgb = scene((600, 800), {})
    refiner = Kept()
    box = (700, 500, 708, 505)
    result = fake_pipeline(refiner=refiner).with_config(
        replace(fake_pipeline().config, redraw=RedrawConfig(own_ellipses=True))
    )
    answer = result.open(rgb).segment(box=box)
    np.testing.assert_allclose(closeup.extent(refiner.roughs[0]), box, atol=0.4)
    assert len(answer) == 1  # a mask of a few pixels is none of the segmenter's, which are 12 pixels wide
    assert answer.masks.sum() == pytest.approx(64, abs=20)


def test_the_callers_own_prompts_are_always_drawn_again() -> None:
    after = drawn(*given([0, 0], [1, 1], "user"), RedrawConfig(per_phrase=0, total=0))
    assert after.closeup_index.tolist() == [[0, 1], [2, 3]]  # a click may mean a thing or a part of it


def test_nothing_to_draw_leaves_the_candidates_as_they_are() -> None:
    proposals, candidates = given([], [])
    assert drawn(proposals, candidates, RedrawConfig()) is candidates


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_without_a_box_another_look_is_taken_around_what_was_drawn(looks: int) -> None:
    class Shrink(Stamp):
        """Looks at the whole mask that it is given, and draws a thing of half its size."""

        def refine(
            self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None
        ) -> Closeups:
            shown = np.stack([closeup.extent(rough) for rough in roughs])
            closeups = super().refine(image, roughs, np.where(np.isnan(boxes_xyxy), shown, boxes_xyxy), hints)
            near = np.full_like(closeups.logits, -8)
            near[:, 3:5, 3:5] = 8
            return Closeups(closeups.windows, near, closeups.predicted_iou)

    proposals, candidates = given([0, 1], [0.9, 0.8])
    boxes = proposals.boxes_xyxy.copy()
    boxes[1] = np.nan
    refiner, image = Shrink(), fake_pipeline().open(scene((40, 40), {})).image
    prompts = user_prompts(np.arange(2), boxes_xyxy=boxes)
    after = redraw(refiner, image, proposals, prompts, candidates, RedrawConfig(unboxed_looks=looks))
    assert refiner.asked == [2, *[1] * (looks - 1)]  # the one with a box is looked at once
    first = redraw(Shrink(), image, proposals, prompts, candidates, RedrawConfig())
    np.testing.assert_array_equal(after.closeups.windows[0], first.closeups.windows[0])
    halved = first.closeups.windows[1, 2] / 2 ** (looks - 1)  # from look to look around what was drawn
    assert after.closeups.windows[1, 2] == pytest.approx(halved, rel=0.2)


def test_where_nothing_was_drawn_there_is_nothing_to_look_at_again() -> None:
    class Blank(Stamp):
        def refine(
            self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None
        ) -> Closeups:
            closeups = super().refine(image, roughs, boxes_xyxy, hints)
            return Closeups(closeups.windows, np.full_like(closeups.logits, -8), closeups.predicted_iou)

    proposals, candidates = given([0], [0.9])
    prompts = user_prompts(np.arange(1), boxes_xyxy=np.full((1, 4), np.nan, np.float32))
    refiner, image = Blank(), fake_pipeline().open(scene((40, 40), {})).image
    redraw(refiner, image, proposals, prompts, candidates, RedrawConfig(unboxed_looks=3))
    assert refiner.asked == [1]


@pytest.mark.parametrize(("setting", "least"), [({"per_phrase": -1}, 0), ({"total": -2}, 0), ({"unboxed_looks": 0}, 1)])
def test_a_budget_too_small_is_refused(setting: dict[str, int], least: int) -> None:
    with pytest.raises(ConfigError, match=f"expected {least} or more"):
        RedrawConfig(**setting)


def test_specks_are_taken_away_and_pinholes_filled() -> None:
    class Spotted(Stamp):
        def refine(
            self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None
        ) -> Closeups:
            plain = super().refine(image, roughs, boxes_xyxy, hints)
            near = plain.logits.copy()  # a square of 16
            near[:, 3, 3], near[:, 0, 0], near[:, 7, 6:8] = -3, 2, 1
            return replace(plain, logits=near)

    proposals, candidates = given([0], [0.9])
    prompts = user_prompts(np.arange(1), boxes_xyxy=proposals.boxes_xyxy)
    image = fake_pipeline().open(scene((40, 40), {})).image

    def shown(specks: float) -> Float:
        return redraw(Spotted(), image, proposals, prompts, candidates, RedrawConfig(specks=specks)).closeups.logits[0]

    assert [shown(0.0)[at] for at in ((3, 3), (0, 0), (7, 7))] == [-3, 2, 1]
    assert [shown(0.1)[at] for at in ((3, 3), (0, 0), (7, 7))] == [3, -2, 1]
    assert [shown(0.2)[at] for at in ((3, 3), (0, 0), (7, 7))] == [3, -2, -1]
    with pytest.raises(ConfigError, match="specks: got 1"):
        RedrawConfig(specks=1.0)


def test_accepted_masks_are_as_fine_as_their_closeups() -> None:
    pipeline = fake_pipeline(refiner=Stamp())
    result = pipeline(scene(), "the red box")
    assert len(result) == 1
    side = 2 * (RED_BOX[3] - RED_BOX[1])  # of the window; the stamp fills its middle half
    assert result.masks.sum() == pytest.approx((side / 2) ** 2, rel=0.05)
    assert result.seconds["redraw"] >= 0


def test_without_a_refiner_nothing_changes() -> None:
    pipeline = fake_pipeline()
    before, after = pipeline(scene(), "the red box"), pipeline.with_parts(refiner=None)(scene(), "the red box")
    np.testing.assert_array_equal(before.masks, after.masks)
    assert "redraw" not in before.seconds


def test_one_thing_found_for_two_phrases_is_drawn_once() -> None:
    proposals, candidates = given([0, 1], [0.9, 0.8])
    same = Candidates(np.repeat(candidates.logits[:1], 2, axis=0), candidates.predicted_iou, candidates.frame)
    after = drawn(proposals, same, RedrawConfig())
    assert after.closeup_index.tolist() == [[0, 0], [0, 0]]
    assert len(after.closeups) == 1


def test_the_detectors_maps_are_handed_on_and_the_callers_masks_are_not() -> None:
    for source, told in (("detector", 2.0), ("user", 0.0)):
        proposals, candidates = given([0, 0], [0.9, 0.8], source)
        maps = np.full((2, 5, 5), 2, np.float32)
        prompts = user_prompts(np.arange(2), boxes_xyxy=proposals.boxes_xyxy, mask_logits=maps)
        stamp = Stamp()
        redraw(stamp, fake_pipeline().open(scene((40, 40), {})).image, proposals, prompts, candidates, RedrawConfig())
        assert stamp.hints is not None
        assert (stamp.hints == told).all()
        assert len(stamp.hints) == stamp.asked[0]


class Lopsided(Stamp):
    """A refiner that draws the left half of its window, surer of it in a picture that begins dark."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes: list[list[float]] = []

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        self.boxes += boxes_xyxy.tolist()
        drawn = super().refine(image, roughs, boxes_xyxy, hints)
        near = np.full((len(roughs), 8, 8), -4, np.float32)
        near[:, :, :4] = 8
        claim = 0.9 if image.rgb[0, 0, 0] == 0 else 0.5
        return Closeups(drawn.windows, near, np.full(len(roughs), claim, np.float32))


@pytest.mark.parametrize(("source", "twice"), [("user", True), ("detector", False)])
def test_what_the_caller_points_at_is_drawn_in_the_mirror_image_too(source: str, twice: bool) -> None:
    proposals, candidates = given([0], [1], source)
    candidates = replace(candidates, logits=candidates.logits[:, :1], predicted_iou=candidates.predicted_iou[:, :1])
    prompts = user_prompts(np.arange(1), boxes_xyxy=np.array([[4, 10, 24, 30]], np.float32))
    rgb = scene((40, 40), {})
    rgb[:, :20] = 0
    refiner = Lopsided()
    image = fake_pipeline().open(rgb).image
    after = redraw(refiner, image, proposals, prompts, candidates, RedrawConfig(own_mirrored=True))
    assert refiner.boxes == ([[4, 10, 24, 30], [16, 10, 36, 30]] if twice else [[4, 10, 24, 30]])
    left, right = after.closeups.logits[0, 0, 0], after.closeups.logits[0, 0, -1]
    assert (left, right) == ((2, 2) if twice else (8, -4))
    assert after.closeups.predicted_iou[0] == pytest.approx(0.7 if twice else 0.9)


class Copier(Stamp):
    """A refiner that draws what it is given, and is surer of ellipses, whose middle is higher than their rim."""

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        windows = closeup.windows_around(np.nan_to_num(boxes_xyxy, nan=20.0), 1.0, 4.0)
        near = [closeup.look(one, w, 8) for one, w in zip(roughs, windows, strict=True)]
        self.asked.append(len(roughs))
        surer = np.array([np.abs(rough.logits).max() < 5 for rough in roughs], np.float32)
        return Closeups(windows, np.stack(near), 0.5 + 0.4 * surer)


@pytest.mark.parametrize(
    ("source", "beside", "ellipse"),
    [
        ("user", {}, True),
        ("detector", {}, False),
        ("user", {"points_xy": [[[12.0, 12.0]]], "point_labels": [[0]]}, False),
        ("user", {"points_xy": [[[0.0, 0.0]]], "point_labels": [[-1]]}, True),  # padding is no point
        ("user", {"mask_logits": np.ones((1, 4, 4), np.float32)}, False),
        ("user", {"multimask": True}, False),
    ],
)
def test_the_callers_bare_box_is_drawn_from_its_ellipse(source: str, beside: dict[str, Any], ellipse: bool) -> None:
    proposals, candidates = given([0], [0.9], source)
    candidates = replace(candidates, logits=candidates.logits[:, 1:], predicted_iou=candidates.predicted_iou[:, 1:])
    options = {name: np.asarray(value) for name, value in beside.items() if name != "multimask"}
    options |= {name: value.astype(np.float32) for name, value in options.items() if name == "points_xy"}
    multimask = bool(beside.get("multimask", False))
    prompts = user_prompts(np.arange(1), boxes_xyxy=proposals.boxes_xyxy, multimask=multimask, **options)
    image = fake_pipeline().open(scene((40, 40), {})).image
    refiner = Copier()
    after = redraw(refiner, image, proposals, prompts, candidates, RedrawConfig(own_ellipses=True))
    assert refiner.asked == [1]
    assert after.closeups.predicted_iou[0] == pytest.approx(0.9 if ellipse else 0.5)
    # the stripe of `given` lies outside the box; the ellipse's middle is in it
    assert (after.closeups.logits[0, 4, 4] > 0) == ellipse


def test_only_likely_prompts_of_phrases_are_drawn_again() -> None:
    likely = np.array([False, True])
    assert chosen(drawn(*given([0, 0], [0.9, 0.3]), RedrawConfig(), likely)) == [False, True]
    assert chosen(drawn(*given([0, 0], [0.9, 0.3], "user"), RedrawConfig(), likely)) == [True, True]
