"""Several processes that train one model: the loss sees the global batch, in the order that one process would have.

Every process takes an equal share of a batch's images (the last ones again where it does not divide; their rows are
dropped), gathers the rows of all, and computes the same loss of the same rows. Of those only its own carry a gradient,
so the gradients of the processes add up to that of one process, and prototypes advance alike everywhere. Batch-norm
statistics are those of the share, or of the whole batch on CUDA.
Shapes: V views, b images of a share, B of the batch, W processes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood.outputs import Outputs
from spherood.processes import Processes


def share(rows: NDArray[np.int64], mine: Processes) -> NDArray[np.int64]:
    """This process's images of a batch (B,): ceil(B / W) of them in every process."""
    each = -(-len(rows) // mine.size)
    return rows[np.minimum(mine.rank * each + np.arange(each), len(rows) - 1)]


def gather(outputs: Outputs, parts: Iterable[str], views: int, images: int, mine: Processes) -> Outputs:
    """`parts` of the outputs, (V b, ...) here, as rows of the whole batch (V B, ...), view after view."""
    if mine.size == 1:
        return outputs
    whole = {part: _gathered(getattr(outputs, part), views, images, mine) for part in parts}
    return outputs._replace(**whole)  # type: ignore[arg-type]


def _gathered(own: Tensor, views: int, images: int, mine: Processes) -> Tensor:
    every = [torch.empty_like(own) for _ in range(mine.size)]
    dist.all_gather(every, own.detach().contiguous())
    every[mine.rank] = own
    return torch.cat([rows.unflatten(0, (views, -1)) for rows in every], dim=1)[:, :images].flatten(0, 1)


def add_gradients(parameters: Iterable[nn.Parameter], mine: Processes) -> None:
    """Each process's gradient of the model's parameters becomes the sum over all; one exchange."""
    if mine.size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def agree(module: nn.Module, mine: Processes) -> None:
    """Parameters and buffers as the first process has them: what rounding let drift apart is one again."""
    if mine.size > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


def anyone(asked: bool, mine: Processes, device: torch.device) -> bool:
    """Whether one of the processes says so."""
    if mine.size == 1:
        return asked
    flag = torch.tensor(float(asked), device=device)
    dist.all_reduce(flag)
    return bool(flag)
