"""NPOS: CIDER, and a small network that tells features from outliers made just beyond the classes.

    L = w_d L_dis + w_c L_comp + w_b L_BCE          dispersion and compactness: losses/cider.py
    L_BCE = mean of softplus(-phi(h)) over the batch's features h and softplus(phi(v)) over the outliers v, all as one

phi: F -> d -> ReLU -> 1, on features as they are (plain, not unit). The outliers of a class (sphere/boundary.py) come
from the queue of its latest features, this batch's included; another draw at each call. They carry no gradient.
L_BCE is 0 before epoch `start_epoch` (counted from 0; `at(epoch)` tells which it is) and until the queue of every class
has been filled once. A class of n images at two views fills 2 n places an epoch: for few images choose a shorter queue,
with `k` and `select` to match. The released start was 200 of 500 epochs, here OpenOOD's 40 of 100. Published score:
k-NN on the unit feature.
Departures: queues last over epochs (the released code empties them at each epoch's beginning, but counts them as full);
the farthest candidates are kept (`as_released` keeps others, see sphere/boundary.py).
State: `queue` (C Q F values: 20 MB for 10 classes of 1,000 x 512), `count`, and how often forward was called: the next
draw depends on that and the seed alone, so that a resumed run draws the same.
Shapes: N rows (all of view 1, then all of view 2), F feature width, d embedding dimension, C classes, Q queue places.
Units: tau none, L nats.
Source: Tao et al., ICLR 2023, arXiv:2303.02966 (equation numbers unchecked); deeplearning-wisc/npos; OpenOOD.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherood.errors import ConfigError, ShapeError
from spherood.losses.cider import CIDER
from spherood.losses.terms import Terms, check_labelled
from spherood.outputs import Outputs
from spherood.sphere import at_least_float32, boundary_outliers


class NPOS(nn.Module):
    """``NPOS(classes=10)(outputs, label).total.backward()``; parts: compactness, dispersion, boundary, unweighted."""

    reads = "outputs"
    views = 2
    laws = ()
    queue: Tensor  # (C, Q, F), the latest features of each class; zeros where there was none yet
    count: Tensor  # (C,), how many features of each class ever came

    def __init__(
        self,
        *,
        classes: int,
        dim: int = 128,
        feature_dim: int = 512,
        start_epoch: int = 40,
        temperature: float = 0.1,
        momentum: float = 0.95,
        dispersion_weight: float = 0.5,
        compactness_weight: float = 1.0,
        boundary_weight: float = 0.1,
        queue: int = 1000,
        k: int = 300,
        select: int = 200,
        pick: int = 2,
        samples: int = 600,
        noise: float = 0.1,
        points: int = 200,
        as_released: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (1 <= k <= queue and 1 <= pick <= select <= queue and 1 <= points <= samples):
            raise ConfigError(
                "NPOS: needs 1 <= k <= queue, 1 <= pick <= select <= queue and 1 <= points <= samples, "
                f"got k={k}, queue={queue}, pick={pick}, select={select}, points={points}, samples={samples}."
            )
        if not noise > 0:
            raise ConfigError(f"NPOS: noise must be > 0, got {noise}. Try 0.1.")
        self.cider = CIDER(classes=classes, dim=dim, temperature=temperature, momentum=momentum, seed=seed)
        self.weights = (dispersion_weight, compactness_weight, boundary_weight)
        self.start_epoch, self.k, self.select, self.pick = start_epoch, k, select, pick
        self.samples, self.noise, self.points, self.as_released = samples, noise, points, as_released
        self.seed, self.epoch, self.calls = seed, 0, 0
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs' generators too
            self.phi = nn.Sequential(nn.Linear(feature_dim, dim), nn.ReLU(), nn.Linear(dim, 1))
        self.register_buffer("queue", torch.zeros(classes, queue, feature_dim))
        self.register_buffer("count", torch.zeros(classes, dtype=torch.int64))

    @property
    def prototypes(self) -> Tensor:
        """CIDER's (C, d)."""
        return self.cider.prototypes

    def get_extra_state(self) -> Tensor:
        """The number of calls: known to the host, for reading it from a GPU would stall every step."""
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)

    def at(self, epoch: int) -> None:
        """The epoch that the next calls belong to, from 0."""
        self.epoch = epoch

    def start(self, batches: Iterable[tuple[Outputs, Tensor]]) -> None:
        """Set the prototypes from the ID training set, as CIDER.start does; batches: (outputs (B, .), label (B,))."""
        self.cider.start((_embedding(x), label) for x, label in batches)

    def forward(self, x: Outputs, label: Tensor) -> Terms:
        """Feature (N, F) and unit embedding (N, d) in Outputs, integer label (N,), to the loss; else ShapeError."""
        classes, _, width = self.queue.shape
        embedding = _embedding(x)
        label_here = check_labelled("NPOS", embedding, label, classes, dim=self.prototypes.shape[1])
        if x.feature.shape != (len(label), width):
            raise ShapeError(
                f"NPOS: expected feature ({len(label)}, {width}), got {tuple(x.feature.shape)}. "
                f"Pass feature_dim={x.feature.shape[-1]} to the loss, and a row for every label."
            )
        feature = at_least_float32(x.feature)
        feature = feature.to(torch.promote_types(feature.dtype, self.queue.dtype))
        parts = dict(self.cider(embedding, label).parts)
        self._remember(feature.detach(), label_here)
        parts["boundary"] = feature.new_zeros(())
        if self.epoch >= self.start_epoch:
            full = (self.count >= self.queue.shape[1]).all()
            parts["boundary"] = self._tell_apart(feature, self.outliers().to(feature.dtype)).where(full, 0)
        self.calls += 1
        dispersion, compactness, boundary = self.weights
        total = dispersion * parts["dispersion"] + compactness * parts["compactness"] + boundary * parts["boundary"]
        return Terms(total, parts)

    def outliers(self) -> Tensor:
        """Points (C x pick x points, F) just beyond the classes, detached; the same until forward was called again."""
        queue = at_least_float32(self.queue)
        classes, _, width = queue.shape
        generator = torch.Generator(queue.device)
        generator.manual_seed((self.seed * 2654435761 + self.calls) % 2**32)  # a CPU's takes no more than 32 bits
        place = torch.rand(classes, self.select, generator=generator, device=queue.device)
        noise = torch.randn(self.samples, width, generator=generator, device=queue.device)
        return boundary_outliers(
            queue,
            place.topk(self.pick, dim=1).indices,
            self.noise * noise.to(queue.dtype),
            k=self.k,
            select=self.select,
            points=self.points,
            as_released=self.as_released,
        ).flatten(0, 1)

    def _remember(self, feature: Tensor, label: Tensor) -> None:
        """Each row goes to the place after its class's latest one, round and round.

        Which of several writers to one place comes last is undefined on a GPU, so all of them write the last one's row.
        """
        classes, places, _ = self.queue.shape
        mine = (label[:, None] == torch.arange(classes, device=label.device)).long()  # (N, C)
        amount = mine.sum(dim=0)  # (C,)
        turn = mine.cumsum(dim=0).gather(1, label[:, None])[:, 0] - 1  # (N,), how many rows of its class came before
        rounds = (amount[label] - 1 - turn) // places  # (N,), how often its place is written again in this batch
        first = amount.cumsum(dim=0) - amount  # (C,), where a class begins among the sorted rows
        row = label.argsort(stable=True)[first[label] + turn + rounds * places]  # (N,)
        place = (self.count[label] + turn) % places
        self.queue[label, place] = feature[row].to(self.queue.dtype)  # in place: no graph reads it, and it may be large
        self.count = self.count + amount

    def _tell_apart(self, feature: Tensor, outlier: Tensor) -> Tensor:
        weights = {name: weight.to(feature.dtype) for name, weight in self.phi.named_parameters()}
        rows = torch.cat([feature, outlier])
        logit: Tensor = torch.func.functional_call(self.phi, weights, (rows,))[:, 0]
        known = torch.arange(len(rows), device=rows.device) < len(feature)
        return F.binary_cross_entropy_with_logits(logit, known.to(logit.dtype))


def _embedding(x: Outputs) -> Tensor:
    embedding: Tensor | None = getattr(x, "embedding", None)
    if embedding is None:
        raise ConfigError("NPOS: needs Outputs with a feature and an embedding. Set model.head: mlp.")
    return embedding
