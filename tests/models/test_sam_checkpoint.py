"""Meta's checkpoints: the two layouts hold the same model, and files of code are refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from tests.models.meta_sam import blobs, pair
from textseg import geometry, image
from textseg.errors import ConfigError, ModelError, WeightsError
from textseg.models import sam, sam_checkpoint
from textseg.models.sam_checkpoint import meta_sam
from textseg.models.sam_tiny import tiny_model
from textseg.segment import SegmentConfig, segment
from textseg.types import Prompts

KINDS_OF_PROMPT = ["point", "points", "box", "box+points", "box+mask", "mask"]
SIZES = [(75, 100), (64, 64), (140, 90)]


def asked(what: str, size_hw: tuple[int, int], mask: Any, multimask: bool) -> tuple[dict[str, Any], Prompts]:
    """Return one prompt for segment-anything and for us."""
    h, w = size_hw
    points = np.array([[w * 0.3, h * 0.6], [w * 0.8, h * 0.1]], np.float32)[: 1 if what == "point" else 2]
    labels = np.array([1, 0])[: len(points)]
    box = np.array([w * 0.1, h * 0.2, w * 0.7, h * 0.9], np.float32)
    meta: dict[str, Any] = {"multimask_output": multimask}
    if "point" in what:
        meta |= {"point_coords": points, "point_labels": labels}
    if "box" in what:
        meta["box"] = box
    if "mask" in what:
        meta["mask_input"] = mask
    has_points = "point" in what
    ours = Prompts(
        np.zeros(1, np.int64),
        box[None] if "box" in what else np.full((1, 4), np.nan),
        points[None] if has_points else np.zeros((1, 0, 2)),
        labels[None] if has_points else np.zeros((1, 0), np.int64),
        mask if "mask" in what else None,
        multimask=multimask,
    )
    return meta, ours


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("what", KINDS_OF_PROMPT)
def test_answers_are_those_of_segment_anything(what: str, size: tuple[int, int]) -> None:
    reference, ours = pair(40)
    predictor = SamPredictor(reference)
    picture = image.read(blobs(*size))
    predictor.set_image(picture.rgb)
    embedding = ours.encode(picture)
    np.testing.assert_allclose(embedding.features["image"].numpy(), predictor.features.numpy(), atol=1e-4)
    first = predictor.predict(point_coords=np.array([[5.0, 5.0]]), point_labels=np.array([1]))[2][:1]
    for multimask in (True, False):
        meta, prompts = asked(what, size, first, multimask)
        masks, iou, logits = predictor.predict(**meta)
        got = ours.decode(embedding, prompts, raw_masks=True)
        np.testing.assert_allclose(got.logits[0], logits, atol=1e-3)
        np.testing.assert_allclose(got.predicted_iou[0], iou, atol=1e-4)
        full = geometry.upscale_masks(got.logits[0], got.frame)
        assert (full != masks).mean() < 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("multimask", "rounds", "atol"), [(True, 1, 3e-3), (True, 2, 5e-3), (False, 2, 5e-3)])
def test_rounds_of_refinement_are_those_of_segment_anything(
    multimask: bool, rounds: int, atol: float, size: tuple[int, int]
) -> None:
    """Each round passes the rounding of the one before through the mask's convolutions, which enlarge it.

    How much is rounded differs from processor to processor.
    """
    reference, ours = pair(40)
    predictor = SamPredictor(reference)
    picture = image.read(blobs(*size))
    predictor.set_image(picture.rgb)
    meta, prompts = asked("box+points", size, None, multimask)
    _, iou, logits = predictor.predict(**meta)
    for _ in range(rounds):
        _, iou, logits = predictor.predict(**meta, mask_input=logits[iou.argmax()][None])
    config = SegmentConfig(multimask=multimask, refine_rounds=rounds)
    got = segment(ours, ours.encode(picture), picture, prompts, config)
    np.testing.assert_allclose(got.logits[0], logits, atol=atol)
    np.testing.assert_allclose(got.predicted_iou[0], iou, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_layouts_convert_both_ways(seed: int) -> None:
    model = tiny_model("sam", seed)
    state = sam_checkpoint.to_meta(model.state_dict())
    meta_sam(model).load_state_dict(state)  # strict: every name and shape is Meta's
    back = sam_checkpoint.to_transformers(state)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "globals_"),
    [
        ("vit_b", 768, 12, 12, [2, 5, 8, 11]),
        ("vit_l", 1024, 24, 16, [5, 11, 17, 23]),
        ("vit_h", 1280, 32, 16, [7, 15, 23, 31]),
    ],
)
def test_the_configuration_is_read_off_the_shapes(
    name: str, width: int, depth: int, heads: int, globals_: list[int]
) -> None:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        state = sam_model_registry[name]().state_dict()
    config = sam_checkpoint.config_of(state)
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (width, depth, heads)
    assert list(vision.global_attn_indexes) == globals_
    assert (vision.image_size, vision.patch_size, vision.window_size, vision.mlp_dim) == (1024, 16, 14, 4 * width)
    decoder = config.mask_decoder_config
    assert (decoder.hidden_size, decoder.mlp_dim, decoder.num_attention_heads) == (256, 2048, 8)
    assert (decoder.iou_head_depth, decoder.num_multimask_outputs, decoder.attention_downsample_rate) == (3, 3, 2)
    from transformers import SamModel

    with torch.device("meta"):
        wanted = SamModel(config).state_dict()
    given = sam_checkpoint.to_transformers(state)
    assert {k: v.shape for k, v in given.items()} == {k: v.shape for k, v in wanted.items()}


def test_a_pth_file_loads_and_converts(tmp_path: Path) -> None:
    model = tiny_model("sam")
    path = sam_checkpoint.write_pth(model, tmp_path / "tiny.pth")
    direct = sam.load("sam", path)
    folder = sam.load("sam", sam_checkpoint.convert(path, tmp_path / "folder"))
    assert direct.model_id.startswith("sam:tiny#")
    assert direct.spec.resampler == "pil"
    square = image.read(blobs(64, 64))  # nothing to resize: both ways see the same pixels
    prompts = Prompts(np.zeros(1), np.array([[5, 5, 40, 50]]), np.zeros((1, 0, 2)), np.zeros((1, 0)))
    one = direct.decode(direct.encode(square), prompts)
    two = folder.decode(folder.encode(square), prompts)
    np.testing.assert_allclose(one.logits, two.logits, atol=1e-6)
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"model": torch.load(path, weights_only=True)}, wrapped)
    assert sam_checkpoint.read_pth(wrapped).keys() == sam_checkpoint.read_pth(path).keys()


class _Evil:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (_touch, ())


def _touch() -> None:
    _Evil.ran = True


def test_code_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"a": _Evil()}, path)
    with pytest.raises(WeightsError, match="never run"):
        sam_checkpoint.read_pth(path)
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(WeightsError):
        sam.load("sam", path)
    assert not _Evil.ran


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing"):
        sam.load("sam", tmp_path / "none.pth")
    path = tmp_path / "bad.pth"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(WeightsError):
        sam_checkpoint.read_pth(path)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="dictionary of tensors"):
        sam_checkpoint.read_pth(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="not a SAM"):
        sam.load("sam", path)
    with pytest.raises(ModelError, match="only SAM loads"):
        sam.load("sam2", path)


def test_bad_states() -> None:
    state = sam_checkpoint.to_meta(tiny_model("sam").state_dict())
    with pytest.raises(ConfigError, match="divisor"):
        sam_checkpoint.build(state, decoder_heads=3)
    less = {name: tensor for name, tensor in state.items() if "norm_final" not in name}
    with pytest.raises(WeightsError, match="2 tensors missing"):
        sam_checkpoint.build(less, 2)
    wrong = {**state, "mask_decoder.iou_token.weight": torch.zeros(2, 32)}
    with pytest.raises(WeightsError, match="expected \\(1, 32\\)"):
        sam_checkpoint.build(wrong, 2)
    with pytest.raises(WeightsError, match="not the state of a SamModel"):
        sam_checkpoint.to_meta(state)
