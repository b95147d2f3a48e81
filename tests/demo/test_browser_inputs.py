"""How a picture comes to the page in a real browser: through a proxy, pasted, dropped, from the webcam."""

from __future__ import annotations

from contextlib import closing

from gradio_client import Client, handle_file

from tests.demo.browsing import MARKS, Opener, answers, ask, data_url, masks, stage, upload
from tests.demo.conftest import Served, serve
from tests.demo.proxy import behind_proxy

pytestmark = MARKS


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
