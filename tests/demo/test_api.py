"""The named endpoints through gradio_client: typed answers, hostile inputs, many clients, cancelled calls."""

from __future__ import annotations

import http.client
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import PIL.Image
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pycocotools import mask as coco_mask

from tests.demo.conftest import Served, serve
from tests.fakes import PALETTE, RED_BOX, scene

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the client's own connections
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(server.url, verbose=False, download_files=str(tmp_path_factory.mktemp("got")))
    yield made
    made.close()


def decoded(rle: dict[str, Any]) -> Any:
    return coco_mask.decode(rle).astype(bool)


def test_segment(client: Client, picture: str) -> None:
    overlay, answer = client.predict(handle_file(picture), "the red box, a dog", api_name="/segment")
    assert [one["label"] for one in answer["masks"]] == ["the red box"]
    x0, y0, x1, y1 = RED_BOX
    mask = decoded(answer["masks"][0]["segmentation"])
    assert mask[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].all() and not mask[:, 64:].any()
    assert answer["missing"] == [{"text": "a dog", "best_score": 0.0}]
    assert (answer["width"], answer["height"], answer["preset"]) == (128, 96, "fake")
    with PIL.Image.open(overlay) as shown:
        assert shown.size == (128, 96)
    _, strict = client.predict(handle_file(picture), "the red box", 1.0, api_name="/segment")
    assert strict["masks"] == [] and strict["threshold"] == 1.0


def test_everything(client: Client, picture: str) -> None:
    _, answer = client.predict(handle_file(picture), "red, blue", 8, 0.5, 0.5, api_name="/everything")
    assert {one["label"] for one in answer["masks"]} >= {"red", "blue"}
    assert answer["prompts"] == 64
    assert all(decoded(one["segmentation"]).sum() == one["area"] for one in answer["masks"])


def test_label(client: Client, picture: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    files = [handle_file(picture), handle_file(str(bad))]
    data_set, answer = client.predict(files, "the red box, a dog", -1, ["coco", "yolo-seg"], api_name="/label")
    assert (answer["pictures"], answer["per_class"]) == (1, {"the red box": 1, "a dog": 0})
    assert [one["picture"] for one in answer["failed"]] == ["bad.png"]
    with zipfile.ZipFile(data_set) as opened:
        names = opened.namelist()
        coco = next(
            name for name in names if name.startswith("coco/") and "annotations" in opened.read(name).decode("latin1")
        )
        assert len(json.loads(opened.read(coco))["annotations"]) == 1
    assert any(name.startswith("yolo-seg/") for name in names)


def test_results_are_typed_and_documented(client: Client) -> None:
    info = client.view_api(return_format="dict")["named_endpoints"]
    assert set(info) == {"/segment", "/everything", "/label"}
    for name, title in (("/segment", "SegmentAnswer"), ("/everything", "EverythingAnswer"), ("/label", "LabelAnswer")):
        schemas = [one["type"] for one in info[name]["returns"]]
        schema = next(one for one in schemas if one.get("title") == title)
        assert schema["properties"] and schema["description"]
    assert [one["parameter_name"] for one in info["/segment"]["parameters"]] == ["picture", "phrases", "threshold"]


# ---------------------------------------------------------------- hostile use


def file_data(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (file_data("/etc/passwd"), "no upload"),
        (file_data(str(Path(__file__).resolve().parents[2] / "examples" / "street.jpg")), "no upload"),
        (file_data("../../etc/passwd"), "no upload"),
        (file_data("http://127.0.0.1:1/a.png"), "URLs are not fetched"),
        (file_data("https://example.org/a.png"), "URLs are not fetched"),
        (file_data("file:///etc/passwd"), "URLs are not fetched"),
        (file_data("x.png", url="http://127.0.0.1:1/a.png"), "no upload"),
        (file_data("x.png", url="data:image/png;base64,AAAA"), "data URI"),
        (file_data("a\0b"), "no upload"),
        (None, "choose, paste or drop"),
    ],
)
def test_paths_and_urls_stay_out(server: Served, value: Any, message: str) -> None:
    assert message in call(server, "segment", [value, "red", -1])


def call(server: Served, name: str, data: list[Any]) -> str:
    """Return the error of a raw call of the API, as a program without gradio_client makes it."""
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        body = json.dumps({"data": data})
        connection.request("POST", f"/gradio_api/call/{name}", body, {"Content-Type": "application/json"})
        event = json.loads(connection.getresponse().read())["event_id"]
        connection.request("GET", f"/gradio_api/call/{name}/{event}")
        said = connection.getresponse().read().decode()
    finally:
        connection.close()
    assert "event: error" in said, said
    return said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.png", b"just text", "not a picture"),
        ("empty.png", b"", "zero bytes"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "an SVG drawing"),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        ("page.jpg", b"<html><script>alert(1)</script></html>", "an HTML page"),
        ("cut.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "damaged"),
    ],
)
def test_what_is_no_picture(client: Client, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AppError, match=message) as caught:
        client.predict(handle_file(str(path)), "red", api_name="/segment")
    assert "<script>" not in str(caught.value) and "textseg-demo-" not in str(caught.value)


def test_bombs(client: Client, tmp_path: Path) -> None:
    PIL.Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    for name in ("/segment", "/everything"):
        with pytest.raises(AppError, match=r"more than the limit of 1 Mpx|too large"):
            client.predict(handle_file(str(tmp_path / "bomb.png")), "red", api_name=name)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("large.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 50_000_000)
        opened.write(tmp_path / "bomb.png", "wide.png")
    with pytest.raises(AppError, match=r"no picture could be labelled: large.png: 50 MB unpacked"):
        client.predict([handle_file(str(tmp_path / "bomb.zip"))], "red", api_name="/label")


def test_words_of_every_kind(client: Client, picture: str) -> None:
    for text, message in [
        ("x" * 10_000, "10000 characters"),
        ("", "no phrase"),
        (" , ", "no phrase"),
        ("red\nRED", "phrase"),
    ]:
        with pytest.raises(AppError, match=message):
            client.predict(handle_file(picture), text, api_name="/segment")
    evil = "<img src=x onerror=alert('red')>"
    _, answer = client.predict(handle_file(picture), evil, api_name="/segment")
    assert answer["masks"][0]["label"] == evil
    with pytest.raises(AppError, match=r"0\.\.1"):
        client.predict(handle_file(picture), "red", 7, api_name="/segment")
    with pytest.raises(AppError, match="64 at most"):
        client.predict(handle_file(picture), "", 5000, api_name="/everything")
    with pytest.raises(AppError, match=r"expected pictures or one ZIP|cannot be opened as a ZIP|no picture"):
        client.predict([], "red", api_name="/label")


def test_a_large_upload(server: Served, tmp_path: Path) -> None:
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(500_000_000))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "send a smaller file" in json.loads(answer.read())["detail"]
    connection.close()
    large = tmp_path / "large.bin"
    large.write_bytes(b"x" * 3_000_000)
    with pytest.raises(ValueError, match="maximum file size"), closing(Client(server.url, verbose=False)) as one:
        one.predict(handle_file(str(large)), "red", api_name="/segment")


def test_other_doors_to_files_and_hosts(server: Served) -> None:
    where = urlsplit(server.url)
    for path, status in [
        ("/gradio_api/file=/etc/passwd", 403),
        ("/gradio_api/file=http://127.0.0.1:1/", 403),
        ("/gradio_api/proxy=http://127.0.0.1:1/", 403),
    ]:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        connection.request("GET", path)
        assert connection.getresponse().status == status, path
        connection.close()


# ---------------------------------------------------------------- many at once


def colored(color: str, path: Path, number: int) -> str:
    x = 8 + number % 60
    PIL.Image.fromarray(scene(boxes={color: (x, 20, x + 40, 70)})).save(path)
    return str(path)


def test_many_clients_get_their_own_answers(server: Served, tmp_path: Path) -> None:
    colors = [name for name in PALETTE if name != "gray"]

    def one(number: int) -> list[str]:
        color, wrong = colors[number % len(colors)], []
        with closing(Client(server.url, verbose=False, download_files=False)) as mine:
            for turn in range(4):
                path = colored(color, tmp_path / f"{number}_{turn}.png", number + 7 * turn)
                phrase = f"the {color} box {number}"
                _, answer = mine.predict(handle_file(path), phrase, api_name="/segment")
                want = 8 + (number + 7 * turn) % 60
                got = [(one["label"], round(one["box_xyxy"][0])) for one in answer["masks"]]
                if len(got) != 1 or got[0][0] != phrase or abs(got[0][1] - want) > 2:
                    wrong.append(f"{phrase} at {want}: {got}")
        return wrong

    with ThreadPoolExecutor(6) as pool:
        assert [wrong for many in pool.map(one, range(6)) for wrong in many] == []


def test_the_queue_tells_its_position(server: Served, picture: str) -> None:
    with closing(Client(server.url, verbose=False, download_files=False)) as one:
        jobs = [one.submit(handle_file(picture), "", 40, 0.5, 0.5, api_name="/everything") for _ in range(6)]
        ranks = set()
        while not all(job.done() for job in jobs):
            ranks |= {job.status().rank for job in jobs}
            time.sleep(0.05)
        assert {rank for rank in ranks if rank is not None}, "no client was told its place"
        for job in jobs:
            job.result()


def test_cancelled_calls_and_lost_clients(server: Served, picture: str) -> None:
    with closing(Client(server.url, verbose=False, download_files=False)) as one:
        job = one.submit(handle_file(picture), "", 60, 0.5, 0.5, api_name="/everything")
        job.cancel()
        _, answer = one.predict(handle_file(picture), "red", api_name="/segment")
        assert len(answer["masks"]) == 1
    lost = threading.Thread(target=leave, args=(server,))
    lost.start()
    lost.join()
    with closing(Client(server.url, verbose=False, download_files=False)) as other:
        _, answer = other.predict(handle_file(picture), "red", api_name="/segment")
        assert len(answer["masks"]) == 1


def leave(server: Served) -> None:
    """Begin an upload and go away in the middle of it."""
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", "100000")
    connection.endheaders()
    connection.send(b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc')
    connection.close()


def test_a_login_guards_everything(picture: str) -> None:
    with serve("--auth", "me:secret") as served:
        where = urlsplit(served.url)
        for path in ("/gradio_api/info", "/config", "/gradio_api/mcp/"):
            connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
            connection.request("GET", path)
            assert connection.getresponse().status in (401, 404), path
            connection.close()
        with pytest.raises(Exception, match=r"(?i)auth|login|credentials"):
            Client(served.url, auth=("me", "wrong"), verbose=False)
        with closing(Client(served.url, auth=("me", "secret"), verbose=False, download_files=False)) as one:
            _, answer = one.predict(handle_file(picture), "red", api_name="/segment")
        assert np.array(answer["masks"][0]["box_xyxy"]).shape == (4,)
