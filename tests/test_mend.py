"""Mending a mask: clicks and boxes change it and nothing else, and are obeyed even by a stubborn segmenter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fakes import BLUE_BOX, RED_BOX, FakeSegmenter, fake_pipeline, scene
from textseg.errors import ConfigError, PromptError
from textseg.mend import MENDED, mend
from textseg.types import Embedding, Prompts

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
