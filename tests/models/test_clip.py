"""The CLIP adapter on tiny random-weight open_clip models, against open_clip's own encoding and transform."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from open_clip.transform import image_transform  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from textseg.errors import ConfigError, HubError, ShapeError, WeightsError  # noqa: E402
from textseg.models import clip, clip_load, onednn  # noqa: E402
from textseg.models.clip_input import ClipInput  # noqa: E402
from textseg.protocols import ImageTextEncoder  # noqa: E402

WORDS = ["the red car", "dog", "собака", "a {} with braces", "x" * 900, "car"]
SIZES = [(40, 40), (1, 1), (31, 47), (200, 90), (32, 32), (90, 200)]

VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
TIMM = {"timm_model_name": "regnetx_002", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}


def crops(sizes: list[tuple[int, int]] = SIZES) -> list[Any]:
    """Return random uint8 (h, w, 3) crops."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]


def text_cfg(vocab_size: int) -> dict[str, Any]:
    """Return a tiny text tower."""
    return {"context_length": 16, "vocab_size": vocab_size, "width": 32, "heads": 2, "layers": 2}


def save_tokenizer(path: Path) -> int:
    """Write a tiny ``tokenizer.json`` (byte-level, end mark highest) and return its size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(WORDS, trainer)
    made.add_special_tokens(["<start>", "<end>"])
    marks = [(mark, made.token_to_id(mark)) for mark in ("<start>", "<end>")]
    made.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=marks)
    made.save(str(path))
    return int(made.get_vocab_size())


def save_model(folder: Path, vision: dict[str, Any], *, bpe: bool = False, **more: Any) -> Any:
    """Write a random tiny model the way the embedded one is written (fp16) and return it in evaluation mode."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = clip_load.OPEN_CLIP_VOCABULARY if bpe else save_tokenizer(folder / "tokenizer.json")
    cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text_cfg(vocab_size), **more}
    torch.manual_seed(0)
    model = open_clip.CLIP(**json.loads(json.dumps(cfg))).eval()
    halves = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    save_file({name: t.contiguous() for name, t in halves.items()}, folder / clip_load.WEIGHTS_FILE)
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in halves.items()})
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": cfg, "preprocess_cfg": preprocess}
    (folder / clip_load.CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    return model


@pytest.fixture(scope="module", params=["vit", "timm", "bpe"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, clip.Clip]:
    """Return open_clip's model and the adapter of the same files."""
    folder = tmp_path_factory.mktemp(request.param)
    vision = TIMM if request.param == "timm" else VIT
    model = save_model(folder, vision, bpe=request.param == "bpe", init_logit_bias=-10.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onednn, "has_bfloat16", lambda: False)
        return model, clip.load(folder, templates=["{}"], batch=4)


def test_text_equals_open_clip(pair: tuple[Any, clip.Clip]) -> None:
    model, encoder = pair
    tokens = clip_load.build_tokenizer(clip_load.find(encoder.model_id))(WORDS)
    assert tokens.shape == (len(WORDS), 16)
    with torch.inference_mode():
        want = model.encode_text(tokens, normalize=True).numpy()
    got = encoder.encode_text(WORDS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


def test_images_equal_open_clip(pair: tuple[Any, clip.Clip]) -> None:
    model, encoder = pair
    transform = image_transform((32, 32), False, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "squash", "bicubic")
    pictures = crops()
    pixels = torch.stack([transform(PIL.Image.fromarray(crop)) for crop in pictures])
    np.testing.assert_allclose(encoder.preprocess(pictures).numpy(), pixels.numpy(), atol=1e-5)
    with torch.inference_mode():
        want = model.encode_image(pixels, normalize=True).numpy()
    got = encoder.encode_images(pictures)  # six crops in batches of four
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("able", "dtype"), [(True, "float32"), (False, "float32"), (True, "bfloat16")])
def test_crops_of_a_convolutional_tower_are_rounded_where_that_is_quicker(
    able: bool, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path, TIMM)
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: able)
    encoder = clip.load(tmp_path, templates=["{}"], dtype=dtype)
    pictures = crops()
    with torch.inference_mode():
        want = model.encode_image(encoder.preprocess(pictures).float(), normalize=True).numpy()
    got = encoder.encode_images(pictures)
    assert got.dtype == np.float32
    assert (got * want).sum(axis=1).min() > 0.99
    assert (np.abs(got - want).max() < 1e-5) == (not able)
    words = encoder.encode_text(WORDS)  # the words are not
    with torch.inference_mode():
        tokens = clip_load.build_tokenizer(clip_load.find(encoder.model_id))(WORDS)
        said = model.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(words, said, atol=1e-5 if dtype == "float32" else 0.05)


def test_is_an_encoder(pair: tuple[Any, clip.Clip]) -> None:
    _, encoder = pair
    assert isinstance(encoder, ImageTextEncoder)
    assert encoder.dim == 24
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert encoder.logit_bias == -10.0


def test_none_and_one(pair: tuple[Any, clip.Clip]) -> None:
    _, encoder = pair
    assert encoder.encode_text([]).shape == (0, 24)
    assert encoder.encode_images([]).shape == (0, 24)
    assert encoder.encode_text(["car"]).shape == (1, 24)
    assert encoder.encode_images(crops([(5, 3)])).shape == (1, 24)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("fill", [0, 127])
def test_preprocessing_equals_open_clips(mode: str, interpolation: str, fill: int) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    transform = image_transform((48, 48), False, mean, std, mode, interpolation, fill)
    cfg = {"mean": mean, "std": std, "resize_mode": mode, "interpolation": interpolation, "fill_color": fill}
    inputs = ClipInput.read(cfg, 48)
    pictures = crops([*SIZES, (48, 48), (49, 47), (97, 33), (20, 150), (300, 48)])
    got = (inputs.pixels(pictures).astype(np.float32) / 255 - np.array(mean)) / np.array(std)
    want = np.stack([transform(PIL.Image.fromarray(crop)).numpy() for crop in pictures])  # (N, 3, h, w)
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, atol=1e-4)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_preprocessing_of_an_oblong_input(mode: str) -> None:
    transform = image_transform((32, 48), False, 0.0, 1.0, mode, "bicubic")
    transform.transforms[-1].mean, transform.transforms[-1].std = (0.0,) * 3, (1.0,) * 3
    inputs = ClipInput.read({"resize_mode": mode}, (32, 48))
    pictures = crops([(40, 40), (31, 47), (90, 61), (32, 48)])
    want = np.stack([transform(PIL.Image.fromarray(crop)).numpy() for crop in pictures])
    np.testing.assert_allclose(inputs.pixels(pictures).transpose(0, 3, 1, 2) / 255, want, atol=1e-4)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size_hw", [(1, 3000), (3000, 1), (17, 3000)])
def test_slivers_take_little_memory(mode: str, size_hw: tuple[int, int]) -> None:
    inputs = ClipInput.read({"resize_mode": mode, "fill_color": 9}, 224)
    sliver = np.full((*size_hw, 3), 77, np.uint8)
    out = inputs.pixels([sliver])
    assert out.shape == (1, 224, 224, 3)
    assert set(np.unique(out)) <= ({77, 9} if mode == "longest" else {77})


def test_a_cut_sliver_looks_like_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ClipInput.read({}, 48)
    sliver = crops([(20, 900)])
    cut = inputs.pixels(sliver)
    monkeypatch.setattr("textseg.models.clip_input._MAX_GROWTH", 10**9)
    whole = inputs.pixels(sliver)
    assert np.abs(cut.astype(int) - whole).mean() < 12  # at most half an original pixel away


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_bad_crops(bad: Any) -> None:
    with pytest.raises(ShapeError, match=r"crop 1: got .* expected uint8 \(h, w, 3\)"):
        ClipInput.read({}, 8).pixels([np.zeros((4, 4, 3), np.uint8), bad])


def test_unknown_preprocessing() -> None:
    with pytest.raises(WeightsError, match="'stretch'"):
        ClipInput.read({"resize_mode": "stretch"}, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model."""
    path = tmp_path_factory.mktemp("clip")
    save_model(path, VIT)
    return path


def test_templates_are_averaged(folder: Path) -> None:
    parts = [clip.load(folder, templates=[t]).encode_text(["car"]) for t in ("{}", "a photo of {}", "no {} here")]
    mean = np.mean(parts, axis=0)
    got = clip.load(folder, templates=["{}", "a photo of {}", "no {} here"]).encode_text(["car"])
    np.testing.assert_allclose(got, mean / np.linalg.norm(mean), atol=1e-5)


def test_templates_come_from_the_folder_if_it_tells(folder: Path, tmp_path: Path) -> None:
    assert clip.load(folder).templates == clip.DEFAULT_TEMPLATES
    for name in (clip_load.WEIGHTS_FILE, clip_load.TOKENIZER_FILE):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((folder / clip_load.CONFIG_FILE).read_text(encoding="utf-8"))
    (tmp_path / clip_load.CONFIG_FILE).write_text(json.dumps({**config, "templates": ["one {}"]}), encoding="utf-8")
    assert clip.load(tmp_path).templates == ("one {}",)
    assert clip.load(tmp_path, templates=["{}"]).templates == ("{}",)


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} {}"], [5]])
def test_bad_templates(folder: Path, templates: Any) -> None:
    with pytest.raises(ConfigError, match="template"):
        clip.load(folder, templates=templates)


def test_texts_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = clip.load(folder, text_cache=2)
    calls: list[int] = []
    embed = encoder._towers.embed_texts
    monkeypatch.setattr(encoder._towers, "embed_texts", lambda ids: calls.append(len(ids)) or embed(ids))
    first = encoder.encode_text(["a", "b"])
    np.testing.assert_array_equal(encoder.encode_text(["b", "a"]), first[::-1])
    assert len(calls) == 1
    without = clip.load(folder, text_cache=0)
    np.testing.assert_allclose(without.encode_text(["a", "b"]), first, atol=1e-6)


def test_many_texts(folder: Path) -> None:
    encoder = clip.load(folder, templates=["{}"])
    words = [f"thing {i}" for i in range(600)]
    got = encoder.encode_text(words)
    np.testing.assert_allclose(got[[0, 599]], encoder.encode_text([words[0], words[599]]), atol=1e-6)


def test_other_precisions(folder: Path) -> None:
    want = clip.load(folder).encode_images(crops())
    got = clip.load(folder, dtype="bfloat16").encode_images(crops())
    assert got.dtype == np.float32
    assert (got * want).sum(axis=1).min() > 0.99
    assert math.isfinite(clip.load(folder, dtype="bfloat16").logit_scale)
    assert clip.load(folder).logit_bias is None


def test_unknown_things() -> None:
    with pytest.raises(ConfigError, match="did you mean 'open_clip'"):
        clip.load("x", kind="openclip")
    with pytest.raises(ConfigError, match="did you mean 'ViT-B-16'"):
        clip.load("ViTB-16", pretrained="openai")
    with pytest.raises(ConfigError, match="did you mean 'laion2b_s34b_b88k'"):
        clip.load("ViT-B-16", pretrained="laion2b_s34b_b88")
    with pytest.raises(ConfigError, match="pretrained tag None of ViT-B-16"):
        clip.load("ViT-B-16")
    with pytest.raises(WeightsError, match="no such folder"):
        clip.load("/absent/folder")
    with pytest.raises(WeightsError, match="no such folder"):
        clip.load("hf-hub:a b/c")


def copy_with(folder: Path, target: Path, name: str, data: bytes | None) -> Path:
    """Copy a model's folder with one file replaced, or left out."""
    for path in folder.iterdir():
        if path.name != name:
            (target / path.name).write_bytes(path.read_bytes())
    if data is not None:
        (target / name).write_bytes(data)
    return target


@pytest.mark.parametrize("name", [clip_load.CONFIG_FILE, clip_load.WEIGHTS_FILE, clip_load.TOKENIZER_FILE])
@pytest.mark.parametrize("data", [None, b"", b"{}", b"damaged" * 99])
def test_damaged_folders_name_the_file(folder: Path, tmp_path: Path, name: str, data: bytes | None) -> None:
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        clip.load(copy_with(folder, tmp_path, name, data))


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    save_file({"visual.proj": torch.zeros(3, 3)}, tmp_path / "other")
    data = (tmp_path / "other").read_bytes()
    (tmp_path / "other").unlink()
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors does not fit"):
        clip.load(copy_with(folder, tmp_path, clip_load.WEIGHTS_FILE, data))


def test_truncated_weights(folder: Path, tmp_path: Path) -> None:
    data = (folder / clip_load.WEIGHTS_FILE).read_bytes()
    with pytest.raises(WeightsError, match="damaged"):
        clip.load(copy_with(folder, tmp_path, clip_load.WEIGHTS_FILE, data[: len(data) // 2]))


def test_pickles_are_never_loaded(folder: Path, tmp_path: Path) -> None:
    copy_with(folder, tmp_path, clip_load.WEIGHTS_FILE, None)
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(WeightsError, match=r"open_clip_pytorch_model\.bin cannot be used: pickles are never loaded"):
        clip.load(tmp_path)


def test_unbuildable_config(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / clip_load.CONFIG_FILE).read_text(encoding="utf-8"))
    config["model_cfg"]["vision_cfg"]["wings"] = 2
    with pytest.raises(WeightsError, match=r"model_cfg.*wings"):
        clip.load(copy_with(folder, tmp_path, clip_load.CONFIG_FILE, json.dumps(config).encode()))


@pytest.mark.parametrize("model", ["hf-hub:org/name", "org/name@main"])
def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    def fail(repo: str, **options: Any) -> str:
        assert repo == "org/name"
        assert not any(pattern.endswith((".bin", ".pt")) for pattern in options["allow_patterns"])
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(HubError, match=f"{model}.*out of reach.*no network.*'nano' works offline"):
        clip.load(model)


def test_hub_model_without_safetensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **options: str(tmp_path))
    with pytest.raises(HubError, match=r"timm/.* has no open_clip\*\.safetensors"):
        clip.load("ViT-B-32", pretrained="openai")


def test_hub_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **options: str(folder))
    encoder = clip.load("hf-hub:org/name")
    assert encoder.model_id == "hf-hub:org/name"
    np.testing.assert_allclose(encoder.encode_text(WORDS), clip.load(folder).encode_text(WORDS), atol=1e-6)


def test_a_name_takes_its_tags_activation_and_preprocessing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **options: str(folder))
    for tag, quick in (("openai", True), ("laion2b_s34b_b79k", False)):
        source = clip_load.find("ViT-B-32", tag)
        assert source.model_cfg["quick_gelu"] is quick
        assert source.preprocess_cfg["interpolation"] == "bicubic"
