"""The protocols over the fakes, which know colours and nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.fakes import BLUE_BOX, RED_BOX, fake_pipeline, scene
from textseg import closeup
from textseg.closeup import Rough
from textseg.config import ModelConfig, Preset
from textseg.errors import ConfigError, UnsupportedError
from textseg.evaluate import protocols, segmenter
from textseg.evaluate.pages import Ask, Material
from textseg.evaluate.run import evaluate
from textseg.evaluate.table import PROTOCOLS
from textseg.pipeline import PipelineConfig
from textseg.redraw import RedrawConfig
from textseg.types import Closeups, Float, Image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


@pytest.fixture(scope="module")
def material(data_root: Path) -> Material:
    return Material(data_root)


def test_best_mask_is_found_below_the_threshold() -> None:
    result = fake_pipeline(threshold=1.0)(scene(), "the red box")
    assert len(result) == 0
    x0, y0, x1, y1 = RED_BOX
    mask = protocols.best_mask(result)
    assert mask[y0:y1, x0:x1].mean() > 0.9 and mask.sum() < 1.3 * (x1 - x0) * (y1 - y0)
    assert not protocols.best_mask(fake_pipeline()(scene(), "a dog")).any()


def test_right_object_by_masks_and_by_boxes() -> None:
    masks = []
    for x0, y0, x1, y1 in (RED_BOX, BLUE_BOX):
        mask = np.zeros((96, 128), np.bool_)
        mask[y0:y1, x0:x1] = True
        masks.append(mask)
    red, blue = (np.array([box], np.float32) for box in (RED_BOX, BLUE_BOX))
    by_masks = Ask("the red box", "box", red, (masks[0],), blue, (masks[1],))
    by_boxes = Ask("the red box", "box", red, None, blue)
    for asked in (by_masks, by_boxes):
        assert protocols.right_object(masks[0], asked)
        assert not protocols.right_object(masks[1], asked)
        assert not protocols.right_object(np.zeros_like(masks[0]), asked)


def test_coloured_garments_are_found(material: Material) -> None:
    outcome = protocols.ccp_color(fake_pipeline(), material)
    assert outcome.pictures == 2
    assert outcome["mean IoU"].value > 0.85 and outcome["mean IoU"].passed
    assert outcome["mean IoU"].by_kind["boots"][0] == 1


def test_a_noun_without_a_colour_is_not_found_by_the_fakes(material: Material) -> None:
    outcome = protocols.ccp_garments(fake_pipeline(), material)
    assert outcome["mean IoU of garments"].value == 0.0 and outcome["mean IoU of garments"].passed is False
    assert outcome["mean IoU"].n == outcome["mean IoU of garments"].n + 1  # hair is no garment
    assert protocols.coco_classes(fake_pipeline(), material)["found at all"].value == 0.0


def test_objects_that_the_fakes_do_not_know_are_not_there(material: Material) -> None:
    outcome = protocols.objects(fake_pipeline(), material)
    assert outcome.pictures == 4
    assert outcome["found at all"].value == 0.0
    assert outcome["rightly empty"].value == 1.0
    assert outcome["mean IoU"].n == 2
    assert outcome["AUROC, present against absent"].n == 8


def test_the_right_car_by_colour(material: Material) -> None:
    outcome = protocols.cars(fake_pipeline(), material)
    assert outcome["right car by colour (photograph)"].value == 1.0
    assert outcome["right car by colour (collage)"].value == 1.0
    assert outcome["large cars found"].n == 4


def test_color_scenes_run(material: Material) -> None:
    outcome = protocols.scenes_color(fake_pipeline(), material, 4)
    assert outcome.pictures <= 4 and 0 <= outcome["right object"].value <= 1


def test_absent(material: Material) -> None:
    outcome = protocols.absent(fake_pipeline(), material, 2)
    assert outcome["AUROC (wrong colour, ccp)"].value > 0.9


def test_segmenter_given_the_true_box(material: Material) -> None:
    outcome = segmenter.sam_true_box(fake_pipeline(), material)
    assert outcome[segmenter.BEST].value > 0.9
    assert outcome[f"{segmenter.ELLIPSE} (coco)"].value == pytest.approx(0.78, abs=0.03)
    assert outcome[f"{segmenter.ORACLE} (ccp)"].value >= outcome[f"{segmenter.BEST} (ccp)"].value


class Ellipses:
    """A refiner that leaves the rough mask as it is: for a bare box, its ellipse."""

    model_id = "ellipses"

    def refine(self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None) -> Closeups:
        windows = closeup.windows_around(boxes_xyxy, 1.4, 8.0)
        pairs = zip(roughs, windows, strict=True)
        near = [closeup.look(rough, window, 32) for rough, window in pairs]
        return Closeups(windows, np.stack(near), np.full(len(windows), 0.5, np.float32))


def test_who_draws_the_callers_boxes_is_measured_alone_and_in_the_pipeline(material: Material) -> None:
    class Nothing(Ellipses):
        def refine(
            self, image: Image, roughs: Sequence[Rough], boxes_xyxy: Float, hints: Float | None = None
        ) -> Closeups:
            return super().refine(image, [Rough(np.full_like(r.logits, -8.0), r.over_xyxy) for r in roughs], boxes_xyxy)

    config = replace(PipelineConfig(), redraw=RedrawConfig(own_ellipses=True, own_both=True))
    pipeline = fake_pipeline(refiner=Nothing(), own_refiner=Ellipses(), config=config)
    outcome = segmenter.sam_true_box(pipeline, material)
    for name in ("coco", "ccp"):
        ellipse = outcome[f"{segmenter.ELLIPSE} ({name})"].value
        assert outcome[f"{segmenter.CLOSE} ({name})"].value == pytest.approx(ellipse, abs=0.06)
    assert outcome[segmenter.REDRAWN].value < outcome[segmenter.CLOSE].value  # half of its mean is of nothing


def test_text_alone_needs_a_text_prompt(material: Material) -> None:
    with pytest.raises(UnsupportedError, match="text_prompt"):
        segmenter.sam_text_alone(fake_pipeline(text_prompt=None), material, 1)
    assert segmenter.sam_text_alone(fake_pipeline(), material, 2)[segmenter.BEST].n == 2


PRESET = Preset("fake", ModelConfig("sam", "some/model"))


def test_evaluate_writes_table_and_record(data_root: Path, tmp_path: Path) -> None:
    out, console = tmp_path / "eval.json", Console(file=io.StringIO(), width=140)
    names = ["ccp_color", "sam_true_box"]
    outcomes = evaluate(PRESET, data_root, names, 1, out, pipeline=fake_pipeline(), console=console)
    assert [o.name for o in outcomes] == names
    record = json.loads(out.read_text("utf-8"))
    assert record["limit"] == 1 and record["machine"]["cores"] >= 1
    assert record["weights"] == {"segmenter": "some/model"}
    assert [o["name"] for o in record["outcomes"]] == names


def test_evaluate_leaves_out_what_the_preset_cannot_do(data_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = fake_pipeline(text_prompt=None)
    console = Console(file=io.StringIO())
    assert evaluate(PRESET, data_root, ["sam_text_alone"], 1, pipeline=pipeline, console=console) == []
    assert "left out" in caplog.text


def test_evaluate_checks_its_options(data_root: Path) -> None:
    with pytest.raises(ConfigError, match="coco_classes"):
        evaluate(PRESET, data_root, ["coco_clases"], pipeline=fake_pipeline())
    with pytest.raises(ConfigError, match="limit"):
        evaluate(PRESET, data_root, limit=0, pipeline=fake_pipeline())


def test_every_row_of_the_table_has_a_target(material: Material) -> None:
    for name, protocol in PROTOCOLS.items():
        outcome = protocol(fake_pipeline(), material, 1)
        assert outcome.name == name and outcome.figures[0].target is not None
