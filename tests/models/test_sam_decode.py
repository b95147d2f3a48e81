"""The fast decoder against the plain one, and masks streamed against masks decoded at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.meta_sam import blobs, pair
from textseg import image
from textseg.models.sam_decode import FastDecoder
from textseg.models.sam_tiny import tiny_model
from textseg.stream import StreamingSegmenter, stream
from textseg.types import Prompts


def grid(count: int, multimask: bool = True) -> Prompts:
    points = np.random.default_rng(0).uniform(0, 75, (count, 1, 2))
    return Prompts(np.arange(count), np.full((count, 4), np.nan), points, np.ones((count, 1)), multimask=multimask)


def tensors(n: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an image (1, 32, 8, 8), sparse (n, tokens, 32) and dense (n, 32, 8, 8)."""
    generator = torch.Generator().manual_seed(n)
    shapes = ((1, 32, 8, 8), (n, tokens, 32), (n, 32, 8, 8))
    image_, sparse, dense = (torch.randn(shape, generator=generator) for shape in shapes)
    return image_, sparse, dense


@pytest.mark.parametrize("tokens", [1, 2, 7])
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_the_fast_decoder_equals_the_plain_one(n: int, tokens: int, masked: bool) -> None:
    model = tiny_model("sam")
    position = model.get_image_wide_positional_embeddings()
    fast = FastDecoder(model.mask_decoder, position)
    picture, sparse, dense = tensors(n, tokens)
    with torch.inference_mode():
        no_mask = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        answer = fast.attend(sparse, picture + dense if masked else fast.picture(picture, no_mask))
        layout = (n, 1) if masked else (1, n)
        for multimask, wanted in ((True, slice(1, None)), (False, slice(0, 1))):
            logits, iou = model.mask_decoder(
                image_embeddings=picture.expand(layout[0], -1, -1, -1),
                image_positional_embeddings=position.expand(layout[0], -1, -1, -1),
                sparse_prompt_embeddings=sparse.reshape(*layout, tokens, 32),
                dense_prompt_embeddings=dense if masked else no_mask.expand(1, -1, 8, 8),
                multimask_output=multimask,
            )
            got = fast.draw(answer, None, wanted, (8, 8))
            torch.testing.assert_close(got, logits.flatten(0, 1), atol=1e-5, rtol=0)
            torch.testing.assert_close(fast.quality(answer)[:, wanted], iou.flatten(0, 1), atol=1e-5, rtol=0)
            torch.testing.assert_close(fast.draw(answer, None, wanted, (8, 8), whole=True), got, atol=1e-6, rtol=0)
            rows = torch.tensor([n - 1, 0])
            part = fast.draw(answer, rows, wanted, (3, 5))
            torch.testing.assert_close(part, got[rows][:, :, :12, :20], atol=1e-6, rtol=0)


def test_drawing_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair()
    picture = image.read(blobs(75, 100))
    embedding = ours.encode(picture)
    before = ours.decode(embedding, grid(3))
    monkeypatch.setattr("textseg.models.sam_decode._DRAW_BYTES", {"cpu": 17 * 8 * 32})
    np.testing.assert_allclose(ours.decode(embedding, grid(3)).logits, before.logits, atol=1e-4)


@pytest.mark.parametrize("size", [(75, 100), (64, 64), (100, 30)])
@pytest.mark.parametrize("multimask", [True, False])
def test_a_stream_holds_what_decode_answers(size: tuple[int, int], multimask: bool) -> None:
    _, ours = pair()
    assert isinstance(ours, StreamingSegmenter)
    embedding = ours.encode(image.read(blobs(*size)))
    prompts = grid(9, multimask)
    prompts = prompts[(prompts.points_xy[:, 0] <= (size[1], size[0])).all(axis=1)]
    decoded = ours.decode(embedding, prompts)
    for least in (-np.inf, 0.6, 99.0):
        seen = np.zeros(decoded.predicted_iou.shape, bool)
        for batch in stream(ours, embedding, prompts, least):
            h, w = batch.logits.shape[1:]
            assert batch.mask_hw == decoded.logits.shape[2:]
            expected = decoded.logits[batch.prompt_index, batch.mask_index][:, :h, :w]
            np.testing.assert_allclose(batch.logits, expected, atol=1e-4)
            iou = decoded.predicted_iou[batch.prompt_index, batch.mask_index]
            np.testing.assert_allclose(batch.predicted_iou, iou, atol=1e-5)
            seen[batch.prompt_index, batch.mask_index] = True
        assert (seen == (decoded.predicted_iou > least)).all()


def test_no_prompts_stream_nothing() -> None:
    _, ours = pair()
    assert list(ours.stream(ours.encode(image.read(blobs(20, 20))), grid(0), 0.5)) == []
