"""Which weights a preset needs, which of them are here, and how the others are fetched.

Only JSON, text and safetensors files are ever downloaded, never a pickle. Nothing here imports torch.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from textseg.config import ModelConfig, Preset
from textseg.errors import HubError, WeightsError
from textseg.protocols import ROLES

logger = logging.getLogger(__name__)

State = Literal["package", "folder", "cached", "download", "missing"]

_WEIGHTS = Path(__file__).resolve().parent / "weights"
_REPO = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")
_ADVICE = "the preset 'nano' works offline"


@dataclass(frozen=True)
class Need:
    """One model of a preset.

    Attributes:
        role: one of `textseg.protocols.ROLES`.
        model: its family and where it comes from.
        state: "package" (ships with textseg), "folder" (a local one), "cached" (downloaded before),
            "download" (must be fetched) or "missing" (a local folder without weights).
    """

    role: str
    model: ModelConfig
    state: State

    @property
    def ready(self) -> bool:
        """Whether it loads without a network."""
        return self.state in ("package", "folder", "cached")


def needs(preset: Preset) -> list[Need]:
    """Return the models of a preset with where each stands."""
    models = [(role, getattr(preset, role)) for role in ROLES]
    return [Need(role, model, _state(model)) for role, model in models if model is not None]


def summary(preset: Preset) -> str:
    """Return in words whether a preset can run here: "ships in the package", "needs a download" …"""
    states = {need.state for need in needs(preset)}
    if "missing" in states:
        return "weights missing"
    if "download" in states:
        return f"needs a download: textseg models pull {preset.name}"
    return "ready: ships in the package" if states == {"package"} else "ready: on this disk"


def pull(preset: Preset) -> list[Path]:
    """Fetch what a preset lacks into the hub's cache; return the folders of all its hub models.

    Raises:
        HubError: the hub is out of reach, or the model is gated, unknown or without safetensors.
        WeightsError: a local folder has no weights, which no download can mend.
    """
    folders: list[Path] = []
    for need in needs(preset):
        if need.state == "missing":
            raise WeightsError(f"{need.role}: {need.model.model} has no weights here; reinstall textseg or train it")
        if need.state in ("download", "cached"):
            folder = _fetch(need.model)
            if folder not in folders:
                folders.append(folder)
    return folders


def _state(model: ModelConfig) -> State:
    if model.model.startswith("package:"):
        return "package" if _has_weights(_WEIGHTS / model.model.removeprefix("package:")) else "missing"
    folder = Path(model.model).expanduser()
    if folder.is_dir():
        return "folder" if _has_weights(folder) else "missing"
    if _hub_name(model) is None:
        return "missing"
    return "cached" if _cached(model) is not None else "download"


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _hub_name(model: ModelConfig) -> re.Match[str] | None:
    return _REPO.fullmatch(model.model.removeprefix("hf-hub:"))


def _wanted(model: ModelConfig) -> dict[str, Any]:
    """Return snapshot_download's arguments for one model: the texts and one format of weights."""
    match = _hub_name(model)
    assert match is not None
    weights = "open_clip*.safetensors" if model.kind == "open_clip" else "model*.safetensors"
    return {
        "repo_id": match["repo"],
        "revision": match["revision"],
        "allow_patterns": [*_TEXTS, weights],
        "ignore_patterns": ["*/*"],
    }


def _cached(model: ModelConfig) -> Path | None:
    """Return the model's folder in the hub's cache if it is there with weights; the network is not asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(local_files_only=True, **_wanted(model)))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if _has_weights(folder) else None


def _fetch(model: ModelConfig) -> Path:
    """Return the model's folder, downloaded now if it is not cached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    cached = _cached(model)
    if cached is not None:
        return cached
    wanted = _wanted(model)
    name = wanted["repo_id"]
    logger.info("fetching %s from the model hub", name)
    try:
        folder = Path(snapshot_download(**wanted))
    except GatedRepoError as error:
        how = f"accept its terms at https://huggingface.co/{name}, then run `hf auth login`"
        raise HubError(f"model {name!r} is gated: {how}; {_ADVICE}") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"model {name!r}: unknown to the model hub, or private; {_ADVICE}") from error
    except Exception as error:  # the HTTP client's errors have no common base worth naming
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise HubError(f"model {name!r}: the model hub is out of reach ({first_line}); {_ADVICE}") from error
    if not _has_weights(folder):
        raise HubError(f"model {name!r} has no safetensors, and pickles are never loaded; {_ADVICE}")
    return folder
