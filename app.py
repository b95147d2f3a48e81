"""The web page: type words, see masks. The same as ``textseg demo``.

    python app.py --preset nano --port 7860

The page is ``textseg.demo``; all that it shows comes from ``Pipeline``, ``Result``, ``everything`` and ``label``.
"""

from __future__ import annotations

import sys

from textseg.cli import app


def main() -> None:
    """Serve the page with the flags of ``textseg demo``."""
    app(["demo", *sys.argv[1:]], prog_name="textseg")


if __name__ == "__main__":
    main()
