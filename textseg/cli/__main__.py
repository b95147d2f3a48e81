"""``python -m textseg.cli``: the same as the ``textseg`` script."""

from textseg.cli import main

main()
