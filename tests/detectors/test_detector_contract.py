"""What holds for every score of the room; a new one is walked without being named here.

Named are settings only: those that suit 90 rows of 6 columns, and one more value of each.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spherood.detectors import Detector, detector
from spherood.errors import ConfigError, FitError, NotFittedError, ShapeError
from spherood.naming import build, members
from spherood.outputs import Outputs

SMALL: dict[str, dict[str, Any]] = {  # where the default asks for more rows or columns
    "ash": {"percentile": 50.0},
    "dice": {"percentile": 80.0},
    "nnguide": {"k": 5, "fraction": 1.0},
    "scale": {"percentile": 65.0},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("knn", {"k": 1}),
    ("mahalanobis", {"unit": True}),
    ("mahalanobis", {"covariance": "total"}),
    ("mahalanobis", {"covariance": "total", "unit": True, "shrinkage": 0.1}),
    ("kpca", {"kernel": "gaussian", "features": 64}),
    ("relation", {"power": 2.0}),
    ("she", {"metric": "cosine"}),
    ("she", {"metric": "euclidean"}),
    ("rmds", {"unit": True}),
    ("residual", {"dim": 2}),
    ("vim", {"dim": 2}),
    ("nnguide", {"k": 5, "fraction": 0.3}),
    ("fdbd", {"denominator": "norm"}),
]
OTHER: dict[str, dict[str, Any]] = {  # of every setting a value that is not its default, nor that of SMALL
    "ash": {"percentile": 70.0},
    "combined": {"scores": ["knn:k=3", "mahalanobis"]},
    "dice": {"percentile": 95.0},
    "energy": {"temperature": 2.0},
    "fdbd": {"denominator": "norm"},
    "gen": {"gamma": 0.5, "m": 2},
    "knn": {"k": 3},
    "kpca": {"kernel": "gaussian", "ratio": 0.3, "gamma": 1.0, "features": 64, "seed": 1},
    "mahalanobis": {"covariance": "total", "unit": True, "shrinkage": 0.1},
    "nci": {"alpha": 0.1},
    "nnguide": {"k": 3, "fraction": 0.5, "seed": 1},
    "react": {"percentile": 60.0},
    "relation": {"power": 2.0},
    "residual": {"dim": 2},
    "rmds": {"unit": True},
    "scale": {"percentile": 50.0},
    "she": {"metric": "cosine"},
    "vim": {"dim": 2},
    "vmf": {"temperature": 0.5},
    "vra": {"low": 60.0, "high": 80.0},
}
BESIDE: dict[tuple[str, str], dict[str, Any]] = {  # what must be set for another setting to count at all
    ("kpca", "features"): {"kernel": "gaussian"},
    ("kpca", "gamma"): {"kernel": "gaussian", "features": 64},
    ("kpca", "seed"): {"kernel": "gaussian", "features": 64},
    ("nnguide", "seed"): {"fraction": 0.5},
}
NOT_HIGHER = {  # on the other side of zero, and why
    "gradnorm": "a feature turned round is as long, and the answer may be as sure, for another class",
    "residual": "a feature turned round within the main directions leaves as much outside them",
    "vim": "as residual, and the logits alone do not outweigh it on every row",
}
ALL = [(name, SMALL.get(name, {})) for name in members("detectors")] + VARIANTS
LEARNING = [spec for spec in ALL if list(build("detectors", *spec).buffers())]
EVERY = pytest.mark.parametrize("spec", ALL, ids=str)
EVERY_LEARNING = pytest.mark.parametrize("spec", LEARNING, ids=str)
ANY_WIDTH = {"temperature_msp"}
TWO_PASSES = {"combined", "react", "vim", "vra"}
CLASSES, DIM = 3, 6


def make(spec: tuple[str, dict[str, Any]]) -> Detector:
    made: Detector = build("detectors", *spec)
    return made


def known(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class c around 6 e_c: such rows serve as features, as embeddings and as logits."""
    label = torch.arange(rows) % CLASSES
    noise = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))
    return 6 * torch.eye(DIM)[label] + 0.5 * noise, label


def fit(judge: Detector, x: Any, label: Any = None, dim: int = DIM) -> Detector:
    """With a classifier that tells the known classes apart, for the scores that read one."""
    classifier = nn.Linear(dim, CLASSES)
    with torch.no_grad():
        classifier.weight.copy_(torch.eye(CLASSES, dim))
        classifier.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return judge.fit(x, label, classifier)


def fitted(spec: tuple[str, dict[str, Any]]) -> Detector:
    return fit(make(spec), *known(90))


def test_the_room_offers_its_detectors_by_file_name() -> None:
    assert {"knn", "mahalanobis", "msp"} <= members("detectors").keys()
    assert {"knn", "mahalanobis"} <= {name for name, _ in LEARNING}


@EVERY
def test_what_lies_on_the_other_side_scores_higher(spec: tuple[str, dict[str, Any]]) -> None:
    judge = fit(make(spec), *known(300))  # 100 a class: k near the number a class inverts the score of k-NN
    id_score, ood_score = judge.score(known(60, 1)[0]), judge.score(-known(60, 2)[0])
    assert id_score.shape == (60,)
    higher = float(ood_score.min()) > float(id_score.max())
    assert higher != (spec[0] in NOT_HIGHER)


@pytest.mark.parametrize("name", members("detectors"))
def test_every_setting_changes_a_score(name: str) -> None:
    parameters = inspect.signature(members("detectors")[name]).parameters.values()
    given = {it.name for it in parameters if it.kind is it.KEYWORD_ONLY}
    assert given == OTHER.get(name, {}).keys(), "OTHER gives another value of every setting"
    (x, label), query = known(90), known(20, 1)[0]
    for setting, value in OTHER.get(name, {}).items():
        usual = SMALL.get(name, {}) | BESIDE.get((name, setting), {})
        before = fit(make((name, usual)), x, label).score(query)
        after = fit(make((name, usual | {setting: value})), x, label).score(query)
        assert not torch.allclose(before, after, rtol=1e-3, atol=1e-5), setting


def refusal(spec: tuple[str, dict[str, Any]]) -> str:
    """What a fit without classifier is told; nothing where it does without."""
    try:
        make(spec).fit(*known(90))
    except FitError as error:
        return str(error)
    return ""


@EVERY
def test_without_a_classifier_it_fits_or_asks_for_one(spec: tuple[str, dict[str, Any]]) -> None:
    asked = "needs the model's classifier. Call fit(feature, label, classifier=model.classifier)."
    assert refusal(spec) in ("", f"{make(spec).name}.fit: {asked}")
    assert make(spec).needs_classifier == bool(refusal(spec))


def test_the_scores_that_read_a_classifier_are_these_at_least() -> None:
    asking = {spec[0] for spec in ALL if refusal(spec)}
    assert {"residual", "vim", "nnguide", "fdbd"} <= asking
    assert asking.isdisjoint({"combined", "knn", "mahalanobis", "msp", "rmds", "vmf"})


@EVERY_LEARNING
def test_training_the_classifier_on_leaves_a_fitted_score_as_it_was(spec: tuple[str, dict[str, Any]]) -> None:
    (x, label), classifier = known(90), nn.Linear(DIM, CLASSES)
    with torch.no_grad():
        classifier.weight.copy_(torch.eye(CLASSES, DIM))
    judge = make(spec).fit(x, label, classifier)
    before = judge.score(x)
    with torch.no_grad():
        classifier.weight.mul_(3)
        classifier.bias.add_(1)
    assert torch.equal(judge.score(x), before)


@EVERY
def test_a_zero_row_gets_a_number(spec: tuple[str, dict[str, Any]]) -> None:
    assert bool(fitted(spec).score(torch.zeros(1, DIM)).isfinite().all())


@EVERY
def test_a_batch_of_one_and_of_none_and_any_chunk_score_the_same(
    spec: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, x = fitted(spec), known(20, 1)[0]
    whole = judge.score(x)
    torch.testing.assert_close(torch.cat([judge.score(row[None]) for row in x]), whole, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(detector, "SCORE_ROWS", 7)
    torch.testing.assert_close(judge.score(x), whole, rtol=1e-5, atol=1e-6)
    assert judge.score(x[:0]).shape == (0,)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_as_the_numbers_it_holds(spec: tuple[str, dict[str, Any]], dtype: torch.dtype) -> None:
    (x, label), query = known(90), known(20, 1)[0].to(dtype)
    halved, widened = fit(make(spec), x.to(dtype), label), fit(make(spec), x.to(dtype).float(), label)
    assert torch.equal(halved.score(query), widened.score(query.float()))
    assert [rows.dtype for rows, _ in make(spec).batches(x.to(dtype), label)] == [torch.float32]


@EVERY
def test_float64_may_meet_float32(spec: tuple[str, dict[str, Any]]) -> None:
    (x, label), query = known(90), known(20, 1)[0]
    expected = fit(make(spec), x, label).score(query)
    for fit_dtype, score_dtype in [("f8", "f4"), ("f4", "f8"), ("f8", "f8")]:
        judge = fit(make(spec), x.numpy().astype(fit_dtype), label)
        score = judge.score(query.numpy().astype(score_dtype))
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5, check_dtype=False)


@EVERY
def test_arrays_tensors_and_outputs_score_the_same(spec: tuple[str, dict[str, Any]]) -> None:
    (x, label), query = known(90), known(20, 1)[0]
    expected = fit(make(spec), x, label).score(query)
    other = torch.full((1, 2), torch.nan)  # what the detector does not read, it does not touch

    def outputs(rows: Tensor) -> Outputs:
        parts = {"feature": other, "embedding": other, "logits": other, make(spec).reads: rows}
        return Outputs(**parts)

    assert torch.equal(fit(make(spec), x.numpy(), label.numpy()).score(query.numpy()), expected)
    assert torch.equal(fit(make(spec), outputs(x), label).score(outputs(query)), expected)
    assert torch.equal(fit(make(spec), [(outputs(x), label)]).score(query), expected)


@EVERY
@pytest.mark.filterwarnings("error")
def test_read_only_maps_and_reversed_views_are_read(spec: tuple[str, dict[str, Any]]) -> None:
    x, label = (part.numpy() for part in known(90))
    expected = fit(make(spec), x, label).score(x[:9])
    copied = fit(make(spec), x[::-1].copy(), label[::-1].copy()).score(x[8::-1].copy())
    assert torch.equal(fit(make(spec), x[::-1], label[::-1]).score(x[8::-1]), copied)
    for array in (x, label):
        array.flags.writeable = False
    assert torch.equal(fit(make(spec), x, label).score(x[:9]), expected)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(ALL), st.lists(st.integers(1, 89), max_size=6))
def test_any_batching_gives_the_same_scores(spec: tuple[str, dict[str, Any]], cuts: list[int]) -> None:
    (x, label), query = known(90), known(20, 1)[0]
    edges = np.diff([0, *sorted(cuts), 90]).tolist()  # with empty batches among them
    batches = list(zip(x.split(edges), label.split(edges), strict=True))
    torch.testing.assert_close(
        fit(make(spec), batches).score(query), fit(make(spec), x, label).score(query), rtol=1e-5, atol=1e-6
    )


@EVERY
def test_a_second_fit_forgets_the_first(spec: tuple[str, dict[str, Any]]) -> None:
    x, label = known(120, 5)
    query = known(20, 1)[0]
    again = fit(fitted(spec), 2 * x[:, :4] + 1, label, dim=4).score(query[:, :4])
    assert torch.equal(again, fit(make(spec), 2 * x[:, :4] + 1, label, dim=4).score(query[:, :4]))


@EVERY_LEARNING
def test_a_failing_fit_leaves_the_old_one(spec: tuple[str, dict[str, Any]]) -> None:
    judge, query = fitted(spec), known(20, 1)[0]
    before = judge.score(query)
    with pytest.raises(FitError):
        fit(judge, [])
    assert torch.equal(judge.score(query), before)


@EVERY
def test_a_reload_into_a_fresh_instance_scores_the_same(spec: tuple[str, dict[str, Any]]) -> None:
    query, fresh = known(20, 1)[0], make(spec)
    fresh.load_state_dict(fitted(spec).state_dict())
    assert torch.equal(fresh.score(query), fitted(spec).score(query))


@EVERY
def test_forward_is_the_arithmetic_of_score(spec: tuple[str, dict[str, Any]]) -> None:
    query = known(20, 1)[0]
    assert torch.equal(fitted(spec)(query), fitted(spec).score(query))


@EVERY
def test_a_score_carries_no_gradient(spec: tuple[str, dict[str, Any]]) -> None:
    assert not fitted(spec).score(known(20, 1)[0].requires_grad_()).requires_grad


@EVERY_LEARNING
def test_scoring_before_fitting_says_what_to_call(spec: tuple[str, dict[str, Any]]) -> None:
    with pytest.raises(NotFittedError, match=r"^\w+: not fitted\. Call fit\(feature, label\) first"):
        make(spec).score(known(3)[0])


@EVERY_LEARNING
def test_another_width_is_told_with_both_numbers(spec: tuple[str, dict[str, Any]]) -> None:
    judge, narrow = fitted(spec), known(3)[0][:, :4]
    if spec[0] in ANY_WIDTH:
        assert judge.score(narrow).shape == (3,)
        return
    columns = rf"{judge.rows_read} have 4 columns, the fitted ones had 6"
    with pytest.raises(ShapeError, match=rf"\.score: {columns}\. Was it fitted on another encoder\?"):
        judge.score(narrow)


@EVERY_LEARNING
def test_batches_of_different_widths_are_refused(spec: tuple[str, dict[str, Any]]) -> None:
    x, label = known(90)
    with pytest.raises(ShapeError, match=r"\.fit: a batch has 4 columns, the first had 6"):
        fit(make(spec), [(x, label), (x[:, :4], label)])


@EVERY
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_are_counted_and_placed(spec: tuple[str, dict[str, Any]], bad: float) -> None:
    x, label = known(90)
    judge = fitted(spec)
    x[[4, 7], 2] = bad
    message = "2 of 90 rows hold NaN or infinity, the first is row 4"
    with pytest.raises(ShapeError, match=rf"\.score: {message}"):
        judge.score(x)
    if spec in LEARNING:
        with pytest.raises(ShapeError, match=rf"\.fit: {message}"):
            fit(judge, x, label)


@EVERY
@pytest.mark.parametrize(
    ("x", "got"),
    [
        (torch.zeros(6), r"torch\.float32 of shape \(6,\)"),
        (torch.zeros(2, 3, 6), r"torch\.float32 of shape \(2, 3, 6\)"),
        (np.zeros((2, 6), dtype="i8"), r"torch\.int64 of shape \(2, 6\)"),
    ],
    ids=["one axis", "three axes", "integers"],
)
def test_what_is_no_table_of_floats_is_refused(spec: tuple[str, dict[str, Any]], x: Any, got: str) -> None:
    with pytest.raises(ShapeError, match=rf"\.score: expected floating {make(spec).rows_read} \(B, D\), got {got}"):
        fitted(spec).score(x)


@pytest.mark.parametrize("spec", [spec for spec in ALL if make(spec).reads != "feature"], ids=str)
def test_a_model_without_the_part_that_is_read_is_told(spec: tuple[str, dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=rf"reads {make(spec).reads}, which this model does not have"):
        fitted(spec).score(Outputs(feature=known(3)[0]))


@EVERY_LEARNING
def test_no_data_and_a_used_up_generator_are_told(spec: tuple[str, dict[str, Any]]) -> None:
    x, label = known(90)

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        yield x, label

    once = stream()
    if spec[0] in TWO_PASSES:
        with pytest.raises(FitError, match=r"a generator gives them once\. Pass a list of batches"):
            fit(make(spec), once)
        used_up: list[Any] = []
    else:
        assert torch.equal(fit(make(spec), once).score(x), fit(make(spec), x, label).score(x))
        used_up = [once]
    for nothing in (*used_up, [], [(x[:0], label[:0])]):
        with pytest.raises(FitError, match=r"\.fit: no data: .* A used-up generator gives nothing"):
            fit(make(spec), nothing)
    with pytest.raises(FitError, match="no data"):
        fit(make(spec), x[:0], label[:0])


@EVERY_LEARNING
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.arange(90) % 3 - 1, r"labels begin at -1, expected 0 or more"),
        (torch.zeros(90), r"expected integer labels \(90,\), got torch\.float32 of shape \(90,\)"),
        (torch.zeros(89).long(), r"expected integer labels \(90,\), got torch\.int64 of shape \(89,\)"),
        (torch.zeros(90, 1).long(), r"expected integer labels \(90,\), got torch\.int64 of shape \(90, 1\)"),
    ],
    ids=["negative", "floating", "too short", "in a column"],
)
def test_labels_that_do_not_fit_are_told(spec: tuple[str, dict[str, Any]], label: Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=rf"\.fit: {message}"):
        fit(make(spec), known(90)[0], label)


@EVERY_LEARNING
def test_batches_that_are_no_pairs_and_labels_beside_batches_are_told(spec: tuple[str, dict[str, Any]]) -> None:
    x, label = known(90)
    with pytest.raises(FitError, match=r"expected batches of pairs \(x, label\)\. Without labels pass \(x, None\)"):
        fit(make(spec), [x, x])
    with pytest.raises(FitError, match="expected batches of pairs"):
        fit(make(spec), [Outputs(x)])
    with pytest.raises(FitError, match="labels belong into the batches"):
        fit(make(spec), [(x, label)], label)
