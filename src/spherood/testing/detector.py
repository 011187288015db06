"""Does a score keep the contract? ``check_detector(Mine)`` says nothing if it does, and what to mend if not.

Checks and failures are built as in testing/loss.py. Known rows: class c of 3 around 6 e_c, of 6 columns, with noise of
.5; planted OOD lies around -6 e_4, -6 e_5, -6 e_6, and for logits around -6 e_c. A classifier that tells the three
apart is always passed to `fit`.
Shapes: N rows, D = 6 columns, C = 3 classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, nn

from spherood.detectors import Detector
from spherood.errors import FitError, NotFittedError, ShapeError
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
    raised,
    seeded,
    walk,
)

CLASSES, DIM = 3, 6
FACTOR = 3.0  # of the scale law; no power of 2, which would change no digit


def check_detector(
    detector: str | Callable[..., Detector],
    *,
    ood: Tensor | Outputs | None = None,
    others: Mapping[str, Any] | None = None,
    idle: Collection[str] = (),
    laws: Collection[str] | None = None,
    **settings: Any,
) -> None:
    """AssertionError, with what to do, unless the detector keeps the contract of docs/architecture.md.

    detector: a class, its file's name, an import path, or a function that makes one; `settings` are passed on. It is
    handed what it `reads`: features, unit embeddings or logits (N, 6), or, for "layers", Outputs with two of them.
    ood: planted rows of yours (N, 6), where those above are not what the score is for.
    others: another value of a setting, where its type does not tell one that changes something.
    idle: settings that count under other settings only.
    laws: which laws hold; by default those the class declares as `laws`, ("permutation",) where it declares none.
        "permutation": the order of the fitted rows changes no score. "rotation": nor does turning all rows and the
        classifier's weights. "scale": nor does one factor on all rows, fitted or new.
    """
    made = constructor("detectors", detector)
    check_names(made, others or {}, idle)
    with torch.random.fork_rng(devices=[]):
        first = seeded(made, settings)
        name = f"check_detector({type(first).__name__})"
        walk(name, [_check_declarations], first)
        trial = Trial(made, settings, str(getattr(first, "reads", "feature")), others or {}, idle, ood)
        chosen = known_laws(getattr(first, "laws", ("permutation",)) if laws is None else laws, LAWS)
        walk(name, [*CHECKS, *(LAWS[law] for law in chosen)], trial)


@dataclass(frozen=True)
class Trial:
    """Fresh and fitted instances of a detector, and rows that suit it."""

    made: Callable[..., Any]
    settings: Mapping[str, Any]
    reads: str
    others: Mapping[str, Any]
    idle: Collection[str]
    ood: Tensor | Outputs | None

    def fresh(self, changed: Mapping[str, Any] | None = None, *, start: int = 0) -> Detector:
        """One that has seen nothing; `start` seeds torch's own generator."""
        made: Detector = seeded(self.made, {**self.settings, **(changed or {})}, start)  # type: ignore[assignment]
        return made

    def fitted(self, changed: Mapping[str, Any] | None = None) -> Detector:
        """On 90 rows."""
        return self.fit(self.fresh(changed), *known(90))

    def fit(self, judge: Detector, rows: Tensor, label: Tensor | None) -> Detector:
        """On rows (N, D)."""
        return judge.fit(self.handed(rows), label, classifier(rows.shape[1]))

    def handed(self, rows: Tensor) -> Any:
        """Rows (N, D) as what the detector reads: layers are the rows, and the rows twice over."""
        if self.reads == "layers":
            return Outputs(rows, layers=(rows, torch.cat([rows, rows], dim=1)))
        return normalize(rows) if self.reads == "embedding" else rows

    def planted(self) -> Any:
        """OOD, handed."""
        if self.ood is not None:
            return self.ood
        rows = known(60, seed=2)[0]
        return self.handed(-rows if self.reads == "logits" else -rows.roll(CLASSES, dims=1))


def known(n: int, seed: int = 0, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """Class c around 6 e_c: such rows serve as features, as embeddings and as logits."""
    label = torch.arange(n) % CLASSES
    noise = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    return 6 * torch.eye(CLASSES, dim)[label] + 0.5 * noise, label


def classifier(dim: int = DIM) -> nn.Linear:
    """Tells the known classes apart."""
    made = nn.Linear(dim, CLASSES)
    with torch.no_grad():
        made.weight.copy_(torch.eye(CLASSES, dim))
        made.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return made


def _learns(judge: Detector) -> bool:
    return next(judge.buffers(), None) is not None


def _check_declarations(judge: nn.Module) -> None:
    """Derive it from spherood.detectors.Detector, and declare reads = "feature" (the default), "embedding", "logits" or
    "layers"."""
    expect(isinstance(judge, Detector), f"{type(judge).__name__} is no Detector")
    expect(judge.reads in ("feature", "embedding", "logits", "layers"), f"reads is {judge.reads!r}")


def _check_planted_ood(trial: Trial) -> None:
    """Higher = more OOD, everywhere: turn the sign round; or pass ood=, rows that the score is made for."""
    judge = trial.fit(trial.fresh(), *known(300))  # 100 a class: k near the number a class inverts the score of k-NN
    id_score, ood_score = judge.score(trial.handed(known(60, 1)[0])), judge.score(trial.planted())
    expect(id_score.shape == (60,), f"60 rows have scores of shape {tuple(id_score.shape)}")
    low, high = float(ood_score.detach().min()), float(id_score.detach().max())
    expect(low > high, f"planted OOD scores from {low:.4g} on, known rows reach {high:.4g}")


def _check_repetition(trial: Trial) -> None:
    """The same rows give the same scores: draw from a generator with a seed of its own."""
    query = trial.handed(known(20, 1)[0])
    one, other = (trial.fitted().score(query) for _ in range(2))
    expect(torch.equal(one, other), "two fits on the same rows give other scores")


def _check_settings(trial: Trial) -> None:
    """A setting that changes nothing is a typo or a promise not kept: use it or drop it. Pass others={"k": 3} where
    another value shows more, idle=("k",) where it counts under other settings only."""
    query = trial.handed(known(20, 1)[0])
    before = trial.fitted().score(query)
    for name, other in changes(trial.made, trial.settings, trial.others, trial.idle):
        after = trial.fitted({name: other}).score(query)
        same = torch.allclose(after.double(), before.double(), rtol=1e-3, atol=1e-5)
        expect(same == (name in trial.idle), f"{name}={other!r} changes {'nothing' if same else 'something, yet idle'}")


def _check_classifier(trial: Trial) -> None:
    """Declare needs_classifier = True where `fit` reads the classifier, through self.head(classifier), which copies
    nothing: clone what it gives, for training goes on and must not change a fitted score."""
    (rows, label), judge = known(90), trial.fresh()
    refused = raised(FitError, lambda: judge.fit(trial.handed(rows), label))
    does = "refuses" if refused else "accepts"
    expect(refused == judge.needs_classifier, f"fit {does} None, and needs_classifier is {judge.needs_classifier}")
    head = classifier()
    judge.fit(trial.handed(rows), label, head)
    before = judge.score(trial.handed(rows))
    with torch.no_grad():
        head.weight.mul_(3)
        head.bias.add_(1)
    expect(torch.equal(judge.score(trial.handed(rows)), before), "a change of the classifier changed a fitted score")


def _check_a_second_fit(trial: Trial) -> None:
    """Fit forgets the past: begin with empty sums and lists, and take nothing from the buffers."""
    rows, label = known(120, 5)
    rows, query = 2 * rows[:, :4] + 1, trial.handed(known(20, 1)[0][:, :4])
    again, once = (trial.fit(judge, rows, label).score(query) for judge in (trial.fitted(), trial.fresh()))
    expect(torch.equal(again, once), f"fitted again, scores are off by {float((again - once).abs().max()):.3g}")


def _check_a_failing_fit(trial: Trial) -> None:
    """Fit raises FitError for no data, as self.batches(x, label) does, and assigns buffers at its end only."""
    judge, query = trial.fitted(), trial.handed(known(20, 1)[0])
    before = judge.score(query)
    refused = raised(FitError, lambda: judge.fit([], None, classifier()))
    expect(refused or not _learns(judge), "fit([]) raises no FitError")
    expect(torch.equal(judge.score(query), before), "fit([]) has changed the score")


def _check_a_reload(trial: Trial) -> None:
    """Keep all that was learned in buffers: self.declare("mean"), then self.mean = ... at the end of `fit`."""
    query, fresh, judge = trial.handed(known(20, 1)[0]), trial.fresh(start=1), trial.fitted()
    fresh.load_state_dict(judge.state_dict())
    expect(torch.equal(fresh.score(query), judge.score(query)), "after load_state_dict the scores are others")


def _check_batching(trial: Trial) -> None:
    """Read through self.batches(x, label), sum in float64; where two readings are needed, refuse a generator by
    spherood.detectors.two_passes.refuse_generator."""
    (rows, label), query = known(90), trial.handed(known(20, 1)[0])
    expected = trial.fitted().score(query)

    def stream(sizes: list[int]) -> Iterator[tuple[Any, Tensor]]:
        for part, of_part in zip(rows.split(sizes), label.split(sizes), strict=True):
            yield trial.handed(part), of_part

    for sizes in ([30, 30, 30], [1, 0, 2, 80, 7], [89, 1]):
        score = trial.fresh().fit(list(stream(sizes)), None, classifier()).score(query)
        close(score, expected, 1e-5, 1e-6, f"scores after a fit in batches of {sizes} and in one")
    judge = trial.fresh()
    if not raised(FitError, lambda: judge.fit(stream([90]), None, classifier())):
        close(judge.score(query), expected, 1e-5, 1e-6, "scores after a fit from a generator and from an array")


def _check_arrays_and_outputs(trial: Trial) -> None:
    """Read x through self.batches and self.checked, which take arrays, tensors and Outputs."""
    (rows, label), query = known(90), trial.handed(known(20, 1)[0])
    expected, nan = trial.fitted().score(query), torch.full((1, 2), torch.nan)

    def outputs(x: Any) -> Outputs:  # what the detector does not read, it does not touch
        if isinstance(x, Outputs):
            return x._replace(feature=nan, embedding=nan, logits=nan)
        return Outputs(**{"feature": nan, "embedding": nan, "logits": nan, trial.reads: x})

    x, read = trial.handed(rows), classifier()
    found = {"Outputs": trial.fresh().fit(outputs(x), label, read).score(outputs(query))}
    found["batches of Outputs"] = trial.fresh().fit([(outputs(x), label)], None, read).score(query)
    if isinstance(x, Tensor):
        found["arrays"] = trial.fresh().fit(x.numpy(), label.numpy(), read).score(query.numpy())
    for what, score in found.items():
        expect(torch.equal(score, expected), f"{what} score otherwise than tensors")


def _check_precision(trial: Trial) -> None:
    """Rows in half precision count as the numbers they hold, float64 may meet float32: compute as self.checked gives
    the rows, and bring them to the type of the buffers, rows.to(self.mean.dtype)."""
    (rows, label), query, read = known(90), trial.handed(known(20, 1)[0]), classifier()
    x, expected = trial.handed(rows), trial.fitted().score(query)
    for dtype in HALVES:
        cast = methodcaller("to", dtype)
        half, half_query = mapped(x, cast), mapped(query, cast)
        score = trial.fresh().fit(half, label, read).score(half_query)
        wide = trial.fresh().fit(mapped(half, Tensor.float), label, read).score(mapped(half_query, Tensor.float))
        expect(torch.equal(score, wide), f"{dtype} rows score otherwise than the same numbers in float32")
    for fitted, new in ((Tensor.double, Tensor.float), (Tensor.float, Tensor.double), (Tensor.double, Tensor.double)):
        score = trial.fresh().fit(mapped(x, fitted), label, read).score(mapped(query, new))
        close(score, expected, 1e-4, 1e-5, f"scores by {fitted.__name__} rows of {new.__name__} ones and by float ones")


def _check_single_rows(trial: Trial) -> None:
    """A score belongs to its row alone: no statistics over the batch, no squeeze(); no row gives no score."""
    judge, rows = trial.fitted(), known(20, 1)[0]
    whole = judge.score(trial.handed(rows))
    alone = torch.cat([judge.score(trial.handed(row[None])) for row in rows])
    close(alone, whole, 1e-5, 1e-6, "scores of rows one by one and together")
    none = judge.score(trial.handed(rows[:0]))
    expect(none.shape == (0,), f"no row has scores of shape {tuple(none.shape)}")


def _check_a_zero_row(trial: Trial) -> None:
    """A feature of length 0 happens: spherood.sphere.normalize leaves it 0, a quotient needs clamp(min=1e-12)."""
    score = trial.fitted().score(trial.handed(torch.zeros(1, DIM)))
    expect(bool(score.isfinite().all()), f"a zero row scores {float(score)}")


def _check_bad_rows(trial: Trial) -> None:
    """Refuse NaN and infinity with a ShapeError: read through self.batches in `fit`, self.checked in `score`."""
    for bad in (torch.nan, torch.inf):
        judge, (rows, label) = trial.fitted(), known(90)
        rows[4, 2] = bad
        expect(raised(ShapeError, partial(judge.score, trial.handed(rows))), f"score takes a row with {bad}")
        if _learns(judge):
            expect(raised(ShapeError, partial(trial.fit, judge, rows, label)), f"fit takes a row with {bad}")


def _check_before_fitting(trial: Trial) -> None:
    """A score asked for too early is a NotFittedError: declare every buffer, self.declare("mean"), so that it is empty
    until fitted."""
    judge, query = trial.fresh(), trial.handed(known(20, 1)[0])
    if raised(NotFittedError, lambda: judge.score(query)):
        return
    same = torch.equal(judge.score(query), trial.fitted().score(query))
    expect(same and not _learns(judge), "an unfitted one gives a score")


def _check_forward(trial: Trial) -> None:
    """`forward` is the bare arithmetic of `score`, for export; `score` carries no gradient."""
    judge, query = trial.fitted(), trial.handed(known(20, 1)[0])
    score = judge.score(mapped(query, lambda it: it.clone().requires_grad_()))
    expect(not score.requires_grad, "the score carries a gradient")
    bare = judge(judge.checked(query))
    expect(torch.equal(bare, score), "forward and score give other numbers")


def _law_permutation(trial: Trial) -> None:
    """If the order of rows counts, as in a random choice of them, declare laws without "permutation"."""
    rows, label = known(90)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    _same(trial, trial.fit(trial.fresh(), rows[order], label[order]), lambda x: x)


def _law_rotation(trial: Trial) -> None:
    """If the axes count, as in a clip or an L1 norm, declare laws without "rotation"."""
    (rows, label), turn, head = known(90), orthogonal(DIM).float(), classifier()
    with torch.no_grad():
        head.weight.copy_(head.weight @ turn)
    _same(trial, trial.fresh().fit(trial.handed(rows @ turn), label, head), lambda x: x @ turn)


def _law_scale(trial: Trial) -> None:
    """If the length of features counts, declare laws without "scale"; else normalise rows, or divide by what grows with
    them."""
    rows, label = known(90)
    _same(trial, trial.fit(trial.fresh(), FACTOR * rows, label), lambda x: FACTOR * x)


def _same(trial: Trial, other: Detector, act: Callable[[Tensor], Tensor]) -> None:
    """Scores, and those of `other` on what `act` makes of the rows; of known rows and of others."""
    query = torch.cat([known(20, 1)[0], -known(20, 2)[0], known(20, 3)[0].roll(CLASSES, dims=1)])
    found, expected = other.score(trial.handed(act(query))), trial.fitted().score(trial.handed(query))
    close(found, expected, 1e-4, 1e-4, "the scores and those that the law expects")


CHECKS: tuple[Callable[[Trial], None], ...] = (
    _check_planted_ood,
    _check_forward,
    _check_repetition,
    _check_settings,
    _check_classifier,
    _check_a_second_fit,
    _check_a_failing_fit,
    _check_a_reload,
    _check_batching,
    _check_arrays_and_outputs,
    _check_precision,
    _check_single_rows,
    _check_a_zero_row,
    _check_bad_rows,
    _check_before_fitting,
)
LAWS: dict[str, Callable[[Trial], None]] = {
    "permutation": _law_permutation,
    "rotation": _law_rotation,
    "scale": _law_scale,
}
