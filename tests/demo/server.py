"""Serves a page for a test: ``python -m tests.demo.server PORT [nano|fakes] [NAME:PASSWORD]``."""

from __future__ import annotations

import sys

from textseg.demo.serve import Server, launch, temporary_files


def main() -> None:
    """Serve until stdin closes; print "READY" and the temporary folder."""
    with temporary_files() as folder:
        from tests.fakes import fake_pipeline
        from textseg.build import load
        from textseg.demo.limits import Limits
        from textseg.demo.page import build_page

        limits = Limits(max_pixels=1_000_000, max_file_mb=2, max_files=5, concurrency=2)
        nano = sys.argv[2:3] == ["nano"]
        page = build_page(load("nano") if nano else fake_pipeline(), limits)
        options = {"prevent_thread_lock": True, "quiet": True}
        auth = sys.argv[3] if len(sys.argv) > 3 else None
        launch(page, Server(port=int(sys.argv[1]), auth=auth), limits, **options)
        print(f"READY {folder}", flush=True)  # noqa: T201 - the test reads it
        sys.stdin.read()
        page.close(verbose=False)


if __name__ == "__main__":
    main()
