"""Tails of the binomial law, in logarithms: the one piece of mathematics under intervals and thresholds.

    log P(X <= k),  log P(X >= k),   X ~ Bin(n, p),  q = 1 - p

    P(X = k) = sqrt(n / (2 pi k (n - k))) exp(r(n) - r(k) - r(n - k) - D(k, np) - D(n - k, nq))

r: remainder of Stirling's formula; D(x, m) = x log(x / m) + m - x. The difference of three log-gammas would lose eight
digits at n = 1e6. A tail is P(X = k) times the sum of the falling products of P(X = j - 1) / P(X = j) =
j q / ((n - j + 1) p), j = k, k - 1, ..., always on the side away from the mean, so that nothing cancels.
Unit: nats. Source: Loader, "Fast and accurate computation of binomial probabilities", 2000 (the form of P(X = k)).
"""

from __future__ import annotations

import math

import numpy as np


def log_at_most(k: int, n: int, p: float) -> float:
    """log P(X <= k) of X ~ Bin(n, p), for 0 < p < 1 and n >= 1."""
    return _log_lower(k, n, p, 1 - p)


def log_at_least(k: int, n: int, p: float) -> float:
    """log P(X >= k) of X ~ Bin(n, p), for 0 < p < 1 and n >= 1."""
    return _log_lower(n - k, n, 1 - p, p)  # the misses are Bin(n, q)


def _log_lower(k: int, n: int, p: float, q: float) -> float:
    if k < 0:
        return -math.inf
    if k >= n:
        return 0.0
    if k > n * p:
        return math.log1p(-math.exp(_log_lower(n - k - 1, n, q, p)))
    # Below the mean the first m products fall at least as fast as exp(-(m - 1)^2 / (2 n p)): 10 sqrt(n p) leave 1e-21.
    terms = min(k, math.ceil(10 * math.sqrt(n * p)))
    j = np.arange(k, k - terms, -1, dtype=np.float64)
    products = np.cumprod(j * q / ((n - j + 1) * p))
    return _log_probability(k, n, p, q) + math.log1p(float(products.sum()))


def _log_probability(k: int, n: int, p: float, q: float) -> float:
    """log P(X = k), for 0 <= k < n."""
    if k == 0:
        return n * (math.log1p(-p) if p < 0.5 else math.log(q))
    remainder = _stirling_remainder(n) - _stirling_remainder(k) - _stirling_remainder(n - k)
    distance = _deviance(k, n * p) + _deviance(n - k, n * q)
    return remainder - distance + 0.5 * math.log(n / (2 * math.pi * k * (n - k)))


def _stirling_remainder(n: int) -> float:
    """log n! minus (n + 1/2) log n - n + 1/2 log(2 pi), for n >= 1."""
    if n < 16:
        return math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2 * math.pi)
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * n * n)) / (n * n)) / (n * n)) / n


def _deviance(x: int, mean: float) -> float:
    """x log(x / mean) + mean - x, without the cancellation where x is close to the mean."""
    off = (x - mean) / mean
    return mean * ((1 + off) * math.log1p(off) - off)
