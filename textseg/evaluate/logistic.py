"""Logistic regression with weights that may be held at zero or above: Newton steps on the free ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from textseg.errors import ShapeError

Array = npt.NDArray[np.float64]


def fit_logistic(
    features: Array,
    labels: Array,
    *,
    nonnegative: npt.NDArray[np.bool_] | None = None,
    sample_weights: Array | None = None,
    l2: float = 1e-3,
    steps: int = 100,
) -> tuple[Array, float]:
    """Return weights (D,) and bias that minimise the mean log loss plus ``l2`` / 2 times the squared weights.

    Projected Newton (Bertsekas, 1982): weights at zero whose gradient would push them below are held there.

    Args:
        features: (N, D), N ≥ 1.
        labels: (N,) in 0..1.
        nonnegative: (D,) which weights must not be negative; None leaves all free.
        sample_weights: (N,) ≥ 0; None counts all alike.
        l2: strength of the pull to zero; the bias is not pulled.
        steps: most Newton steps.

    Raises:
        ShapeError: no samples, or shapes that do not match.
    """
    x = np.asarray(features, np.float64)
    y = np.asarray(labels, np.float64)
    if x.ndim != 2 or y.shape != (len(x),) or not len(x):
        raise ShapeError(f"features {x.shape} and labels {y.shape}: expected (N, D) and (N,) with N of 1 or more")
    d = x.shape[1]
    share = np.full(len(x), 1.0 / len(x)) if sample_weights is None else sample_weights / np.sum(sample_weights)
    bound = np.append(np.zeros(d, bool) if nonnegative is None else nonnegative, False)
    ones = np.column_stack([x, np.ones(len(x))])  # (N, D + 1), the bias last
    pull = np.append(np.full(d, l2), 1e-9)
    theta = np.zeros(d + 1)
    loss = _loss(theta, ones, y, share, pull)
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(ones @ theta, -60, 60)))
        gradient = ones.T @ (share * (p - y)) + pull * theta
        free = ~(bound & (theta <= 0) & (gradient > 0))
        rows = ones[:, free]
        hessian = (rows * (share * p * (1 - p))[:, None]).T @ rows + np.diag(pull[free] + 1e-12)
        step = np.zeros(d + 1)
        step[free] = np.linalg.solve(hessian, gradient[free])
        before = loss
        theta, loss = _search(theta, step, bound, loss, ones, y, share, pull)
        if before - loss < 1e-10:
            break
    return theta[:d], float(theta[d])


def _search(
    theta: Array, step: Array, bound: npt.NDArray[np.bool_], loss: float, *problem: Array
) -> tuple[Array, float]:
    """Return the new point and its loss: the step is halved until the loss falls."""
    size = 1.0
    for _ in range(30):
        moved = theta - size * step
        moved[bound] = np.maximum(moved[bound], 0.0)
        value = _loss(moved, *problem)
        if value < loss:
            return moved, value
        size /= 2
    return theta, loss


def _loss(theta: Array, ones: Array, y: Array, share: Array, pull: Array) -> float:
    z = ones @ theta
    return float(share @ (np.logaddexp(0.0, z) - y * z) + 0.5 * (pull * theta) @ theta)
