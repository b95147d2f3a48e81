"""The README tells the truth: its commands run, its Python runs, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from textseg.config import preset_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Return every command of the bash blocks as its words, comments left out."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def name_of(words: list[str]) -> str:
    return " ".join(words)[:60]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the examples; what one command writes, the next may read, as for a reader."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", path / "examples")
    return path


@pytest.fixture
def folder(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, and one stands in it."""
    monkeypatch.chdir(workplace)
    return workplace


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "textseg"], ids=name_of)
def test_textseg_commands(words: list[str], folder: Path) -> None:
    """Commands run as they stand; those that need a network or never end are only parsed."""
    elsewhere = "pull" in words or "demo" in words or ("--preset" in words and "nano" not in words)
    arguments = [*words[1:], "--help"] if elsewhere else words[1:]
    done = subprocess.run(
        [sys.executable, "-m", "textseg.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("words", [w for w in commands() if w[0] != "textseg"], ids=name_of)
def test_other_commands(words: list[str]) -> None:
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        assert words[0] == "python", f"the README has a command that no test knows: {words}"
        assert (ROOT / words[1]).is_file()


def test_the_two_commands_are_in_the_first_screen() -> None:
    first = "\n".join(README.splitlines()[:24])
    assert "make run" in first
    assert "make test" in first


@pytest.mark.slow
def test_python_blocks_run_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for number, block in enumerate(blocks("python")):
        exec(compile(block, f"README.md, python block {number}", "exec"), names)
    assert (folder / "out" / "overlay.png").is_file()
    assert (folder / "out" / "chelsea" / "result.json").is_file()
    assert "no-such-picture.jpg" in capsys.readouterr().out


def links(path: Path) -> list[str]:
    """Return the relative links of a Markdown file."""
    found = re.findall(r"\]\(([^)#]+)", path.read_text("utf-8"))
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    missing = [link for link in links(path) if not (path.parent / link).exists()]
    assert missing == []


def test_every_preset_is_in_the_table() -> None:
    assert set(preset_names()) == set(re.findall(r"^\| `(\w+)`", README.split("| part |")[0], re.MULTILINE))
