from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spherood.models import ModelSettings, build_model, read_foreign
from spherood.training.checkpoint import LAST, Checkpoint
from spherood.training.recipe import Recipe

Command = Callable[..., Any]
OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Checkpoint]:
    """A run below runs/ where the command is typed, as training leaves it, with a network nobody trained."""
    monkeypatch.chdir(tmp_path)

    def save(name: str, protocol: str | None = None, **model: Any) -> Checkpoint:
        recipe = Recipe.model_validate(
            {
                "name": name,
                "data": {"arrays": "train.npy", "labels": "train.labels.npy"},
                "preprocess": {"size": 32},
                "model": model,
                "loss": [{"use": "cross_entropy" if model.get("classifier") else "supcon"}],
                "protocol": protocol,
            }
        )
        weights = build_model(recipe.model, 10, seed=5).state_dict()
        checkpoint = Checkpoint(recipe, tuple("0123456789"), 1, 0, weights, {}, {})
        checkpoint.save(Path("runs", name) / LAST)
        return checkpoint

    return save


@pytest.mark.parametrize(
    ("model", "entries", "layout"),
    [({"head": "mlp"}, 124, "backbone.conv1.weight"), ({"classifier": True}, 122, "conv1.weight")],
)
def test_a_run_is_written_under_openoods_names_and_the_next_command_is_named(
    spherood: Command, untrained: Callable[..., Checkpoint], model: dict[str, Any], entries: int, layout: str
) -> None:
    run = untrained("mine", "openood/cifar10", **model)
    told = spherood("export", "mine", "--openood", "results/a net/s0/best.ckpt")
    assert told.code == 0, told.err
    assert told.out == (
        f"written: results/a net/s0/best.ckpt ({entries} tensors)\n"
        "next: spherood evaluate 'results/a net/s0/best.ckpt' --protocol openood/cifar10\n"
    )
    assert [path.name for path in Path("results/a net/s0").iterdir()] == ["best.ckpt"]
    state = torch.load("results/a net/s0/best.ckpt", weights_only=True)
    assert layout in state
    found = read_foreign(Path("results/a net/s0/best.ckpt"), OWN)
    assert found.settings == ModelSettings.model_validate(model)
    with torch.no_grad():
        for ours, original in zip(found.model(IMAGES)[:3], run.build_model().eval()(IMAGES)[:3], strict=True):
            assert ours is original is None or torch.equal(ours, original)


def test_a_run_of_no_protocol_leaves_its_place_open(spherood: Command, untrained: Callable[..., Checkpoint]) -> None:
    untrained("mine", head="mlp")
    told = spherood("export", "runs/mine", "--openood", "best.ckpt")
    assert told.out.endswith("next: spherood evaluate best.ckpt --protocol P\n")


def test_a_run_that_is_not_there_says_how_to_train_one(
    spherood: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = spherood("export", "gone", "--openood", "best.ckpt")
    assert told == (
        1,
        "",
        "spherood export: no run at runs/gone. Train one with: spherood train --recipe R --run NAME\n",
    )
    assert not Path("best.ckpt").exists()


def test_a_network_that_openood_lacks_is_refused_and_nothing_is_written(
    spherood: Command, untrained: Callable[..., Checkpoint]
) -> None:
    untrained("narrow", encoder="resnet10", width=16, head="mlp")
    told = spherood("export", "narrow", "--openood", "best.ckpt")
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("OpenOOD has no network like this resnet10 of width 16, stem cifar, shortcut projection")
    assert told.err.endswith("width 64, shortcut projection, with either a classifier or an MLP head.\n")
    assert not Path("best.ckpt").exists()


def test_where_to_write_must_be_said(spherood: Command, untrained: Callable[..., Checkpoint]) -> None:
    untrained("mine", encoder="resnet10", width=16, head="mlp")
    told = spherood("export", "mine")
    assert (told.code, told.out) == (2, "")
    assert "--openood" in told.err
