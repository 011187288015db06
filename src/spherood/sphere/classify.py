"""The class of a unit row, three ways: nearest class mean, vote of its neighbours, a linear probe.

For a model that gives embeddings and no logits these are its accuracies; an argmax over an embedding means nothing.
The probe is multinomial logistic regression on the rows less their mean, over their root mean square:

    minimise 1/N sum_i -log softmax(W x_i + b)[y_i] + decay / 2 |W|^2

by L-BFGS from zero, so that it is the same at every call.
Shapes: B rows asked about, N known rows, d dimension, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from spherood.sphere.neighbors import nearest

DECAY = 1e-4
ITERATIONS = 100


def by_class_mean(unit: Tensor, class_mean: Tensor) -> Tensor:
    """Class (B,) of the nearest of unit directions (C, d) for each unit row (B, d); a class of NaN is never the one."""
    return (unit @ class_mean.T).nan_to_num(nan=-2.0).argmax(dim=1)


def by_neighbours(unit: Tensor, bank: Tensor, bank_label: Tensor, classes: int, k: int) -> Tensor:
    """Class (B,) that most of the k nearest of the unit rows bank (N, d), of class bank_label (N,), have."""
    vote = bank_label[nearest(unit, bank, min(k, len(bank)))[1]]  # (B, k)
    votes = torch.zeros(len(unit), classes, dtype=torch.int16)  # (B, C); one-hot votes take (B, k, C)
    return votes.scatter_add_(1, vote, torch.ones_like(vote, dtype=torch.int16)).argmax(dim=1)


def linear_probe(known: Tensor, label: Tensor, classes: int) -> Callable[[Tensor], Tensor]:
    """Fit on rows (N, d) of class (N,); gives a function from rows (B, d) to class (B,)."""
    with torch.inference_mode(False), torch.enable_grad():
        mean = known.mean(dim=0)
        scale = (known - mean).square().mean().sqrt().clamp(min=1e-12)
        x, y = (known - mean) / scale, label.clone()
        weight = x.new_zeros(classes, x.shape[1]).requires_grad_()
        bias = x.new_zeros(classes).requires_grad_()
        descent = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            descent.zero_grad()
            value = F.cross_entropy(F.linear(x, weight, bias), y) + DECAY / 2 * weight.square().sum()
            value.backward()
            return value

        descent.step(loss)
    weight, bias = weight.detach(), bias.detach()
    return lambda rows: F.linear((rows - mean) / scale, weight, bias).argmax(dim=1)
