"""Short texts through open_clip's text towers, against open_clip's own."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch

from textseg.models.clip_text import encode_text

END = 99
LENGTHS = (2, 5, 3, 16)
VISION = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
TEXT = {"context_length": 16, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2}


def texts(*lengths: int) -> torch.Tensor:
    """int64 (N, 16): so many tokens each, the last one the end mark, then padding."""
    ids = torch.zeros(len(lengths), 16, dtype=torch.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[: length - 1] = torch.randint(1, END, (length - 1,))
        row[length - 1] = END
    return ids


def seen_tokens(model: Any, ids: torch.Tensor, expected: torch.Tensor) -> int:
    """Check the embeddings, and return how many tokens of each text the tower was shown."""
    shown: list[int] = []
    handle = model.transformer.register_forward_pre_hook(lambda _, given: shown.append(given[0].shape[1]))
    with torch.inference_mode():
        got = encode_text(model, ids)
    handle.remove()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    return shown[0]


@pytest.mark.parametrize(
    "more",
    [{}, {"pool_type": "eos", "eos_id": END}, {"proj_bias": True, "proj_type": "linear"}, {"proj_type": "none"}],
    ids=["argmax", "eos", "biased projection", "no projection"],
)
@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[:3], (2,)])
def test_short_texts_embed_as_padded_ones(more: dict[str, Any], lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(16, VISION, {**TEXT, **more}).eval()
    ids = texts(*lengths)
    with torch.inference_mode():
        expected = model.encode_text(ids)
    assert seen_tokens(model, ids, expected) == max(lengths)


@pytest.mark.parametrize("more", [{"no_causal_mask": True}, {"pool_type": "last"}], ids=["all to all", "last token"])
def test_where_later_tokens_matter_all_are_read(more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(16, VISION, {**TEXT, **more}).eval()
    ids = texts(3, 4)
    with torch.inference_mode():
        expected = model.encode_text(ids)
    assert seen_tokens(model, ids, expected) == 16


def test_other_classes_encode_for_themselves() -> None:
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(16, VISION, TEXT).eval()
    ids = texts(3)
    with torch.inference_mode():
        torch.testing.assert_close(encode_text(model, ids), model.encode_text(ids))
