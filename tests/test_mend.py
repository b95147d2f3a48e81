"""Mending a mask: clicks and boxes change it and nothing else, and are obeyed even by a stubborn segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.fakes import BLUE_BOX, RED_BOX, FakeSegmenter, fake_pipeline, scene
from textseg import closeup
from textseg.closeup import Rough
from textseg.errors import ConfigError, PromptError
from textseg.mend import MENDED, mend, union, without
from textseg.types import Closeups, Embedding, Float, Image, Prompts

IN_RED, IN_BLUE = (30.0, 40.0), (95.0, 50.0)


def test_a_click_elsewhere_takes_the_mask_there() -> None:
    pipeline = fake_pipeline()
    picture = pipeline.open(scene())
    result = picture.segment(["the red box", "the blue box"])
    encoded = pipeline.segmenter.encoded
    mended = mend(picture, result, 0, points=[IN_BLUE], words=False)
    assert pipeline.segmenter.encoded == encoded
    assert mended.labels == result.labels
    assert mended.masks[0][50, 95]
    np.testing.assert_array_equal(mended.masks[1], result.masks[1])
    assert mended.rejected.reasons[0] == MENDED
    np.testing.assert_array_equal(mended.rejected.masks[0], result.masks[0])
    assert len(mended.scored) == len(result.scored) + 1


def test_a_new_mask_stands_with_its_phrase() -> None:
    picture = fake_pipeline().open(scene())
    result = picture.segment(["the red box", "a dog"])
    added = mend(picture, result, None, points=[IN_BLUE], phrase_index=1, words=False)
    assert added.labels == ("the red box", "a dog")
    assert added.missing == ()
    x0, y0, x1, y1 = BLUE_BOX
    assert added.masks[1][y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].all() and not added.masks[1][:, :60].any()
    assert added.to_coco()["annotations"][1]["category_id"] == 2


def test_a_box() -> None:
    picture = fake_pipeline().open(scene())
    result = picture.segment("the red box")
    boxed = mend(picture, result, 0, box=BLUE_BOX, words=False)
    assert boxed.masks[0][50, 95] and not boxed.masks[0][40, 30]


class Stubborn(FakeSegmenter):
    """Holds on to the rough mask, whatever the clicks say; without one it is the fake that it extends."""

    def decode(self, embedding: Embedding, prompts: Prompts) -> Any:
        if not prompts.has_mask.any():
            return super().decode(embedding, prompts)
        without = Prompts(
            prompts.proposal_index, np.array([RED_BOX], np.float32), np.zeros((1, 0, 2)), np.zeros((1, 0))
        )
        return super().decode(embedding, without)


@pytest.mark.parametrize(
    ("points", "labels", "inside", "outside"),
    [
        ([IN_BLUE], [1], [IN_RED, IN_BLUE], []),
        ([IN_BLUE, (4.0, 90.0)], [1, 0], [IN_RED, IN_BLUE], [(4.0, 90.0)]),
    ],
)
def test_clicks_are_obeyed_by_composing(points: Any, labels: Any, inside: Any, outside: Any) -> None:
    picture = fake_pipeline(segmenter=Stubborn()).open(scene())
    result = picture.segment("the red box")
    mask = mend(picture, result, 0, points=points, labels=labels, words=False).masks[0]
    assert all(mask[int(y), int(x)] for x, y in inside)
    assert not any(mask[int(y), int(x)] for x, y in outside)


class Middle:
    """A mask refiner that draws the middle of its prompt's box, or of its rough mask's, to the pixel."""

    model_id = "middle"

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        windows = closeup.windows_of(boxes_xyxy, roughs, 1.0, 4.0)
        near = np.full((len(roughs), 40, 40), -8, np.float32)
        near[:, 13:27, 13:27] = 8
        return Closeups(windows, near, np.full(len(roughs), 0.7, np.float32))


def test_the_masks_beside_the_mended_one_stay_as_fine_as_they_were() -> None:
    picture = fake_pipeline(refiner=Middle()).open(scene())
    result = picture.segment(["the red box", "the blue box"])
    mended = mend(picture, result, 0, box=BLUE_BOX, words=False)
    np.testing.assert_array_equal(mended.masks[1], result.masks[1])
    np.testing.assert_array_equal(mended.rejected.masks[0], result.masks[0])
    alone = picture.segment(box=BLUE_BOX, multimask=True)
    np.testing.assert_array_equal(mended.masks[0], alone.masks[0])  # and so is the new one
    assert mended.scored.areas[-1] == alone.scored.areas[alone.choice.accepted[0]]
    again = mend(picture, mended, 1, box=RED_BOX, words=False)
    np.testing.assert_array_equal(again.masks[0], mended.masks[0])


def test_masks_are_joined_and_cut_as_fine_as_they_are() -> None:
    def square(x: float, y: float, side: float) -> Rough:
        return Rough.near(np.full((20, 20), 6, np.float32), np.array([x, y, side], np.float32))

    large, small, apart = square(1000, 500, 80), square(1010, 520, 8), square(1200, 560, 8)
    cut, joined = without(large, small), union(large, apart)
    window = np.array([1000, 500, 80], np.float32)
    inside = closeup.look(cut, window, 80) > 0
    assert 80 * 80 - inside.sum() == pytest.approx(64, abs=12)
    assert not inside[22:26, 12:16].any()
    ys, xs = np.nonzero(closeup.look(joined, np.array([900, 400, 400], np.float32), 400) > 0)
    found = (xs.min() + 900, ys.min() + 400, xs.max() + 901, ys.max() + 401)
    np.testing.assert_allclose(found, [1000, 500, 1208, 580], atol=2)
    whole = Rough.whole(np.full((6, 8), 3, np.float32), (3000, 4000))
    assert not (closeup.look(without(whole, large), window, 8) > 0).any()
    nothing = Rough.whole(np.full((6, 8), -3, np.float32), (3000, 4000))
    assert union(nothing, nothing) is nothing


def test_mistakes() -> None:
    picture = fake_pipeline().open(scene())
    result = picture.segment("the red box")
    with pytest.raises(PromptError, match="nothing is pointed at"):
        mend(picture, result, 0)
    with pytest.raises(ConfigError, match="mask index"):
        mend(picture, result, 7, points=[IN_RED])
    with pytest.raises(ConfigError, match="phrase_index"):
        mend(picture, result, None, points=[IN_RED], phrase_index=3)
    nothing = picture.segment(["a dog"])
    with pytest.raises(PromptError, match="no mask"):
        mend(picture, nothing, None, points=[IN_RED], labels=[0])
    other = fake_pipeline().open(scene(boxes={}))
    with pytest.raises(ConfigError, match="result is of"):
        mend(other, result, 0, points=[IN_RED])
