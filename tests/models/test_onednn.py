"""oneDNN's products against torch's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from textseg.models import onednn


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=[True, False], ids=["found", "not found"])
def found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not onednn.usable(torch.ones(1)):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(onednn, "_FOUND", request.param)
    return bool(request.param)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (1, 2, 3, 8)])
def test_linear_is_linear(found: bool, shape: tuple[int, ...], gelu: bool) -> None:
    x, weight, bias = torch.randn(shape), torch.randn(6, 8), torch.randn(6)
    expected = F.linear(x, weight, bias)
    got = onednn.linear(x, weight, bias, gelu=gelu)
    torch.testing.assert_close(got, F.gelu(expected) if gelu else expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(onednn.linear(x, weight), F.linear(x, weight), atol=1e-5, rtol=1e-5)


def test_strides_do_not_matter(found: bool) -> None:
    x, weight = torch.randn(8, 5).t(), torch.randn(8, 6).t()
    torch.testing.assert_close(onednn.linear(x, weight), F.linear(x, weight), atol=1e-5, rtol=1e-5)
    wide = torch.randn(6, 24)[:, ::3]
    torch.testing.assert_close(onednn.linear(x, wide), F.linear(x, wide), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_bmm_is_bmm(found: bool, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_LARGE", 0)
    a, b = torch.randn(n, 4, 7), torch.randn(n, 7, 5)
    torch.testing.assert_close(onednn.bmm(a, b), torch.bmm(a, b), atol=1e-5, rtol=1e-5)
    crossed = torch.randn(n, 5, 7).transpose(1, 2)
    torch.testing.assert_close(onednn.bmm(a, crossed), torch.bmm(a, crossed), atol=1e-5, rtol=1e-5)
    turned = torch.randn(n, 7, 4).transpose(1, 2)
    torch.testing.assert_close(onednn.bmm(turned, b), torch.bmm(turned, b), atol=1e-5, rtol=1e-5)


def test_other_tensors_take_torchs_own_way() -> None:
    assert not onednn.usable(torch.ones(1, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not onednn.usable(torch.ones(1))
        assert onednn.linear(torch.ones(2, 4), torch.ones(3, 4)).dtype == torch.bfloat16
    with torch.inference_mode(False), torch.enable_grad():
        weight = torch.ones(3, 4, requires_grad=True)
        assert not onednn.usable(weight)
        onednn.linear(torch.ones(2, 4), weight).sum().backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None


@pytest.mark.parametrize(("able", "wanted", "dtype"), [
    (True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32),
])  # fmt: skip
def test_autocast_is_for_processors_that_multiply_bfloat16(
    able: bool, wanted: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: able)
    with onednn.autocast(wanted):
        assert F.linear(torch.ones(2, 4), torch.ones(3, 4)).dtype == dtype
