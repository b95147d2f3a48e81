"""A small byte-level vocabulary for nano CLIP, trained on the words that its pictures are labelled with.

Ids: 0 pads, the second highest starts a text, the highest ends it, so that open_clip's default
`argmax` text pooling finds the end.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from textseg.colors import COLOR_SYNONYMS
from textseg.language import COLORS
from textseg.train import nouns
from textseg.train.data import BOX_CLASSES, FOLDERS, caltech_nouns
from textseg.train.other_words import normalizer_steps
from textseg.train.phrases import TEMPLATES

CONTEXT_LENGTH = 16
VOCAB_SIZE = 4096
PAD, START, END = "<pad>", "<start>", "<end>"

_COMMON_WORDS = """
left right top bottom middle front back behind big small large little tall short long old new young
man woman boy girl child kid baby men women children people wearing holding sitting standing with
without near next beside under over between on in of at by from and or not two three four five
thing object something else background dark light bright striped plain wooden metal plastic glass
leather street road sky grass water beach snow wall floor building tree flower plant sign
""".split()


def build_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Train a lower-casing byte-level BPE of at most `vocab_size` ids; any text encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=[PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in (START, END)],
    )
    return tokenizer


def normalizer() -> normalizers.Normalizer:
    """Return what happens to a text first: one form of each letter, lower case, the labels' words (``other_words``)."""
    plain = [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]
    return normalizers.Sequence([*plain, *normalizer_steps()])


class NanoTokenizer:
    """Texts to ids as open_clip's tokenizers do it: call it with a list of strings."""

    def __init__(self, tokenizer: Tokenizer, context_length: int = CONTEXT_LENGTH) -> None:
        self.context_length = context_length
        self.vocab_size: int = tokenizer.get_vocab_size()
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # "<end>" typed by a caller is plain text
        tokenizer.enable_truncation(context_length)
        tokenizer.enable_padding(length=context_length, pad_id=0, pad_token=PAD)

    @classmethod
    def load(cls, path: str | Path, context_length: int = CONTEXT_LENGTH) -> NanoTokenizer:
        """Read a `tokenizer.json`. Raises FileNotFoundError where there is none."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        return cls(Tokenizer.from_file(str(path)), context_length)

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json`."""
        self._tokenizer.save(str(path))

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """(N, context_length) int64 ids, padded with 0; longer texts are cut, the end mark kept."""
        if context_length is not None and context_length != self.context_length:
            raise ValueError(f"context length is {context_length}; this vocabulary has {self.context_length}")
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            return torch.zeros((0, self.context_length), dtype=torch.int64)
        encoded = self._tokenizer.encode_batch(texts)
        return torch.tensor([e.ids for e in encoded], dtype=torch.int64)


def corpus(root: str | Path) -> Iterator[str]:
    """The texts that the vocabulary is trained on: nouns in phrases, tags, colours, captions."""
    root = Path(root)
    things = sorted(all_nouns(root))
    words = [*COLORS, *COLOR_SYNONYMS]
    for noun, template in itertools.product(things, sorted(set(TEMPLATES))):
        yield template.format(noun)
    for color in words:
        yield from (f"the {color} {thing}" for thing in things[::40])
    for _ in range(20):
        yield from _COMMON_WORDS
    names_json = root / "fluent" / "names.json"
    if names_json.is_file():
        for entry in json.loads(names_json.read_text(encoding="utf-8")):
            yield from entry.get("tags", ())
    captions = root / "coco" / "annotations.json"
    if captions.is_file():
        for image in json.loads(captions.read_text(encoding="utf-8"))["images"]:
            yield from image.get("captions", ())


def all_nouns(root: str | Path) -> frozenset[str]:
    """Every noun that some labelled thing under `root` answers to."""
    cutouts = nouns.cutout_names(Path(root) / "fluent" / "names.json")
    found = {n for names, _ in cutouts.values() for n in names}
    for name in photo_classes(root):
        found |= nouns.photo_names(name, cutouts)
    return frozenset(found)


def photo_classes(root: str | Path) -> frozenset[str]:
    """The classes of all labelled photographs under `root`, and "person"."""
    root = Path(root)
    classes = {c for group in BOX_CLASSES.values() for c in group}
    for name in ("coco", "ccp"):
        table = root / FOLDERS[name] / "annotations.json"
        if table.is_file():
            classes |= {c["name"] for c in json.loads(table.read_text(encoding="utf-8"))["categories"]}
    return frozenset(classes | {"person"} | set(caltech_nouns(root / FOLDERS["caltech"]).values()))
