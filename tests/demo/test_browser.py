"""The page's first tab in a real browser: Chromium driven by Playwright; skipped where either is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.demo.browsing import (
    MARKS,
    SIZE_WH,
    Opener,
    api,
    ask,
    masks,
    page_position,
    shot,
    stage,
    upload,
)
from tests.demo.conftest import BROWSER_PATIENCE, Served, serve
from tests.fakes import BLUE_BOX

pytestmark = MARKS

CAR = (70, 234, 362, 432)
"""xyxy of the red car of examples/street.jpg."""

BODY = (150, 315, 330, 345)
"""A part of it that is red paint throughout."""


@pytest.fixture(scope="module")
def nano() -> Iterator[Served]:
    with serve("--models", "nano") as served:
        yield served


def test_the_red_car(open_page: Opener, nano: Served) -> None:
    """The first minute of a visitor: an example, a phrase, Enter, a click that mends, a slider."""
    page = open_page(nano.url, height=1010)
    page.locator("tr.tr-body").first.click()
    page.wait_for_selector("#masks .ts-stage:not([hidden])")
    before = stage(page)
    ask(page, "the red car")
    masks(page, 1)
    after = stage(page)
    changed = np.abs(after - before).max(axis=2) > 12
    x0, y0, x1, y1 = BODY
    assert changed[y0:y1, x0:x1].mean() > 0.9
    x0, y0, x1, y1 = CAR
    outside = np.ones_like(changed)
    outside[y0 - 12 : y1 + 12, x0 - 12 : x1 + 12] = False
    assert changed[outside].mean() < 0.002

    page.mouse.click(*page_position(page, 500, 330, SIZE_WH))  # the blue car belongs to it, says the visitor
    page.wait_for_selector("#masks .ts-point", state="attached")
    mended = np.abs(stage(page) - before).max(axis=2) > 12
    assert mended[315:345, 470:560].mean() > 0.5
    page.click("#undo")
    page.wait_for_selector("#masks .ts-point", state="detached")
    back = np.abs(stage(page) - after).max(axis=2) > 12
    assert back.mean() < 0.002

    page.locator("#threshold input[type=range]").fill("1")
    masks(page, 0)
    assert "the red car (closest at" in page.get_by_label("Not in this picture").input_value()
    page.locator("#threshold input[type=range]").fill("0.2")
    masks(page, 1)
    assert page.get_by_label("Preset and times").input_value().startswith("nano: text")


def test_screenshots(open_page: Opener, nano: Served) -> None:
    for dark, name in ((False, "demo.png"), (True, "demo-dark.png")):
        page = open_page(nano.url, height=1010, dark=dark)
        page.locator("tr.tr-body").first.click()
        page.wait_for_selector("#masks .ts-stage:not([hidden])")
        ask(page, "the red car, the blue car")
        api.expect(page.locator("#masks .ts-layer").nth(1)).to_be_attached(timeout=BROWSER_PATIENCE)
        page.locator("#threshold input[type=range]").fill("0.4")
        masks(page, 2)
        shot(page, name)
    phone = open_page(nano.url, width=390, height=844)
    phone.locator("tr.tr-body").nth(0).click()
    phone.wait_for_selector("#masks .ts-stage:not([hidden])")
    ask(phone, "the red car, a giraffe")
    api.expect(phone.get_by_label("Preset and times")).to_have_value(re.compile("nano: text"), timeout=BROWSER_PATIENCE)
    phone.evaluate("document.querySelector('#run').scrollIntoView()")
    shot(phone, "demo-phone.png")


def test_rows_light_up_their_mask(open_page: Opener, server: Served, picture: str) -> None:
    page = open_page(server.url)
    upload(page, picture)
    ask(page, "the red box, the blue box, a dog")
    masks(page, 2)
    rows = page.locator("#masks tbody tr")
    rows.nth(1).hover()
    api.expect(page.locator("#masks .ts-layer").nth(0)).to_have_class("ts-layer ts-dim")
    api.expect(page.locator("#masks .ts-layer").nth(1)).to_have_class("ts-layer ts-lit")
    rows.nth(0).click()
    api.expect(page.locator("#masks tbody tr").nth(0)).to_have_class("ts-chosen")
    page.mouse.move(2, 2)
    api.expect(page.locator("#masks .ts-layer").nth(1)).to_have_class("ts-layer ts-dim")
    assert page.get_by_label("Not in this picture").input_value().startswith("a dog")


def test_a_box_is_dragged(open_page: Opener, server: Served, picture: str) -> None:
    page = open_page(server.url)
    upload(page, picture)
    ask(page, "the red box")
    masks(page, 1)
    x0, y0, x1, y1 = BLUE_BOX
    page.mouse.move(*page_position(page, x0, y0, (128, 96)))
    page.mouse.down()
    page.mouse.move(*page_position(page, x1, y1, (128, 96)), steps=5)
    page.mouse.up()
    page.wait_for_selector("#masks .ts-box", state="attached")
    api.expect(page.locator("#masks .ts-layer")).to_have_count(1)


def test_every_file_downloads_and_opens(open_page: Opener, server: Served, picture: str, tmp_path: Path) -> None:
    page = open_page(server.url)
    upload(page, picture)
    ask(page, "the red box, the blue box")
    masks(page, 2)
    page.get_by_role("button", name="Take it away").click()
    page.click("#make-files")
    links = page.locator("#files a[download]")
    api.expect(links).to_have_count(8, timeout=BROWSER_PATIENCE)
    got = {}
    for k in range(8):
        with page.expect_download() as caught:
            links.nth(k).click()
        path = tmp_path / caught.value.suggested_filename
        caught.value.save_as(path)
        got[path.name] = path
    for name, path in got.items():
        if path.suffix == ".png":
            with PIL.Image.open(path) as opened:
                assert opened.size == (128, 96), name
        elif path.suffix == ".json":
            assert len(json.loads(path.read_text("utf-8"))["annotations"]) == 2
        else:
            compile(path.read_text("utf-8"), name, "exec")
    assert {"scene_overlay.png", "scene_cutout.png", "scene_coco.json", "scene_answer.py"} <= set(got)


def test_keyboard_alone(open_page: Opener, server: Served, picture: str) -> None:
    page = open_page(server.url)
    upload(page, picture)  # the file dialog is the system's own
    tab_to(page, "document.activeElement.closest('#phrases')")
    page.keyboard.type("the red box, the blue box")
    page.keyboard.press("Enter")
    masks(page, 2)
    tab_to(page, "document.activeElement.closest('#threshold') && document.activeElement.type === 'range'")
    page.keyboard.press("End")
    masks(page, 0)
    page.keyboard.press("Home")
    page.wait_for_selector("#masks .ts-layer", state="attached")
    tab_to(page, "document.activeElement.classList.contains('ts-stage')")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#masks .ts-point", state="attached")
    tab_to(page, "document.activeElement.classList.contains('ts-row')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#masks .ts-chosen")
    tab_to(page, "document.activeElement.closest('#undo')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#masks .ts-point", state="detached")


def tab_to(page: Any, condition: str) -> None:
    """Press Tab until the focus is there."""
    for _ in range(120):
        if page.evaluate(f"!!({condition})"):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab never reaches {condition}")


UNNAMED = """
() => [...document.querySelectorAll('input, textarea, select, button, [tabindex="0"]')].filter((one) => {
  if (!one.offsetParent || one.type === 'hidden') return false;
  const by = (one.getAttribute('aria-labelledby') || '').split(' ').map((id) => document.getElementById(id));
  const name = one.getAttribute('aria-label') || by.map((b) => b && b.textContent).join('') || one.title
    || [...(one.labels || [])].map((l) => l.textContent).join('') || one.textContent || one.placeholder || '';
  return !name.trim();
}).map((one) => one.outerHTML.slice(0, 160))
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_every_control_is_labelled_and_fits(open_page: Opener, server: Served, picture: str, width: int) -> None:
    page = open_page(server.url, width=width, height=844)
    upload(page, picture)
    ask(page, "the red box, the blue box")
    masks(page, 2)
    for tab in ("Everything", "Compare", "Label", "Segment"):
        if not page.get_by_role("tab", name=tab).is_visible():  # a phone folds tabs away
            page.locator(".overflow-menu button").first.click()
            page.locator(".overflow-dropdown button", has_text=tab).click()
        else:
            page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        assert page.evaluate(UNNAMED) == [], tab


def test_markup_is_text_and_mistakes_are_told(open_page: Opener, server: Served, picture: str, tmp_path: Path) -> None:
    page = open_page(server.url)
    upload(page, picture)
    evil = "<img src=x onerror=\"alert('red')\"><script>alert(1)</script>"
    ask(page, evil)
    masks(page, 1)
    assert page.locator("#masks .ts-row").first.text_content() == evil
    ask(page, f"{evil}\n{evil}")
    page.get_by_test_id("toast-body").first.wait_for()
    assert page.locator("[data-testid=toast-body] img, [data-testid=toast-body] script").count() == 0
    fake = tmp_path / "fake.png"
    fake.write_text("just text")
    page = open_page(server.url)
    page.set_input_files("#picture input[type=file]", str(fake))
    toast = page.get_by_test_id("toast-body").first
    toast.wait_for()
    assert "fake.png: not a picture" in (toast.text_content() or "")


def test_sessions_are_apart(open_page: Opener, server: Served, picture: str) -> None:
    mine = open_page(server.url)
    upload(mine, picture)
    ask(mine, "the red box")
    masks(mine, 1)
    other = open_page(server.url)
    assert other.locator("#masks .ts-stage").is_hidden()
    assert other.locator("#masks .ts-layer").count() == 0
    mine.reload()
    mine.wait_for_selector("#phrases textarea")
    assert mine.locator("#masks .ts-layer").count() == 0
    upload(mine, picture)
    ask(mine, "the blue box")
    masks(mine, 1)
