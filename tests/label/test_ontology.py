"""Classes, their phrases, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from textseg.errors import ConfigError
from textseg.label.ontology import LabelClass, Ontology, from_names, read


def write(folder: Path, text: str) -> Path:
    path = folder / "classes.yaml"
    path.write_text(text, "utf-8")
    return path


def test_names_are_their_own_phrases() -> None:
    made = from_names("car, person ,traffic light")
    assert made.names == ("car", "person", "traffic light")
    query, owners = made.query()
    assert [phrase.text for phrase in query.phrases] == ["car", "person", "traffic light"]
    assert owners == (0, 1, 2)


def test_not_belongs_to_the_class_before_it() -> None:
    made = from_names("car, not: toy car, not: model car, person")
    assert made.names == ("car", "person")
    assert made.classes[0].negatives == ("toy car", "model car")
    assert made.query()[0].phrases[0].negatives == ("toy car", "model car")


def test_yaml_with_everything(tmp_path: Path) -> None:
    made = read(
        write(
            tmp_path,
            "person:\n"
            "traffic light: [traffic light, stop light]\n"
            "car:\n"
            "  phrases: [red car, 'automobile, not: truck']\n"
            "  not: toy car\n"
            "  threshold: 1\n"
            "  min_area: 400\n",
        )
    )
    assert made.classes[0] == LabelClass("person", ("person",))
    assert made.classes[2] == LabelClass("car", ("red car", "automobile, not: truck"), ("toy car",), 1.0, 400)
    query, owners = made.query()
    assert owners == (0, 1, 1, 2, 2)
    assert query.phrases[4].text == "automobile"
    assert query.phrases[4].negatives == ("truck", "toy car")
    assert made.query([1])[1] == (1, 1)
    assert made.index("car") == 2


def test_yaml_may_be_a_list(tmp_path: Path) -> None:
    assert read(write(tmp_path, "- car\n- a person, sitting\n")).names == ("car", "a person, sitting")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("car: {phrase: x}", "unknown key 'phrase'; did you mean 'phrases'"),
        ("car: {threshold: 2}", "car: threshold: got 2.0, expected a number in 0..1"),
        ("car: {min_area: 0}", "expected at least 1 pixel"),
        ("car: {min_area: many}", "car: min_area: got str 'many', expected int"),
        ("car: 3", "got int, expected phrases or a mapping"),
        ("no: car", "a class name is bool, expected text; put it in quotes"),
        ("car: {not: car}", "class 'car': .* among its own negatives"),
        ("car: [auto]\nbus: [Auto]", "phrase 'Auto' belongs to 'car' and to 'bus'"),
        ("car: [auto, Auto]", "belongs to 'car' and to 'car'"),
        ("car:\nCar:", "class 'Car' is there twice"),
        ("3", "got int, expected class names"),
        ("a: [", "is not YAML"),
        ("{}", "no class given"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(write(tmp_path, text))


def test_more_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="no class given"):
        from_names(" , ")
    with pytest.raises(ConfigError, match="has no class before it"):
        from_names("not: toy car, car")
    with pytest.raises(ConfigError, match="unknown class 'cat'"):
        from_names("car").index("cat")
    with pytest.raises(ConfigError, match="without a name"):
        Ontology((LabelClass(" "),))
