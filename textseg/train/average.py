"""Average the weights of two runs: ``python -m textseg.train.average ONE TWO --share 0.7 --out FOLDER``.

A run that goes on from another's weights gains on what it sees most and may lose a little elsewhere. Between the two,
weight by weight, lies a model that keeps most of both (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR
2022); it is no larger and no slower. That holds only for runs of one origin, not for two trained from nothing.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from textseg.errors import WeightsError
from textseg.models.nano_files import write_whole

logger = logging.getLogger(__name__)


def average(one: str | Path, two: str | Path, share: float, out: str | Path) -> list[str]:
    """Write ``two``'s folder to ``out``, its tensors mixed with those of ``one``; return the mixed files' names.

    Args:
        one: folder with safetensors.
        two: folder of a run that went on from those; all its other files are taken as they are.
        share: of ``two`` in the mixture, 0..1. Tensors of whole numbers are taken from ``two``.
        out: folder to be written; may be ``two`` itself.

    Raises:
        WeightsError: the share is out of range, nothing is there to be mixed, or the tensors are not the same ones.
    """
    one, two, out = Path(one), Path(two), Path(out)
    if not 0 <= share <= 1:
        raise WeightsError(f"share: got {share}, expected a number in 0..1")
    names = sorted(p.name for p in two.glob("*.safetensors") if (one / p.name).is_file())
    if not names:
        raise WeightsError(f"no safetensors file lies both in {one} and in {two}; give two folders of one kind")
    mixed = {name: _mixed(one / name, two / name, share) for name in names}
    out.mkdir(parents=True, exist_ok=True)
    for file in two.iterdir():
        if file.is_file() and file.name not in mixed and out != two:
            shutil.copy(file, out / file.name)
    for name, content in mixed.items():
        write_whole(out / name, content)
    return names


def _mixed(one: Path, two: Path, share: float) -> bytes:
    (first, _), (second, metadata) = _read(one), _read(two)
    shapes_one, shapes_two = ({(name, tensor.shape) for name, tensor in t.items()} for t in (first, second))
    if unlike := sorted(name for name, _ in shapes_one ^ shapes_two):
        raise WeightsError(f"{one} and {two} hold other tensors, such as {unlike[0]}; average runs of one network")
    tensors = {
        name: torch.lerp(first[name].float(), tensor.float(), share).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in second.items()
    }
    content: bytes = save(tensors, metadata=metadata)
    return content


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights damaged: {path} ({error})") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description="Average the weights of a run with those that it started from.")
    parser.add_argument("one", help="folder with the weights before")
    parser.add_argument("two", help="folder with the weights of the run that went on from them")
    parser.add_argument("--share", type=float, default=0.5, help="of the second in the mixture (default: 0.5)")
    parser.add_argument("--out", required=True, help="folder for the mixture")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        names = average(options.one, options.two, options.share, options.out)
    except WeightsError as error:
        parser.error(str(error))
    logger.info("%s: %s, %.0f%% of %s", options.out, ", ".join(names), 100 * options.share, options.two)


if __name__ == "__main__":
    main()
