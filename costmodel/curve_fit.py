"""Seconds as a function of bytes, from measured points: a few pieces of constant rate after a start.

    f(n) = alpha + sum_i s_i |[0, n] and piece i|,   alpha >= 0, s_i > 0        (continuous, growing)

alpha and the slopes s_i minimise the sum of squares of f(n) / t - 1 over the points (n, t): the relative error, since
sizes span six orders of magnitude. For given bounds between the pieces that is a least-squares problem with variables that
must not be negative, so small that all sets of variables that may be positive are tried. Bounds are tried out of the
measured sizes, one to three pieces; a piece more has to pay.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PIECES = 3
_PAYS = 0.75  # of the error without a piece is what it has to be with it
_NEGLIGIBLE = 0.03  # a relative error that is good enough
_FASTEST = 1e18  # bytes per second: where bytes cost nothing


@dataclass(frozen=True, slots=True)
class Curve:
    """alpha, bounds and rates of the pieces as in `autopar.ir.machine.Fit`, and relative errors at the points."""

    alpha: float
    until: tuple[float, ...]
    beta: tuple[float, ...]
    median_error: float
    worst_error: float


def fit(nbytes: Sequence[float], seconds: Sequence[float], pieces: int = PIECES) -> Curve:
    """The curve through points of positive seconds. Numbers are rounded to four digits."""
    n, t = np.array(nbytes, dtype=np.float64), np.array(seconds, dtype=np.float64)
    assert len(n) == len(t) > 0, f"{len(n)} sizes, {len(t)} times"
    sizes = np.unique(n)[1:-1]
    best: tuple[float, tuple[float, ...], Floats] | None = None
    for count in range(pieces):
        tried = [(*_solve(n, t, until), until) for until in itertools.combinations(sizes.tolist(), count)]
        if not tried:
            break
        error, values, until = min(tried, key=lambda trial: trial[0])
        if best is None or (error < best[0] * _PAYS and best[0] > _NEGLIGIBLE):
            best = error, until, values
    assert best is not None
    return _curve(n, t, best[1], best[2])


def _solve(n: Floats, t: Floats, until: tuple[float, ...]) -> tuple[float, Floats]:
    """(root mean square of the relative errors, alpha and slopes) for given bounds."""
    columns = _columns(n, until) / t[:, None]
    scale = np.maximum(columns.max(axis=0), 1e-300)  # bytes and seconds are of very different size
    columns = columns / scale
    best = (np.inf, np.zeros(columns.shape[1]))
    for chosen in itertools.product((False, True), repeat=columns.shape[1]):
        if not any(chosen):
            continue
        values = np.zeros(columns.shape[1])
        values[list(chosen)] = np.linalg.lstsq(columns[:, chosen], np.ones(len(n)), rcond=None)[0]
        error = float(np.sqrt(np.mean((columns @ values - 1) ** 2)))
        if (values >= 0).all() and error < best[0]:
            best = error, values
    return best[0], best[1] / scale


def _columns(n: Floats, until: tuple[float, ...]) -> Floats:
    """Ones, and how many of n bytes lie in each piece."""
    low, high = np.array([0.0, *until]), np.array([*until, np.inf])
    return np.concatenate([np.ones((len(n), 1)), np.clip(n[:, None] - low, 0.0, high - low)], axis=1)


def _curve(n: Floats, t: Floats, until: tuple[float, ...], values: Floats) -> Curve:
    alpha = rounded(float(values[0]))
    beta = tuple(rounded(1 / max(float(slope), 1 / _FASTEST)) for slope in values[1:])
    errors = np.abs(_columns(n, until) @ np.array([alpha, *(1 / rate for rate in beta)]) / t - 1)
    return Curve(alpha, until, beta, float(np.median(errors)), float(errors.max()))


def rounded(number: float) -> float:
    """To four digits, as profiles are written."""
    return float(f"{number:.4g}")
