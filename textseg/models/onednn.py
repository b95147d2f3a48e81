"""Float32 products by oneDNN instead of MKL: MKL keeps its fastest code for Intel's processors.

On an AMD processor with AVX-512 oneDNN takes half the time for the same products (both round as float32 does, in
another order). torch uses it by itself for bfloat16 only, so the operator behind ``torch.compile``'s linear layers is
called here; where it is missing, where gradients are wanted or the tensors are of another kind, torch's own is used.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Return ``x @ weight.T + bias``, by exact GELU if asked: (…, I), (O, I) and (O,) give (…, O)."""
    if usable(x):
        how: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), _plain(weight), bias, *how)
        return out
    out = F.linear(x, weight, bias)
    return F.gelu(out) if gelu else out


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """Return the N products of (N, m, k) and (N, k, n): (N, m, n)."""
    if not (usable(a) and usable(b)) or a.shape[1] * b.shape[1] * b.shape[2] < _LARGE:
        return torch.bmm(a, b)
    multiply = torch.ops.mkldnn._linear_pointwise
    out = [multiply(_plain(one), _plain(two.t()), None, "none", [], "") for one, two in zip(a, b, strict=True)]
    return out[0][None] if len(out) == 1 else torch.stack(out)


def _plain(matrix: Tensor) -> Tensor:
    """Return a matrix by rows or by columns: for other strides oneDNN has plain loops, a thousand times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def usable(x: Tensor) -> bool:
    """Whether oneDNN's operator is there and takes such tensors."""
    return _FOUND and x.dtype == torch.float32 and _only_asked(x) and not torch.is_autocast_enabled("cpu")


def packs(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators for weights that are laid out beforehand are there for ``x`` in that precision."""
    able = dtype is torch.float32 or (dtype is torch.bfloat16 and has_bfloat16())
    return _PACKS and able and _only_asked(x)


def _only_asked(x: Tensor) -> bool:
    """Whether a network is asked for nothing but its answer, on the CPU: no gradients, no export."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_exporting()


@cache
def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself, so that it is quicker than float32 and not slower."""
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def autocast(enabled: bool = True) -> torch.autocast:
    """Return autocast to bfloat16 where ``has_bfloat16``, else one that leaves float32: emulated, it is far slower."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled and has_bfloat16())


def _found() -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        one = torch.ones(1, 1)
        return bool(torch.ops.mkldnn._linear_pointwise(one, one, None, "none", [], "") == 1)
    except (AttributeError, RuntimeError, TypeError):
        return False


_FOUND = _found()
_PACKS = _FOUND and all(
    hasattr(torch.ops.mkldnn, name)
    for name in ("_convolution_pointwise", "_reorder_convolution_weight", "_get_mkldnn_serialized_md")
)
_LARGE = 1 << 22
"""Multiplications from which on a product is worth a call of its own."""
