"""Many runs of one recipe: what they are called, and that the same call goes on with what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spherood.errors import ConfigError, Stopped
from spherood.schema import write_yaml
from spherood.training import Recipe, engine, load_recipe, train
from spherood.training.grid import Member, members, train_all

Make = Callable[..., Recipe]
ONE_EPOCH = {"epochs": 1, "batch": 8}


@pytest.fixture
def load(recipe: Make, tmp_path: Path) -> Callable[[Sequence[str]], Recipe]:
    path = tmp_path / "tiny.yaml"
    path.write_text(write_yaml(recipe(seed=4, training=ONE_EPOCH)))
    return lambda changes: load_recipe(path, changes)


def named(load: Any, *sweep: str, seeds: int | None = None) -> dict[str, Member]:
    return {member.run.name: member for member in members(load, Path("runs/tiny"), seeds, sweep)}


def test_seeds_count_on_from_the_recipes_own(load: Any) -> None:
    found = named(load, seeds=3)
    assert list(found) == ["tiny-seed4", "tiny-seed5", "tiny-seed6"]
    assert [member.recipe.seed for member in found.values()] == [4, 5, 6]
    assert found["tiny-seed5"].varied == {"seed": "5"}
    assert found["tiny-seed5"].run == Path("runs/tiny-seed5")


def test_a_sweep_is_every_combination(load: Any) -> None:
    found = named(load, "loss.cider.compactness_weight=0.5,1", "model.head=mlp,linear", seeds=2)
    assert len(found) == 8
    one = found["tiny-compactness_weight=0.5-head=linear-seed5"]
    assert one.recipe.loss[0].with_["compactness_weight"] == 0.5
    assert (one.recipe.model.head, one.recipe.seed) == ("linear", 5)
    assert one.varied == {"loss.cider.compactness_weight": "0.5", "model.head": "linear", "seed": "5"}


def test_values_are_those_of_a_yaml_list(load: Any) -> None:
    found = named(load, "views.scale=[0.2, 1.0],[0.4, 1.0]", "schedule.lr=1e-3")
    assert [member.recipe.views.scale for member in found.values()] == [(0.2, 1.0), (0.4, 1.0)]
    assert {member.recipe.schedule.lr for member in found.values()} == {0.001}
    assert all("/" not in name and " " not in name for name in found)


@pytest.mark.parametrize(
    ("sweep", "seeds", "message"),
    [
        (["schedule.lr"], None, "--sweep schedule.lr: expected key=a,b,c"),
        (["schedule.lr="], None, "--sweep schedule.lr=: expected key=a,b,c"),
        (["schedule.lr=[1"], None, "expected key=a,b,c"),
        (["schedul.lr=1,2"], None, "there is no key 'schedul' here. Did you mean 'schedule'?"),
        (["schedule.lr=1,1"], None, "two runs of the sweep would lie there. Name every value once."),
        ([], 0, "--seeds 0: expected 1 or more."),
    ],
)
def test_what_makes_no_sense_is_told_before_any_work(load: Any, sweep: list[str], seeds: int, message: str) -> None:
    with pytest.raises(ConfigError) as told:
        members(load, Path("runs/tiny"), seeds, sweep)
    assert message in str(told.value)


def test_the_same_call_leaves_alone_what_is_trained_and_one_failure_stops_no_other(
    load: Any, digits: Path, tmp_path: Path, mylab: ModuleType
) -> None:
    grid = members(load, tmp_path / "runs" / "tiny", None, ["schedule.lr=0.1,1e30,0.2"])

    def one(member: Member, resume: bool) -> None:
        train(member.recipe, member.run, digits, resume=resume, device="cpu")

    first = list(train_all(grid, one))
    assert [outcome.what for outcome in first] == ["trained", "failed", "trained"]
    assert "Try a smaller schedule.lr" in first[1].why
    kept = (grid[0].run / "checkpoints" / "last.pt").stat().st_mtime_ns
    second = list(train_all(grid, one))
    assert [outcome.what for outcome in second] == ["was trained", "failed", "was trained"]
    assert (grid[0].run / "checkpoints" / "last.pt").stat().st_mtime_ns == kept


def test_what_was_interrupted_is_resumed_to_the_same_bits(
    recipe: Make,
    digits: Path,
    tmp_path: Path,
    assert_same_run: Callable[[Path, Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = recipe(training={"epochs": 3, "batch": 8})
    train(whole, tmp_path / "whole", digits)
    member, asked = Member(tmp_path / "cut", whole), []
    assert member.state == "absent"

    def one(member: Member, resume: bool) -> None:
        asked.append(resume)
        train(member.recipe, member.run, digits, resume=resume, device="cpu")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "one_step", _cut_at(8, engine.one_step))
        with pytest.raises(KeyboardInterrupt):
            list(train_all([member], one))
    assert member.state == "begun"
    assert [outcome.what for outcome in train_all([member], one)] == ["trained"]
    assert asked == [False, True]
    assert member.state == "trained"
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def _cut_at(number: int, plain: Callable[..., Any]) -> Callable[..., Any]:
    steps = iter(range(10**6))

    def step(*args: Any) -> Any:
        if next(steps) == number:
            raise KeyboardInterrupt
        return plain(*args)

    return step


def test_ctrl_c_stops_all(load: Any, tmp_path: Path) -> None:
    grid, begun = members(load, tmp_path / "tiny", 3), []

    def one(member: Member, resume: bool) -> None:
        begun.append(member)
        raise Stopped("Stopped.")

    with pytest.raises(Stopped):
        list(train_all(grid, one))
    assert len(begun) == 1


def test_a_folder_of_another_recipe_is_not_touched(load: Any, digits: Path, tmp_path: Path) -> None:
    (member,) = members(load, tmp_path / "tiny", 1)
    train(member.recipe.model_copy(update={"seed": 9}), member.run, digits)
    assert member.state == "another recipe"

    def one(member: Member, resume: bool) -> None:
        train(member.recipe, member.run, digits, resume=resume, device="cpu")

    (outcome,) = train_all([member], one)
    assert outcome.what == "failed"
    assert "was trained with another recipe (different: seed)" in outcome.why


def test_an_error_of_a_loss_of_ones_own_is_one_failure(load: Any, tmp_path: Path) -> None:
    grid = members(load, tmp_path / "tiny", 2)

    def one(member: Member, resume: bool) -> None:
        if member.recipe.seed == 4:
            raise RuntimeError("shapes")

    assert [(it.what, it.why) for it in train_all(grid, one)] == [("failed", "RuntimeError: shapes"), ("trained", "")]
