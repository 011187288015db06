"""Does a loss keep the contract? ``check_loss(Mine)`` says nothing if it does, and what to mend if not.

A check is a function whose docstring is its rule and what to do; one that fails raises an AssertionError of the loss's
name, the check's, what was found, and that docstring.
Shapes: N rows (all of view 1, then all of view 2), d their width, C classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spherood.errors import ShapeError
from spherood.losses import Terms
from spherood.outputs import Outputs
from spherood.sphere import normalize
from spherood.testing.walk import (
    HALVES,
    changes,
    check_names,
    close,
    constructor,
    expect,
    known_laws,
    mapped,
    orthogonal,
    parts,
    raised,
    seeded,
    walk,
)

Rows = Tensor | Outputs
LATE = 10_000
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)


def check_loss(
    loss: str | Callable[..., nn.Module],
    *,
    classes: int = 5,
    dim: int = 5,
    others: Mapping[str, Any] | None = None,
    idle: Collection[str] = (),
    laws: Collection[str] | None = None,
    **settings: Any,
) -> None:
    """AssertionError, with what to do, unless the loss keeps the contract of docs/architecture.md.

    loss: a class, its file's name, an import path, or a function that makes one. `classes`, `dim` and `feature_dim` are
    filled in where its signature asks for them; `settings` are passed on. It is handed rows that suit what it `reads`:
    unit "embedding" (N, dim), plain "feature", "logits" (N, classes), or "outputs", all of them in one Outputs.
    others: another value of a setting, where its type does not tell one that changes something.
    idle: settings that count under other settings only.
    laws: which laws hold; by default those the class declares as `laws`, and ("permutation",) where it declares none.
        "permutation": another order of the images, the same in each view, changes no value and moves the gradients
        along. "rotation": nor does turning all embeddings and with them every float (., dim) parameter and buffer.
    A loss with `at(epoch)` is checked in epoch 0 and, its memory filled, in a late one.
    """
    made = constructor("losses", loss)
    given = {"classes": classes, "dim": dim, "feature_dim": dim + (getattr(made, "reads", None) != "feature")}
    sizes = {name: size for name, size in given.items() if name in inspect.signature(made).parameters}
    check_names(made, others or {}, idle)
    with torch.random.fork_rng(devices=[]):
        first = seeded(made, sizes | settings)
        name = f"check_loss({type(first).__name__})"
        chosen = known_laws(getattr(first, "laws", ("permutation",)) if laws is None else laws, LAWS)
        epochs = (0, LATE) if callable(getattr(first, "at", None)) else (0,)
        trials = [Trial(made, first, given, sizes | settings, epoch) for epoch in epochs]
        walk(name, [_check_declarations], first)
        for trial in trials:
            where = name if len(trials) == 1 else f"{name}, epoch {trial.epoch}"
            walk(where, [*CHECKS, *(LAWS[law] for law in chosen)], trial)
        walk(name, [_check_settings], (trials, others or {}, idle))


@dataclass(frozen=True)
class Trial:
    """A loss in one epoch: fresh instances of it, and rows that suit it."""

    made: Callable[..., nn.Module]
    like: nn.Module
    sizes: Mapping[str, int]
    settings: Mapping[str, Any]
    epoch: int

    def fresh(self, changed: Mapping[str, Any] | None = None, *, start: int = 0) -> nn.Module:
        """One that has seen 12 rows of every class, if the epoch is late; `start` seeds torch's own generator."""
        loss = seeded(self.made, {**self.settings, **(changed or {})}, start)
        if callable(at := getattr(loss, "at", None)):
            at(self.epoch)
        if self.epoch:
            loss(*self.batch(torch.arange(12 * self.sizes["classes"]) % self.sizes["classes"], seed=2))
        return loss

    def batch(self, label: Tensor | None = None, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Rows and labels; by default of 12 images in every view."""
        generator, reads = torch.Generator().manual_seed(seed), getattr(self.like, "reads", "embedding")
        if label is None:
            image, drawn = torch.arange(12), torch.randint(self.sizes["classes"], (12,), generator=generator)
            label = (image if getattr(self.like, "labels", "class") == "image" else drawn).repeat(self.views)
        asked = inspect.signature(self.made).parameters
        width = self.sizes["dim"] if reads == "feature" and "feature_dim" not in asked else self.sizes["feature_dim"]
        widths = {"feature": width, "embedding": self.sizes["dim"], "logits": self.sizes["classes"]}
        x = {part: torch.randn(len(label), n, generator=generator).to(dtype) for part, n in widths.items()}
        x["embedding"] = normalize(x["embedding"]).to(dtype)
        return (Outputs(x["feature"], x["embedding"], x["logits"]) if reads == "outputs" else x[reads]), label

    @property
    def views(self) -> int:
        """Of each image."""
        return int(getattr(self.like, "views", 2))


def _check_declarations(loss: nn.Module) -> None:
    """Declare reads = "embedding" (the default), "logits", "feature" or "outputs", how many views, as views = 2 or 1,
    and labels = "image" where it takes image indices for labels."""
    reads, views = getattr(loss, "reads", "embedding"), getattr(loss, "views", 2)
    labels = getattr(loss, "labels", "class")
    expect(reads in ("embedding", "logits", "feature", "outputs"), f"reads is {reads!r}")
    expect(isinstance(views, int) and views >= 1, f"views is {views!r}")
    expect(labels in ("class", "image"), f"labels is {labels!r}")


def _check_terms(trial: Trial) -> None:
    """Return Terms(total), a scalar that depends on the rows, computed in float32 for rows in float32."""
    x, label = trial.batch()
    terms = trial.fresh()(leaves(x), label)
    expect(isinstance(terms, Terms), f"forward gave a {type(terms).__name__}")
    expect(terms.total.shape == (), f"the total has shape {tuple(terms.total.shape)}")
    expect(terms.total.dtype == torch.float32, f"the total is {terms.total.dtype}")
    expect(terms.total.requires_grad, "the total has no gradient")


def _check_repetition(trial: Trial) -> None:
    """The same settings give the same numbers: draw from a torch.Generator with a seed of its own."""
    one, other = (_trail(trial) for _ in range(2))
    expect(all(map(torch.equal, one, other)), "of two instances one gives other numbers")


def _check_an_ordinary_batch(trial: Trial) -> None:
    """Look for a logarithm of 0, an overflow, or a part of the graph that was detached."""
    loss, (x, label) = trial.fresh(), trial.batch()
    _check_finite(loss, x, label)


def _check_a_degenerate_batch(trial: Trial) -> None:
    """A last batch may be a single row, of one class, or without a positive or a negative pair: mask with `where`, and
    divide by count.clamp(min=1)."""
    most = trial.sizes["classes"] - 1
    for label in [[most], [0, 0, 0], [0, 0, most], list(range(most, -1, -1))]:
        _check_finite(trial.fresh(), trial.batch(torch.tensor(label))[0], torch.tensor(label))


def _check_finite(loss: nn.Module, x: Rows, label: Tensor) -> None:
    total, gradient = step(loss, x, label)
    expect(bool(total.isfinite()), f"labels {label.tolist()} give a total of {float(total)}")
    of_parameters = [it.grad for it in loss.parameters() if it.grad is not None]
    for grad in [*parts(gradient), *of_parameters]:
        expect(bool(grad.isfinite().all()), f"labels {label.tolist()} give a gradient that is not finite")


def _check_half_precision(trial: Trial) -> None:
    """Compute in float32 at least, spherood.sphere.at_least_float32(x), and bring parameters and buffers to the type of
    that: a cosine in bfloat16 has two digits."""
    for dtype in HALVES:
        x, label = trial.batch(dtype=dtype)
        total, gradient = step(trial.fresh(), x, label)
        expected, expected_gradient = step(trial.fresh().double(), mapped(x, Tensor.double), label)
        close(total, expected, 1e-5, 1e-5, f"the total of {dtype} rows and that of the same rows in float64")
        for one, other in zip(parts(gradient), parts(expected_gradient), strict=True):
            close(one, other, 2e-2, 1e-3, f"the gradients of {dtype} rows and those in float64")
        total = trial.fresh().to(dtype)(x, label).total
        expect(total.dtype == torch.float32, f"the loss in {dtype} gives a total in {total.dtype}")


def _check_integer_labels(trial: Trial) -> None:
    """Labels come as int64, int32, int16, int8 and uint8: call label.long() first."""
    x, label = trial.batch()
    expected = float(step(trial.fresh(), x, label)[0])
    for dtype in INTEGERS:
        total = float(step(trial.fresh(), x, label.to(dtype))[0])
        expect(total == expected, f"labels in {dtype} give {total:.6g}, in int64 {expected:.6g}")


def _check_two_forwards_before_one_backward(trial: Trial) -> None:
    """Reassign what is remembered, detached, in one last line: a change in place breaks the first graph."""
    loss, (x, label) = trial.fresh(), trial.batch()
    x = leaves(x)
    (loss(x, label).total + loss(x, label).total).backward()
    step(loss, *trial.batch())


def _check_a_reload(trial: Trial) -> None:
    """Keep what is remembered in buffers or in get_extra_state, so that a resumed run goes on with the same numbers."""
    loss, resumed = trial.fresh(), trial.fresh(start=1)
    step(loss, *trial.batch())
    resumed.load_state_dict(deepcopy(loss.state_dict()))
    total, expected = (float(step(it, *trial.batch(seed=1))[0]) for it in (resumed, loss))
    expect(total == expected, f"after load_state_dict the next total is {total:.6g}, without {expected:.6g}")


def _check_purity(trial: Trial) -> None:
    """Forward changes neither rows nor labels in place, and draws from a torch.Generator of its own."""
    loss, (x, label) = trial.fresh(), trial.batch()
    kept, kept_label, state = mapped(x, Tensor.clone), label.clone(), torch.get_rng_state()
    loss(x, label)
    same = all(torch.equal(*pair) for pair in zip(parts(x), parts(kept), strict=True))
    expect(same and torch.equal(label, kept_label), "forward has changed what it was given")
    expect(torch.equal(torch.get_rng_state(), state), "forward has moved torch's global generator")


def _check_wrong_input(trial: Trial) -> None:
    """A wrong shape or type is told with the way out: begin with spherood.losses.terms.check_labelled(name, x, label),
    whose ShapeError is a ValueError."""
    (x, label), loss = trial.batch(), trial.fresh()
    wrong: dict[str, tuple[Rows, Tensor]] = {
        "views apart, (N, 2, d)": (mapped(x, lambda part: torch.stack([part, part], dim=1)), label),
        "a label too few": (x, label[1:]),
        "labels in a column": (x, label[:, None]),
        "no row": (mapped(x, lambda part: part[:0]), label[:0]),
        "floating labels": (x, label.float()),
        "integer rows": (mapped(x, Tensor.long), label),
    }
    error = ShapeError if type(loss).__module__.startswith("spherood.") else ValueError
    for what, (rows, of_rows) in wrong.items():
        expect(raised(error, partial(loss, rows, of_rows)), f"{what}: no {error.__name__}")


def _check_settings(case: tuple[Sequence[Trial], Mapping[str, Any], Collection[str]]) -> None:
    """A setting that changes nothing is a typo or a promise not kept: use it or drop it. Pass others={"k": 3} where
    another value shows more, idle=("k",) where it counts under other settings only."""
    trials, others, idle = case
    expected = [_trail(trial) for trial in trials]
    for name, other in changes(trials[0].made, trials[0].settings, others, idle):
        found = [_trail(trial, {name: other}) for trial in trials]
        same = all(all(map(torch.equal, *pair)) for pair in zip(found, expected, strict=True))
        expect(same == (name in idle), f"{name}={other!r} changes {'nothing' if same else 'something, yet idle'}")


def _trail(trial: Trial, changed: Mapping[str, Any] | None = None) -> list[Tensor]:
    """What can be seen of a loss: two totals, their gradients, and the classifier it serves."""
    loss, seen = trial.fresh(changed), []
    for seed in (0, 1):
        total, gradient = step(loss, *trial.batch(seed=seed))
        seen += [total, *parts(gradient)]
    if callable(serve := getattr(loss, "served_classifier", None)):
        seen += [it.detach() for it in serve().parameters()]
    return seen


def _law_permutation(trial: Trial) -> None:
    """If the order of rows counts, as in a moving average, declare laws without "permutation"."""
    _, label = trial.batch()
    images = len(label) // trial.views
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0)).repeat(trial.views)
    order = order + images * torch.arange(trial.views).repeat_interleave(images)
    _same(trial, trial.fresh().double(), lambda x, label: (mapped(x, lambda part: part[order]), label[order]))


def _law_rotation(trial: Trial) -> None:
    """If the axes count, declare laws without "rotation"; else let the value depend on products of rows alone."""
    turn = orthogonal(trial.sizes["dim"])
    turned = trial.fresh().double()
    with torch.no_grad():
        for part in [*turned.parameters(), *turned.buffers()]:
            if part.is_floating_point() and part.ndim > 1 and part.shape[-1] == len(turn):
                part.copy_(part @ turn)

    def act(x: Rows, label: Tensor) -> tuple[Rows, Tensor]:
        if isinstance(x, Outputs):
            return x._replace(embedding=x.embedding @ turn), label  # type: ignore[operator]
        return x @ turn, label

    _same(trial, turned, act)


def _same(trial: Trial, other: nn.Module, act: Callable[[Rows, Tensor], tuple[Rows, Tensor]]) -> None:
    """Two steps of a loss, and of `other` on what `act` makes of the rows."""
    loss = trial.fresh().double()
    for seed in (0, 1):
        x, label = trial.batch(seed=seed, dtype=torch.float64)
        (total, gradient), (total_, gradient_) = step(loss, x, label), step(other, *act(x, label))
        close(total_, total, 1e-6, 1e-9, f"of step {seed + 1} the total and the one that the law expects")
        for one, two in zip(parts(gradient_), parts(act(gradient, label)[0]), strict=True):
            close(one, two, 1e-6, 1e-9, f"of step {seed + 1} the gradient and the one that the law expects")


CHECKS: tuple[Callable[[Trial], None], ...] = (
    _check_terms,
    _check_purity,
    _check_two_forwards_before_one_backward,
    _check_an_ordinary_batch,
    _check_repetition,
    _check_a_degenerate_batch,
    _check_half_precision,
    _check_integer_labels,
    _check_a_reload,
    _check_wrong_input,
)
LAWS: dict[str, Callable[[Trial], None]] = {"permutation": _law_permutation, "rotation": _law_rotation}


def leaves(x: Rows) -> Rows:
    """A copy that gradients flow to."""
    copy: Rows = mapped(x, lambda part: part.detach().clone().requires_grad_())
    return copy


def step(loss: nn.Module, x: Rows, label: Tensor) -> tuple[Tensor, Rows]:
    """The total, and its gradient by x."""
    x = leaves(x)
    total = loss(x, label).total
    total.backward()
    expect(
        any(part.grad is not None for part in parts(x)), "no gradient reaches the rows, on which the total must depend"
    )
    return total.detach(), mapped(x, lambda part: torch.zeros_like(part) if part.grad is None else part.grad)
