"""Loading transformers checkpoints: from a local folder or from the model hub, safetensors only.

A model is named by a folder or by ``org/name[@revision]``. Hub models are first brought into
huggingface_hub's cache as a folder (``fetch``; only JSON, text and safetensors files are ever
downloaded, never a pickle), so that both kinds load by the same path and an error can name the file.
A cached model is used without touching the network.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from textseg.errors import ConfigError, HubError, WeightsError, nearest

logger = logging.getLogger(__name__)

_REPO = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "model*.safetensors")
_SUBFOLDERS = ("*/*",)
_ADVICE = "The preset 'nano' works offline; to fetch the others where there is a network: `textseg models pull PRESET`"


def fetch(model: str | Path) -> Path:
    """Return the folder that holds ``model``, downloading it first if it is a hub model not in the cache.

    Args:
        model: a folder, or ``org/name`` or ``org/name@revision`` (a branch, tag or commit).

    Raises:
        HubError: the hub is out of reach, or the model is gated, private or unknown there.
        WeightsError: ``model`` is neither a folder nor such a name.
    """
    folder = Path(model).expanduser()
    if str(model) and folder.is_dir():
        return folder
    match = _REPO.fullmatch(str(model))
    if match is None:
        raise WeightsError(f"model {str(model)!r}: no such folder, and not a hub name (org/name or org/name@revision)")
    return _download(str(model), match["repo"], match["revision"])


def _download(model: str, repo: str, revision: str | None) -> Path:
    """Return the cached snapshot of a hub model; the network is asked only for what the cache lacks."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import HFValidationError as BadNameError

    wanted: dict[str, Any] = {"allow_patterns": list(_WANTED), "ignore_patterns": list(_SUBFOLDERS)}
    try:
        cached = Path(snapshot_download(repo, revision=revision, local_files_only=True, **wanted))
        if _is_complete(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    except BadNameError as error:
        raise WeightsError(f"model {model!r}: not a folder, and not a valid hub name: {error}") from error
    logger.info("fetching %s from the model hub", model)
    try:
        return Path(snapshot_download(repo, revision=revision, **wanted))
    except GatedRepoError as error:
        reason = f"it is gated: accept its terms at https://huggingface.co/{repo}, then run `hf auth login`"
        raise HubError(f"model {model!r}: {reason}. {_ADVICE}") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"model {model!r}: unknown to the model hub, or private. {_ADVICE}") from error
    except Exception as error:  # the HTTP client's errors have no common base worth naming
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise HubError(f"model {model!r}: the model hub is out of reach ({first_line}). {_ADVICE}") from error


def _is_complete(folder: Path) -> bool:
    """Whether the configuration and every weights file are there (a cache may hold only what was once asked)."""
    try:
        return (folder / "config.json").is_file() and all(path.is_file() for path in _weight_files(folder))
    except WeightsError:
        return False


def check_weights(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint folder, each checked to be whole.

    The header and the length of every file are read, not the tensors.

    Raises:
        WeightsError: naming the file that is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    files = _weight_files(folder)
    for path in files:
        if not path.is_file():
            raise WeightsError(f"weights file missing: {path}")
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"weights file damaged: {path} ({error}). Delete it and fetch it again") from error
    return files


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise WeightsError(f"weights index damaged: {index} ({error})") from error
        return [folder / Path(name).name for name in names]
    pickles = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt*")))
    hint = f"; {', '.join(pickles)} cannot be used: pickles are never loaded" if pickles else ""
    raise WeightsError(f"weights file missing: {single}{hint}")


def load_pretrained(
    cls: Any,
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    **kwargs: Any,
) -> Any:
    """Build a transformers model of class ``cls``, in evaluation mode on ``device``.

    Args:
        cls: a transformers model class (with ``from_pretrained``).
        model: a folder, or ``org/name[@revision]``.
        device: where the weights go.
        dtype: what the weights are brought to, whatever the checkpoint is stored in ("float32", "bfloat16" …).
        **kwargs: passed on to ``cls.from_pretrained``.

    Raises:
        ConfigError: an unknown dtype.
        HubError: the hub is out of reach, or the model is gated.
        WeightsError: a file is missing or damaged, or the weights do not fill the model.
    """
    precision = torch_dtype(dtype)
    folder = fetch(model)
    files = check_weights(folder)
    _require_config(folder)
    try:
        with _no_progress_bar():
            built, info = cls.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=precision,
                output_loading_info=True,
                **kwargs,
            )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{cls.__name__} cannot be built from {files[0]}: {error}") from error
    if missing := sorted(info["missing_keys"]):
        shown = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        raise WeightsError(f"{files[0]} does not fit {cls.__name__}: {len(missing)} tensors are missing ({shown})")
    return built.to(device).eval()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing "Loading weights" on stderr: a library does not write there."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the torch dtype of that name; a torch dtype is returned as it is.

    Raises:
        ConfigError: not one of float32, bfloat16, float16.
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in names:
        raise ConfigError(f"unknown dtype {dtype!r}; {nearest(dtype, names)}")
    return names[dtype]


def load_processor(cls: Any, model: str | Path, **kwargs: Any) -> Any:
    """Build a transformers processor, tokenizer or image processor of class ``cls``.

    Raises:
        HubError: the hub is out of reach, or the model is gated.
        WeightsError: a tokenizer or preprocessing file is missing or damaged.
    """
    folder = fetch(model)
    try:
        return cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **kwargs)
    except Exception as error:  # damaged tokenizer files raise bare Exceptions from Rust
        raise WeightsError(f"{cls.__name__} cannot be built from the files in {folder}: {error}") from error


def _require_config(folder: Path) -> None:
    path = folder / "config.json"
    try:
        found = isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError) as error:
        raise WeightsError(f"model configuration missing or damaged: {path} ({error})") from error
    if not found:
        raise WeightsError(f"model configuration damaged: {path} (expected a JSON object)")
