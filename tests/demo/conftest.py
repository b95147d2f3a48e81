"""Pictures and a temporary folder for gradio, so that nothing is left in the machine's own."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest

from tests.fakes import scene


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "scene.png"
    PIL.Image.fromarray(scene()).save(path)
    return str(path)
