"""``app.py`` is ``textseg demo``: the same flags, the same messages."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import app


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        app.main()
    return caught.value.code


def test_unknown_preset(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--preset", "nanno") == 2
    assert "did you mean 'nano'" in capsys.readouterr().err


def test_the_flags_of_textseg_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    flags = (
        "--host --port --root-path --auth --max-pixels --max-file-mb --concurrency --preset --device --compare --mcp"
    )
    assert all(flag in said for flag in flags.split())
