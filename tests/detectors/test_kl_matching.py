from __future__ import annotations

from math import log
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from spherood.detectors import KLMatching


def drawn(rows: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace) -> None:
    score = KLMatching().fit(resnet20.validation_logits).score(resnet20.query_logits)
    np.testing.assert_allclose(score.numpy(), resnet20.score["klm"], rtol=0, atol=3 * 6e-6)


def test_two_typical_answers_give_the_scores_worked_out_by_hand() -> None:
    answers = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6]], dtype=torch.float64)  # q = (.8, .2) and (.4, .6)
    query = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64)
    score = KLMatching().fit(answers.log()).score(query.log())
    by_hand = [
        0.5 * log(0.5 / 0.4) + 0.5 * log(0.5 / 0.6),  # nearer to the second
        0.75 * log(0.75 / 0.8) + 0.25 * log(0.25 / 0.2),  # nearer to the first
    ]
    torch.testing.assert_close(score, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-6, atol=0)


def test_an_answer_that_is_typical_scores_zero_and_none_scores_less() -> None:
    judge = KLMatching().fit(drawn(200))
    torch.testing.assert_close(judge.score(judge.log_typical), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-6)
    assert float(judge.score(drawn(200, 1)).min()) > -1e-6


def test_a_class_that_is_never_predicted_matches_no_answer_with_any_doubt() -> None:
    known = drawn(200)
    known[:, 3] -= 100
    judge = KLMatching().fit(known)
    answer = torch.tensor([[0.0, 0.0, 0.0, 20.0]], dtype=torch.float64)  # class 3, but for 6e-9
    assert float(judge.score(answer)) > 50  # for every class that was predicted this one is as good as impossible
    without_doubt = torch.tensor([[0.0, 0.0, 0.0, 1e4]])
    assert float(judge.score(without_doubt)) == 0


def test_answers_as_sure_as_float64_can_hold_get_a_number() -> None:
    sure = 1e5 * torch.eye(4)
    assert bool(KLMatching().fit(sure).score(torch.cat([sure, -sure, torch.zeros(1, 4)])).isfinite().all())


def test_sure_answers_do_not_tie() -> None:
    judge = KLMatching().fit(drawn(200))
    score = judge.score(torch.tensor([[30.0, 0, 0, 0], [31.0, 0, 0, 0]]))
    assert float(score[0]) != float(score[1])


def test_adding_a_number_or_changing_the_order_of_classes_changes_nothing() -> None:
    expected = KLMatching().fit(drawn(200)).score(drawn(30, 1))
    torch.testing.assert_close(KLMatching().fit(drawn(200) + 50).score(drawn(30, 1) - 9), expected)
    torch.testing.assert_close(KLMatching().fit(drawn(200).flip(1)).score(drawn(30, 1).flip(1)), expected)
