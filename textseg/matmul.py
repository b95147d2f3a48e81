"""Products of numpy arrays that leave the cores to torch.

numpy's own threads (OpenBLAS) go on spinning for a while after a product and keep the cores from torch's: with one
product a mask, everything in a picture took twice as long on two cores. So where torch is loaded, it multiplies.
"""

from __future__ import annotations

import sys

import numpy as np

from textseg.types import Float


def matmul(a: Float, b: Float) -> Float:
    """Return ``a @ b`` of float32 arrays of one or two axes."""
    torch = sys.modules.get("torch")
    if torch is None:
        return np.asarray(a @ b, np.float32)
    left, right = (torch.from_numpy(x if x.flags.writeable else x.copy()) for x in (a, b))
    product: Float = (left @ right).numpy()
    return product
