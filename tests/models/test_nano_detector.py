"""The nano detector on tiny random weights: frames, odd pictures, many phrases, damaged files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.tiny_detectors import NANO, check_proposals
from textseg.errors import WeightsError
from textseg.language import other_colors
from textseg.models import nano_detector
from textseg.models.nano_boxes import ProposalConfig
from textseg.models.nano_detector import (
    NanoDetector,
    fit,
    load_detector,
    save_detector,
)
from textseg.models.nano_network import NanoNetwork
from textseg.protocols import Detector, NamesRegions
from textseg.types import Float, Image, UInt8
from textseg.vocabulary import Vocabulary


class FakeEncoder:
    """Each text its own fixed direction."""

    model_id = "fake"
    dim = 8

    def encode_text(self, texts: Sequence[str]) -> Float:
        seeds = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:4], "little") for t in texts]
        rows = np.stack([np.random.default_rng(s).standard_normal(8) for s in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def encode_images(self, crops_rgb: Sequence[UInt8]) -> Float:
        return np.zeros((len(crops_rgb), 8), np.float32)


@pytest.fixture(scope="module")
def network() -> NanoNetwork:
    torch.manual_seed(0)
    return NanoNetwork(NANO).eval()


@pytest.fixture(scope="module")
def detector(network: NanoNetwork) -> NanoDetector:
    return NanoDetector(network, FakeEncoder(), ProposalConfig(image_size=64))


def picture(height: int, width: int) -> Image:
    rgb = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image(rgb, "array", f"{height}x{width}")


def test_it_is_a_detector(detector: NanoDetector) -> None:
    assert isinstance(detector, Detector)


@pytest.mark.parametrize("size_hw", [(1, 1), (17, 3000), (3000, 17), (48, 64), (333, 500)])
def test_boxes_lie_in_the_original_picture(detector: NanoDetector, size_hw: tuple[int, int]) -> None:
    found = detector.detect(detector.encode(picture(*size_hw)), ["a car", "a dog"], 0.0)
    assert len(found) > 0
    assert set(found.phrase_index.tolist()) == {0, 1}
    x0, y0, x1, y1 = found.boxes_xyxy.T
    assert (x0 >= 0).all() and (y0 >= 0).all()
    assert (x1 <= size_hw[1]).all() and (y1 <= size_hw[0]).all()
    assert (x1 - x0 >= 1).all() and (y1 - y0 >= 1).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert found.mask_logits is not None and np.isfinite(found.mask_logits).all()
    assert len(found.mask_logits) == len(found)


def test_rough_masks_cover_the_picture_without_its_padding(detector: NanoDetector) -> None:
    found = detector.detect(detector.encode(picture(40, 80)), ["a car"], 0.0)
    assert found.mask_logits is not None
    assert found.mask_logits.shape[1:] == (8, 16)  # 32 × 64 pixels of input at stride 4


def test_rough_masks_are_low_far_from_their_box(detector: NanoDetector) -> None:
    found = detector.detect(detector.encode(picture(64, 64)), ["a car"], 0.0)
    assert found.mask_logits is not None
    centers = (np.arange(16) + 0.5) * 4
    for box, logits in zip(found.boxes_xyxy, found.mask_logits, strict=True):
        margin = 0.1 * (box[2] - box[0]) + 4
        outside = (centers < box[0] - margin) | (centers > box[2] + margin)
        assert (logits[:, outside] <= -11.9).all()


def test_how_far_a_red_car_reaches_is_asked_of_the_car_too(network: NanoNetwork) -> None:
    detector = NanoDetector(network, FakeEncoder(), ProposalConfig(image_size=320))
    encoded = detector.encode(picture(60, 80))  # at stride 4 its maps have a place for each pixel
    found = detector.detect(encoded, ["a dog", "the red car"], 0.0)
    assert found.mask_logits is not None
    with torch.inference_mode():
        codes = network.text(torch.from_numpy(FakeEncoder().encode_text(["a dog", "the red car", "car"]))[None])
        dog, red_car, car = network.match_pixels(encoded.features, codes)[0]
    for phrase, expected in enumerate((dog, (red_car + car) / 2)):
        row = int(np.flatnonzero(found.phrase_index == phrase)[0])
        x0, y0, x1, y1 = found.boxes_xyxy[row].round().astype(int)
        inside = np.s_[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]
        assert expected[inside].numel()
        np.testing.assert_allclose(found.mask_logits[row][inside], expected[inside].numpy(), atol=1e-4)


def test_nothing_found_is_an_empty_value(detector: NanoDetector) -> None:
    encoded = detector.encode(picture(32, 32))
    assert len(detector.detect(encoded, ["a car"], 1.1)) == 0
    assert len(detector.detect(encoded, [], 0.0)) == 0


def test_many_phrases_come_in_chunks_with_their_own_numbers(detector: NanoDetector) -> None:
    encoded = detector.encode(picture(32, 32))
    prompts = [f"thing {i}" for i in range(2000)]
    found = detector.detect(encoded, prompts, 0.0)
    assert set(found.phrase_index.tolist()) == set(range(2000))
    alone = detector.detect(encoded, prompts[1500:1501], 0.0)
    chosen = found[found.phrase_index == 1500]
    np.testing.assert_allclose(chosen.boxes_xyxy, alone.boxes_xyxy, atol=1e-2)


def test_the_same_picture_padded_or_scaled_gives_the_same_frame() -> None:
    padded, frame = fit(np.zeros((50, 100, 3), np.uint8), 64)
    assert padded.shape == (32, 64, 3)
    assert frame.resized_hw == (32, 64) and frame.scale_xy == (0.64, 0.64)


def test_a_part_of_the_phrase_that_fails_fails_the_phrase(network: NanoNetwork) -> None:
    features = network(torch.zeros(1, 3, 32, 32))
    codes = network.text(torch.randn(1, 3, 8))
    strict = codes._replace(pixel_bias=codes.pixel_bias + torch.tensor([0.0, -50.0]))
    assert (network.match_pixels(features, strict) < -20).all()


def test_saved_weights_come_back(network: NanoNetwork, tmp_path: Path) -> None:
    save_detector(tmp_path, network, ProposalConfig(image_size=64))
    loaded, config = load_detector(tmp_path)
    assert loaded.config == NANO and config.image_size == 64
    picture_in = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(picture_in).pixels, network(picture_in).pixels, atol=2e-2, rtol=2e-2)
    assert NanoDetector.load(tmp_path, FakeEncoder(), image_size=96).config.image_size == 96


def test_damaged_weights_are_named(network: NanoNetwork, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_detector(tmp_path)
    save_detector(tmp_path, network, ProposalConfig())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_detector(tmp_path)
    save_detector(tmp_path, NanoNetwork(), ProposalConfig())
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"width": 128', '"width": 64'))
    with pytest.raises(WeightsError, match="does not fit"):
        load_detector(tmp_path)


NOUNS = (("car",), ("dog",), ("bus", "vehicle"))


class NounEncoder(FakeEncoder):
    """One that brings its nouns."""

    def __init__(self) -> None:
        self.vocabulary: Vocabulary | None = Vocabulary(
            NOUNS, np.zeros((0, 2), np.int64), self.encode_text([name for name, *_ in NOUNS])
        )


@torch.inference_mode()
def test_a_region_is_named_by_the_mean_of_its_pixels_against_the_likeliest_other_noun(network: NanoNetwork) -> None:
    named = NanoDetector(network, NounEncoder(), ProposalConfig(image_size=64))
    assert isinstance(named, NamesRegions)
    encoded = named.encode(picture(40, 80))
    prompts = ["car", "the red dog"]
    masks = np.zeros((3, 24, 48), np.bool_)
    masks[0, :12, :24] = masks[1, 12:, 24:] = masks[2, :12, :24] = True  # quarters: 4 x 8 places of 8 x 16
    got = named.name_regions(encoded, masks, prompts, np.array([0, 0, 1]))
    quarters = encoded.features.pixels[0, :, :8, :16].unflatten(1, (2, 4)).unflatten(3, (2, 8)).mean((2, 4))
    for i, (row, column, phrase, rivals) in enumerate([(0, 0, 0, [1, 2]), (1, 1, 0, [1, 2]), (0, 0, 1, [0, 2])]):
        place = encoded.features._replace(pixels=quarters[None, :, row : row + 1, column : column + 1])
        others = (*(NOUNS[r][0] for r in rivals), *other_colors(prompts[phrase]))  # "the blue dog" is none either
        texts = torch.from_numpy(NounEncoder().encode_text([prompts[phrase], *others]))
        logits = network.match_pixels(place, network.text(texts[None])).flatten()
        expected = ((logits[0] + logits[0] - logits[1:].max()) / 4).sigmoid()
        assert got[i] == pytest.approx(float(expected), abs=1e-4)


def test_without_nouns_to_choose_among_regions_have_no_name(detector: NanoDetector) -> None:
    asked = detector.encode(picture(40, 80)), np.ones((1, 4, 8), np.bool_), ["car"], np.array([0])
    assert detector.name_regions(*asked) is None
    silent = NounEncoder()
    silent.vocabulary = None
    assert NanoDetector(detector.network, silent, detector.config).name_regions(*asked) is None


@pytest.mark.parametrize("size_hw", [(1, 1), (17, 3000), (333, 500)])
def test_regions_of_odd_pictures_have_names(network: NanoNetwork, size_hw: tuple[int, int]) -> None:
    named = NanoDetector(network, NounEncoder(), ProposalConfig(image_size=64))
    masks = np.stack([np.ones((5, 7), np.bool_), np.zeros((5, 7), np.bool_)])
    got = named.name_regions(named.encode(picture(*size_hw)), masks, ["a car"], np.array([0, 0]))
    assert got is not None and got.dtype == np.float32 and ((got > 0) & (got < 1)).all()
    nothing = named.name_regions(named.encode(picture(8, 8)), masks[:0], ["a car"], np.zeros(0, np.int64))
    assert nothing is not None and nothing.shape == (0,)


def test_another_encoder_is_refused(network: NanoNetwork) -> None:
    encoder = FakeEncoder()
    encoder.dim = 16
    with pytest.raises(WeightsError, match="width 8"):
        NanoDetector(network, encoder)


def test_features_are_float32_however_they_were_computed(detector: NanoDetector) -> None:
    assert {part.dtype for part in detector.encode(picture(40, 60)).features} == {torch.float32}


@pytest.mark.parametrize("size_hw", [(1, 1), (17, 3000), (90, 120)])
def test_a_second_look_brings_its_large_boxes(network: NanoNetwork, size_hw: tuple[int, int]) -> None:
    image, prompts = picture(*size_hw), ["a car", "a dog"]
    one, two = (
        NanoDetector(network, FakeEncoder(), ProposalConfig(image_size=96, far_size=far, far_share=0.0, nms_iou=1.0))
        for far in (0, 64)
    )
    assert one.encode(image).far is None
    encoded = two.encode(image)
    assert encoded.far is not None and max(encoded.far.frame.resized_hw) == 64
    both = two.detect(encoded, prompts, 0.0)
    far = NanoDetector(network, FakeEncoder(), ProposalConfig(image_size=64)).detect(encoded.far, prompts, 0.0)
    near = one.detect(one.encode(image), prompts, 0.0)
    check_proposals(both, size_hw, 2, 0.0)
    rows = {tuple(row) for part in (near, far) for row in part.boxes_xyxy.tolist()}
    assert {tuple(row) for row in both.boxes_xyxy.tolist()} <= rows
    assert both.scores.max() == max(near.scores.max(), far.scores.max())
    assert both.mask_logits is not None and near.mask_logits is not None
    assert both.mask_logits.shape[1:] == near.mask_logits.shape[1:]


def test_a_look_from_nearer_is_no_second_look(network: NanoNetwork) -> None:
    detector = NanoDetector(network, FakeEncoder(), ProposalConfig(image_size=64, far_size=64))
    assert detector.encode(picture(40, 60)).far is None


def test_phrases_get_a_second_look_each_for_itself(network: NanoNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is asked: a phrase finds what it finds alone, and only those worth it are asked of the second."""
    config = ProposalConfig(image_size=96, far_size=64, far_share=0.0, far_seen=0.5)
    detector = NanoDetector(network, FakeEncoder(), config)
    encoded = detector.encode(picture(90, 120))
    prompts = ["a red car", "a dog", "the blue cup", "sky"]
    shares = dict(zip(prompts, (0.7, 0.1, 0.9, 0.2), strict=True))
    asked: list[int] = []

    def worth(maps: torch.Tensor, config: ProposalConfig) -> torch.Tensor:
        asked.append(len(maps))
        seen = [shares[prompt] for prompt in now]
        return torch.tensor([i for i, share in enumerate(seen) if share >= config.far_seen], dtype=torch.int64)

    monkeypatch.setattr(nano_detector, "worth_a_second_look", worth)
    now = prompts
    together = detector.detect(encoded, prompts, 0.0)
    for number, prompt in enumerate(prompts):
        now = [prompt]
        alone = detector.detect(encoded, [prompt], 0.0)
        of = together[together.phrase_index == number]
        np.testing.assert_allclose(of.boxes_xyxy, alone.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(of.scores, alone.scores, atol=1e-5)
    assert asked == [4, 1, 1, 1, 1]
