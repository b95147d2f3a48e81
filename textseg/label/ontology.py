"""Classes and the phrases that name them: every phrase belongs to one class, every mask gets one class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from textseg import language
from textseg.config import fill
from textseg.errors import ConfigError, QueryError, nearest
from textseg.types import Phrase, Query

_NOT = "not:"
_KEYS = ("phrases", "not", "threshold", "min_area")


@dataclass(frozen=True)
class LabelClass:
    """One class of the dataset.

    Attributes:
        name: the label, exactly as written.
        phrases: the words that are looked for; by default the name alone. A mask found by any of them is of this
            class, and a thing found by two of them is one mask.
        negatives: what it is not ("toy car"); contrasted in the ranking.
        threshold: least fused score of an accepted mask, 0..1; None takes the run's.
        min_area: smallest mask, in pixels of the original picture.
    """

    name: str
    phrases: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    threshold: float | None = None
    min_area: int = 1

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("a class without a name; expected words such as 'traffic light'")
        if not self.phrases:
            object.__setattr__(self, "phrases", (self.name,))
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"threshold: got {self.threshold}, expected a number in 0..1")
        if self.min_area < 1:
            raise ConfigError(f"min_area: got {self.min_area}, expected at least 1 pixel")

    def as_phrases(self) -> list[Phrase]:
        """Return the class's phrases with its negatives; ``"car, not: toy car"`` in a phrase adds to them.

        Raises:
            ConfigError: naming the class and the phrase that is unusable.
        """
        made: list[Phrase] = []
        for text in self.phrases:
            try:
                parsed = language.parse_phrase(text)
                made.append(language.phrase(parsed.text, (*parsed.negatives, *self.negatives)))
            except QueryError as error:
                raise ConfigError(f"class {self.name!r}: {error}") from error
        return made


@dataclass(frozen=True)
class Ontology:
    """The classes of a dataset, in their order: the index of a class is its id.

    Raises:
        ConfigError: no class, the same class twice, or a phrase that belongs to two classes (or twice to one).
    """

    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("no class given: expected at least one, such as --classes 'car,person'")
        names: dict[str, str] = {}
        owners: dict[str, str] = {}
        for one in self.classes:
            other = names.setdefault(one.name.casefold(), one.name)
            if other is not one.name:
                raise ConfigError(f"class {one.name!r} is there twice (also as {other!r}); keep one")
            for phrase in one.as_phrases():
                prompt = phrase.prompt.casefold()
                if prompt in owners:
                    raise ConfigError(
                        f"phrase {phrase.text!r} belongs to {owners[prompt]!r} and to {one.name!r}; expected each "
                        "phrase once, so that a mask has one class"
                    )
                owners[prompt] = one.name

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(one.name for one in self.classes)

    def index(self, name: str) -> int:
        """Return a class's index.

        Raises:
            ConfigError: no such class.
        """
        if name not in self.names:
            raise ConfigError(f"unknown class {name!r}; {nearest(name, self.names)}")
        return self.names.index(name)

    def query(self, wanted: Sequence[int] | None = None) -> tuple[Query, tuple[int, ...]]:
        """Return the phrases of the classes as one query, and each phrase's class index.

        Args:
            wanted: indices of the classes to ask for; None asks for all.
        """
        phrases: list[Phrase] = []
        owners: list[int] = []
        for index in range(len(self.classes)) if wanted is None else wanted:
            mine = self.classes[index].as_phrases()
            if len(mine) > 1:  # the phrases of one class do not compete
                mine = [replace(phrase, group=self.classes[index].name) for phrase in mine]
            phrases.extend(mine)
            owners.extend([index] * len(mine))
        return Query(tuple(phrases)), tuple(owners)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready settings, one entry a class."""
        return {one.name: {key: value for key, value in asdict(one).items() if key != "name"} for one in self.classes}


def from_names(names: str | Iterable[str]) -> Ontology:
    """Return the ontology of class names; each name is also its phrase.

    Args:
        names: a list, or one line split at commas: ``"car, not: toy car, person"`` (a part that begins with
            ``not:`` belongs to the class before it).

    Raises:
        ConfigError: none given, a blank or repeated one, or a ``not:`` without a class before it.
    """
    parts = language.split_list(names) if isinstance(names, str) else list(names)
    made: list[tuple[str, list[str]]] = []
    for part in parts:
        if not isinstance(part, str):
            raise ConfigError(f"class name: got {type(part).__name__} {part!r}, expected words such as 'car'")
        if part.lower().startswith(_NOT):
            if not made:
                raise ConfigError(f"{part!r} has no class before it; write 'car, not: toy car'")
            made[-1][1].append(part[len(_NOT) :].strip())
            continue
        name, *negatives = [text.strip(" ,;") for text in part.split(_NOT)]
        made.append((name, negatives))
    return Ontology(tuple(LabelClass(name, (), tuple(negatives)) for name, negatives in made))


def read(path: Path) -> Ontology:
    """Read an ontology from YAML.

    ::

        person:                        # the name is the phrase
        traffic light: [traffic light, stop light]
        car:
          phrases: [car, automobile]
          not: toy car                 # or a list
          threshold: 0.6
          min_area: 400                # pixels of the original picture

    A plain list of names will do, too.

    Raises:
        ConfigError: the file cannot be read, is not such YAML, has an unknown key or a value out of range.
    """
    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if isinstance(values, list):
        return from_names(values)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: got {type(values).__name__}, expected class names with their phrases")
    classes = tuple(_class(name, value, f"{path}: {name}") for name, value in values.items())
    try:
        return Ontology(classes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _class(name: Any, value: Any, where: str) -> LabelClass:
    if not isinstance(name, str):
        raise ConfigError(f"{where}: a class name is {type(name).__name__}, expected text; put it in quotes")
    if value is None:
        return LabelClass(name)
    if isinstance(value, str | list):
        value = {"phrases": value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: got {type(value).__name__}, expected phrases or a mapping of {', '.join(_KEYS)}")
    for key in value:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(str(key), _KEYS)}")
    renamed = {"negatives" if key == "not" else key: entry for key, entry in value.items()}
    for key in ("phrases", "negatives"):
        if isinstance(renamed.get(key), str):
            renamed[key] = [renamed[key]]
    made: LabelClass = fill(LabelClass, {"name": name, **renamed}, where)
    return made
