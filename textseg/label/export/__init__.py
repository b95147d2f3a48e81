"""A store in other people's formats: one small file per format, one pass over the pictures for all of them.

==================  ============================================  ===================================
format              masks                                         read by
==================  ============================================  ===================================
coco                RLE: exact                                    pycocotools, detectron2, supervision
coco-polygons       pixel-edge polygons: exact in pycocotools     the same, and tools without RLE
yolo-seg            one polygon an object; parts are bridged      ultralytics, supervision
yolo-boxes          none                                          the same
voc                 PNGs, one object a pixel: overlaps are lost   torchvision, supervision
labelme             mask shapes: exact                            LabelMe from 5.3
labelme-polygons    polygons, parts grouped: exact as filled      LabelMe and its converters
masks               a PNG a mask: exact                           anything
labelstudio         brush RLE: exact                              Label Studio
sa1b                RLE: exact                                    what reads SA-1B, ``textseg.sa1b``
hf                  RLE: exact                                    Hugging Face ``datasets``
==================  ============================================  ===================================

Pictures without objects are kept. Masks that a person rejected are left out. Pictures that a camera marks as rotated
are written upright, as the masks are. ``provenance.json`` beside each export says which models and settings made it.
"""

from textseg.label.export.base import Entry, Loss, Options
from textseg.label.export.run import FORMATS, Report, export

__all__ = ["FORMATS", "Entry", "Loss", "Options", "Report", "export"]
