"""What the tests of the page in a real browser share; they are skipped where Playwright is missing.

TEXTSEG_SCREENSHOTS=assets writes the README's pictures.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.demo.conftest import BROWSER_PATIENCE

api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

MARKS = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SIZE_WH = (720, 480)

Opener = Callable[..., Any]


def upload(page: Any, path: str) -> None:
    page.set_input_files("#picture input[type=file]", path)
    page.wait_for_selector("#masks .ts-stage:not([hidden])")


def ask(page: Any, text: str) -> None:
    page.fill("#phrases textarea", text)
    page.press("#phrases textarea", "Enter")


def masks(page: Any, count: int, where: str = "#masks") -> None:
    api.expect(page.locator(f"{where} .ts-layer")).to_have_count(count, timeout=BROWSER_PATIENCE)


def stage(page: Any) -> np.ndarray:
    """Return what the browser shows of the picture and its masks, int (H, W, 3), without labels and marks."""
    page.add_style_tag(content=".ts-chips, .ts-marks { display: none } .ts-layer { transition: none !important }")
    page.mouse.move(2, 2)
    page.wait_for_timeout(300)
    with PIL.Image.open(io.BytesIO(page.locator("#masks .ts-stage").screenshot())) as shot:
        return np.asarray(shot.convert("RGB").resize(SIZE_WH), np.int16)


def page_position(page: Any, x: float, y: float, size_wh: tuple[int, int]) -> tuple[float, float]:
    page.locator("#masks .ts-stage").scroll_into_view_if_needed()
    box = page.locator("#masks .ts-stage").bounding_box()
    return box["x"] + x / size_wh[0] * box["width"], box["y"] + y / size_wh[1] * box["height"]


def shot(page: Any, name: str) -> None:
    """Write one of the README's pictures if they are wanted."""
    folder = os.environ.get("TEXTSEG_SCREENSHOTS")
    if folder:
        page.mouse.move(2, 2)
        page.wait_for_timeout(800)
        page.screenshot(path=str(Path(folder) / name))


def data_url(path: str) -> str:
    return "data:image/png;base64," + base64.b64encode(Path(path).read_bytes()).decode()


def answers(page: Any) -> None:
    """Wait for the picture, and find the red box in it."""
    page.wait_for_selector("#masks .ts-stage:not([hidden])")
    ask(page, "the red box")
    masks(page, 1)
