"""``python -m tests.label.worker PICTURES OUT SECONDS``: a run on the fakes in a process that can be killed."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fakes import fake_pipeline
from tests.label.helpers import SlowSegmenter, run


def main() -> None:
    """Label and leave with the run's exit code; a store in use or other settings leave with 2 and the message."""
    pictures, out, seconds = sys.argv[1:]
    try:
        progress = run(Path(pictures), Path(out), pipeline=fake_pipeline(segmenter=SlowSegmenter(float(seconds))))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    sys.exit(progress.exit_code)


main()
