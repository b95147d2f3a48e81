"""The label contract: each mask has one class, each thing one mask."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import BLUE_BOX, RED_BOX, FakeClip, fake_pipeline, scene
from tests.label.helpers import CLASSES, run
from textseg import geometry
from textseg import image as images
from textseg.errors import ConfigError, PromptError
from textseg.label.items import GivenBox, Item
from textseg.label.ontology import LabelClass, Ontology, from_names
from textseg.label.records import Failed, Labelled
from textseg.label.store import Store
from textseg.label.work import PROPOSALS, PROPOSALS_A_PHRASE, Labeller, attempt, keep
from textseg.parts import PARTS


def label(ontology: Ontology, threshold: float | None = None, **item: object) -> Labelled:
    image = images.read(scene())
    return Labeller(fake_pipeline(), ontology, threshold)(Item("k", "u", **item), image)  # type: ignore[arg-type]


def test_every_class_is_asked_in_one_pass() -> None:
    clip = FakeClip()
    pipeline = fake_pipeline(clip=clip)
    done = Labeller(pipeline, from_names("red box, blue box, dog"))(Item("k", "u"), images.read(scene()))
    assert [mask.label for mask in done.masks] == ["red box", "blue box"]
    assert pipeline.detector.encoded == pipeline.segmenter.encoded == 1  # type: ignore[union-attr, attr-defined]
    assert set(done.best) == {"red box", "blue box", "dog"}
    assert done.best["red box"] == pytest.approx(done.masks[0].score, abs=1e-5)
    assert done.size_hw == (96, 128)


def test_masks_come_with_everything_the_store_keeps() -> None:
    (mask,) = label(from_names("red box")).masks
    found = geometry.decode_rle({"size": [96, 128], "counts": mask.counts})
    truth = np.zeros((96, 128), bool)
    truth[RED_BOX[1] : RED_BOX[3], RED_BOX[0] : RED_BOX[2]] = True
    assert (found & truth).sum() / (found | truth).sum() > 0.9
    assert mask.area == found.sum()
    assert set(mask.parts) == set(PARTS)
    json.dumps(mask.parts, allow_nan=False)
    assert mask.source in ("detector", "text")


def test_the_same_as_the_pipeline_where_each_class_has_one_phrase() -> None:
    result = fake_pipeline()(scene(), ["red box", "blue box", "dog"])
    done = label(from_names("red box, blue box, dog"))
    assert [mask.label for mask in done.masks] == list(result.labels)
    assert [mask.score for mask in done.masks] == result.scores.tolist()
    assert [mask.counts for mask in done.masks] == [geometry.encode_rle(mask)["counts"] for mask in result.masks]


def test_phrases_of_one_class_that_find_the_same_thing_give_one_mask() -> None:
    two = Ontology((LabelClass("crate", ("red box", "a red crate")), LabelClass("blue box")))
    done = label(two)
    assert [mask.label for mask in done.masks] == ["crate", "blue box"]
    assert done.masks[0].phrase in ("red box", "a red crate")


def test_a_thing_found_by_two_classes_goes_to_the_better() -> None:
    rivals = Ontology((LabelClass("a", ("red box",)), LabelClass("b", ("red crate", "red toy"))))
    done = label(rivals)
    assert len(done.masks) == 1
    assert done.best[done.masks[0].label] >= done.best["a"]


def test_thresholds_and_smallest_sizes_are_each_classs_own() -> None:
    strict = Ontology((LabelClass("red box", threshold=1.0), LabelClass("blue box")))
    assert [mask.label for mask in label(strict).masks] == ["blue box"]
    red = label(from_names("red box")).masks[0].area
    large = Ontology((LabelClass("red box", min_area=red + 1), LabelClass("blue box", min_area=9)))
    assert [mask.label for mask in label(large).masks] == ["blue box"]
    exact = Ontology((LabelClass("red box", min_area=red),))
    assert len(label(exact).masks) == 1
    assert label(from_names("red box, blue box"), threshold=1.0).masks == ()
    lenient = Ontology((LabelClass("red box", threshold=0.1), LabelClass("blue box")))
    assert [mask.label for mask in label(lenient, threshold=1.0).masks] == ["red box"]
    with pytest.raises(ConfigError, match="threshold"):
        label(strict, threshold=3.0)


def test_only_the_classes_that_a_picture_is_said_to_have_are_asked() -> None:
    done = label(from_names("red box, blue box"), labels=("blue box",))
    assert [mask.label for mask in done.masks] == ["blue box"]
    assert set(done.best) == {"blue box"}
    assert label(from_names("red box"), labels=()).masks == ()
    assert label(from_names("red box"), labels=("cat",)).masks == ()


def box(label: str, xyxy: tuple[int, int, int, int], origin: str) -> GivenBox:
    return GivenBox(label, tuple(float(v) for v in xyxy), origin)  # type: ignore[arg-type]


def test_given_boxes_become_one_mask_each_in_their_order() -> None:
    given = (box("blue box", BLUE_BOX, "4"), box("red box", RED_BOX, "5"), box("blue box", BLUE_BOX, "6"),
             box("cat", RED_BOX, "7"))  # fmt: skip
    done = label(from_names("red box, blue box"), boxes=given)
    assert [(mask.label, mask.origin, mask.source) for mask in done.masks] == [
        ("blue box", "4", "user"), ("red box", "5", "user"), ("blue box", "6", "user"),
    ]  # fmt: skip
    assert done.masks[0].counts == done.masks[2].counts
    assert done.masks[1].box_xyxy == pytest.approx(RED_BOX, abs=3)
    assert label(from_names("red box"), boxes=()).masks == ()


def test_a_box_without_a_mask_is_noted_and_one_outside_the_picture_fails() -> None:
    done = label(from_names("dog"), boxes=(box("dog", (60, 2, 70, 10), "8"),))
    assert (done.masks, done.note) == ((), "no mask in the boxes of annotations 8")
    item = Item("k", "u", boxes=(box("dog", (500, 2, 600, 10), "8"),))
    failed = attempt(Labeller(fake_pipeline(), from_names("dog")), item, images.read(scene()))
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.models) == (PromptError.__name__, False)


def test_boxes_of_a_coco_file_end_in_the_store(tmp_path: Path) -> None:
    import PIL.Image

    PIL.Image.fromarray(scene()).save(tmp_path / "a.png")
    x0, y0, x1, y1 = RED_BOX
    values = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "red box"}],
        "annotations": [{"id": 33, "image_id": 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(values))
    assert run(tmp_path / "coco.json", tmp_path / "out", classes=from_names("red box")).done == 1
    with Store.read(tmp_path / "out") as store:
        (mask,) = store.masks()
        assert (mask.label, mask.origin, mask.source) == ("red box", "33", "user")


def test_wrong_settings_are_raised_not_listed_picture_by_picture() -> None:
    class Wrong(Labeller):
        def __call__(self, item: Item, image: object) -> Labelled:
            raise ConfigError("wrong")

    with pytest.raises(ConfigError, match="wrong"):
        attempt(Wrong(fake_pipeline(), from_names("dog")), Item("k", "u"), images.read(scene()))


def test_keep_selects_candidates_and_nothing_else() -> None:
    scored = fake_pipeline()(scene(), ["red box", "blue box"]).scored
    some = keep(scored, scored.phrase_index == 1)
    assert 0 < len(some) < len(scored)
    assert set(some.phrase_index.tolist()) == {1}
    assert some.candidates is scored.candidates
    assert len(some.masks) == len(some.scores) == len(some.parts["clip"]) == len(some)
    assert len(keep(scored, np.zeros(len(scored), bool))) == 0
    assert len(keep(replace(some), np.ones(len(some), bool))) == len(some)


def test_a_long_list_of_classes_does_not_multiply_the_places_looked_at() -> None:
    few = Labeller(fake_pipeline(), from_names("red box")).pipeline.config.propose.max_total
    ten = Labeller(fake_pipeline(), from_names([f"thing {i}" for i in range(10)])).pipeline.config.propose.max_total
    many = Labeller(fake_pipeline(), from_names([f"thing {i}" for i in range(40)])).pipeline.config.propose.max_total
    assert (few, ten, many) == (PROPOSALS, PROPOSALS, 40 * PROPOSALS_A_PHRASE)
    pipeline = fake_pipeline()
    tight = replace(pipeline.config, propose=replace(pipeline.config.propose, max_total=5))
    assert Labeller(pipeline.with_config(tight), CLASSES).pipeline.config.propose.max_total == 5  # the preset's own


def test_what_a_lenient_class_would_take_is_looked_at() -> None:
    pipeline = fake_pipeline()
    rank = replace(pipeline.config.rank, threshold=0.4, glance=0.3)
    pipeline = pipeline.with_config(replace(pipeline.config, rank=rank))
    classes = (LabelClass("red box", threshold=0.1), LabelClass("blue box", threshold=0.9))
    for threshold, names, glance in ((None, classes[1:], 0.3), (0.2, classes[1:], 0.2), (None, classes, 0.1)):
        assert Labeller(pipeline, Ontology(names), threshold)._lean.config.rank.glance == glance
    image = images.read(scene())
    item = Item("k", "u")
    found = [Labeller(p, from_names("red box, blue box"))(item, image) for p in (pipeline, fake_pipeline())]
    assert [mask.label for mask in found[0].masks] == [mask.label for mask in found[1].masks]
