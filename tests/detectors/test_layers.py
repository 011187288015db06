from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spherood.detectors import KNN, Detector, Layers, Mahalanobis
from spherood.errors import ConfigError, FitError, NotFittedError, ShapeError
from spherood.naming import build, parse_spec
from spherood.outputs import Outputs

WIDTHS = (3, 5, 4)


def outputs(*layers: Tensor) -> Outputs:
    return Outputs(layers[-1], layers=layers)


def known(rows: int = 200, seed: int = 0) -> tuple[Outputs, Tensor]:
    """Two classes, seen in three layers of other widths."""
    label, draw = torch.arange(rows) % 2, torch.Generator().manual_seed(seed)
    return outputs(*(3 * torch.eye(w)[label] + 0.5 * torch.randn(rows, w, generator=draw) for w in WIDTHS)), label


def layers_of(x: Outputs) -> tuple[Tensor, ...]:
    assert x.layers is not None
    return x.layers


def surprise_by_hand(judge: Detector, x: Tensor, label: Tensor, query: Tensor) -> Any:
    """-log p from a sorted list of reference scores, in NumPy."""
    last = np.arange(len(x)) % 5 == 4
    reference = np.sort(judge.fit(x[~last], label[~last]).score(x[last]).double().numpy())
    score = judge.fit(x, label).score(query).double().numpy()
    n = len(reference)
    surprise = -np.log((1 + n - np.arange(n)) / (n + 1))
    tail = reference[-round(0.1 * n) :]
    beyond = np.clip(score - reference[-1], 0, None) / (tail - tail[0]).mean()
    return np.interp(score, reference, surprise) + beyond


@pytest.mark.parametrize(
    ("score", "judge"), [("mahalanobis:unit=true", Mahalanobis(unit=True)), ("knn:k=7", KNN(k=7))], ids=str
)
def test_the_score_is_the_sum_over_layers_of_surprises_worked_out_apart(score: str, judge: Detector) -> None:
    (x, label), (query, _) = known(125), known(40, 1)  # 25 reference rows: each is a knot
    query = outputs(*(torch.cat([layer, -layer[:9]]) for layer in layers_of(query)))  # nine far out
    expected = sum(surprise_by_hand(judge, a, label, b) for a, b in zip(layers_of(x), layers_of(query), strict=True))
    found = Layers(score=score).fit(x, label).score(query)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == torch.float64


def test_without_a_word_it_is_the_mahalanobis_distance_of_unit_features() -> None:
    (x, label), (query, _) = known(), known(20, 1)
    named = Layers(score="mahalanobis:unit=true").fit(x, label)
    assert torch.equal(Layers().fit(x, label).score(query), named.score(query))
    other = Layers(score="mahalanobis").fit(x, label)
    assert not torch.allclose(other.score(query), named.score(query), rtol=0.01)


def test_of_a_single_layer_the_order_is_that_of_the_score_itself() -> None:
    (x, label), (query, _) = known(), known(60, 1)
    one, far = layers_of(x)[0], torch.cat([layers_of(query)[0], -layers_of(query)[0]])
    plain = Mahalanobis(unit=True).fit(one, label).score(far).double()
    found = Layers().fit(outputs(one), label).score(outputs(far))
    inside = plain > plain.sort().values[12]  # the lowest share the surprise 0
    assert torch.equal(found[inside].argsort(), plain[inside].argsort())


def test_what_shows_in_the_first_layer_alone_is_caught_though_the_feature_looks_known() -> None:
    (x, label), (id_, _), (ood, _) = known(), known(100, 1), known(100, 2)
    ood = outputs(-layers_of(ood)[0], *layers_of(ood)[1:])
    judge, last = Layers().fit(x, label), Mahalanobis(unit=True).fit(x.feature, label)
    assert judge.score(ood).min() > judge.score(id_).quantile(0.99)
    assert last.score(ood.feature).median() < last.score(id_.feature).quantile(0.9)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(3)))
def test_the_order_of_the_layers_does_not_matter(order: list[int]) -> None:
    (x, label), (query, _) = known(), known(20, 1)
    mixed = Layers().fit(outputs(*(layers_of(x)[i] for i in order)), label)
    found = mixed.score(outputs(*(layers_of(query)[i] for i in order)))
    torch.testing.assert_close(found, Layers().fit(x, label).score(query))


def test_the_laws_hold_in_each_layer_by_itself() -> None:
    (x, label), (query, _) = known(), known(20, 1)
    expected = Layers().fit(x, label).score(query)
    draw = torch.Generator().manual_seed(0)
    turns = [torch.linalg.qr(torch.randn(w, w, generator=draw))[0] for w in WIDTHS]
    scales = [torch.eye(w) * factor for w, factor in zip(WIDTHS, (0.01, 3.0, 40.0), strict=True)]
    for law, maps in {"rotation": turns, "scale": scales}.items():
        assert law in Layers.laws
        moved = [outputs(*(a @ b for a, b in zip(layers_of(one), maps, strict=True))) for one in (x, query)]
        torch.testing.assert_close(Layers().fit(moved[0], label).score(moved[1]), expected, rtol=1e-3, atol=1e-4)


def test_the_order_of_the_rows_matters_since_every_fifth_is_reference() -> None:
    (x, label), (query, _) = known(), known(20, 1)
    turned = Layers().fit(x.at(torch.arange(199, -1, -1)), label.flip(0))
    assert not torch.allclose(turned.score(query), Layers().fit(x, label).score(query), rtol=1e-3)
    assert "permutation" not in Layers.laws


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 199), max_size=5))
def test_any_batching_gives_the_same_scores(cuts: list[int]) -> None:
    (x, label), (query, _) = known(), known(20, 1)
    edges = [0, *sorted(cuts), 200]
    batches = [(x.rows(a, b), label[a:b]) for a, b in pairwise(edges)]
    torch.testing.assert_close(Layers().fit(batches).score(query), Layers().fit(x, label).score(query))


def test_once_fitted_it_takes_the_layers_side_by_side_as_an_array() -> None:
    (x, label), (query, _) = known(), known(20, 1)
    judge, joined = Layers().fit(x, label), torch.cat(layers_of(query), dim=1)
    assert judge.width == 12
    for given_ in (joined, joined.numpy(), outputs(joined)):
        assert torch.equal(judge.score(given_), judge.score(query))
    assert torch.equal(judge(joined), judge.score(query))
    with pytest.raises(ShapeError, match=r"^Layers\.score: layers have 11 columns, the fitted ones had 12\."):
        judge.score(joined[:, :11])


def test_an_array_cannot_be_fitted_since_it_does_not_tell_the_layers() -> None:
    x, label = known()
    joined = torch.cat(layers_of(x), dim=1)
    for given_ in ((joined, label), ([(x, label), (joined, label)], None)):
        with pytest.raises(
            FitError, match=r"an array does not tell one layer from the next\. Pass Outputs\(feature, la"
        ):
            Layers().fit(*given_)


def test_layers_of_another_shape_are_refused() -> None:
    x, label = known()
    first, second, third = layers_of(x)
    judge = Layers().fit(x, label)
    with pytest.raises(ConfigError, match=r"^Layers\.score: reads layers, which this model does not have\.$"):
        judge.score(Outputs(x.feature))
    with pytest.raises(ShapeError, match=r"layers have \[5, 3, 4\] columns, the fitted ones had \[3, 5, 4\]\."):
        judge.score(outputs(second, first, third))
    with pytest.raises(
        ShapeError, match=r"expected layers \(B, F_i\), got \(200, 3\), \(200, 5, 2, 2\)\. .* map\.mean"
    ):
        judge.score(outputs(first, torch.zeros(200, 5, 2, 2)))
    with pytest.raises(ShapeError, match=r"expected layers \(B, F_i\), got \(200, 3\), \(199, 5\)\. Give each as many"):
        judge.score(outputs(first, second[:199]))
    with pytest.raises(ShapeError, match=r"expected layers \(B, F_i\), got none"):
        judge.score(Outputs(x.feature, layers=()))
    message = r"^Layers\.fit: batches have layers of \[\(3, 5, 4\), \(5, 3, 4\)\] columns\. Use one encoder\.$"
    with pytest.raises(ShapeError, match=message):
        Layers().fit([(x, label), (outputs(second, first, third), label)])


def test_it_is_not_fitted_until_it_is_fitted_and_a_failing_fit_leaves_the_old_one() -> None:
    x, label = known()
    with pytest.raises(NotFittedError, match="Layers: not fitted"):
        Layers().score(x)
    judge = Layers().fit(x, label)
    before = judge.score(x)
    still = outputs(*layers_of(x)[:2], torch.ones(200, 4))  # in its last layer nothing varies
    with pytest.raises(FitError, match="do not vary"):
        judge.fit(still, label)
    assert torch.equal(judge.score(x), before)


def test_a_second_fit_may_have_other_layers() -> None:
    x, label = known()
    two = outputs(*layers_of(x)[1:])
    judge = Layers().fit(x, label).fit(two, label)
    assert judge.width == 9
    assert torch.equal(judge.score(two), Layers().fit(two, label).score(two))


@pytest.mark.parametrize("score", ["mahalanobis", "knn:k=3", "combined"])
def test_a_reload_finds_as_many_layers_as_were_fitted(score: str) -> None:
    (x, label), (query, _) = known(), known(20, 1)
    judge, fresh = Layers(score=score).fit(x, label), Layers(score=score)
    fresh.load_state_dict(judge.state_dict())
    assert torch.equal(fresh.score(query), judge.score(query))
    empty = Layers(score=score)
    empty.load_state_dict(Layers(score=score).state_dict())
    with pytest.raises(NotFittedError):
        empty.score(query)


def test_the_neighbours_are_those_in_the_last_layer() -> None:
    (x, label), (query, _) = known(), known(7, 1)
    judge = Layers(score="knn:k=3").fit(x, label)
    score, near = judge.score_with_neighbours(query, 2)
    expected = KNN(k=3).fit(x.feature).score_with_neighbours(query.feature, 2)[1]
    assert near is not None
    assert torch.equal(near[1], expected[1])
    assert torch.equal(score, judge.score(query))
    assert Layers().fit(x, label).score_with_neighbours(query, 2)[1] is None


def test_in_one_string_the_score_stands_in_quotes() -> None:
    made = build("detectors", *parse_spec('layers:score="knn:k=3"'))
    x, label = known()
    assert torch.equal(made.fit(x, label).score(x), Layers(score="knn:k=3").fit(x, label).score(x))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("msp", r"Layers: msp reads logits, and a layer is a feature alone\. Try 'knn:k=50'\."),
        ("layers", r"Layers: layers reads layers, and a layer is a feature alone"),
        ("residual", r"Layers: residual needs a classifier, and a layer is a feature alone"),
        ("knn:q=3", r"'knn' has no setting 'q'"),
        (5, r"Layers: score must be one as typed, got 5\. Try 'knn:k=50'\."),
    ],
)
def test_a_score_that_no_layer_can_have_is_refused(score: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Layers(score=score)
