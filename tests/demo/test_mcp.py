"""The same functions as MCP tools, through an MCP client."""

from __future__ import annotations

import ast
import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.demo.conftest import Served

mcp = pytest.importorskip("mcp", reason="needs the package mcp: pip install 'textseg[mcp]'")

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def talk(server: Served, *calls: tuple[str, dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Return the tools, and the answer of each call (name, arguments)."""
    from mcp.client.session import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def run() -> tuple[list[Any], list[Any]]:
        async with (
            streamablehttp_client(f"{server.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            answers = [await session.call_tool(name, arguments, progress_callback=heard) for name, arguments in calls]
            return tools, answers

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        """With a listener for progress gradio answers in parts, the picture by itself."""

    return asyncio.run(run())


def data_uri(path: str) -> str:
    return "data:image/png;base64," + base64.b64encode(Path(path).read_bytes()).decode("ascii")


def test_the_tools(server: Served) -> None:
    tools, _ = talk(server)
    assert {tool.name for tool in tools} == {"segment", "everything", "label"}
    for tool in tools:
        assert len(tool.description) > 40
        assert all(one.get("description") for one in tool.inputSchema["properties"].values()), tool.name
    segment = next(tool for tool in tools if tool.name == "segment")
    assert {"picture", "phrases"} <= set(segment.inputSchema["required"])


def test_segment(server: Served, picture: str) -> None:
    arguments = {"picture": data_uri(picture), "phrases": "the red box, a dog"}
    _, (answer,) = talk(server, ("segment", arguments))
    assert not answer.isError, answer
    shown = next(part for part in answer.content if part.type == "image")
    with PIL.Image.open(io.BytesIO(base64.b64decode(shown.data))) as overlay:
        assert overlay.size == (128, 96)
    texts = [part.text for part in answer.content if part.type == "text"]
    said = ast.literal_eval(next(text for text in texts if text.startswith("{")))  # gradio prints the value
    assert [one["label"] for one in said["masks"]] == ["the red box"]
    assert [one["text"] for one in said["missing"]] == ["a dog"]


def test_label_and_everything(server: Served, picture: str) -> None:
    _, (labelled, found) = talk(
        server,
        ("label", {"pictures": [data_uri(picture), data_uri(picture)], "classes": "red, blue"}),
        ("everything", {"picture": data_uri(picture), "points_per_side": 6, "pred_iou_thresh": 0.5}),
    )
    assert not labelled.isError and "'red': 2" in str(labelled.content), labelled
    assert not found.isError and "'prompts': 36" in str(found.content)


@pytest.mark.parametrize("what", ["http://127.0.0.1:1/a.png", "/etc/passwd", "data:image/png;base64,AAAA"])
def test_nothing_else_is_read(server: Served, what: str) -> None:
    _, (answer,) = talk(server, ("segment", {"picture": what, "phrases": "red"}))
    assert answer.isError
    assert "root:" not in str(answer.content)
