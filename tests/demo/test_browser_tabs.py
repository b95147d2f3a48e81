"""The page's other tabs in a real browser: everything, compare, label."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.demo.browsing import MARKS, Opener, api, masks
from tests.demo.conftest import BROWSER_PATIENCE, Served, serve

pytestmark = MARKS


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
        "2 pictures labelled, 4 masks: 2 red, 2 blue", timeout=BROWSER_PATIENCE
    )
    with page.expect_download() as caught:
        page.locator("#label-files a[download]").first.click()
    assert caught.value.suggested_filename == "textseg_labels.zip"


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
