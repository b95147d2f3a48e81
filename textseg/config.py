"""Presets: YAML that only fills dataclasses. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from textseg.errors import ConfigError, nearest
from textseg.everything.options import EverythingOptions
from textseg.prompt import PromptConfig
from textseg.propose import ProposeConfig
from textseg.rank import RankConfig
from textseg.redraw import RedrawConfig
from textseg.segment import SegmentConfig

T = TypeVar("T")
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ModelConfig:
    """Which model fills a role.

    Attributes:
        kind: the family, a key of the adapters' tables ("sam", "sam2", "grounding_dino", "open_clip" …).
        model: "package:nano/sam" (ships with textseg), a folder, or a hub id "org/name", "org/name@revision".
        options: what else the family's builder takes.
    """

    kind: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """One YAML file of ``configs/``: the models and the stages' settings.

    Attributes:
        name: how people call it.
        summary: one line for ``textseg models``.
        segmenter, detector, clip, text_prompt, refiner, own_refiner: the models; all but the segmenter may be absent.
        device: "auto", "cpu", "cuda", "mps" …
        dtype: "float32", "bfloat16" or "float16": what the big models run in.
        propose, prompt, segment, redraw, rank: the stages' settings.
        everything: how everything in a picture is searched; segment-anything's defaults where a preset is silent.
    """

    name: str
    segmenter: ModelConfig
    summary: str = ""
    detector: ModelConfig | None = None
    clip: ModelConfig | None = None
    text_prompt: ModelConfig | None = None
    refiner: ModelConfig | None = None
    own_refiner: ModelConfig | None = None
    device: str = "auto"
    dtype: str = "float32"
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    redraw: RedrawConfig = field(default_factory=RedrawConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    everything: EverythingOptions = field(default_factory=EverythingOptions)


def preset_folder() -> Path:
    """Return the folder of the presets: inside the wheel, or beside the package in a checkout."""
    inside = _HERE / "configs"
    return inside if inside.is_dir() else _HERE.parent / "configs"


def preset_names() -> list[str]:
    """Return the names of the presets that ship."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


def read_preset(preset: str | Path) -> Preset:
    """Read a shipped preset by name, or any YAML file by path.

    Raises:
        ConfigError: no such preset or file, unreadable YAML, an unknown key, a wrong type or range.
    """
    path = Path(preset)
    if path.suffix not in (".yaml", ".yml"):
        if str(preset) not in preset_names():
            raise ConfigError(f"unknown preset {str(preset)!r}; {nearest(str(preset), preset_names())}")
        path = preset_folder() / f"{preset}.yaml"
    return read_yaml(path, Preset)


def read_yaml(path: str | Path, cls: type[T]) -> T:
    """Fill the dataclass ``cls`` from a YAML file; errors name the file and the key."""
    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    return fill(cls, values, str(path))


def fill(cls: type[T], values: Any, where: str) -> T:
    """Make the dataclass ``cls`` from nested mappings, checking keys and types.

    Raises:
        ConfigError: naming ``where``, the key, what came and what was expected.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: got {_came(values)}, expected a mapping of {cls.__name__}'s keys")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}")
    filled = {key: _coerce(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**filled)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the annotated type wants it, or raise ConfigError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return fill(hint, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[-1] is ... else args
        if len(value) != len(kinds):
            raise ConfigError(f"{where}: got {_came(value)}, expected {len(kinds)} values")
        return tuple(_coerce(kinds[i], item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(key): _coerce(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value
    raise ConfigError(f"{where}: got {_came(value)}, expected {getattr(hint, '__name__', hint)}")


def _came(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:120]
