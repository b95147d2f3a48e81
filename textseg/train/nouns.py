"""Nouns: synonyms written by hand, which tags count as nouns, and what a set of pictures lacks.

The rule for a cut-out's tags: a tag is kept where it is in `TAG_NOUNS` (words that name a thing, a
kind of thing or a synonym) and not in `TAG_DROPS` for that name ("hot dog" is no dog). All other
tags (numbers, verbs, adjectives, occasions) are dropped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path

OBJECT_GROUPS = frozenset({3, 4, 5, 6, 7})
"""Emoji groups of things: animals, food, travel, activities, objects."""

TAG_NOUNS = frozenset(
    """
    animal bird fruit vegetable insect flower plant tree vehicle car truck bus train boat ship
    airplane aeroplane plane bike bicycle motorcycle scooter tram trolley lorry van cab taxi
    clothing clothes shoe hat bag handbag purse dress suit shirt swimsuit sandal boot pants
    eyewear glasses cap glove jacket underwear helmet backpack rucksack suitcase
    food dessert bread cake pastry candy cheese meat rice salad sandwich sausage hotdog chocolate
    drink beverage beer tea coffee cocktail milk glass cup mug bottle bowl fork spoon knife dish
    tool weapon hammer wrench saw axe sword gun pistol instrument guitar violin drum piano
    clock watch book notebook newspaper envelope letter mailbox postbox banknote coin medal trophy
    ball football racquet game toy doll balloon kite umbrella bell candle lamp lantern flag
    building house castle church tower temple tent mountain volcano bridge
    moon sun star cloud globe planet
    computer laptop telephone phone cell mobile camera television tv radio printer disk screen
    chair bed couch sofa table door window toilet bathtub sink basket bucket pail broom box
    cat kitten dog puppy cow ox bull sheep pig hog goat horse pony rabbit bunny bear fox wolf lion
    tiger leopard monkey ape gorilla mouse rat hamster deer elephant camel giraffe zebra kangaroo
    panda chicken hen rooster duck goose swan eagle owl parrot penguin turkey frog turtle tortoise
    snake lizard crocodile alligator dinosaur dragon fish shark whale dolphin octopus crab lobster
    shrimp snail spider bee ant bug beetle butterfly worm bat
    apple orange banana lemon lime grape grapes melon peach pear cherry strawberry pineapple
    tomato potato carrot corn pepper mushroom onion cucumber eggplant aubergine nut egg pizza
    burger hamburger fries donut doughnut cookie pie noodle noodles pasta soup
    rose tulip sunflower leaf cactus
    key lock chain hook magnet ladder rope pen pencil brush paintbrush scissors ruler paperclip pin
    syringe pill thermometer telescope microscope battery plug rocket satellite helicopter ufo
    ring necklace crown diamond gem necktie tie scarf mask cigarette soap sponge razor toothbrush
    gift present ribbon ticket die dice puzzle chart graph calendar map
    anchor wheel skateboard skate ski skis sled
    """.split()
)

TAG_DROPS: dict[str, frozenset[str]] = {
    name: frozenset(tags.split())
    for name, tags in {
        "hot dog": "dog",
        "aerial tramway": "car",
        "articulated lorry": "car",
        "delivery truck": "car",
        "mountain railway": "car",
        "police car light": "car",
        "railway car": "car tram",
        "tram car": "car bus",
        "wheel": "car vehicle",
        "helicopter": "",
        "cricket game": "bat",
        "field hockey": "game",
        "lacrosse": "",
        "mirror ball": "mirror",
        "money bag": "",
        "orange book": "orange",
        "ping pong": "bat table",
        "rice ball": "ball rice",
        "confetti ball": "ball",
        "yarn": "ball",
        "american football": "bowl",
        "fish cake with swirl": "cake fish",
        "club suit": "suit",
        "spade suit": "suit",
        "heart suit": "suit",
        "diamond suit": "suit diamond",
        "backpack": "",
        "handbag": "dress",
        "clutch bag": "dress",
        "watermelon": "",
        "bus stop": "bus",
        "spider web": "spider",
        "mouse trap": "mouse",
        "paw prints": "animal",
        "pig nose": "pig animal",
        "feather": "bird",
        "wing": "bird",
        "egg": "chicken",
        "honey pot": "bee",
        "goggles": "",
        "crown": "clothing clothes",
        "ring": "clothing clothes",
        "gem stone": "clothing clothes",
        "lipstick": "clothing clothes",
        "hair pick": "clothing clothes",
        "prayer beads": "clothing clothes",
        "folding hand fan": "clothing clothes",
    }.items()
}

SYNONYMS: dict[str, frozenset[str]] = {
    name: frozenset(words.split(","))
    for name, words in {
        "person": "human,people",
        "car": "automobile,vehicle",
        "automobile": "car",
        "bicycle": "bike",
        "motorcycle": "motorbike,vehicle",
        "bus": "vehicle",
        "truck": "vehicle,lorry",
        "ambulance": "vehicle",
        "fire engine": "fire truck",
        "airplane": "plane,aeroplane",
        "train": "railway train",
        "dog": "animal",
        "cat": "animal",
        "cougar": "animal,cat",
        "cougar face": "cougar,cat",
        "boat": "watercraft",
        "motor boat": "boat",
        "speedboat": "boat",
        "sailboat": "boat",
        "canoe": "boat",
        "tv": "television,tv set",
        "television": "tv",
        "cell phone": "mobile phone,phone,smartphone",
        "mobile phone": "cell phone,smartphone",
        "couch": "sofa",
        "donut": "doughnut",
        "doughnut": "donut",
        "sports ball": "ball",
        "mouse": "computer mouse",
        "computer mouse": "mouse",
        "keyboard": "computer keyboard",
        "remote": "remote control",
        "refrigerator": "fridge",
        "hair drier": "hair dryer",
        "dining table": "table",
        "potted plant": "houseplant",
        "stop sign": "stop",
        "wine glass": "glass",
        "license plate": "number plate,licence plate,numberplate",
        "handbag": "purse",
        "tie": "necktie",
        "necktie": "tie",
        "pants": "trousers",
        "jeans": "pants,trousers",
        "stockings": "",
        "t-shirt": "tshirt,tee shirt",
        "glasses": "eyeglasses",
        "swimwear": "swimsuit",
        "high-heeled shoe": "heels",
        "woman’s boot": "boot,boots",
        "running shoe": "sneaker,sneakers",
        "socks": "sock",
        "gloves": "glove",
        "boots": "boot",
        "face": "human face",
        "sea horse": "seahorse",
        "soccer ball": "football,ball",
        "bird": "animal",
        "horse": "animal",
        "sheep": "animal",
        "cow": "animal,cattle",
        "elephant": "animal",
        "bear": "animal",
        "zebra": "animal",
        "giraffe": "animal",
        "banana": "fruit,food",
        "apple": "fruit,food",
        "orange": "fruit,food",
        "pear": "fruit,food",
        "peach": "fruit,food",
        "lime": "fruit,food",
        "broccoli": "vegetable,food",
        "carrot": "vegetable,food",
        "pizza": "food",
        "sandwich": "food",
        "hot dog": "food",
        "cake": "food,dessert",
    }.items()
}
"""Words that a thing of this name answers to as well, both directions written where both hold."""

GENERIC = frozenset(
    """animal food vehicle clothing clothes plant fruit vegetable tool toy building weapon
    instrument drink beverage dessert insect bird flower game box bag ball glass light meat fish
    accessories top""".split()
)
"""Words so broad that a photograph's labels never show their absence."""

CONFUSABLE: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split(","))
    for group in (
        "shoes,boots,heels,pumps,flats,sandals,sneakers,wedges,loafers,clogs,shoe,boot",
        "bag,purse,handbag,wallet,backpack,suitcase",
        "pants,jeans,leggings",
        "tights,stockings,leggings,socks",
        "top,shirt,blouse,t-shirt,vest,bodysuit",
        "jacket,coat,blazer,cardigan,cape",
        "sweater,jumper,sweatshirt,hoodie,cardigan",
        "glasses,sunglasses",
        "accessories,bracelet,necklace,ring,earrings,watch,belt",
        "person,face,skin,hair",
        "cup,wine glass,bottle,bowl,vase,glass",
        "car,truck,bus,ambulance,vehicle,van",
        "orange,peach,apple,lime,pear,tangerine",
        "couch,chair,bench,bed",
        "tv,laptop,computer",
    )
)
"""Nouns that labellers tell apart by habit: none counts as absent where another of its group is."""

_HOMONYMS = frozenset({"mouse", "keyboard", "bat", "seal", "orange", "bank", "tie", "top", "vest"})
_SAFE_EVERYWHERE = frozenset({34, 35, 36, 37, 38, 39, 55, 56, 61, 63, 68, 79})
_SAFE_STREET = _SAFE_EVERYWHERE | {42, 43, 44, 45, 46, 47, 60, 62, 64, 73, 78}
_SOMETIMES_THERE = frozenset({"teddy bear", "kite", "airplane", "ship", "anchor", "seat", "parachute"})
CLOTHING_SUBGROUP = 65


def kept_tags(name: str, tags: Iterable[str]) -> frozenset[str]:
    """The tags of a cut-out that are nouns for it, by the rule in this file's docstring."""
    drops = TAG_DROPS.get(name, frozenset())
    return frozenset(t.lower() for t in tags if t.lower() in TAG_NOUNS and t.lower() not in drops)


def names_of(name: str, tags: Iterable[str] = ()) -> frozenset[str]:
    """Every lower-case noun that a thing called `name` answers to, `name` itself included."""
    found = {name.lower()} | kept_tags(name, tags) | SYNONYMS.get(name.lower(), frozenset())
    return frozenset(n for n in found if n)


@functools.lru_cache(maxsize=65536)
def _words(noun: str) -> frozenset[str]:
    return frozenset(w[:-1] if len(w) > 3 and w.endswith("s") else w for w in noun.split())


@functools.lru_cache(maxsize=262144)
def may_be(noun: str, names: frozenset[str]) -> bool:
    """Whether a thing that answers to `names` might be called `noun` too, so that `noun` is no negative.

    True where it is one of them, where one is made of the other's words ("apple", "red apple"),
    and where labellers mix them up (`CONFUSABLE`).
    """
    if noun in names:
        return True
    words = _words(noun)
    for name in names:
        other = _words(name)
        if words <= other or other <= words:
            return True
    return any(noun in group and not names.isdisjoint(group) for group in CONFUSABLE)


@functools.lru_cache(maxsize=8)
def cutout_names(names_json: Path) -> dict[str, tuple[frozenset[str], int]]:
    """From a cut-out folder's `names.json`: name → (nouns it answers to, subgroup); {} where absent.

    Where entries have groups, those of no `OBJECT_GROUPS` (faces, people, symbols, flags) are left out.
    """
    if not names_json.is_file():
        return {}
    entries = json.loads(names_json.read_text(encoding="utf-8"))
    grouped = any("group" in entry for entry in entries)
    found = {}
    for entry in entries:
        if not grouped or entry.get("group") in OBJECT_GROUPS:
            name = entry["name"].lower()
            found[name] = (names_of(name, entry.get("tags", ())), int(entry.get("subgroup", 0)))
    return found


def photo_names(name: str, cutouts: dict[str, tuple[frozenset[str], int]]) -> frozenset[str]:
    """The nouns of a photographed thing: its own, plus a cut-out's of the same name (no homonyms)."""
    found = names_of(name)
    if name in cutouts and name not in _HOMONYMS:
        found |= cutouts[name][0]
    return found


def absent_nouns(cutouts: dict[str, tuple[frozenset[str], int]], source: str) -> dict[str, frozenset[str]]:
    """Cut-out nouns that photographs of `source` hold only where labelled: noun → its names.

    Conservative: animals, musical instruments and the like; on street photographs food as well,
    but no dogs and birds. Nothing for an unknown source.
    """
    if source not in {"coco", "ccp", "vehicles", "plates", "fruit", "bottles", "caltech"}:
        return {}
    safe = _SAFE_STREET if source in {"ccp", "vehicles", "plates"} else _SAFE_EVERYWHERE
    shy = frozenset({"dog", "bird", "cat", "fish"}) if source != "coco" else frozenset({"fish"})
    return {
        name: names
        for name, (names, subgroup) in cutouts.items()
        if subgroup in safe and name not in _SOMETIMES_THERE and names.isdisjoint(shy)
    }
