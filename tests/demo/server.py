"""Serves the page of the fakes for a test: ``python -m tests.demo.server PORT``. Prints its folder and "READY"."""

from __future__ import annotations

import sys

from textseg.demo.serve import Server, launch, temporary_files


def main() -> None:
    """Serve until stdin closes."""
    with temporary_files() as folder:
        from tests.fakes import fake_pipeline
        from textseg.demo.limits import Limits
        from textseg.demo.page import build_page

        limits = Limits(max_pixels=1_000_000, max_file_mb=2, max_files=5, concurrency=2)
        page = build_page(fake_pipeline(), limits)
        options = {"prevent_thread_lock": True, "quiet": True}
        auth = sys.argv[2] if len(sys.argv) > 2 else None
        launch(page, Server(port=int(sys.argv[1]), auth=auth), limits, **options)
        print(f"FOLDER {folder}\nREADY", flush=True)  # noqa: T201 - the test reads it
        sys.stdin.read()
        page.close(verbose=False)


if __name__ == "__main__":
    main()
