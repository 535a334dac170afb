"""Fits of seconds by bytes: curves that are known come out again, and whatever is fitted grows and is continuous."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.costmodel.curve_fit import fit, rounded
from autopar.ir.machine import Fit

SIZES = [64.0 * 4**i for i in range(10)]


def at(curve, n):
    alpha, beta = next((alpha, beta) for until, alpha, beta in pieces(curve) if n <= until)
    return alpha + n / beta


def pieces(curve):
    return Fit("intra", "gather", 2, curve.alpha, curve.until, curve.beta).pieces()


def test_one_piece():
    found = fit(SIZES, [1e-5 + n / 2e9 for n in SIZES])
    assert (found.alpha, found.until, found.beta) == (pytest.approx(1e-5), (), (pytest.approx(2e9),))
    assert found.worst_error < 1e-3


@pytest.mark.parametrize("rates", [(1e9, 5e9), (5e9, 1e9)])
def test_two_pieces(rates):
    bound = SIZES[5]
    seconds = [2e-5 + min(n, bound) / rates[0] + max(n - bound, 0) / rates[1] for n in SIZES]
    found = fit(SIZES, seconds)
    assert found.until == (bound,)
    assert found.beta == pytest.approx(rates, rel=1e-3)
    assert found.worst_error < 1e-3


def test_a_piece_more_has_to_pay():
    noise = np.random.default_rng(0).normal(1.0, 0.03, len(SIZES))
    found = fit(SIZES, [(1e-5 + n / 2e9) * factor for n, factor in zip(SIZES, noise, strict=True)])
    assert len(found.beta) < 3
    assert found.median_error < 0.05


def test_time_without_a_start_and_time_without_bytes():
    assert fit(SIZES, [n / 1e9 for n in SIZES]).alpha == 0
    flat = fit(SIZES, [3e-6] * len(SIZES))
    assert flat.alpha == pytest.approx(3e-6)
    assert at(flat, SIZES[-1]) == pytest.approx(3e-6, rel=1e-3)


def test_one_point_and_two():
    assert at(fit([100.0], [1e-3]), 100.0) == pytest.approx(1e-3)
    two = fit([100.0, 200.0], [1e-3, 3e-3])
    assert two.worst_error < 0.35  # seconds grow faster than bytes: no curve of this kind is exact


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1e-7, 1e2), min_size=1, max_size=9), st.data())
def test_whatever_is_fitted_grows_and_is_continuous(seconds, data):
    sizes = [data.draw(st.sampled_from(SIZES)) for _ in seconds]
    found = fit(sizes, seconds)
    assert found.alpha >= 0
    assert all(rate > 0 for rate in found.beta)
    assert len(found.beta) == len(found.until) + 1 <= 3
    for (until, alpha, beta), (_, more, rate) in itertools.pairwise(pieces(found)):
        assert alpha + until / beta == pytest.approx(more + until / rate, rel=1e-6, abs=1e-12)
    known = np.array([at(found, n) for n in sizes])
    errors = np.abs(known / np.array(seconds) - 1)
    assert found.worst_error == pytest.approx(errors.max(), rel=1e-6, abs=1e-9)
    assert found.median_error == pytest.approx(np.median(errors), rel=1e-6, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=8))
def test_no_line_is_better(seconds):
    """With one piece the sum of squares is least: neither a change of the start nor of the rate helps."""
    sizes = SIZES[: len(seconds)]
    found = fit(sizes, seconds, pieces=1)

    def error(alpha, slope):
        return sum(((alpha + n * slope) / t - 1) ** 2 for n, t in zip(sizes, seconds, strict=True))

    least = error(found.alpha, 1 / found.beta[0])
    for a, b in itertools.product((0.0, 0.9, 1.1, 1.0), (0.9, 1.1, 1.0)):
        assert least <= error(found.alpha * a, b / found.beta[0]) * (1 + 1e-2) + 1e-6


def test_rounding():
    assert rounded(123456.0) == 123500
    assert rounded(1.23456e-5) == 1.235e-5
