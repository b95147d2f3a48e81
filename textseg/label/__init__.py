"""A folder of pictures becomes a dataset: ontology → sources → models → store → exports.

::

    ontology.py   class names or YAML → phrases; each mask gets one class
    sources.py    folder, glob, list, ZIP, COCO JSON, video, bucket → a lazy stream of items with stable keys
    work.py       one item → its masks, duplicates resolved by the fused score
    store.py      one SQLite file, a picture per commit; survives kill -9
    run.py        the streaming runner: decodes ahead, labels, writes beside, resumes
    engine_ray.py the same work on a Ray cluster
"""
