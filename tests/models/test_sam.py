"""Every family against ``model.forward`` and the transformers processors, on tiny random weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers

from textseg import geometry
from textseg.errors import ConfigError, ModelError, PromptError, UnsupportedError
from textseg.models.sam import FAMILIES, SamSegmenter, features_to_numpy, load
from textseg.models.sam_input import InputSpec
from textseg.models.sam_tiny import tiny_model, tiny_processor
from textseg.protocols import Segmenter
from textseg.types import Candidates, Frame, Image, Prompts

KINDS = list(FAMILIES)
PADDED_KINDS = ["sam", "sam_hq"]
TEXT_KINDS = [*PADDED_KINDS, "edgetam"]
WIDTH, HEIGHT = 100, 75
_SEGMENTERS: dict[str, SamSegmenter] = {}


def segmenter(kind: str, **options: Any) -> SamSegmenter:
    """Return a tiny segmenter; the plain ones are built once."""
    if kind not in _SEGMENTERS:
        spec = InputSpec.from_processor(tiny_processor(kind))
        _SEGMENTERS[kind] = SamSegmenter(kind, FAMILIES[kind].network(tiny_model(kind)), spec, "tiny")
    made = _SEGMENTERS[kind]
    return SamSegmenter(kind, made.network, made.spec, "tiny", **options) if options else made


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Image:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rgb.flags.writeable = False
    return Image(rgb, "array", hashlib.sha256(rgb.tobytes()).hexdigest())


def prompts(
    boxes: Any = None, points: Any = None, labels: Any = None, masks: Any = None, text: Any = None, **options: Any
) -> Prompts:
    """Return prompts of whatever is given; a missing box is NaN."""
    count = next(len(values) for values in (boxes, points, masks, text) if values is not None)
    boxes = np.full((count, 4), np.nan) if boxes is None else boxes
    points = np.zeros((count, 0, 2)) if points is None else points
    labels = np.ones(np.shape(points)[:2], np.int64) if labels is None else labels
    return Prompts(np.arange(count), boxes, points, labels, masks, text, **options)


BOX = np.array([[10.0, 5.0, 60.5, 50.25], [0.0, 0.0, 100.0, 75.0]])
POINTS = np.array([[[20.0, 30.0], [70.5, 10.0]], [[99.0, 74.0], [0.0, 0.0]]])
LABELS = np.array([[1, 0], [1, 1]])
KINDS_OF_PROMPT = ["box", "points", "box+points", "mask", "box+mask", "points+mask"]


def reference_masks(kind: str) -> np.ndarray:
    """Return (2, h, w) rough masks at the resolution of the picture's part of the mask input."""
    height, width = segmenter(kind).network.mask_hw
    rows = height * 3 // 4 if kind in PADDED_KINDS else height
    return np.random.default_rng(1).normal(0, 4, (2, rows, width)).astype(np.float32)


def asked(kind: str, what: str, multimask: bool) -> Prompts:
    return prompts(
        boxes=BOX if "box" in what else None,
        points=POINTS if "points" in what else None,
        labels=LABELS if "points" in what else None,
        masks=reference_masks(kind) if "mask" in what else None,
        multimask=multimask,
    )


def answer_of_forward(kind: str, what: str, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and IoU of ``model.forward``, one prompt at a time, through the transformers processor."""
    image, model, processor = picture(), tiny_model(kind), tiny_processor(kind)
    names = {"sam3_tracker": "Sam3TrackerProcessor", "edgetam": "Sam2Processor"}
    cls = getattr(transformers, names.get(kind) or FAMILIES[kind].model_class.replace("Model", "Processor"))
    logits, iou = [], []
    for row in range(2):
        given: dict[str, Any] = {}
        if "box" in what:
            given["input_boxes"] = [[BOX[row].tolist()]]
        if "points" in what:
            given |= {"input_points": [[POINTS[row].tolist()]], "input_labels": [[LABELS[row].tolist()]]}
        inputs = cls(processor)(image.rgb.copy(), return_tensors="pt", **given)
        inputs = {k: v.float() if v.dtype == torch.float64 else v for k, v in inputs.items() if "size" not in k}
        if "mask" in what:
            mask = torch.from_numpy(reference_masks(kind)[row])
            low = torch.full(segmenter(kind).network.mask_hw, float(mask.min()))
            low[: mask.shape[0], : mask.shape[1]] = mask
            inputs["input_masks"] = low[None, None]
        with torch.inference_mode():
            out = model(**inputs, multimask_output=multimask)
        logits.append(out.pred_masks[0, 0].numpy())
        iou.append(out.iou_scores[0, 0].clamp(0, 1).numpy())
    return np.stack(logits), np.stack(iou)


def close(a: Candidates, b: Candidates, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(a.logits, b.logits, atol=atol)
    np.testing.assert_allclose(a.predicted_iou, b.predicted_iou, atol=atol)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("what", KINDS_OF_PROMPT)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_forward(kind: str, what: str, multimask: bool) -> None:
    seg = segmenter(kind)
    got = seg.decode(seg.encode(picture()), asked(kind, what, multimask))
    logits, iou = answer_of_forward(kind, what, multimask)
    assert got.logits.shape[1] == (3 if multimask else 1)
    np.testing.assert_allclose(got.logits, logits, atol=1e-5)
    np.testing.assert_allclose(got.predicted_iou, iou, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (17, 3000), (640, 480), (75, 100), (1024, 1024), (31, 33), (1500, 1007)])
@pytest.mark.parametrize("name", ["SamImageProcessor", "Sam2ImageProcessor", "Sam3ImageProcessor"])
def test_pixels_equal_the_processor(name: str, size: tuple[int, int]) -> None:
    processor = getattr(transformers, name)()  # at the real size
    image, spec = picture(*size), InputSpec.from_processor(processor)
    pixels, frame = spec.prepare(image)
    expected = processor(PIL.Image.fromarray(image.rgb), return_tensors="pt")
    np.testing.assert_allclose(pixels.numpy(), expected["pixel_values"].numpy(), atol=1e-4)
    square = expected["pixel_values"].shape[-2:]
    resized = expected.get("reshaped_input_sizes", torch.tensor([square]))
    assert frame == Frame(size, tuple(resized[0].tolist()), tuple(square))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_thin_pictures_are_answered(kind: str, size: tuple[int, int]) -> None:
    seg = segmenter(kind)
    embedding = seg.encode(picture(*size))
    box = [[0, 0, size[1], size[0]]]
    got = seg.decode(embedding, prompts(boxes=box, masks=np.ones((1, 5, 7))))
    assert min(*embedding.frame.resized_hw, *got.frame.resized_hw) >= 1
    assert np.isfinite(got.logits).all()


def mixture(kind: str) -> Prompts:
    """Return eight prompts of unlike kinds: every other one padded or empty somewhere."""
    rng, count, nan = np.random.default_rng(2), 8, np.nan
    boxes = np.array([[5 + i, 5, 60 + i, 50] for i in range(count)], np.float32)
    boxes[[1, 3, 4, 6]] = nan
    points = rng.uniform(0, 70, (count, 3, 2)).astype(np.float32)
    labels = np.array([[-1, -1, -1], [1, -1, 0], [1, 0, 1], [-1, -1, 1], *[[-1] * 3] * 2, [0, 1, 1], [-1, 1, -1]])
    points[labels < 0] = nan
    masks = rng.normal(0, 3, (count, 9, 11)).astype(np.float32)
    masks[[0, 1, 3, 7]] = 0
    text = None
    if kind in TEXT_KINDS:
        text = rng.normal(0, 1, (count, 2, 32)).astype(np.float32)
        text[[0, 2, 5]] = nan
    return Prompts(np.arange(count), boxes, points, labels, masks, text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_a_mixture_answers_as_one_at_a_time(kind: str, chunk: int) -> None:
    seg = segmenter(kind, chunk=chunk)
    embedding, many = seg.encode(picture()), mixture(kind)
    got = seg.decode(embedding, many)
    alone = [seg.decode(embedding, many[np.array([i])]) for i in range(len(many))]
    for i, one in enumerate(alone):
        np.testing.assert_allclose(got.logits[i], one.logits[0], atol=1e-5)
        np.testing.assert_allclose(got.predicted_iou[i], one.predicted_iou[0], atol=1e-5)
    assert len({one.logits.tobytes() for one in alone}) == len(many)


@pytest.mark.parametrize("kind", KINDS)
def test_many_alike_prompts_are_chunked_in_order(kind: str) -> None:
    boxes = [[i, i, 40 + i, 30 + i] for i in range(19)]
    image = picture()
    close(
        segmenter(kind).decode(segmenter(kind).encode(image), prompts(boxes=boxes)),
        segmenter(kind, chunk=100).decode(segmenter(kind).encode(image), prompts(boxes=boxes)),
    )


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_text_tokens_join_the_sparse_embeddings(kind: str) -> None:
    seg = segmenter(kind)
    assert isinstance(seg, Segmenter)
    assert seg.text_width == 32
    embedding = seg.encode(picture())
    text = np.random.default_rng(3).normal(0, 1, (2, 2, 32)).astype(np.float32)
    plain = seg.decode(embedding, prompts(boxes=BOX))
    beside = seg.decode(embedding, prompts(boxes=BOX, text=text))
    alone = seg.decode(embedding, prompts(text=text))
    other = seg.decode(embedding, prompts(text=text[::-1]))
    assert np.abs(plain.logits - beside.logits).max() > 1e-3
    assert np.abs(alone.logits - beside.logits).max() > 1e-3
    assert np.abs(alone.logits[0] - alone.logits[1]).max() > 1e-3
    np.testing.assert_allclose(alone.logits, other.logits[::-1], atol=1e-5)
    none = np.full_like(text, np.nan)
    close(plain, seg.decode(embedding, prompts(boxes=BOX, text=none)))


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_text_alone_is_exactly_its_tokens(kind: str) -> None:
    seg, model = segmenter(kind), tiny_model(kind)
    embedding = seg.encode(picture())
    text = np.random.default_rng(3).normal(0, 1, (2, 2, 32)).astype(np.float32)
    got = seg.decode(embedding, prompts(text=text))
    seen = embedding.features
    extra = {
        "sam": {},
        "sam_hq": {"hq_token_only": False, "intermediate_embeddings": [seen.get("early")]},
        "edgetam": {"high_resolution_features": [seen.get("high_0"), seen.get("high_1")]},
    }[kind]
    with torch.inference_mode():
        _, dense = model.prompt_encoder(None, None, None, None)
        logits = model.mask_decoder(
            image_embeddings=embedding.features["image"],
            image_positional_embeddings=model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=torch.from_numpy(text)[None],
            dense_prompt_embeddings=dense,
            multimask_output=True,
            **extra,
        )[0]
    np.testing.assert_allclose(got.logits, logits[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["sam2", "sam3_tracker"])
def test_families_without_text_say_so(kind: str) -> None:
    seg = segmenter(kind)
    assert seg.text_width is None
    with pytest.raises(UnsupportedError, match=f"{FAMILIES[kind].title} takes no text.*SAM, SAM-HQ, EdgeTAM do"):
        seg.decode(seg.encode(picture()), prompts(boxes=BOX, text=np.zeros((2, 1, 32))))


@pytest.mark.parametrize("kind", KINDS)
def test_no_prompts_and_one(kind: str) -> None:
    seg = segmenter(kind)
    embedding = seg.encode(picture())
    mask_hw = seg.network.mask_hw
    for multimask, count in ((True, 3), (False, 1)):
        none = prompts(
            boxes=np.zeros((0, 4)), masks=np.zeros((0, 4, 4)), text=np.zeros((0, 1, 32)), multimask=multimask
        )
        assert seg.decode(embedding, none).logits.shape == (0, count, *mask_hw)
        one = seg.decode(embedding, prompts(boxes=BOX[:1], multimask=multimask))
        assert one.logits.shape == (1, count, *mask_hw)
        assert one.predicted_iou.shape == (1, count)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_keep_on_disk(kind: str) -> None:
    seg, many = segmenter(kind), mixture(kind)
    embedding = seg.encode(picture())
    assert embedding.digest == picture().digest
    kept = features_to_numpy(embedding)
    assert all(isinstance(value, np.ndarray) for value in kept.features.values())
    close(seg.decode(embedding, many), seg.decode(kept, many), atol=0)
    close(seg.decode(embedding, many), seg.decode(features_to_numpy(embedding, np.float16), many), atol=0.05)


def test_embeddings_can_train_what_comes_after() -> None:
    features = segmenter("sam").encode(picture()).features
    weight = torch.ones(1, requires_grad=True)
    (features["image"] * weight).sum().backward()
    assert weight.grad is not None


def test_wrong_embeddings_are_refused() -> None:
    sam, sam2 = segmenter("sam"), segmenter("sam2")
    embedding = sam.encode(picture())
    with pytest.raises(ModelError, match="made by 'sam:tiny', this segmenter is 'sam2:tiny'"):
        sam2.decode(embedding, prompts(boxes=BOX))
    with pytest.raises(ModelError, match="damaged"):
        sam.decode(replace(embedding, features={}), prompts(boxes=BOX))
    small = sam.encode(picture(20, 20))
    with pytest.raises(PromptError, match=r"box lies outside the picture \(width 20"):
        sam.decode(small, prompts(boxes=[[30, 30, 50, 50]]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_narrower_encoder_gives_nearly_the_same(kind: str, dtype: str) -> None:
    full, half = segmenter(kind), segmenter(kind, dtype=dtype)
    assert full.model_id != half.model_id
    a, b = full.encode(picture()), half.encode(picture())
    assert all(tensor.dtype == torch.float32 for tensor in b.features.values())
    assert not torch.is_autocast_enabled("cpu")
    scale = float(a.features["image"].abs().max())
    assert float((a.features["image"] - b.features["image"]).abs().max()) < 0.05 * scale


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(75, 100), (100, 30)])
def test_full_size_masks_equal_the_processor(kind: str, size: tuple[int, int]) -> None:
    seg, processor = segmenter(kind), tiny_processor(kind)
    embedding = seg.encode(picture(*size))
    got = seg.decode(embedding, prompts(boxes=[[2, 2, 25, 60]]))
    sizes = [[size], [embedding.frame.resized_hw]] if kind in PADDED_KINDS else [[size]]
    full = processor.post_process_masks([torch.from_numpy(got.logits.copy())], *sizes, binarize=False)[0][0]
    np.testing.assert_allclose(geometry.upscale_logits(got.logits[0], got.frame), full.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"boxes": [[1, 1, 9, 9], [50, 5, 10, 9]]}, "prompt 1: box is empty or inverted.*50.0"),
        ({"boxes": [[5, 5, 5, 9]]}, "empty or inverted"),
        ({"boxes": [[5, 5, np.inf, 9]]}, "infinite"),
        ({"boxes": [[200, 5, 300, 9]]}, "outside the picture"),
        ({"points": [[[101, 5]]]}, "point is NaN or lies outside"),
        ({"points": [[[np.nan, 5]]]}, "point is NaN or lies outside"),
        ({"boxes": [[np.nan] * 4]}, "prompt is empty"),
        ({"boxes": BOX, "masks": np.full((2, 3, 3), np.nan)}, "mask has NaN"),
        ({"text": np.zeros((1, 1, 31))}, "width 31, expected 32"),
        ({"text": np.full((1, 1, 32), np.inf)}, "infinite"),
    ],
)
def test_bad_prompts(bad: dict[str, Any], message: str) -> None:
    seg = segmenter("sam")
    with pytest.raises(PromptError, match=message):
        seg.decode(seg.encode(picture()), prompts(**bad))


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sam_hq'"):
        load("samhq", "anything")
    with pytest.raises(ConfigError, match="choices: bfloat16, float16, float32"):
        load("sam", "anything", dtype="int3")
    with pytest.raises(ConfigError, match="chunk: got 0"):
        load("sam", "anything", chunk=0)
    with pytest.raises(ModelError, match="device 'abacus'"):
        load("sam", "anything", device="abacus")
