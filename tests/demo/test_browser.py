"""The page in a real browser: Chromium driven by Playwright; skipped where either is missing.

TEXTSEG_SCREENSHOTS=assets writes the README's pictures.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from gradio_client import Client, handle_file

from tests.demo.conftest import Served, serve
from tests.demo.proxy import behind_proxy
from tests.fakes import BLUE_BOX

api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PATIENCE = 120_000  # milliseconds: a busy machine is no failure
CAR = (70, 234, 362, 432)
"""xyxy of the red car of examples/street.jpg."""

BODY = (150, 315, 330, 345)
"""A part of it that is red paint throughout."""

SIZE_WH = (720, 480)

_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as play:
        options: dict[str, Any] = {"args": ["--no-sandbox", "--force-color-profile=srgb", *_CAMERA]}
        system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            made = play.chromium.launch(executable_path=system, **options)
        except api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield made
        made.close()


@pytest.fixture(scope="module")
def nano() -> Iterator[Served]:
    with serve("--models", "nano") as served:
        yield served


Opener = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Opener]:
    """Return what opens the page in a session of its own; any script error or dialog there is a failure."""
    contexts, wrong = [], []

    def opened(url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(f"{url}/?__theme={'dark' if dark else 'light'}")
        page.wait_for_selector("#phrases textarea")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def upload(page: Any, path: str) -> None:
    page.set_input_files("#picture input[type=file]", path)
    page.wait_for_selector("#masks .ts-stage:not([hidden])")


def ask(page: Any, text: str) -> None:
    page.fill("#phrases textarea", text)
    page.press("#phrases textarea", "Enter")


def masks(page: Any, count: int, where: str = "#masks") -> None:
    api.expect(page.locator(f"{where} .ts-layer")).to_have_count(count, timeout=PATIENCE)


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
        api.expect(page.locator("#masks .ts-layer").nth(1)).to_be_attached(timeout=PATIENCE)
        page.locator("#threshold input[type=range]").fill("0.4")
        masks(page, 2)
        shot(page, name)
    phone = open_page(nano.url, width=390, height=844)
    phone.locator("tr.tr-body").nth(0).click()
    phone.wait_for_selector("#masks .ts-stage:not([hidden])")
    ask(phone, "the red car, a giraffe")
    api.expect(phone.get_by_label("Preset and times")).to_have_value(re.compile("nano: text"), timeout=PATIENCE)
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
    api.expect(links).to_have_count(8, timeout=PATIENCE)
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


def test_the_other_tabs(open_page: Opener, server: Served, picture: str, tmp_path: Path) -> None:
    page = open_page(server.url)
    page.get_by_role("tab", name="Everything").click()
    panel = page.get_by_role("tabpanel").filter(has=page.get_by_role("button", name="Find everything"))
    panel.locator("input[type=file]").first.set_input_files(picture)
    panel.locator("input[type=range]").nth(0).fill("8")
    panel.locator("input[type=range]").nth(1).fill("0.5")
    panel.get_by_label("Vocabulary").fill("red, blue")
    page.wait_for_timeout(500)
    panel.get_by_role("button", name="Find everything").click()
    panel.locator("#everything-overlay img").wait_for()
    assert "from 64 points" in panel.get_by_label("Found").input_value()

    page.get_by_role("tab", name="Compare").click()
    panel = page.get_by_role("tabpanel").filter(has=page.get_by_role("button", name="Compare"))
    panel.locator("input[type=file]").first.set_input_files(picture)
    panel.get_by_label("What to look for").fill("the red box")
    page.wait_for_timeout(500)
    panel.get_by_label("What to look for").press("Enter")
    masks(page, 1, "#compare-left")
    page.wait_for_selector("#compare-right .ts-stage:not([hidden])")
    right = page.get_by_label("Right side: times").input_value()
    assert right.startswith("fake without the detector: text")

    page.get_by_role("tab", name="Label").click()
    copy = tmp_path / "second.png"
    shutil.copy(picture, copy)
    page.locator("#label-uploads input[type=file]").set_input_files([picture, str(copy)])
    page.fill("#label-classes textarea, #label-classes input", "red, blue")
    page.wait_for_timeout(500)
    page.click("#label-run")
    api.expect(page.get_by_label("Progress")).to_have_value(
        "2 pictures labelled, 4 masks: 2 red, 2 blue", timeout=PATIENCE
    )
    with page.expect_download() as caught:
        page.locator("#label-files a[download]").first.click()
    assert caught.value.suggested_filename == "textseg_labels.zip"


def data_url(path: str) -> str:
    return "data:image/png;base64," + base64.b64encode(Path(path).read_bytes()).decode()


def answers(page: Any) -> None:
    """Wait for the picture, and find the red box in it."""
    page.wait_for_selector("#masks .ts-stage:not([hidden])")
    ask(page, "the red box")
    masks(page, 1)


def test_behind_a_proxy(open_page: Opener, picture: str) -> None:
    with serve("--root-path", "/seg") as served, behind_proxy(served.url, "/seg") as url:
        page = open_page(url)
        upload(page, picture)
        ask(page, "the red box")
        masks(page, 1)
        with closing(Client(url, verbose=False, download_files=False)) as one:
            _, answer = one.predict(handle_file(picture), "red", api_name="/segment")
            assert [one["label"] for one in answer["masks"]] == ["red"]


def test_a_picture_from_the_clipboard(open_page: Opener, server: Served, picture: str) -> None:
    page = open_page(server.url)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (data) => {
            const blob = await (await fetch(data)).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }""",
        data_url(picture),
    )
    page.locator("#picture").get_by_label("Paste from clipboard").click()
    answers(page)


def test_a_picture_dropped(open_page: Opener, server: Served, picture: str) -> None:
    page = open_page(server.url)
    dropped = page.evaluate_handle(
        """async (data) => {
            const blob = await (await fetch(data)).blob();
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "dropped.png", {type: "image/png"}));
            return transfer;
        }""",
        data_url(picture),
    )
    area = page.locator("#picture").get_by_label("Drop an image file here to upload")
    area.dispatch_event("drop", {"dataTransfer": dropped})
    answers(page)


def test_a_picture_from_the_webcam(open_page: Opener) -> None:
    with serve("--max-pixels", "4000000") as served:
        page = open_page(served.url)
        page.context.grant_permissions(["camera"])
        picture = page.locator("#picture")
        picture.get_by_label("Capture from camera").click()
        picture.get_by_text("Click to Access Webcam").click()
        page.wait_for_function("document.querySelector('#picture video')?.videoWidth > 0")
        picture.get_by_label("capture photo").click()
        page.wait_for_selector("#masks .ts-stage:not([hidden])")
        red, green, blue = stage(page).mean(axis=(0, 1))  # Chromium's pretended camera shows a green picture
        assert green > 80 and green > 2 * max(red, blue)


def test_stop_ends_the_search(open_page: Opener, picture: str) -> None:
    with serve("--slow", "0.5") as served:  # 64 batches of points: half a minute
        page = open_page(served.url)
        page.get_by_role("tab", name="Everything").click()
        panel = page.get_by_role("tabpanel").filter(has=page.get_by_role("button", name="Find everything"))
        panel.locator("input[type=file]").first.set_input_files(picture)
        side, find = panel.locator("input[type=range]").nth(0), panel.get_by_role("button", name="Find everything")
        side.fill("64")
        page.wait_for_timeout(500)
        find.click()
        asking = panel.get_by_text("asking about points")
        asking.wait_for()
        panel.get_by_role("button", name="Stop").click()
        asking.wait_for(state="hidden")
        assert panel.get_by_label("Found").input_value() == "", "it did not end by itself"
        side.fill("8")
        page.wait_for_timeout(500)
        find.click()
        panel.locator("#everything-overlay img").wait_for()
        assert "from 64 points" in panel.get_by_label("Found").input_value()
