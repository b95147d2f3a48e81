"""Products by torch where it is loaded, by numpy where it is not: the same numbers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from textseg.matmul import matmul


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((0, 4), (4, 2))])
def test_the_product_is_the_product(
    loaded: bool, shapes: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch  # noqa: F401

    if not loaded:
        monkeypatch.delitem(sys.modules, "torch")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    a.flags.writeable = False
    got = matmul(a, b)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, a @ b, atol=1e-6)
    flipped = matmul(b.T, a.T)
    np.testing.assert_allclose(flipped, b.T @ a.T, atol=1e-6)


def test_it_does_not_load_torch() -> None:
    code = "import sys, numpy as np; from textseg.matmul import matmul; one = np.eye(2, dtype='f4'); matmul(one, one)"
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], check=True)
