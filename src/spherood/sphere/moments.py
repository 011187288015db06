"""Means and covariances of a stream of features in float64, in one pass, whatever the batching.

    tied  S   = 1/N sum_i (h_i - m_{y_i})(h_i - m_{y_i})'      about the means of the classes
    total S_0 = 1/N sum_i (h_i - m)(h_i - m)'                  about the grand mean

The sums run over h - a, a the mean of the first batch: E h h' - m m' loses its digits far from zero.
Shapes: B rows of a batch, N rows in all, C classes, D dimension. Units: those of the features, squared for moments.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from spherood.sphere.means import ClassMeans
from spherood.sphere.unit import float64


class Moments:
    """``moments = Moments(); moments.add(x, label); moments.tied``; without labels all rows are one class."""

    def __init__(self) -> None:
        self.means = ClassMeans()  # of h - a
        self.shift = torch.empty(0)  # (D,), a
        self.square = torch.empty(0)  # (D, D), sum of (h - a)(h - a)'

    def add(self, x: Tensor, label: Tensor | None = None) -> None:
        """Take in rows x (B, D), B >= 1, of the classes label (B,) in 0..."""
        h = float64(x.detach())
        if not len(self.shift):
            self.shift = h.mean(dim=0)
            self.square = torch.zeros(h.shape[1], h.shape[1], dtype=h.dtype, device=h.device)
        h = h - self.shift
        self.means.add(h, torch.zeros(len(h), dtype=torch.int64) if label is None else label)
        self.square += h.T @ h

    @property
    def rows(self) -> int:
        """N."""
        return int(self.means.count.sum())

    @property
    def mean(self) -> Tensor:
        """The grand mean m, (D,)."""
        return self.shift + self._off

    @property
    def class_mean(self) -> Tensor:
        """m_c, (C, D); NaN for a class without a row."""
        return self.shift + self.means.mean

    @property
    def tied(self) -> Tensor:
        """S, (D, D); every class needs a row."""
        return (self.square - (self.means.mean.T * self.means.count) @ self.means.mean) / self.rows

    @property
    def total(self) -> Tensor:
        """S_0, (D, D)."""
        return self.square / self.rows - torch.outer(self._off, self._off)

    def about(self, point: Tensor) -> Tensor:
        """1/N sum_i (h_i - p)(h_i - p)', (D, D), for the point p (D,)."""
        off = self.mean - point
        return self.total + torch.outer(off, off)

    @property
    def rounding(self) -> float:
        """A variance up to this is what rounding leaves of equal rows."""
        return float(len(self.square) * torch.finfo(self.square.dtype).eps * self.square.trace() / self.rows)

    def merged(self) -> Self:
        """The same rows as one class."""
        one = type(self)()
        one.shift, one.square = self.shift, self.square
        one.means.sum, one.means.count = self.means.sum.sum(dim=0)[None], self.means.count.sum()[None]
        return one

    def scaled(self, factor: Tensor) -> Self:
        """The moments of the rows times a factor (D,), coordinate by coordinate."""
        other = type(self)()
        other.shift, other.square = self.shift * factor, self.square * torch.outer(factor, factor)
        other.means.sum, other.means.count = self.means.sum * factor, self.means.count
        return other

    @property
    def _off(self) -> Tensor:
        return self.means.sum.sum(dim=0) / self.means.count.sum()
