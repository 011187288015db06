"""Forward and backward through a network and an objective, also where a batch does not fit.

A contrastive loss needs every row of the batch at once, its network does not. With `micro_batch` the outputs come
first, a part at a time and without a graph; then the loss and its gradient with respect to them; then each part again,
with a graph, and that gradient through it. So the gradient is that of the whole batch, for a second forward pass.
Batch-norm sees a part at a time, and notes its statistics once. A network that draws at random (dropout) would draw
anew in the second pass: ours draw nothing.
Shapes: V views, b images here, rows view after view.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spherood.losses import Terms
from spherood.outputs import Outputs
from spherood.processes import Processes
from spherood.training.objective import Objective
from spherood.training.recipe import Training
from spherood.training.together import gather


def forward_backward(
    network: nn.Module,
    objective: Objective,
    x: Tensor,
    label: Tensor,
    image: Tensor,
    mine: Processes,
    views: int,
    training: Training,
) -> Terms:
    """The loss of views x (V b, 3, S, S), and its gradient in the parameters. label, image: of the whole batch."""

    def run(rows: Tensor) -> Outputs:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=training.precision == "bf16-mixed"):
            found: Outputs = network(rows)
        return Outputs(found.feature.float(), _float(found.embedding), _float(found.logits))

    parts, images = sorted(objective.parts), len(label) // views
    here = len(x) // views
    if training.micro_batch is None or training.micro_batch >= here:
        terms: Terms = objective(gather(run(x), parts, views, images, mine), label, image)
        terms.total.backward()
        return terms

    numbers = torch.arange(len(x), device=x.device).view(views, here)
    some = [rows.flatten() for rows in numbers.split(training.micro_batch, dim=1)]
    with torch.no_grad(), statistics_kept(network):
        found = [run(x[rows]) for rows in some]
    back = torch.cat(some).argsort()
    leaf = {part: torch.cat([getattr(one, part) for one in found])[back].requires_grad_() for part in parts}
    whole = Outputs(**({"feature": torch.empty(len(x), 0, device=x.device)} | leaf))  # type: ignore[arg-type]
    terms = objective(gather(whole, parts, views, images, mine), label, image)
    terms.total.backward()
    for rows in some:
        outputs = run(x[rows])
        pairs = [
            (getattr(outputs, part), rows_of.grad[rows]) for part, rows_of in leaf.items() if rows_of.grad is not None
        ]
        torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])
    return terms


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Batch-norm uses the statistics of a batch without noting them."""
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
