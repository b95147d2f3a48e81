"""Serves a page for a test: ``python -m tests.demo.server PORT``, with flags for models, login and root path."""

from __future__ import annotations

import argparse
import sys
import time

from textseg.demo.serve import Server, launch, temporary_files
from textseg.types import Candidates, Embedding, Prompts


def main() -> None:
    """Serve until stdin closes; print "READY" and the temporary folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--models", default="fakes", choices=["fakes", "nano"])
    parser.add_argument("--auth")
    parser.add_argument("--root-path")
    parser.add_argument("--max-pixels", type=int, default=1_000_000)
    parser.add_argument("--slow", type=float, default=0.0, help="seconds that every decoding of the fakes takes longer")
    given = parser.parse_args()
    with temporary_files() as folder:
        from tests.fakes import FakeSegmenter, fake_pipeline
        from textseg.build import load
        from textseg.demo.limits import Limits
        from textseg.demo.page import build_page

        limits = Limits(max_pixels=given.max_pixels, max_file_mb=2, max_files=5, concurrency=2)

        class Slow(FakeSegmenter):
            def decode(self, embedding: Embedding, prompts: Prompts) -> Candidates:
                time.sleep(given.slow)
                return super().decode(embedding, prompts)

        pipeline = load("nano") if given.models == "nano" else fake_pipeline(segmenter=Slow())
        page = build_page(pipeline, limits)
        server = Server(port=given.port, auth=given.auth, root_path=given.root_path)
        launch(page, server, limits, prevent_thread_lock=True, quiet=True)
        print(f"READY {folder}", flush=True)  # noqa: T201 - the test reads it
        sys.stdin.read()
        page.close(verbose=False)


if __name__ == "__main__":
    main()
