"""The command line on fakes: what it prints, writes and returns, and how it fails."""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.fakes import RED_BOX, fake_pipeline, scene
from textseg import __version__, downloads
from textseg.cli import app, doctor, run, show
from textseg.config import ModelConfig, Preset, preset_names
from textseg.errors import HubError, WeightsError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    PIL.Image.fromarray(scene()).save(path)
    return path


@pytest.fixture(autouse=True)
def fake_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, Any]]:
    """Let ``load`` return the fakes; the list records what it was asked for."""
    asked: list[tuple[Any, Any]] = []

    def load(preset: Any = "nano", *, device: str | None = None) -> Any:
        asked.append((preset, device))
        return fake_pipeline()

    monkeypatch.setattr("textseg.build.load", load)
    monkeypatch.chdir(tmp_path)
    return asked


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def script(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "textseg.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


# ---------------------------------------------------------------- segment


def test_a_rough_mask_and_rounds(picture: Path, tmp_path: Path) -> None:
    x0, y0, x1, y1 = RED_BOX
    rough = PIL.Image.new("L", (128, 96))
    rough.paste(255, (x0 + 2, y0 + 2, x1 - 2, y1 - 2))
    rough.save(tmp_path / "rough.png")
    box = ",".join(str(v) for v in RED_BOX)
    done = call("segment", picture, "--mask", tmp_path / "rough.png", "--box", box, "--rounds", 2, "-o", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "o" / "result.json").is_file()
    assert call("segment", picture, "--mask", tmp_path / "none.png").exit_code != 0
    refused = call("segment", picture, "--box", box, "--rounds", -1)
    assert refused.exit_code != 0 and "refine_rounds: got -1" in refused.output


def test_segment_prints_and_writes(picture: Path, tmp_path: Path) -> None:
    done = call("segment", picture, "the red box", "the blue box", "a dog", "-o", tmp_path / "o")
    assert done.exit_code == 0, done.output
    for text in ("the red box", "the blue box", "sam_iou", "16,24–48,72", "12.5%", "fake: text"):
        assert text in done.output
    assert "not in this picture: a dog (nothing came close)" in done.output
    assert (tmp_path / "o" / "overlay.png").is_file()
    assert (tmp_path / "o" / "mask_001_the-blue-box.png").is_file()


def test_segment_nothing_found_is_an_answer(picture: Path) -> None:
    done = call("segment", picture, "a dog", "--no-save")
    assert done.exit_code == 0
    assert "not in this picture: a dog" in done.output


def test_segment_threshold_and_closest_miss(picture: Path) -> None:
    done = call("segment", picture, "the red box", "-t", "1.0", "--no-save")
    assert done.exit_code == 0
    assert "not in this picture: the red box (closest at 16,24–48,72: score 1.00 below the threshold" in done.output


def test_segment_json(picture: Path, tmp_path: Path) -> None:
    done = call("segment", picture, "the red box", "--json", "--no-save")
    values = json.loads(done.stdout)
    assert [a["label"] for a in values["accepted"]] == ["the red box"]
    assert not (tmp_path / "out").exists()


def test_segment_default_folder(picture: Path, tmp_path: Path) -> None:
    assert call("segment", picture, "the red box").exit_code == 0
    assert (tmp_path / "out" / "result.json").is_file()


def test_segment_passes_preset_and_device(picture: Path, fake_models: list[tuple[Any, Any]]) -> None:
    call("segment", picture, "red", "--no-save", "--preset", "base", "--device", "cpu")
    call("segment", picture, "red", "--no-save")
    assert fake_models == [("base", "cpu"), ("nano", None)]


def test_segment_by_box_and_points(picture: Path) -> None:
    x0, y0, x1, y1 = RED_BOX
    done = call("segment", picture, "--box", f"{x0},{y0},{x1},{y1}", "--json", "--no-save")
    assert json.loads(done.stdout)["accepted"][0]["source"] == "user"
    done = call("segment", picture, "--point", "30,40", "--background-point", "90,40", "--json", "--no-save")
    assert json.loads(done.stdout)["accepted"][0]["area"] == 32 * 48
    assert "(pointed at)" in call("segment", picture, "--point", "30,40", "--no-save").output


def test_segment_negatives(picture: Path) -> None:
    done = call("segment", picture, "the red box, not: a toy", "--json", "--no-save")
    assert json.loads(done.stdout)["phrases"][0] == {
        "text": "the red box", "negatives": ["a toy"], "found": True,
        "best_score": pytest.approx(1.0, abs=0.01),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing asked"),
        (("--box", "1,2,3"), "expected 4 numbers x0,y0,x1,y1"),
        (("--point", "a,b"), "expected 2 numbers x,y"),
        (("red", "--threshold", "2"), "threshold: got 2"),
        (("red", "--threshold", "high"), "threshold"),
        (("red", "RED"), "are the same"),
        (("  ",), "blank"),
        (("x" * 10_000,), "10000 characters"),
        (("--box", "0,0,0,5"), "is empty"),
        (("--point", "500,5"), "outside the picture"),
        (("red", "--no-such-option"), "No such option"),
    ],
)
def test_segment_misuse_is_code_2(picture: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call("segment", picture, *arguments, "--no-save")
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
    assert "Traceback" not in done.output


def test_segment_bad_pictures_are_one_line(tmp_path: Path, fake_models: list[tuple[Any, Any]]) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("missing.jpg", "empty.jpg", "text.png", "."):
        done = call("segment", tmp_path / name, "red")
        assert done.exit_code == 2
        assert done.stderr.startswith("textseg: ")
        assert done.stderr.count("\n") == 1
    assert fake_models == []  # no model was loaded for nothing


def test_segment_out_is_a_file(picture: Path) -> None:
    done = call("segment", picture, "red", "-o", picture)
    assert done.exit_code == 2
    assert "cannot write to" in done.stderr


def test_interrupt_is_130(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("textseg.build.load", load)
    done = call("segment", picture, "red")
    assert done.exit_code == 130
    assert "Traceback" not in done.output


def test_phrases_cannot_steer_the_terminal(picture: Path) -> None:
    done = call("segment", picture, "[red]red[/red] \x1b[31mbox", "--no-save")
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert "[red]red[/red]" in done.stdout


# ---------------------------------------------------------------- models, doctor


def test_models_lists_every_preset() -> None:
    for arguments in (["models"], ["models", "list"]):
        done = call(*arguments)
        assert done.exit_code == 0
        assert all(name in done.output for name in preset_names())


def test_models_show() -> None:
    done = call("models", "show", "base")
    assert done.exit_code == 0
    assert "facebook/sam-vit-base" in done.output
    stages = yaml.safe_load(done.output[done.output.index("device:") :])
    assert 0 <= stages["rank"]["threshold"] <= 1


def test_models_unknown() -> None:
    done = call("models", "show", "nanno")
    assert done.exit_code == 2
    assert "did you mean 'nano'" in done.stderr


def test_pull_of_local_models_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    (tmp_path / "mine.yaml").write_text(f"name: mine\nsegmenter: {{kind: sam, model: {tmp_path / 'model'}}}\n")
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    done = call("models", "pull", tmp_path / "mine.yaml")
    assert done.exit_code == 0
    assert "nothing to download" in done.output


class Hub:
    """Stands in for ``snapshot_download``: nothing cached; remembers what it was asked."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.folder, self.error, self.asked = folder, error, list[dict[str, Any]]()

    def __call__(self, local_files_only: bool = False, **wanted: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        self.asked.append(wanted)
        if self.error is not None:
            raise self.error
        return str(self.folder)


def hub_preset(model: str, kind: str = "sam") -> Preset:
    return Preset("mine", ModelConfig(kind, model))


def test_pull_asks_for_safetensors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    hub = Hub(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert downloads.summary(hub_preset("org/name")).startswith("needs a download")
    assert downloads.pull(hub_preset("org/name@v1")) == [tmp_path]
    assert hub.asked[0]["repo_id"] == "org/name"
    assert hub.asked[0]["revision"] == "v1"
    assert not [p for p in hub.asked[0]["allow_patterns"] if p.endswith((".bin", ".pt", ".pkl", "*"))]


def test_pull_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(tmp_path, OSError("no route\nto host")))
    with pytest.raises(HubError, match=r"'org/name': the model hub is out of reach \(no route\); .*nano.* offline"):
        downloads.pull(hub_preset("org/name"))
    done = call("models", "pull", "base")
    assert done.exit_code == 2
    assert "out of reach" in done.stderr
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(tmp_path))
    with pytest.raises(HubError, match="has no safetensors"):
        downloads.pull(hub_preset("hf-hub:org/name", "open_clip"))
    with pytest.raises(WeightsError, match="no weights here"):
        downloads.pull(hub_preset(str(tmp_path)))
    assert downloads.summary(hub_preset("package:nano/none")) == "weights missing"


def test_doctor() -> None:
    done = call("doctor")
    assert done.exit_code == 0, done.output
    for text in ("Python", "memory", "cpu", "torch", *preset_names()):
        assert text in done.output
    assert "MISSING" in doctor.installed("no-such-distribution")


# ---------------------------------------------------------------- the thin doors


def test_eval_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("textseg.evaluate.run.main", seen.append)
    assert call("eval", "--preset", "nano", "--limit", "3", "--help").exit_code == 0
    assert seen == [["--preset", "nano", "--limit", "3", "--help"]]
    assert logging.getLogger("textseg").getEffectiveLevel() == logging.INFO, "a long run tells of its steps unasked"
    assert call("models", "list").exit_code == 0
    assert logging.getLogger("textseg").getEffectiveLevel() == logging.WARNING


def test_train_runs_the_parts_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Part:
        main = staticmethod(seen.append)

    monkeypatch.setattr("textseg.cli.run.importlib.import_module", lambda name: seen.append([name]) or Part)
    for part in run.PARTS:
        (tmp_path / f"{part}.yaml").write_text("")
    done = call("train", "nano", "--config", tmp_path, "--out", tmp_path / "o", "--data", "d")
    assert done.exit_code == 0, done.output
    assert [s[0] for s in seen[::2]] == [f"textseg.train.{module}" for module in run.PARTS.values()]
    assert seen[1] == ["--config", str(tmp_path / "clip.yaml"), "--out", str(tmp_path / "o" / "clip"), "--data", "d"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nanno"], "did you mean 'nano'"),
        (["nano", "--only", "detecter"], "did you mean 'detector'"),
        (["nano", "--config", "nowhere"], "clip.yaml is missing"),
    ],
)
def test_train_misuse(arguments: list[str], message: str) -> None:
    done = call("train", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


# ---------------------------------------------------------------- as a process


def test_version_and_help() -> None:
    assert call("--version").output == f"textseg {__version__}\n"
    done = call("--help")
    assert done.exit_code == 0
    assert all(name in done.output for name in ("segment", "models", "doctor", "demo", "eval", "train"))
    assert call("sgement").exit_code == 2


def test_help_is_quick_and_without_torch() -> None:
    code = (
        "import sys; from textseg.cli import app\n"
        "try: app(['segment', '--help'])\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'torch', 'cv2', 'gradio', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # seconds of processor time


@pytest.mark.parametrize("at_work", [False, True])
def test_the_process_ends_at_once_with_nothing_lost(at_work: bool) -> None:
    code = (
        "import atexit, sys, threading, time, textseg.cli as cli\n"
        "def app(**_):\n"
        "    sys.modules['torch'] = sys\n"
        "    atexit.register(print, 'registered')\n"
        "    print('said')\n"
        f"    if {at_work}: threading.Thread(target=lambda: (time.sleep(0.2), print('worked'))).start()\n"
        "    sys.exit(3)\n"
        "cli.app = app\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout.split() == (["said", "worked", "registered"] if at_work else ["said", "registered"])


def test_errors_of_the_process_go_to_stderr(tmp_path: Path) -> None:
    done = script("segment", "missing.jpg", "a car")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("textseg: 'missing.jpg': no such file")
    assert "Traceback" not in done.stderr


def test_verbose_says_what_is_written(picture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert call("-v", "segment", picture, "red", "-o", tmp_path / "o").exit_code == 0
    assert any("wrote 1 masks" in message for message in caplog.messages)


def test_plain_text() -> None:
    assert show.plain("a\x1b[1m\n") == "a�[1m�"


def test_table_has_no_column_for_a_part_that_applies_nowhere(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textseg.build.load", lambda *_, **__: fake_pipeline(clip=None, text_prompt=None))
    done = call("segment", picture, "red", "--no-save")
    assert "detector" in done.stdout and not {"clip", "color"} & set(done.stdout.split())


def test_table_has_a_dash_where_a_part_does_not_apply(picture: Path) -> None:
    done = call("segment", picture, "red box", "blue", "--no-save")
    (red,) = [line for line in done.stdout.splitlines() if line.startswith(" red box")]
    (blue,) = [line for line in done.stdout.splitlines() if line.startswith(" blue")]
    assert "color" in done.stdout.split()
    assert blue.split().count("–") == red.split().count("–") + 1
