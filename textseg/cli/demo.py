"""``textseg demo`` (and ``python app.py``): the web page with its API and MCP tools."""

from __future__ import annotations

from typing import Annotated

import typer

from textseg.cli.segment import DeviceOption, PresetOption


def demo(
    preset: PresetOption = "nano",
    device: DeviceOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7860,
    root_path: Annotated[
        str | None, typer.Option("--root-path", help="Path under which a proxy shows the page, such as /textseg.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option("--auth", metavar="NAME:PASSWORD", help="A login; there are no MCP tools then, which know none."),
    ] = None,
    mcp: Annotated[bool, typer.Option("--mcp/--no-mcp", help="Serve the MCP tools.")] = True,
    max_pixels: Annotated[int, typer.Option(help="Larger pictures are refused, pixels.")] = 25_000_000,
    max_file_mb: Annotated[int, typer.Option(help="Larger files are refused, megabytes.")] = 50,
    concurrency: Annotated[int, typer.Option(help="Requests that run the models at once; others queue.")] = 1,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="PRESET", help="Another preset for the Compare tab; may be repeated."),
    ] = None,
) -> None:
    """Open the web page: type words, see masks.

    Example: textseg demo --host 0.0.0.0 --root-path /textseg --auth guest:letmein
    """
    from textseg.demo.serve import Server, run

    server = Server(host, port, root_path, auth, mcp)
    limits = {"max_pixels": max_pixels, "max_file_mb": max_file_mb, "concurrency": concurrency}
    run(preset, device, server, limits, compare or [])
