"""The whole flow on one screen: proposals → prompts → masks (drawn again, close up) → ranking → result.

A ``Pipeline`` holds the models and no picture. ``open`` gives an ``OpenPicture``: the picture's
embeddings are made when first needed, kept, and shared by every later phrase, click or box.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from textseg import image as images
from textseg import language
from textseg.cache import EmbeddingCache
from textseg.choose import choose
from textseg.errors import ConfigError, PromptError, TextsegError
from textseg.everything.options import EverythingOptions
from textseg.glance import glance, worth_drawing
from textseg.prompt import PromptConfig, build_prompts, text_tokens, user_prompts
from textseg.propose import ProposeConfig, propose, user_proposals
from textseg.protocols import ROLES, Detector, ImageTextEncoder, MaskRefiner, NamesRegions, Segmenter, TextPrompt
from textseg.rank import RankConfig, score
from textseg.redraw import Both, RedrawConfig, redraw
from textseg.result import Result
from textseg.segment import SegmentConfig, segment
from textseg.types import Bool, Float, Image, Int, Phrase, Prompts, Proposals, Query
from textseg.user import UserPrompt

logger = logging.getLogger(__name__)

Phrases = str | Phrase | Sequence[str | Phrase]
NO_PHRASE = Query((Phrase("", ""),))


@dataclass(frozen=True)
class PipelineConfig:
    """The stages' settings; each is documented beside its stage."""

    name: str = "custom"
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    redraw: RedrawConfig = field(default_factory=RedrawConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    everything: EverythingOptions = field(default_factory=EverythingOptions)


@dataclass(frozen=True)
class BatchItem:
    """One picture of a batch: its result, or the error that it met."""

    source: Any
    result: Result | None
    error: TextsegError | None


class Pipeline:
    """Image + phrases → masks.

    Args:
        segmenter: the SAM.
        detector: supplies boxes; None relies on text tokens and the caller's own prompts.
        clip: embeds phrases and masked crops; None leaves the "clip" part out.
        text_prompt: turns CLIP embeddings into SAM tokens; None leaves text-only proposals out.
        refiner: draws the likeliest masks again from a close look; None leaves the segmenter's.
        own_refiner: draws those of the caller's own boxes and rough masks: they say how far a thing reaches, which a
            phrase's proposals and a click do not. None asks ``refiner``.
        config: the stages' settings.
        cache: embeddings of pictures seen; made anew (in memory, a few pictures) when None.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        detector: Detector | None = None,
        clip: ImageTextEncoder | None = None,
        text_prompt: TextPrompt | None = None,
        refiner: MaskRefiner | None = None,
        own_refiner: MaskRefiner | None = None,
        config: PipelineConfig | None = None,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.detector = detector
        self.clip = clip
        self.text_prompt = text_prompt
        self.refiner = refiner
        self.own_refiner = own_refiner
        self.namer = detector if isinstance(detector, NamesRegions) else None
        self.config = config or PipelineConfig()
        self.cache = cache or EmbeddingCache()
        if text_prompt is not None and clip is None:
            raise ConfigError("a text prompt needs a CLIP to embed the phrases: set 'clip' in the preset")

    def __call__(self, source: Any, phrases: Phrases, **options: Any) -> Result:
        """Segment what the phrases name in one picture; see ``OpenPicture.segment`` for the options."""
        return self.open(source).segment(phrases, **options)

    def open(self, source: Any) -> OpenPicture:
        """Read a picture (path, bytes, PIL, numpy RGB, tensor) so that it can be asked many times."""
        return OpenPicture(self, images.read(source))

    def batch(self, sources: Iterable[Any], phrases: Phrases, *, ahead: int = 2, **options: Any) -> Iterator[BatchItem]:
        """Segment a stream of pictures in order, in bounded memory.

        Pictures are decoded ``ahead`` of the models in a thread. A picture that fails is reported in its
        ``BatchItem`` and the rest go on; an error in the phrases or options themselves is raised at once.
        """
        query = as_query(phrases)
        for source, opened in _read_ahead(self, sources, ahead):
            try:
                yield BatchItem(source, opened.result().segment(query, **options), None)
            except TextsegError as error:
                logger.warning("%s: %s", source, error)
                yield BatchItem(source, None, error)

    def refiner_for(self, *, bounded: bool) -> MaskRefiner | None:
        """Return who draws again what is asked for, ``bounded`` by a box or rough mask of the caller's or not."""
        own = self.own_refiner if bounded else None
        if own is not None and self.refiner is not None and self.config.redraw.own_both:
            return Both(own, self.refiner)
        return own or self.refiner

    def with_config(self, config: PipelineConfig) -> Pipeline:
        """Return a pipeline of the same models and cache with other settings."""
        return self.with_parts(config=config)

    def with_parts(self, **parts: Any) -> Pipeline:
        """Return a pipeline with some parts replaced (or None: left out), named as the arguments of ``Pipeline``."""
        own = {name: getattr(self, name) for name in (*ROLES, "config", "cache")}
        return Pipeline(**{**own, **parts})


class OpenPicture:
    """A picture whose embeddings are kept: ask it many times.

    Attributes:
        image: the picture, upright, RGB.
    """

    def __init__(self, pipeline: Pipeline, image: Image) -> None:
        self.pipeline = pipeline
        self.image = image

    def segment(
        self,
        phrases: Phrases | Query | None = None,
        *,
        box: Any = None,
        points: Any = None,
        labels: Any = None,
        mask: Any = None,
        threshold: float | None = None,
        multimask: bool | None = None,
    ) -> Result:
        """Return the masks of what the phrases name, of what is pointed at, or of both together.

        Of N boxes (points, rough masks) come N masks, in their order and whether or not they overlap; one that the
        segmenter finds nothing for is among the rejected, as ``proposal_index`` tells.

        Args:
            phrases: one phrase or several; None when only pointing.
            box: (4,) or (N, 4) xyxy in pixels of the original picture.
            points: (Q, 2) xy pixels of one object, or (N, Q, 2) of N objects.
            labels: (Q,) or (N, Q): 1 foreground (the default), 0 background.
            mask: (h, w) or (N, h, w) rough masks over the whole picture: bool, or float logits.
            threshold: least score of an accepted mask, 0..1, instead of the preset's.
            multimask: whether all ambiguity masks are decoded; None takes the preset's choice, except that
                pointing without a phrase at one clear object (a box, or several points) decodes one.

        Raises:
            QueryError: the phrases are unusable, or there is neither a phrase nor a prompt.
            PromptError: a prompt does not fit the picture.
            ConfigError: the threshold is out of range.
        """
        user = UserPrompt.make(self.image.size_hw, box=box, points=points, labels=labels, mask=mask)
        if phrases is None and user is None:
            raise PromptError("nothing asked: give a phrase such as 'the red car', a box, points or a mask")
        query = NO_PHRASE if phrases is None else as_query(phrases)
        return self._run(query, user, self._config(threshold, multimask, user, phrases is not None))

    def _run(self, query: Query, user: UserPrompt | None, config: PipelineConfig) -> Result:
        """Run every stage in turn: this is the pipeline."""
        pipe, clock = self.pipeline, _Clock()
        tokens = text_tokens(pipe.text_prompt, pipe.segmenter, self._text_embeddings(query))
        clock.lap("text")
        if user is None:
            proposals = self._propose(query, config)
            clock.lap("propose")
            prompts = build_prompts(proposals, tokens, config.prompt, multimask=config.segment.multimask)
        else:
            proposals, prompts = _point(user, query, tokens, config.segment.multimask)
        embedding = pipe.cache.get(self.image, pipe.segmenter)
        clock.lap("encode")
        candidates = segment(pipe.segmenter, embedding, self.image, prompts, config.segment)
        clock.lap("segment")
        seen = glance(self.image, query, proposals, prompts, candidates, config.rank, self._name_regions)
        prompts, candidates = prompts[seen.kept], candidates[seen.kept]
        clock.lap("rank")
        refiner = pipe.refiner_for(bounded=user is not None and user.bounded)
        if refiner is not None:
            candidates = redraw(refiner, self.image, proposals, prompts, candidates, config.redraw, seen.likely)
            clock.lap("redraw")
        given = self.image, query, proposals, prompts, candidates, pipe.clip, config.rank, self._name_regions
        scored = score(*given, seen.likely, seen.region)
        choice = choose(scored, query, config.rank)
        clock.lap("rank")
        return Result(self.image, query, scored, choice, config.rank, config.name, clock.seconds)

    def _propose(self, query: Query, config: PipelineConfig) -> Proposals:
        pipe, how = self.pipeline, config.propose
        encoded = None if pipe.detector is None else pipe.cache.get(self.image, pipe.detector)
        if pipe.text_prompt is None or pipe.segmenter.text_width is None:
            how = replace(how, text_only=False)
        proposals = propose(query, pipe.detector, encoded, self.image.size_hw, how)
        return worth_drawing(self.image, query, proposals, config.rank, self._name_regions)

    def _name_regions(self, masks: Bool, prompts: Sequence[str], phrase_index: Int) -> Float | None:
        """What the detector says of masks, where it can: see ``NamesRegions``."""
        namer = self.pipeline.namer
        if namer is None:
            return None
        return namer.name_regions(self.pipeline.cache.get(self.image, namer), masks, prompts, phrase_index)

    def _text_embeddings(self, query: Query) -> Float | None:
        if self.pipeline.text_prompt is None or self.pipeline.clip is None or query is NO_PHRASE:
            return None
        return self.pipeline.clip.encode_text(query.prompts)

    def _config(
        self, threshold: float | None, multimask: bool | None, user: UserPrompt | None, spoken: bool
    ) -> PipelineConfig:
        """Return the settings for one call."""
        config = self.pipeline.config
        if multimask is None and user is not None and not spoken:
            multimask = not user.clear
        if multimask is not None:
            config = replace(config, segment=replace(config.segment, multimask=multimask))
        if user is not None and threshold is None:
            threshold = 0.0  # the caller points at something: there is always an answer
        if threshold is not None:
            config = replace(config, rank=replace(config.rank, threshold=threshold))
        return config


def as_query(phrases: Phrases | Query) -> Query:
    """Return the query of one phrase, of several, or of a query itself."""
    return phrases if isinstance(phrases, Query) else language.query(phrases)


def _point(user: UserPrompt, query: Query, tokens: Float | None, multimask: bool) -> tuple[Proposals, Prompts]:
    """Return the caller's prompts, one for each pair of pointed object and phrase."""
    n, q = len(user.boxes_xyxy), len(query)
    rows = np.repeat(np.arange(n), q)
    phrase = np.tile(np.arange(q), n)
    proposals = user_proposals(user.extents_xyxy[rows], phrase)
    prompts = user_prompts(
        np.arange(n * q),
        boxes_xyxy=user.boxes_xyxy[rows],
        points_xy=user.points_xy[rows],
        point_labels=user.point_labels[rows],
        mask_logits=None if user.mask_logits is None else user.mask_logits[rows],
        text_tokens=None if tokens is None else tokens[phrase],
        multimask=multimask,
    )
    return proposals, prompts


def _read_ahead(pipeline: Pipeline, sources: Iterable[Any], ahead: int) -> Iterator[tuple[Any, Any]]:
    """Yield (source, future of an OpenPicture) in order, at most ``ahead`` pictures decoded in advance."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="textseg-read") as pool:
        waiting: list[tuple[Any, Any]] = []
        for source in sources:
            waiting.append((source, pool.submit(pipeline.open, source)))
            if len(waiting) > max(0, ahead):
                yield waiting.pop(0)
        yield from waiting


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
