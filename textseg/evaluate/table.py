"""Which protocols there are, by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable

from textseg.evaluate import protocols, segmenter
from textseg.evaluate.outcome import Outcome
from textseg.evaluate.pages import Material
from textseg.pipeline import Pipeline

Protocol = Callable[[Pipeline, Material, int | None], Outcome]

PROTOCOLS: dict[str, Protocol] = {
    "scenes_color": protocols.scenes_color,
    "scenes_nouns": protocols.scenes_nouns,
    "ccp_garments": protocols.ccp_garments,
    "ccp_color": protocols.ccp_color,
    "coco_classes": protocols.coco_classes,
    "objects": protocols.objects,
    "cars": protocols.cars,
    "absent": protocols.absent,
    "sam_true_box": segmenter.sam_true_box,
    "sam_text_alone": segmenter.sam_text_alone,
}
