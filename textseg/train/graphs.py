"""ONNX graphs of trained networks for ``models.graphs``: ``python -m textseg.train.graphs textseg/weights/nano``.

torch's exporter writes them from the real classes, for one input. Their weights are then taken out: a graph points
into the float16 safetensors file beside it, so that nothing is kept twice. New weights of the same layout need no new
graph.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from textseg.errors import UnsupportedError
from textseg.models import clip_load, graphs, nano_files
from textseg.models.clip_text import embed, ends_at_a_mark, without_padding
from textseg.models.nano_refiner import PLANES, load_refiner
from textseg.models.sam import family
from textseg.models.sam_decode import FastDecoder, detail_of
from textseg.models.sam_load import load_network
from textseg.models.sam_onnx import OPSET
from textseg.models.sam_passes import Detail
from textseg.models.text_prompt import TextPrompt

logger = logging.getLogger(__name__)

DTYPES = {"F16": "FLOAT16", "F32": "FLOAT", "I64": "INT64"}
"""A safetensors file's dtypes by ONNX's names."""


class Export(NamedTuple):
    """A network as it is to be written.

    Attributes:
        name: of the file, without its ending.
        module: the network.
        inputs: an example of each input, by name, in order.
        outputs: their names.
        weights: the tensors of the module by the names that they have in the weights file.
        precision: ``graphs.FLOAT32`` or ``graphs.BFLOAT16``.
        free: names of the axes of its one input that may be of any length; nothing: all are as in the example.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    weights: dict[str, Tensor]
    precision: str = graphs.FLOAT32
    free: tuple[str, ...] = ()


class _Call(nn.Module):
    """A function of a network as a module, for the exporter."""

    def __init__(self, network: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs: Tensor) -> Any:
        """Whatever the function returns."""
        return self.call(*inputs)


def of_clip(folder: Path) -> list[Export]:
    """Both towers of an open_clip model: one crop's embedding, and those of texts; neither is normalised."""
    source = clip_load.find(folder)
    model = clip_load.build_model(source).float()
    if not ends_at_a_mark(model) or model.text_pool_type != "argmax":
        raise UnsupportedError(
            f"{folder}: got another text tower, expected a causal one that ends at the highest token"
        )
    side, ids = model.visual.image_size, without_padding(clip_load.build_tokenizer(source)(["a", "b c"]))
    height, width = (side, side) if isinstance(side, int) else side
    texts = _Call(model, partial(embed, model))
    crop, weights = torch.zeros(1, 3, height, width), model.state_dict(keep_vars=True)
    return [
        Export("image", model.visual, {"crop": crop}, ("embedding",), weights, graphs.BFLOAT16),
        Export("text", texts, {"ids": ids}, ("embeddings",), weights, free=("texts", "tokens")),
    ]


def of_refiner(folder: Path) -> list[Export]:
    """The mask refiner: one crop's planes to its mask's logits and the logit of its IoU."""
    network = load_refiner(folder)
    planes = torch.zeros(1, PLANES, network.config.side, network.config.side)
    weights = network.state_dict(keep_vars=True)
    call = _Call(network, lambda x: tuple(network(x)))
    return [Export("refine", call, {"planes": planes}, ("logits", "iou"), weights, graphs.BFLOAT16)]


def of_sam(folder: Path) -> list[Export]:
    """EdgeTAM's masks for what a phrase asks: three logits and their predicted IoU.

    That is a box with its rough mask and text tokens (``masks``), or text tokens alone (``spoken``).
    """
    network = load_network(family("edgetam"), folder, "cpu")[0]
    detail = detail_of(*(torch.zeros(network.feature_shapes[name]) for name in ("high_0", "high_1")))
    shared = {
        "image": torch.zeros(network.feature_shapes["image"]),
        "fine": detail.fine.contiguous(),
        "finest": detail.finest.contiguous(),
    }
    asked = {"box": torch.tensor([[1.0, 2.0, 30.0, 40.0]]), "mask": torch.zeros(1, 1, *network.mask_hw)}
    tokens = TextPrompt.load(folder.parent / "text_prompt").config.token_count
    text = {"text": torch.zeros(1, tokens, network.width)}
    model, multiple, outputs = network.model, slice(1, None), ("logits", "iou")

    def answer(sparse: Tensor, image: Tensor, fine: Tensor, finest: Tensor) -> Any:
        fast = FastDecoder(model.mask_decoder, model.get_image_wide_positional_embeddings())
        drawn = fast.attend(sparse, image, detail=Detail(fine, finest), whole=True)
        return fast.draw(drawn, None, multiple, fast.grid_hw, whole=True), fast.quality(drawn)[:, multiple]

    def masks(image: Tensor, fine: Tensor, finest: Tensor, box: Tensor, mask: Tensor, text: Tensor) -> Any:
        sparse, dense = model.prompt_encoder(
            input_points=None, input_labels=None, input_boxes=box[:, None], input_masks=mask
        )
        return answer(torch.cat([sparse[:, 0], text], dim=1), image + dense, fine, finest)

    def spoken(image: Tensor, fine: Tensor, finest: Tensor, text: Tensor) -> Any:
        no_mask = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return answer(text, image + no_mask, fine, finest)

    weights = model.state_dict(keep_vars=True)
    return [
        Export("masks", _Call(model, masks), {**shared, **asked, **text}, outputs, weights),
        Export("spoken", _Call(model, spoken), {**shared, **text}, outputs, weights),
    ]


KINDS: dict[str, Callable[[Path], list[Export]]] = {"clip": of_clip, "refiner": of_refiner, "sam": of_sam}
"""What has graphs, by the name of its folder."""


def write(export: Export, weights: Path) -> Path:
    """Write a graph beside its weights file; return its path."""
    from onnx import ModelProto, TensorProto, helper

    axes = {number: torch.export.Dim(axis) for number, axis in enumerate(export.free)}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            export.module.eval(),
            tuple(export.inputs.values()),
            input_names=list(export.inputs),
            output_names=list(export.outputs),
            dynamic_shapes=((axes,),) if axes else None,
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # it would fold weights into new ones
            verbose=False,
        )
    assert program is not None
    plain: ModelProto = program.model_proto
    places, names = _places(weights), {value.data_ptr(): name for name, value in export.weights.items()}
    own = export.module.state_dict(keep_vars=True)
    tensors, casts = [], []
    for tensor in plain.graph.initializer:
        name = names.get(own[tensor.name].data_ptr()) if tensor.name in own else None
        if name is None or name not in places:
            tensors.append(tensor)
            continue
        dtype, shape, offset, length = places[name]
        kind = getattr(TensorProto, DTYPES[dtype])
        outside = TensorProto(name=f"{tensor.name} in the file", data_type=kind, dims=shape)
        outside.data_location = TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", offset), ("length", length)):
            outside.external_data.add(key=key, value=str(value))
        tensors.append(outside)
        casts.append(helper.make_node("Cast", [outside.name], [tensor.name], to=tensor.data_type))
    for node in plain.graph.node:
        del node.metadata_props[:]  # where in the source it came from
    name = graphs.graph_name(export.precision, graphs.layout_of(weights))
    graph = helper.make_graph(
        [*casts, *plain.graph.node], name, plain.graph.input, plain.graph.output, tensors, value_info=[]
    )
    whole = helper.make_model(graph, opset_imports=plain.opset_import, ir_version=plain.ir_version)
    path = weights.with_name(f"{export.name}.onnx")
    nano_files.write_whole(path, whole.SerializeToString())
    return path


def _places(weights: Path) -> dict[str, tuple[str, list[int], int, int]]:
    """Return each tensor's dtype, shape, and where in a safetensors file it begins and how long it is, in bytes."""
    size, header = graphs.header_of(weights)
    first = len(size) + len(header)
    return {
        name: (entry["dtype"], entry["shape"], first + start, stop - start)
        for name, entry in json.loads(header).items()
        if name != "__metadata__"
        for start, stop in [entry["data_offsets"]]
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the graphs of a preset's folders from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"with the folders {', '.join(KINDS)}")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for kind, exports in KINDS.items():
        (weights,) = (path for path in (options.folder / kind).glob("*model.safetensors"))
        for export in exports(options.folder / kind):
            path = write(export, weights)
            logger.info("%s: %.0f KiB", path, path.stat().st_size / 1024)


if __name__ == "__main__":
    main()
