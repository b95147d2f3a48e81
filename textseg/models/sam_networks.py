"""The transformers classes of the SAM family behind two calls: ``features`` of a picture, ``masks`` of prompts.

The prompt encoder and the mask decoder are called directly, so that text tokens can join SAM's sparse
embeddings and prompts with masks can share a call. Without text the answers are those of ``model.forward``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from textseg.models import edgetam_encode, sam_encode
from textseg.models.sam_decode import Answer, FastDecoder
from textseg.models.sam_passes import Picture
from textseg.models.sam_prompts import PromptTensors
from textseg.types import Frame

Features = dict[str, torch.Tensor]


class SamNetwork:
    """``SamModel`` (Kirillov et al., *Segment Anything*, 2023), which takes text tokens beside its own prompts.

    Wrapping a model puts it in evaluation mode and keeps its position code: wrap it anew after training steps.

    Attributes:
        input_hw: size of the model's input in pixels.
        mask_hw: size of its low-resolution masks and of the mask that it takes as a prompt.
        text_width: width of text tokens; None where the family takes none.
        multimask_count: how many masks it gives for an ambiguous prompt (three).
        feature_shapes: the shape of every feature.
        position: (1, D, h, w), the position code of the picture's tokens.
        device: where the weights lie.
        single_is_plain: whether a single mask is the single mask token's and never, where that is unstable, the best
            of the three, as SAM 2 may have it.
    """

    takes_text: ClassVar[bool] = True
    has_fast: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        encoder = model.prompt_encoder
        grid_h, grid_w = _pair(encoder.image_embedding_size)
        self.input_hw = _pair(encoder.input_image_size)
        self.mask_hw = (4 * grid_h, 4 * grid_w)
        self.width = int(encoder.hidden_size)
        self.text_width = self.width if self.takes_text else None
        self.multimask_count = int(model.config.mask_decoder_config.num_multimask_outputs)
        self.feature_shapes: dict[str, tuple[int, ...]] = {"image": (1, self.width, grid_h, grid_w)}
        with torch.no_grad():
            self.position: torch.Tensor = model.get_image_wide_positional_embeddings()  # (1, D, h, w)
        self.device = self.position.device
        self.single_is_plain = not getattr(model.mask_decoder, "dynamic_multimask_via_stability", False)
        self.fast: FastDecoder | None = None
        self.decode_in(torch.float32)

    def decode_in(self, dtype: torch.dtype) -> None:
        """Choose the precision of the fast decoder's products on the picture's side; without one it is float32."""
        self.fast = FastDecoder(self.model.mask_decoder, self.position, dtype) if self.has_fast else None

    def features(self, pixels: torch.Tensor) -> Features:
        """Return what decoding needs of a (1, 3, H, W) input: ``image``, (1, D, h, w)."""
        if self.device.type == "cpu":
            return {"image": sam_encode.encode(self.model.vision_encoder, pixels)}
        return {"image": self.model.get_image_embeddings(pixels)}

    def picture(self, features: Features) -> Picture | None:
        """Return what all of a picture's prompts without a mask share, to be handed to ``masks`` and ``best``."""
        if self.fast is None:
            return None
        no_mask = self.model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        high = (features["high_0"], features["high_1"]) if "high_0" in features else None
        return self.fast.picture(features["image"], no_mask, high)

    def masks(
        self, features: Features, prompts: PromptTensors, multimask: bool, picture: Picture | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mask logits (N, C, h, w) and unclipped predicted IoU (N, C) of N alike prompts.

        With ``picture``, by the fast decoder where it is the faster one; the answers are the same.
        """
        answer, wanted = self._attend(features, prompts, multimask, picture), _wanted(multimask)
        if answer is None or self.fast is None:
            return self.plain_masks(features, prompts, multimask)
        return self.fast.draw(answer, None, wanted, self.fast.grid_hw), self.fast.quality(answer)[:, wanted]

    def best(
        self,
        features: Features,
        prompts: PromptTensors,
        multimask: bool,
        picture: Picture | None,
        min_iou: float,
        part_hw: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw only the masks whose predicted IoU is greater than ``min_iou``, only the part that shows the picture.

        Args:
            features, prompts, multimask, picture: as for ``masks``.
            min_iou: masks at or below it are left out.
            part_hw: the top left rows and columns of logits that are wanted.

        Returns:
            logits (n, *part_hw), predicted IoU (n,) and int64 (n, 2): which prompt, which of its masks.
        """
        answer, wanted = self._attend(features, prompts, multimask, picture), _wanted(multimask)
        if answer is None or self.fast is None:
            logits, iou = self.plain_masks(features, prompts, multimask)
            index = (iou > min_iou).nonzero()
            return logits[index[:, 0], index[:, 1], : part_hw[0], : part_hw[1]], iou[index[:, 0], index[:, 1]], index
        iou = self.fast.quality(answer)[:, wanted]
        index = (iou > min_iou).nonzero()  # (n, 2)
        if not len(index):
            return iou.new_empty(0, *part_hw), iou.new_empty(0), index
        rows, back = torch.unique(index[:, 0], return_inverse=True)
        tokens_hw = (-(-part_hw[0] // 4), -(-part_hw[1] // 4))
        logits = self.fast.draw(answer, None if len(rows) == len(iou) else rows, wanted, tokens_hw)
        return logits[back, index[:, 1], : part_hw[0], : part_hw[1]], iou[index[:, 0], index[:, 1]], index

    def _attend(
        self, features: Features, prompts: PromptTensors, multimask: bool, picture: Picture | None
    ) -> Answer | None:
        """Return the fast decoder's transformer output, or None where the plain decoder is to be used."""
        if self.fast is None or picture is None or not (multimask or self.single_is_plain):
            return None
        sparse, dense = self._embed(prompts)
        tokens = None if sparse is None else sparse.flatten(0, 1)  # (N, T, D)
        if tokens is not None and not self.fast.fits(tokens.shape[1]):
            return None
        if prompts.masks is None:
            return self.fast.attend(tokens, picture, detail=picture.detail)
        image = features["image"].contiguous(memory_format=torch.channels_last)  # as the embedded masks lie in memory
        return self.fast.attend(tokens, image + dense, detail=picture.detail)

    def plain_masks(
        self, features: Features, prompts: PromptTensors, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``masks``, by the mask decoder of transformers."""
        sparse, dense = self._embed(prompts)
        batch, _ = prompts.layout
        logits, iou = self.model.mask_decoder(
            image_embeddings=features["image"].expand(batch, -1, -1, -1),
            image_positional_embeddings=self.position.expand(batch, -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            **self._decoder_inputs(features, batch),
        )[:2]
        return logits.flatten(0, 1), iou.flatten(0, 1)  # (N, C, h, w), (N, C)

    def logits_frame(self, frame: Frame) -> Frame:
        """Return the frame by which logits become masks: Meta's SAM goes by way of the input's pixels."""
        return frame

    def _decoder_inputs(self, features: Features, batch: int) -> dict[str, Any]:
        """Return what else this family's mask decoder takes."""
        return {}

    def _embed(self, prompts: PromptTensors) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return sparse (B, M, tokens, D) and dense (B or 1, D, h, w) embeddings; (B, M) is the layout.

        SAM adds a "not a point" token to points without a box, and only there: text alone is exactly its tokens.
        """
        layout = prompts.layout
        points, labels, boxes, text = (
            None if tensor is None else tensor.reshape(*layout, *tensor.shape[1:])  # (N, …) → (B, M, …)
            for tensor in (prompts.points, prompts.labels, prompts.boxes, prompts.text)
        )
        sparse, dense = self.model.prompt_encoder(
            input_points=points, input_labels=labels, input_boxes=boxes, input_masks=prompts.masks
        )
        if text is not None:
            sparse = text if sparse is None else torch.cat([sparse, text.to(sparse.dtype)], dim=2)
        return sparse, dense


class SamHqNetwork(SamNetwork):
    """``SamHQModel`` (Ke et al., *Segment Anything in High Quality*, 2023): adds early features of the encoder."""

    has_fast = False

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.feature_shapes["early"] = (
            1,
            *self.feature_shapes["image"][2:],
            int(model.config.vision_config.hidden_size),
        )

    def features(self, pixels: torch.Tensor) -> Features:
        """Return ``image``, (1, D, h, w), and ``early``, (1, h, w, E): all that the decoder reads."""
        image, early = self.model.get_image_embeddings(pixels)
        return {"image": image, "early": early[0]}

    def _decoder_inputs(self, features: Features, batch: int) -> dict[str, Any]:
        return {"hq_token_only": False, "intermediate_embeddings": [features["early"]]}


class Sam2Network(SamNetwork):
    """``Sam2Model`` (2 and 2.1) and ``Sam3TrackerModel``, which share one form (Ravi et al., *SAM 2*, 2024).

    They take no text tokens: there is no text prompt that was trained for them.
    """

    takes_text = False

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        grid_h, grid_w = self.mask_hw[0] // 4, self.mask_hw[1] // 4
        self.feature_shapes["high_0"] = (1, self.width // 8, 4 * grid_h, 4 * grid_w)
        self.feature_shapes["high_1"] = (1, self.width // 4, 2 * grid_h, 2 * grid_w)

    def features(self, pixels: torch.Tensor) -> Features:
        """Return ``image``, (1, D, h, w), ``high_0``, (1, D/8, 4h, 4w), and ``high_1``, (1, D/4, 2h, 2w)."""
        high_0, high_1, image = self.model.get_image_embeddings(pixels)
        return {"image": image, "high_0": high_0, "high_1": high_1}

    def logits_frame(self, frame: Frame) -> Frame:
        """Return a frame whose input is the logits themselves: SAM 2 upscales straight to the picture."""
        return Frame(frame.original_hw, self.mask_hw, self.mask_hw)

    def _decoder_inputs(self, features: Features, batch: int) -> dict[str, Any]:
        return {"high_resolution_features": [features[n].expand(batch, -1, -1, -1) for n in ("high_0", "high_1")]}

    def _embed(self, prompts: PromptTensors) -> tuple[torch.Tensor | None, torch.Tensor]:
        """As SAM, but a mask alone stands beside one padding point, as in ``Sam2Model.forward``."""
        if prompts.points is None and prompts.boxes is None and prompts.text is None:
            points = torch.zeros(prompts.count, 1, 2, device=self.device)
            labels = torch.full((prompts.count, 1), -1, dtype=torch.int64, device=self.device)
            prompts = PromptTensors(prompts.count, points, labels, masks=prompts.masks)
        return super()._embed(prompts)


class EdgeTamNetwork(Sam2Network):
    """``EdgeTamModel`` (Zhou et al., *EdgeTAM*, 2025): SAM 2's form on a convolutional trunk. It takes text tokens."""

    takes_text = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        edgetam_encode.prepare(model)

    def features(self, pixels: torch.Tensor) -> Features:
        """Return ``image``, ``high_0`` and ``high_1`` as ``Sam2Network`` does."""
        return edgetam_encode.encode(self.model, pixels)._asdict()


def _wanted(multimask: bool) -> slice:
    """Return which of the decoder's masks are wanted: the three for ambiguous prompts, or the single one."""
    return slice(1, None) if multimask else slice(0, 1)


def _pair(size: Any) -> tuple[int, int]:
    """Return a size given as one number or two as (height, width)."""
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
