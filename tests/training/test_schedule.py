from __future__ import annotations

from collections.abc import Callable
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spherood.errors import ConfigError
from spherood.schema import parse
from spherood.training import Recipe, train
from spherood.training.schedule import Schedule

GOLDEN = Path(__file__).parents[1] / "golden" / "lr_schedule.npz"


def rates(schedule: Schedule, epochs: int, steps_per_epoch: int = 1) -> list[float]:
    steps = epochs * steps_per_epoch
    return [schedule.at(step, steps, steps_per_epoch) for step in range(steps)]


def test_without_a_warm_up_it_is_the_released_cosine() -> None:
    released = np.load(GOLDEN)["cider_nowarm_b256_first"]
    np.testing.assert_allclose(rates(Schedule(lr=0.5, warmup_epochs=0), 50), released, rtol=1e-12)


def test_after_the_warm_up_it_is_the_released_cosine_too() -> None:
    released = np.load(GOLDEN)["cider_cifar_first"]
    ours = rates(Schedule(lr=0.5, warmup_epochs=10), 500)
    np.testing.assert_allclose(ours[11:], released[11:], rtol=1e-12)
    assert released[0] < 0 < ours[0]  # what ours departs from


def test_the_warm_up_climbs_in_a_straight_line_onto_the_cosine() -> None:
    found = rates(Schedule(lr=0.4, warmup_epochs=2.5), 10, steps_per_epoch=4)
    top = 0.0004 + (0.4 - 0.0004) * (1 + cos(pi * 10 / 40)) / 2  # 2.5 epochs of 4 steps
    by_hand = [0.001 + (top - 0.001) * step / 10 for step in range(11)]
    np.testing.assert_allclose(found[:11], by_hand, rtol=1e-12)
    assert found[10] == pytest.approx(top)
    assert max(found) == found[10]


def test_a_warm_up_takes_half_of_the_run_at_most() -> None:
    found = rates(Schedule(lr=0.4, warmup_epochs=10), 5, steps_per_epoch=2)
    assert np.argmax(found) == 5
    assert found[5] == pytest.approx(0.0004 + (0.4 - 0.0004) / 2)


def test_a_peak_below_a_thousandth_starts_at_the_peak() -> None:
    found = rates(Schedule(lr=1e-4, warmup_epochs=2), 10)
    assert found[0] == 1e-4
    assert max(found) == 1e-4


@given(st.floats(1e-6, 10), st.floats(0, 50), st.integers(1, 60), st.integers(1, 30))
def test_it_starts_low_never_leaves_its_range_and_jumps_nowhere(
    lr: float, warmup: float, epochs: int, steps_per_epoch: int
) -> None:
    schedule, steps = Schedule(lr=lr, warmup_epochs=warmup), epochs * steps_per_epoch
    found = np.array(rates(schedule, epochs, steps_per_epoch))
    warm = min(round(warmup * steps_per_epoch), steps // 2)
    assert found[0] == pytest.approx(min(1e-3, lr) if warm else lr)
    assert found[-1] > lr / 1000
    assert found.max() <= lr * (1 + 1e-12)
    assert (np.diff(found[warm:]) <= 0).all()
    if warm:
        climb = np.diff(found[: warm + 1])
        np.testing.assert_allclose(climb, climb[0], rtol=1e-6, atol=1e-12 * lr)  # the last step lands on the cosine


@given(
    lr=st.floats(1e-6, 10),
    lowest=st.none() | st.floats(0, 1),
    warmup=st.floats(0, 50),
    epochs=st.integers(1, 40),
    steps_per_epoch=st.integers(1, 20),
)
def test_it_is_never_negative(
    lr: float, lowest: float | None, warmup: float, epochs: int, steps_per_epoch: int
) -> None:
    low = None if lowest is None else lowest * lr
    found = rates(Schedule(lr=lr, warmup_epochs=warmup, lowest=low), epochs, steps_per_epoch)
    assert min(found) > 0
    assert min(found) >= (lr / 1000 if low is None else low) * (1 - 1e-12) or min(found) == found[0] == 1e-3


def test_it_starts_at_a_thousandth_peaks_where_the_warm_up_ends_and_comes_down_to_the_lowest() -> None:
    schedule = Schedule(lr=0.5, warmup_epochs=2, lowest=0.01)
    found = rates(schedule, 10, steps_per_epoch=50)
    assert found[0] == 1e-3
    assert np.argmax(found) == 100
    assert found[100] == pytest.approx(0.01 + 0.49 * (1 + cos(pi / 5)) / 2)
    assert schedule.at(500, 500, 50) == pytest.approx(0.01)  # the step after the last
    assert found[-1] == pytest.approx(0.01, rel=1e-3)
    assert Schedule(lr=0.5).at(500, 500, 50) == pytest.approx(0.0005)  # by default a thousandth of the peak


def test_a_run_says_where_it_is_too_short_for_the_warm_up(
    digits: Path, tmp_path: Path, recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = {"every": 0}
    train(recipe(schedule={"warmup_epochs": 10}, validation=quiet), tmp_path / "short", digits)
    note = "schedule.warmup_epochs=10 is more than half of the run: the warm-up takes 9 of 18 steps."
    assert f"note: {note}\n" in capsys.readouterr().err
    assert Schedule(warmup_epochs=10).shortened(18, 6) == note
    train(recipe(schedule={"warmup_epochs": 1.5}, validation=quiet), tmp_path / "long", digits)
    assert "note:" not in capsys.readouterr().err
    assert Schedule(warmup_epochs=1.5).shortened(18, 6) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, "schedule.yaml: lr: Input should be greater than 0"),
        ({"warmup_epochs": -1}, "warmup_epochs: Input should be greater than or equal to 0"),
        ({"lowest": -0.1}, "lowest: Input should be greater than or equal to 0"),
        ({"rule": "cider"}, "rule: Input should be 'cosine', 'cider-as-released', 'openood-as-released' or 'palm-as"),
        ({"warmup": 3}, "there is no key 'warmup' here. Did you mean 'warmup_epochs'?"),
    ],
)
def test_a_setting_without_meaning_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse(Schedule, settings, "schedule.yaml")
    assert message in str(told.value)
