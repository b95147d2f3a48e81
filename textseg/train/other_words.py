"""Everyday words that no picture here is labelled with, said in the words of the labels.

COCO calls everybody a person, and a sedan a car. What a text tower was never shown means nothing to it: "a woman" would
be found nowhere. So the vocabulary's normalizer puts the label's word in such a word's place. What the labels do not
tell apart is not told apart then.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, normalizers

SAID_AS: dict[str, tuple[str, ...]] = {
    label: tuple(words.split(","))
    for label, words in {
        "person": "man,men,woman,women,boy,boys,girl,girls,child,children,kid,kids,baby,babies,toddler,toddlers,lady,"
        "ladies,gentleman,gentlemen,guy,guys,adult,adults,pedestrian,pedestrians,somebody,someone",
        "car": "sedan,sedans,suv,suvs,hatchback,hatchbacks,coupe,coupes,minivan,minivans",
        "truck": "pickup,pickups",
        "motorcycle": "motor bike,motor bikes,moped,mopeds",
        "airplane": "aircraft,airliner,airliners,jetliner",
        "boat": "yacht,yachts,rowboat,rowboats,dinghy",
        "traffic light": "stoplight,stoplights",
        "dog": "pup,pups,doggy,doggie",
        "cat": "kitty,kitties",
        "horse": "pony,ponies,foal,foals,stallion,mare",
        "cow": "calf,calves",
        "sheep": "lamb,lambs",
        "couch": "settee,loveseat",
        "chair": "armchair,armchairs",
        "table": "desk,desks",
        "tv": "monitor,monitors,screen,screens,telly",
        "cup": "teacup,teacups",
        "pants": "slacks",
        "sweater": "pullover,pullovers",
        "sneakers": "trainers",
        "shoes": "footwear",
        "glasses": "spectacles",
        "watch": "wristwatch",
    }.items()
}
"""A label: the words, in all their forms, that are read as it."""

KEPT = (
    "baby bottle",
    "baby chick",
    "lady beetle",
    "pickup truck",
    "teacup without handle",
)
"""Names of labels in which such a word means something else, or is at home."""

_PART_OF_A_WORD = r"[\w’'-]"


def normalizer_steps() -> list[normalizers.Replace]:
    """Return what the vocabulary's normalizer does after lower-casing: a replacement for each label."""
    return [
        normalizers.Replace(Regex("|".join(_pattern(word) for word in words)), label)
        for label, words in SAID_AS.items()
    ]


def also_called(names: Iterable[str]) -> tuple[str, ...]:
    """Return a noun's names with the words that are read as one of them."""
    names = tuple(names)
    return (*names, *(word for name in names for word in SAID_AS.get(name, ()) if word not in names))


def _pattern(word: str) -> str:
    """Return the pattern of a word by itself, outside what is ``KEPT``."""
    before, after = [_PART_OF_A_WORD], [_PART_OF_A_WORD]
    for kept in KEPT:
        first, found, last = f" {kept} ".partition(f" {word} ")
        if found and last.strip():
            after.append(f" {last.strip()}")
        elif found:
            before.append(f"{first.strip()} ")
    behind = "".join(f"(?<!{part})" for part in before)
    return f"{behind}{word}(?!{'|'.join(after)})"
