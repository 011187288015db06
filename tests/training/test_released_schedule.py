"""Learning rates that the released code was seen to use (tests/golden), recipe by recipe, defects included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spherood.training.schedule import Schedule

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "lr_schedule.npz")
RULES = {
    "cider_cifar": "cider-as-released",
    "cider_imagenet100_20": "cider-as-released",
    "cider_imagenet100_10": "cider-as-released",
    "cider_nowarm_b256": "cider-as-released",
    "openood_cider_cifar": "openood-as-released",
    "openood_cider_imagenet200": "openood-as-released",
    "openood_cider_imagenet1k": "openood-as-released",
    "reweightood_cifar": "openood-as-released",
    "reweightood_imagenet200": "openood-as-released",
    "reweightood_imagenet1k": "openood-as-released",
    "palm_cifar": "palm-as-released",
}
NO_RULE = {"cider_step_b256", "supcontrast_e1", "openood_ce_cifar"}  # in steps; epochs from 1; the plain cosine


def rates(schedule: Schedule, name: str) -> NDArray[np.float64]:
    """(epochs, steps)."""
    epochs, steps = int(GOLDEN[f"{name}_epochs"]), int(GOLDEN[f"{name}_steps"])
    found = [schedule.at(step, epochs * steps, steps) for step in range(epochs * steps)]
    return np.reshape(found, (epochs, steps))


def same(found: NDArray[np.float64], released: NDArray[np.float64]) -> None:
    assert found.shape == released.shape
    np.testing.assert_allclose(found, released, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_the_released_code_to_the_digit(name: str) -> None:
    settings: dict[str, Any] = {"lr": float(GOLDEN[f"{name}_lr"]), "rule": RULES[name]}
    settings["warmup_epochs"] = 0 if "nowarm" in name else 10
    found = rates(Schedule(**settings), name)
    same(found[:, 0], GOLDEN[f"{name}_first"])
    same(found[:, -1], GOLDEN[f"{name}_last"])
    stride = int(GOLDEN[f"{name}_steps_stride"]) if f"{name}_steps_stride" in GOLDEN else 1
    same(found[:12, ::stride], GOLDEN[f"{name}_steps_epoch0to11"])


def test_every_recorded_recipe_has_its_rule_or_a_reason() -> None:
    recorded = {key.removesuffix("_first") for key in GOLDEN.files if key.endswith("_first")}
    assert recorded == RULES.keys() | NO_RULE


def test_openoods_cross_entropy_is_the_plain_cosine_down_to_a_millionth() -> None:
    found = rates(Schedule(lr=0.1, warmup_epochs=0, lowest=1e-6), "openood_ce_cifar")
    same(found[:, 0], GOLDEN["openood_ce_cifar_first"])
    same(found[:, -1], GOLDEN["openood_ce_cifar_last"])


@pytest.mark.parametrize("rule", ["cider-as-released", "openood-as-released"])
def test_released_warm_ups_run_one_epoch_more_and_climb_the_gradient_in_the_first(rule: Any) -> None:
    found = rates(Schedule(lr=0.5, warmup_epochs=10, rule=rule), "cider_cifar")
    assert found[0, :-1].max() < 0.001
    assert found[0, 0] < 0
    assert np.all(np.diff(found[:11].ravel()) > 0)
    assert np.all(np.diff(found[11:, 0]) < 0)


def test_released_palm_begins_at_the_peak_and_rests_in_the_second_step() -> None:
    found = rates(Schedule(lr=0.5, warmup_epochs=10, rule="palm-as-released"), "palm_cifar").ravel()
    assert found[0] == 0.5
    assert found[1] == 0


def test_a_released_rule_takes_the_warm_up_as_it_is_whatever_the_length_of_the_run() -> None:
    assert Schedule(warmup_epochs=10, rule="cider-as-released").shortened(steps=12, steps_per_epoch=6) == ""
