"""Fourth stage: give each candidate its score parts and fuse them into one calibrated score.

Nothing is thrown away here: `choose` makes the choice from what ``score`` returned, so that another threshold costs
no model call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from textseg import closeup
from textseg.crops import MEAN_RGB, masked_crops
from textseg.errors import ConfigError, nearest
from textseg.language import other_colors
from textseg.matmul import matmul
from textseg.parts import PARTS, areas_of, low_masks, plain_parts
from textseg.propose import fair_order, place_in_phrase
from textseg.protocols import ImageTextEncoder, KnowsNouns
from textseg.types import Bool, Candidates, Float, Image, Int, Prompts, Proposals, Query
from textseg.vocabulary import SYNONYM_SIMILARITY

RegionNamer = Callable[[Bool, Sequence[str], Int], Float | None]

LOG_ODDS_LIMIT = 5.0


@dataclass(frozen=True)
class RankConfig:
    """How candidates are scored and chosen.

    Attributes:
        threshold: least fused score of an accepted mask, 0..1; below it the answer is "not there".
        weights: weight of each part's log-odds in the fused score, and "bias". Fitted on validation pictures
            by ``textseg eval --fit``: score = sigmoid(bias + sum of weight x log-odds(part)).
        missing: stands in for a part that does not apply (no CLIP loaded, nothing to agree with), 0..1.
        duplicate_iou: two masks of one phrase that overlap by this IoU are one object.
        contained: a mask of which this share lies inside a better mask of the same phrase is a part of it.
        cross_phrase_iou: masks of different phrases that overlap by this IoU are one object; the better keeps it.
        min_area: least area of an accepted mask in pixels of the original picture.
        margin: how far below the phrase's best mask another one's log-odds may lie; None: as far as the threshold
            allows. What the caller points at is never measured against what else he points at.
        margin_growth: how much farther for each unit of log-odds that the best lies above 0. Beside a mask that is
            surely right, one that is likely right is more of the same (the other shoe); beside a doubtful one it is a
            second guess.
        glance: a prompt whose fused score comes to less than this, 0..1, before any of its masks is drawn again or
            shown to CLIP, is left at that: it is not in the picture. Where the threshold is lower, that counts.
        glance_margin: a proposal, and then a prompt, whose log-odds lie farther below those of its phrase's likeliest
            than this and what ``margin_growth`` adds, is dropped: it is not even among the rejected. None: none is.
        glance_iou: and so is a prompt whose mask overlaps a likelier one's of its phrase by this IoU or more; 1: none.
        clip_budget: how many candidates a phrase are shown to CLIP, best first by the other parts, each prompt's best
            mask before any prompt's second. What it says of that one holds for the prompt's masks that it did not see.
        clip_total: how many at most in one call, however many phrases: each phrase's best first. But one a phrase is
            always shown.
        clip_grow: a CLIP crop is the mask's box grown by this factor and made square.
        clip_size: longest side in pixels of the crops that CLIP is shown.
        clip_fill: RGB, 0..255, of a crop's pixels outside the mask; what CLIP was trained with, or its mean colour.
        clip_temperature: softens CLIP's share: its log-odds are divided by this. Against a thousand rivals even what
            is right has a small share, and the fused score keeps log-odds within ±5.
        backgrounds: generic texts that CLIP contrasts every phrase with.
        synonym_similarity: other phrases whose text is closer than this cosine are not used as contrast.
        max_rejected: how many rejected candidates are kept, best first, beside each phrase's closest miss; 0: none.
    """

    threshold: float = 0.5
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "bias": 0.0,
            "detector": 0.6,
            "region": 0.0,
            "sam_iou": 0.3,
            "stability": 0.1,
            "closeup": 0.0,
            "clip": 0.3,
            "agreement": 0.3,
            "color": 0.0,
        }
    )
    missing: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.5))
    duplicate_iou: float = 0.6
    contained: float = 0.85
    cross_phrase_iou: float = 0.8
    min_area: int = 1
    margin: float | None = None
    margin_growth: float = 0.0
    glance: float = 0.0
    glance_margin: float | None = None
    glance_iou: float = 1.0
    clip_budget: int = 12
    clip_total: int = 64
    clip_grow: float = 1.2
    clip_size: int = 224
    clip_fill: tuple[int, int, int] = MEAN_RGB
    clip_temperature: float = 1.0
    backgrounds: tuple[str, ...] = ("background", "something else")
    synonym_similarity: float = SYNONYM_SIMILARITY
    max_rejected: int = 50

    def __post_init__(self) -> None:
        for name in ("threshold", "glance", "glance_iou", "duplicate_iou", "contained", "cross_phrase_iou"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected a number in 0..1")
        for name in ("margin", "glance_margin"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected a number of at least 0, or none")
        if not self.margin_growth >= 0:
            raise ConfigError(f"margin_growth: got {self.margin_growth}, expected a number of at least 0")
        if not self.clip_temperature > 0:
            raise ConfigError(f"clip_temperature: got {self.clip_temperature}, expected a number above 0")
        if not all(0 <= level <= 255 for level in self.clip_fill):
            raise ConfigError(f"clip_fill: got {self.clip_fill}, expected red, green and blue in 0..255")
        for table, known in (("weights", (*PARTS, "bias")), ("missing", PARTS)):
            for key in getattr(self, table):
                if key not in known:
                    raise ConfigError(f"rank.{table}: unknown part {key!r}; {nearest(key, known)}")

    def reach(self, best: float) -> float:
        """Return how far below the log-odds of a phrase's best mask those of its others may lie; may be infinite."""
        return self._reach(self.margin, best)

    def glance_reach(self, best: float) -> float:
        """Return the same of its prompts before a close look."""
        return self._reach(self.glance_margin, best)

    def _reach(self, margin: float | None, best: float) -> float:
        return math.inf if margin is None else margin + self.margin_growth * max(best, 0.0)


@dataclass(frozen=True)
class Scored:
    """Every candidate mask with all its score parts, before any choice. M of them, in prompt order.

    Attributes:
        candidates: the segmenter's answer that the indices point into.
        masks: bool (M, h, w) low-resolution masks over the whole picture (padding cut off).
        areas: float32 (M,), share of the picture, 0..1.
        parts: one float32 (M,) array per name in ``PARTS``; NaN where a part does not apply.
        scores: float32 (M,), fused and calibrated, 0..1.
        phrase_index, proposal_index, prompt_index, mask_index: int64 (M,).
        sources: M strings: "detector", "text" or "user".
    """

    candidates: Candidates
    masks: Bool
    areas: Float
    parts: dict[str, Float]
    scores: Float
    phrase_index: Int
    proposal_index: Int
    prompt_index: Int
    mask_index: Int
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)


def score(
    image: Image,
    query: Query,
    proposals: Proposals,
    prompts: Prompts,
    candidates: Candidates,
    clip: ImageTextEncoder | None,
    config: RankConfig,
    name_regions: RegionNamer | None = None,
    likely: Bool | None = None,
    region: Float | None = None,
) -> Scored:
    """Give every candidate its score parts and the fused score.

    Args:
        image, query, proposals, prompts, candidates: what the stages before worked on.
        clip: judges the masked crops; None leaves that part out.
        config: weights, budgets and what stands in for missing parts.
        name_regions: ``NamesRegions.name_regions`` of this picture; None, and where it returns None: not known.
        likely: bool (P,), from ``glance``: of the others neither CLIP nor ``name_regions`` is asked. None: all.
        region: float32 (P,), what ``name_regions`` said already; NaN, and None: not known.
    """
    p, c = candidates.predicted_iou.shape
    prompt_index, mask_index = np.repeat(np.arange(p), c), np.tile(np.arange(c), p)
    proposal_index = prompts.proposal_index[prompt_index]
    phrase_index = proposals.phrase_index[proposal_index]
    masks = low_masks(candidates)
    areas = areas_of(masks, candidates, image.size_hw)
    parts = plain_parts(image, query, proposals, prompts, candidates, masks)
    if region is not None:
        parts["region"] = region[prompt_index]
    looked = np.ones(p * c, np.bool_) if likely is None else likely[prompt_index]
    spoken = looked.any() and any(phrase.prompt for phrase in query.phrases)
    rows = np.flatnonzero(looked & np.isnan(parts["region"]))
    if spoken and name_regions is not None and len(rows):
        one, of = _apart(candidates, rows, phrase_index)
        named = name_regions(masks[one], query.prompts, phrase_index[one])
        if named is not None:
            parts["region"][rows] = named[of]
    if clip is not None and spoken:
        worth = looked & (areas > 0)
        shown = _worth_showing(fuse(parts, config), worth, phrase_index, prompt_index, config)
        seen = _clip_part(image, query, masks, candidates, shown, phrase_index, clip, config)
        parts["clip"] = _shared_in_prompt(seen, shown, prompt_index)
    return Scored(
        candidates,
        masks,
        areas,
        parts,
        fuse(parts, config),
        phrase_index,
        proposal_index,
        prompt_index,
        mask_index,
        tuple(proposals.sources[i] for i in proposal_index),
    )


def _apart(candidates: Candidates, rows: Int, phrase_index: Int) -> tuple[Int, Int]:
    """Return which of the candidates in ``rows`` (R,) differ, int64 (U,), and which of those each of the R is, (R,).

    A prompt's masks that were drawn again are one mask, and so are those of two prompts of a phrase with one closeup.
    """
    numbers = candidates.closeup_index.reshape(-1)[rows]
    keys = np.stack([phrase_index[rows], np.where(numbers < 0, len(candidates.closeups) + rows, numbers)], axis=1)
    _, one, of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return rows[one], of.reshape(-1)


def fuse(parts: Mapping[str, Float], config: RankConfig) -> Float:
    """Return float32 (M,): sigmoid(bias + sum of weight x log-odds(part)), missing parts at their stand-in."""
    bias = config.weights.get("bias", 0.0)
    weights = np.array([config.weights.get(name, 0.0) for name in parts], np.float32)
    logits = weights[:, None] * filled_log_odds(list(parts), np.stack(list(parts.values())), config)
    return np.asarray(1.0 / (1.0 + np.exp(-(bias + logits.sum(axis=0)))), dtype=np.float32)


def filled_log_odds(names: Sequence[str], values: Float, config: RankConfig) -> Float:
    """Return the log-odds of the named parts' values, (parts, M), their stand-ins where they are NaN."""
    stand_ins = np.array([config.missing.get(name, 0.5) for name in names], np.float32)
    return log_odds(np.where(np.isnan(values), stand_ins[:, None], values))


def log_odds(values: Float) -> Float:
    """Return log(p / (1 - p)), kept within ±``LOG_ODDS_LIMIT``."""
    tiny = 1.0 / (1.0 + np.exp(LOG_ODDS_LIMIT))
    p = np.clip(values, tiny, 1.0 - tiny)
    return np.asarray(np.log(p / (1.0 - p)), dtype=np.float32)


def _worth_showing(scores: Float, worth: Bool, phrase_index: Int, prompt_index: Int, config: RankConfig) -> Int:
    """Return which of the candidates that are ``worth`` it, bool (M,), CLIP looks at, best first by the other parts.

    Of a phrase, each prompt's best mask comes before any prompt's second; phrases share the budget in ``fair_order``.
    """
    solid = np.flatnonzero(worth)
    of_prompt = place_in_phrase(scores[solid], prompt_index[solid])  # 0 for each prompt's best mask
    places = place_in_phrase(-of_prompt.astype(np.float32) + scores[solid], phrase_index[solid])
    order = fair_order(scores[solid], places)
    order = order[places[order] < config.clip_budget][: max(config.clip_total, int((places == 0).sum()))]
    return solid[order]


def _shared_in_prompt(seen: Float, shown: Int, prompt_index: Int) -> Float:
    """Return float32 (M,): masks that CLIP did not see get what it said of their prompt's best: they show one thing."""
    of_prompt: dict[int, float] = {}
    for m in shown:
        of_prompt.setdefault(int(prompt_index[m]), float(seen[m]))
    told = np.array([of_prompt.get(int(p), np.nan) for p in prompt_index], np.float32)
    return np.where(np.isnan(seen), told, seen)


def _clip_part(
    image: Image,
    query: Query,
    masks: Bool,
    candidates: Candidates,
    shown: Int,
    phrase_index: Int,
    clip: ImageTextEncoder,
    config: RankConfig,
) -> Float:
    """Return float32 (M,): the own phrase's share against the contrast texts; NaN where not shown.

    Where the CLIP brings a vocabulary, all nouns that the phrase does not mean are among those.
    """
    out = np.full(len(masks), np.nan, np.float32)
    if not len(shown):
        return out
    unlike, owner = closeup.distinct(masks[shown])
    # of a small thing the low-resolution mask is a few squares; its closeup shows what CLIP should be shown
    per_prompt = candidates.predicted_iou.shape[1]
    finest = [closeup.finest(candidates, *divmod(m, per_prompt)) for m in shown[unlike].tolist()]
    crops = masked_crops(
        image.levels,
        [rough.logits > 0 for rough in finest],
        grow=config.clip_grow,
        fill=config.clip_fill,
        size=config.clip_size,
        covered_xyxy=np.array([rough.over_xyxy for rough in finest], np.float32),
    )
    pictures = clip.encode_images(crops)[owner]  # (S, D)
    texts = clip.encode_text(query.prompts)  # (Q, D)
    contrasts = _contrasts(query, texts, clip, config)
    vocabulary = clip.vocabulary if isinstance(clip, KnowsNouns) else None
    nouns = matmul(texts[:0] if vocabulary is None else vocabulary.embeddings, pictures.T)  # (V, S)
    for own in np.unique(phrase_index[shown]).tolist():
        rows = np.flatnonzero(phrase_index[shown] == own)
        seen = pictures[rows].T  # (D, R)
        said = matmul(contrasts[own], seen)
        if vocabulary is not None:
            rivals = vocabulary.rivals(query.prompts[own], texts[own], config.synonym_similarity)
            said = np.concatenate([said, nouns[np.ix_(rivals, rows)]])
        gaps = clip.logit_scale * (said - texts[own] @ seen)  # (N, R)
        # odds against the phrase
        out[shown[rows]] = np.exp(np.minimum(gaps, 50.0)).sum(axis=0) ** (1.0 / config.clip_temperature)
    return 1.0 / (1.0 + out)


def _contrasts(query: Query, texts: Float, clip: ImageTextEncoder, config: RankConfig) -> list[Float]:
    """Return for each phrase what it must beat beside the nouns that it does not mean, float32 (N, D).

    That is the other phrases, its own negatives, the same in other colours and the generic backgrounds.
    """
    backgrounds = clip.encode_text(config.backgrounds)  # (B, D)
    apart = _of_other_groups(query)  # (Q, Q)
    rivals = apart & (matmul(texts, texts.T) < config.synonym_similarity)  # (Q, Q): which phrases contrast with which
    denied = [_denied(query, own, apart[own]) for own in range(len(query))]
    every = [text for of_one in denied for text in of_one]
    embedded = clip.encode_text(every) if every else texts[:0]
    denials = np.split(embedded, np.cumsum([len(of_one) for of_one in denied])[:-1])
    number = {prompt: i for i, prompt in enumerate(query.prompts)}
    found = []
    for own in range(len(query)):
        rivals[own, [number[text] for text in denied[own] if text in number]] = False  # each counts once
        found.append(np.concatenate([texts[rivals[own]], denials[own], backgrounds]))
    return found


def _denied(query: Query, own: int, apart: Bool) -> list[str]:
    """Return what a phrase says it is not: its negatives, and the same in other colours.

    What is asked for may mean the same, but for the phrases in ``apart``, bool (Q,).
    """
    phrase = query.phrases[own]
    same = {query.prompts[i] for i in np.flatnonzero(~apart)}
    return [*phrase.negatives, *(text for text in other_colors(phrase.prompt) if text not in same)]


def _of_other_groups(query: Query) -> Bool:
    """Return bool (Q, Q): whether two phrases may mean different things."""
    groups = np.array([phrase.group for phrase in query.phrases])
    return np.asarray((groups[:, None] != groups[None]) | (groups == ""), np.bool_)
