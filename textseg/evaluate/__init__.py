"""How good is it? Protocols over a `Pipeline`, the metrics behind them, and the fitting of the ranking.

::

    metrics, outcome                        pure numpy; what a protocol found
    pages → scene_pages, photo_pages        labelled validation pictures with the phrases to ask of each
    protocols, segmenter → table            one function a row of the table
    collect, logistic → fit                 every candidate with its truth → weights and threshold
    machine, report → run                   ``textseg eval``
"""
