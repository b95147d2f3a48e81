"""``textseg label`` on the fakes: options, messages, exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.fakes import fake_pipeline
from tests.label.helpers import make_pictures
from textseg.cli import label as cli_label
from textseg.errors import TextsegError
from textseg.label.store import Store


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    import textseg.build

    monkeypatch.setattr(textseg.build, "load", lambda *args, **kwargs: fake_pipeline())
    monkeypatch.setattr("textseg.label.settings.weight_hashes", lambda preset: {})


def call(*words: str | Path) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(cli_label.label)
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: str | Path) -> str:
    answer = call(*words)
    assert answer.exit_code != 0
    return str(answer.exception) if isinstance(answer.exception, TextsegError) else answer.output


def test_a_folder_by_class_names(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 4), tmp_path / "labels"
    answer = call(pictures, "--classes", "red box, blue box", "-o", out)
    assert answer.exit_code == 0, answer.output
    assert "4 pictures labelled" in answer.output
    assert "6 masks" in answer.output
    answer = call(pictures, "--classes", "red box, blue box", "-o", out)
    assert (answer.exit_code, "0 pictures labelled" in answer.output, "4 before" in answer.output) == (0, True, True)


def test_failures_are_listed_and_tried_again(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 2), tmp_path / "labels"
    (pictures / "bad.png").write_bytes(b"")
    answer = call(pictures, "-c", "red box", "-o", out)
    assert answer.exit_code == 3
    assert "failed: bad.png: " in answer.output
    assert "zero bytes" in (out / "failed.tsv").read_text("utf-8").splitlines()[1]
    (pictures / "bad.png").write_bytes((pictures / "0001.png").read_bytes())
    assert call(pictures, "-c", "red box", "-o", out).exit_code == 3
    assert call(pictures, "-c", "red box", "-o", out, "--retry-failed").exit_code == 0
    assert not (out / "failed.tsv").exists()
    assert call(tmp_path / "in" / "none*.png", "-c", "red box", "-o", tmp_path / "other").exit_code == 4


def test_changed_settings_new_and_override(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 3), tmp_path / "labels"
    assert call(pictures, "-c", "red box", "-o", out, "--limit", "2").exit_code == 0
    assert "threshold: null → 0.4" in refused(pictures, "-c", "red box", "-o", out, "-t", "0.4")
    assert call(pictures, "-c", "red box", "-o", out, "-t", "0.4", "--override").exit_code == 0
    assert call(pictures, "-c", "blue box", "-o", out, "--new").exit_code == 0
    with Store.read(out) as store:
        assert (store.classes(), store.count("done"), len(store.runs())) == (("blue box",), 3, 1)
    assert "exclude each other" in refused(pictures, "-c", "x", "-o", out, "--new", "--override")


def test_shards_and_an_ontology_file(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "in", 6)
    (tmp_path / "classes.yaml").write_text("crate: [red box]\n")
    for i in (1, 2):
        words = (pictures, "--ontology", tmp_path / "classes.yaml", "-o", tmp_path / f"{i}", "--shard", f"{i}/2")
        assert call(*words).exit_code == 0
    with Store.read(tmp_path / "1") as one, Store.read(tmp_path / "2") as two:
        assert one.count() + two.count() == 6
        assert {mask.label for mask in one.masks()} == {"crate"}


def test_wrong_usage(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 1), tmp_path / "labels"
    assert "no classes" in refused(pictures, "-o", out)
    assert "exclude each other" in refused(pictures, "-c", "x", "--ontology", "y.yaml", "-o", out)
    assert "expected such as 3/8" in refused(pictures, "-c", "x", "-o", out, "--shard", "9/8")
    assert "unknown 'rai'; did you mean 'ray'" in refused(pictures, "-c", "x", "-o", out, "--engine", "rai")
    assert "no such file or folder" in refused(tmp_path / "none", "-c", "x", "-o", out)
    assert not out.exists()


def test_exports_run_after_the_labels_and_say_what_they_lose(tmp_path: Path) -> None:
    pictures, out = make_pictures(tmp_path / "in", 2), tmp_path / "labels"
    done = call(pictures, "-c", "red box", "-o", out, "-f", "coco", "-f", "yolo-boxes")
    assert done.exit_code == 0
    assert (out / "coco" / "annotations" / "instances.json").is_file()
    assert ("exact" in done.output, "boxes only" in done.output) == (True, True)
    assert "unknown 'cocoo'; did you mean 'coco'" in refused(pictures, "-c", "red box", "-o", out, "-f", "cocoo")


def test_nothing_labelled_is_said_before_any_export(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    done = call(tmp_path / "in", "-c", "red box", "-o", tmp_path / "labels", "-f", "coco")
    assert (done.exit_code, (tmp_path / "labels" / "coco").exists()) == (4, False)
