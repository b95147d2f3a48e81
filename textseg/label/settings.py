"""What decides the labels, as plain values: hashed, kept in the store, and compared when a run resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textseg.errors import TextsegError
from textseg.label.ontology import Ontology
from textseg.pipeline import Pipeline
from textseg.protocols import ROLES

logger = logging.getLogger(__name__)

_SHOWN = 60


@dataclass(frozen=True)
class Settings:
    """Everything that decides the labels; two runs with equal settings may share a store.

    Attributes:
        values: JSON-ready: "source", "options", "ontology", "threshold", "pipeline".
        models: role → id of the model, with the hash of its weights where that is known.
    """

    values: Mapping[str, Any]
    models: Mapping[str, str]

    @property
    def hash(self) -> str:
        """Hex SHA-256 of it all."""
        text = json.dumps({"settings": self.values, "models": self.models}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def make(
    pipeline: Pipeline,
    ontology: Ontology,
    *,
    source: str,
    threshold: float | None = None,
    options: Mapping[str, Any] | None = None,
    weights: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings of a run.

    Args:
        pipeline: supplies the stages' settings and the models' ids.
        ontology: the classes.
        source: what is labelled, spelled so that it stays the same (``Source.name``).
        threshold: the run's own threshold, or None for the preset's.
        options: of the source, such as the seconds between a video's frames.
        weights: role → hash of the weights (``weight_hashes``), added to the models' ids.
    """
    values = {
        "source": source,
        "options": dict(options or {}),
        "ontology": ontology.to_dict(),
        "threshold": threshold,
        "pipeline": dataclasses.asdict(pipeline.config),
    }
    models: dict[str, str] = {}
    for role in ROLES:
        model = getattr(pipeline, role)
        if model is not None:
            name = str(getattr(model, "model_id", type(model).__name__))
            known = (weights or {}).get(role, "")
            models[role] = f"{name} sha256:{known}" if known else name
    return Settings(json.loads(json.dumps(values, ensure_ascii=False)), models)


def weight_hashes(preset: str | Path) -> dict[str, str]:
    """Return role → hash of the weights of a preset's models that lie in folders; hub models go by their ids.

    The hash is hex SHA-256 over the folder's safetensors and JSON files; its first 16 digits are kept.

    Raises:
        ConfigError: no such preset.
    """
    from textseg.build import resolve
    from textseg.config import read_preset

    settings = read_preset(preset)
    out: dict[str, str] = {}
    for role in ROLES:
        model = getattr(settings, role)
        if model is None:
            continue
        try:
            folder = Path(resolve(model.model))
        except TextsegError as error:
            logger.debug("%s: %s", role, error)
            continue
        if folder.is_dir():
            out[role] = _folder_hash(folder)
    return out


def changes(old: Settings, new: Settings) -> list[str]:
    """Return what differs, one line each: ``"ontology.car.threshold: 0.5 → 0.6"``."""
    before = _flat({"": old.values, "models": old.models})
    after = _flat({"": new.values, "models": new.models})
    lines = []
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in after:
            lines.append(f"{name}: {_show(before[name])} → gone")
        elif name not in before:
            lines.append(f"{name}: new, {_show(after[name])}")
        elif before[name] != after[name]:
            lines.append(f"{name}: {_show(before[name])} → {_show(after[name])}")
    return lines


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one: ``{"a": {"b": 1}}`` → ``{"a.b": 1}``."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix and key else prefix or key
        if isinstance(value, Mapping):
            out.update(_flat(value, name))
        else:
            out[name] = value
    return out


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _folder_hash(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.json")]):
        sha.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()[:16]
