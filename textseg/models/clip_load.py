"""Finding and building an open_clip model: a folder, ``hf-hub:org/name``, or a name with a pretrained tag.

All three end in a ``Source``: a configuration, one safetensors file and a tokenizer. The network is
then built from open_clip's plain classes; pickles are never downloaded or opened.
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textseg.errors import ConfigError, HubError, WeightsError, nearest

logger = logging.getLogger(__name__)

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
OPEN_CLIP_VOCABULARY = 49408
"""Tokens of the vocabulary inside open_clip; a model of another size brings its own tokenizer."""

Tokenizer = Callable[[list[str]], torch.Tensor]

_FEW = 16
_HUB_PREFIX = "hf-hub:"
_REPO = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_WANTED = ("open_clip*.json", "open_clip*.safetensors", "*token*.json", "vocab.*", "merges.txt", "*.model")
_ADVICE = "The preset 'nano' works offline; to fetch the others where there is a network: `textseg models pull PRESET`"


@dataclass(frozen=True)
class Source:
    """What an open_clip model is built from.

    Attributes:
        model_id: how the caller named it.
        model_cfg: keyword arguments of open_clip's model class.
        preprocess_cfg: mean, std, interpolation, resize_mode, fill_color, as far as they are stated.
        weights: the safetensors file.
        folder: where tokenizer files are, or None when open_clip's own tokenizer serves.
        templates: prompt templates that the model was trained with, if the folder tells.
    """

    model_id: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    weights: Path
    folder: Path | None
    templates: tuple[str, ...] = ()


def find(model: str | Path, pretrained: str | None = None) -> Source:
    """Return the source of a model; hub files are downloaded unless they are cached.

    Args:
        model: a folder; ``hf-hub:org/name`` or ``org/name``, either with ``@revision``; or a name of
            open_clip's such as "ViT-B-16".
        pretrained: for such a name, the tag of its weights ("laion2b_s34b_b88k").

    Raises:
        ConfigError: an unknown name or tag.
        HubError: the hub is out of reach, or has no safetensors file for this model.
        WeightsError: a file is missing or damaged.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _from_folder(folder, str(model))
    if pretrained is not None:
        return _from_name(str(model).replace("/", "-"), pretrained)
    match = _REPO.fullmatch(str(model).removeprefix(_HUB_PREFIX))
    if match is not None:
        return _from_folder(_snapshot(str(model), match["repo"], match["revision"]), str(model))
    if str(model).startswith(_HUB_PREFIX) or folder.is_absolute() or folder.parts[:1] in ((".",), ("..",)):
        raise WeightsError(f"model {str(model)!r}: no such folder, and not hf-hub:org/name")
    return _from_name(str(model), pretrained)


def _from_folder(folder: Path, model_id: str) -> Source:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        model_cfg, preprocess_cfg = dict(config["model_cfg"]), dict(config.get("preprocess_cfg") or {})
        templates = tuple(str(template) for template in config.get("templates", ()))
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing; expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged: {error!r}; expected JSON with 'model_cfg'") from error
    return Source(model_id, model_cfg, preprocess_cfg, _weights_in(folder, model_id), folder, templates)


def _from_name(name: str, pretrained: str | None) -> Source:
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        raise ConfigError(
            f"unknown CLIP model {name!r}: not a folder, not hf-hub:org/name, not a name of open_clip's; "
            f"{nearest(name, known)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        raise ConfigError(f"unknown pretrained tag {pretrained!r} of {name}; {nearest(str(pretrained), tags)}")
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    repo = str(tag.get("hf_hub", "")).rsplit("/", 1)[0]
    model_id = f"{name}/{pretrained}"
    if not repo:
        raise HubError(f"model {model_id!r} is not on the hub as safetensors; choose another tag of {name}")
    folder = _snapshot(model_id, repo, None)
    model_cfg = {**open_clip.get_model_config(name), "quick_gelu": bool(tag.get("quick_gelu", False))}
    return Source(model_id, model_cfg, dict(tag), _weights_in(folder, model_id), folder)


def _weights_in(folder: Path, model_id: str) -> Path:
    """Return the folder's safetensors file, its header checked.

    Raises:
        WeightsError: naming the file that is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    named = folder / WEIGHTS_FILE
    path = next((p for p in (named, *sorted(folder.glob("open_clip*.safetensors"))) if p.is_file()), None)
    if path is None:
        pickles = sorted(p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt*")))
        hint = f"; {', '.join(pickles)} cannot be used: pickles are never loaded" if pickles else ""
        raise WeightsError(f"model {model_id!r}: weights file missing: {named}{hint}")
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights file damaged: {path} ({error}). Delete it and fetch it again") from error
    return path


def _snapshot(model_id: str, repo: str, revision: str | None) -> Path:
    """Return the cached folder of a hub model; the network is asked only for what the cache lacks."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(_WANTED)}
    try:
        folder = Path(snapshot_download(repo, local_files_only=True, **wanted))
        if any(folder.glob("open_clip*.safetensors")):
            return folder
    except Exception as error:  # not cached, or only in part: ask the hub
        logger.debug("%s is not cached: %s", model_id, error)
    logger.info("fetching %s from the model hub", model_id)
    try:
        folder = Path(snapshot_download(repo, **wanted))
    except GatedRepoError as error:
        reason = f"it is gated: accept its terms at https://huggingface.co/{repo}, then run `hf auth login`"
        raise HubError(f"model {model_id!r}: {reason}. {_ADVICE}") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"model {model_id!r}: unknown to the model hub, or private. {_ADVICE}") from error
    except Exception as error:  # the HTTP client's errors have no common base worth naming
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise HubError(f"model {model_id!r}: the model hub is out of reach ({first_line}). {_ADVICE}") from error
    if not any(folder.glob("open_clip*.safetensors")):
        raise HubError(f"model {model_id!r}: {repo} has no open_clip*.safetensors, and pickles are never loaded")
    return folder


# ---------------------------------------------------------------- building


def build_model(source: Source) -> Any:
    """Return the open_clip model with its weights: float32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the configuration or the weights do not fit; names the file.
    """
    import open_clip
    from open_clip.factory import load_checkpoint

    cfg = copy.deepcopy(source.model_cfg)
    try:
        text_cfg, vision_cfg = cfg["text_cfg"], cfg["vision_cfg"]
        if "timm_model_name" in vision_cfg:
            vision_cfg["timm_model_pretrained"] = False
        custom = bool(cfg.pop("custom_text", False)) or "hf_model_name" in text_cfg
        if "hf_model_name" in text_cfg:
            text_cfg["hf_model_pretrained"] = False
        with_decoder = custom and "multimodal_cfg" in cfg
        model_class = open_clip.CoCa if with_decoder else open_clip.CustomTextCLIP if custom else open_clip.CLIP
        model = model_class(**cfg)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"model {source.model_id!r}: open_clip cannot build its model_cfg: {error!r}") from error
    try:
        load_checkpoint(model, str(source.weights), strict=True)
    except Exception as error:  # a mismatch, or a file damaged beyond its header
        raise WeightsError(f"{source.weights} does not fit the model, or is damaged: {error}") from error
    return model.eval()


def build_tokenizer(source: Source) -> Tokenizer:
    """Return a function from texts to int64 (N, context_length) token ids, longer texts cut.

    A Hugging Face tokenizer where the configuration names one, open_clip's own where the vocabulary
    has its size, and else the folder's ``tokenizer.json``.

    Raises:
        WeightsError: the tokenizer is missing or damaged.
    """
    text_cfg: Mapping[str, Any] = source.model_cfg.get("text_cfg", {})
    length = int(text_cfg.get("context_length", 77))
    own_vocabulary = int(text_cfg.get("vocab_size", OPEN_CLIP_VOCABULARY)) != OPEN_CLIP_VOCABULARY
    try:
        if own_vocabulary and not text_cfg.get("hf_tokenizer_name"):
            return JsonTokenizer(_tokenizer_file(source), length, int(text_cfg.get("pad_id", 0)))
        return _of_open_clip(source, text_cfg, length)
    except WeightsError:
        raise
    except Exception as error:  # damaged tokenizer files raise bare Exceptions from Rust
        raise WeightsError(f"model {source.model_id!r}: its tokenizer cannot be built: {error}") from error


def _of_open_clip(source: Source, text_cfg: Mapping[str, Any], length: int) -> Tokenizer:
    from open_clip import tokenizer as tokenizers

    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    named = text_cfg.get("hf_tokenizer_name")
    if not named:
        plain: Tokenizer = tokenizers.SimpleTokenizer(context_length=length, **options)
        return plain
    held = source.folder is not None and any(source.folder.glob("*token*.json"))
    mode = text_cfg.get("tokenizer_mode")
    origin = str(source.folder) if held else named
    theirs: Tokenizer = tokenizers.HFTokenizer(origin, context_length=length, tokenizer_mode=mode, **options)
    return theirs


def _tokenizer_file(source: Source) -> Path:
    path = (source.folder or Path()) / TOKENIZER_FILE
    if not path.is_file():
        raise WeightsError(f"model {source.model_id!r}: {path} is missing, and open_clip's tokenizer does not fit")
    return path


class JsonTokenizer:
    """A ``tokenizer.json`` called as open_clip's tokenizers are."""

    def __init__(self, path: Path, context_length: int, pad_id: int) -> None:
        from tokenizers import Tokenizer as Rust

        try:
            self._rust = Rust.from_file(str(path))
        except Exception as error:  # bare Exception from Rust
            raise WeightsError(f"{path} is damaged: {error}") from error
        self._rust.encode_special_tokens = True  # "<end>" in a caller's text is plain text
        self._rust.enable_truncation(context_length)
        self._rust.enable_padding(
            length=context_length, pad_id=pad_id, pad_token=self._rust.id_to_token(pad_id) or "<pad>"
        )

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return int64 (N, context_length) ids; the end mark survives the cut."""
        few = len(texts) <= _FEW  # to wake the tokenizer's threads would take longer
        encodings = map(self._rust.encode, texts) if few else self._rust.encode_batch(list(texts))
        return torch.tensor([encoding.ids for encoding in encodings], dtype=torch.int64)
