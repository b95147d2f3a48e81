"""The benchmarks run on the fakes: no figure of theirs means anything here."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import ablation, speed
from tests.fakes import fake_pipeline
from textseg.evaluate.pages import Material

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

FOLDER = Path(__file__).parents[2] / "benchmarks"
COMMANDS = sorted(path.name for path in FOLDER.glob("*.py") if "def main(" in path.read_text())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_benchmark_starts(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(FOLDER / command), run_name="__main__")
    assert not stopped.value.code
    assert command in capsys.readouterr().out


def test_ablation_has_a_line_for_every_ranking(data_root: Path) -> None:
    pipeline = fake_pipeline()
    collected = ablation.collect_all(pipeline, Material(data_root), 8)
    lines = ablation.ablate(collected, pipeline.config.rank)
    drawn = {"closeup alone", "all parts, masks as SAM drew them"}  # the fakes have no refiner
    assert [line.name for line in lines] == [name for name in ablation.RANKINGS if name not in drawn]
    own = ablation.own_words(collected[ablation.FULL], pipeline.config.rank)
    assert "the best single score" in own
    text = ablation.as_markdown(lines, "command", own)
    assert "| all |" in text and "On choosing the right object" in text and own in text


def test_ablation_without_a_text_prompt(data_root: Path) -> None:
    pipeline = fake_pipeline(text_prompt=None)
    lines = ablation.ablate(ablation.collect_all(pipeline, Material(data_root), 8), pipeline.config.rank)
    mute = [name for name, (_, which) in ablation.RANKINGS.items() if which == ablation.MUTE]
    assert [line.name for line in lines] == [name for name in mute if name != "closeup alone"]


def test_speed_measures_ratios() -> None:
    measures = speed.warm(fake_pipeline(), 1)
    assert all(m.value > 0 for m in measures)
    text = speed.as_markdown(measures, "command")
    assert "second phrase on an opened picture / first" in text and "| first answer |" in text
