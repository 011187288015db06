from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import Relation, relation
from spherood.errors import ConfigError, FitError, ShapeError


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


WEIGHT, BIAS = drawn(4, 9), torch.tensor([0.5, -1.0, 2.0, 0.0])
CLASSIFIER = linear(WEIGHT, BIAS)
CERTAIN = torch.tensor([3.0, 1.0]).log()  # p = 3/4, 1/4 everywhere: p . p = 5/8


def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace) -> None:
    score = Relation(power=1).fit(resnet20.train, classifier=resnet20.classifier).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score["relation_pow1"], rtol=3 * 5e-7, atol=0)


def test_three_known_directions_give_the_scores_worked_out_by_hand() -> None:
    bank = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    query = torch.tensor([[5.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    classifier = linear(torch.zeros(2, 2), CERTAIN)
    for power, by_hand in [(1, [-5 / 8, -(3 / 5 + 4 / 5) * 5 / 8, 0]), (2, [-25 / 64, -25 / 64, 0])]:
        score = Relation(power=power).fit(bank, classifier=classifier).score(query)
        assert score.tolist() == pytest.approx(by_hand, rel=1e-6)


def test_a_relation_of_three_hundredths_does_not_count() -> None:
    classifier = linear(torch.zeros(2, 2), CERTAIN)
    cosine = torch.tensor([0.047, 0.049])  # times 5/8: 0.0294 and 0.0306
    query = torch.stack([cosine, (1 - cosine.square()).sqrt()], dim=1)
    score = Relation().fit(torch.tensor([[1.0, 0.0]]), classifier=classifier).score(query)
    assert score.tolist() == pytest.approx([0, -0.049 * 5 / 8], rel=1e-5)


def test_turns_and_the_order_of_classes_and_of_the_bank_change_nothing() -> None:
    expected = Relation().fit(drawn(200), classifier=CLASSIFIER).score(drawn(30, 1))
    turn = torch.linalg.qr(drawn(6, 3))[0]
    for bank, query, classifier in [
        (drawn(200) @ turn, drawn(30, 1) @ turn, linear(WEIGHT @ turn, BIAS)),
        (drawn(200), drawn(30, 1), linear(WEIGHT.flip(0), BIAS.flip(0))),
        (drawn(200).flip(0), drawn(30, 1), CLASSIFIER),
        (3 * drawn(200), 3 * drawn(30, 1), linear(WEIGHT / 3, BIAS)),
    ]:
        score = Relation().fit(bank, classifier=classifier).score(query)
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_a_bank_given_twice_doubles_the_score() -> None:
    once = Relation().fit(drawn(200), classifier=CLASSIFIER).score(drawn(30, 1))
    twice = Relation().fit(drawn(200).repeat(2, 1), classifier=CLASSIFIER).score(drawn(30, 1))
    torch.testing.assert_close(twice, 2 * once)


def test_the_width_of_a_tile_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Relation().fit(drawn(200), classifier=CLASSIFIER)
    expected = judge.score(drawn(30, 1))
    monkeypatch.setattr(relation, "TILE", 7)
    torch.testing.assert_close(judge.score(drawn(30, 1)), expected)


def test_an_export_takes_any_number_of_rows() -> None:
    judge = Relation().fit(drawn(200), classifier=CLASSIFIER)
    rows = torch.export.Dim("rows", min=2)
    exported = torch.export.export(judge, (drawn(5),), dynamic_shapes=({0: rows},), strict=False)
    torch.testing.assert_close(exported.module()(drawn(30, 1)), judge.score(drawn(30, 1)))


def test_what_cannot_be_fitted_is_told() -> None:
    with pytest.raises(FitError, match=r"^Relation\.fit: needs the model's classifier"):
        Relation().fit(drawn(50))
    with pytest.raises(ShapeError, match=r"^Relation\.fit: features have 5 columns, the classifier reads 6\."):
        Relation().fit(drawn(50, dim=5), classifier=CLASSIFIER)


@pytest.mark.parametrize("power", [0, -1, float("inf"), float("nan")])
def test_a_power_without_meaning_is_refused(power: float) -> None:
    with pytest.raises(ConfigError, match=rf"^Relation: power must be > 0, got {power}\. Try 1\.$"):
        Relation(power=power)
