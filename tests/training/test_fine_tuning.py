"""What is frozen stays as it was, what is trained starts where it was told to and learns at its own rate."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spherood.errors import CheckpointError, ConfigError
from spherood.models import ModelSettings, build_model
from spherood.training import Checkpoint, Recipe, train
from spherood.training.fine_tuning import FineTuning

Make = Callable[..., Recipe]
LAST = Path("checkpoints", "last.pt")
SETTINGS = ModelSettings(encoder="resnet8", width=4, head="mlp", dim=6, classifier=True)
MODEL = SETTINGS.model_dump()


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


@pytest.mark.parametrize(
    ("parts", "trained"),
    [
        (["head"], {"head"}),
        (["layer3", "head"], {"encoder.layer3", "head"}),
        (["encoder.layer3.0.conv1"], {"encoder.layer3.0.conv1"}),
        (["encoder"], {"encoder"}),
    ],
)
def test_frozen_parts_keep_every_bit_running_statistics_too(
    parts: list[str], trained: set[str], digits: Path, tmp_path: Path, recipe: Make
) -> None:
    ours = recipe(fine_tuning={"train": parts})
    before = build_model(ours.model, classes=3, seed=ours.seed).state_dict()
    moved = changed(before, dict(train(ours, tmp_path / "run", digits).model))
    inside = {key for key in before if any(key.startswith(f"{part}.") for part in trained)}
    assert moved <= inside
    assert {key for key in inside if "num_batches" not in key} - moved == set()
    assert any("running_mean" in key for key in moved) == ("encoder.layer3.0.conv1" not in parts and parts != ["head"])


def test_a_part_learns_at_its_rate() -> None:
    model = build_model(SETTINGS, classes=3)
    tuning = FineTuning(train=("encoder", "head"), rates={"encoder": 0.1, "layer3": 0.5})
    groups = tuning.choose(model).groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {factor: {names[id(one)].rsplit(".", 2)[0] for one in some} for factor, some in groups}
    assert {name.partition(".")[0] for name in found[1.0]} == {"head"}
    assert all(name.startswith("encoder.layer3") for name in found[0.5])  # the nearer name wins
    assert all(name.startswith("encoder") and "layer3" not in name for name in found[0.1])
    assert sum(len(some) for _, some in groups) == sum(p.requires_grad for p in model.parameters())


def test_a_step_is_as_long_as_the_factor_says(digits: Path, tmp_path: Path, recipe: Make) -> None:
    """One step of plain gradient descent from the same weights: half the rate, half the way."""
    one_step = {
        "training": {"epochs": 1, "batch": 41},
        "optimiser": {"momentum": 0, "nesterov": False, "weight_decay": 0},
    }
    start = build_model(recipe().model, classes=3, seed=0).state_dict()
    whole = train(recipe(**one_step), tmp_path / "whole", digits).model
    half = train(recipe(**one_step, fine_tuning={"rates": {"encoder": 0.5}}), tmp_path / "half", digits).model
    for key in ("encoder.conv1.weight", "head.0.weight"):
        factor = 0.5 if key.startswith("encoder") else 1.0
        torch.testing.assert_close(half[key] - start[key], factor * (whole[key] - start[key]), rtol=1e-3, atol=1e-7)
        assert not torch.equal(whole[key], start[key])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": ["haed"]}, "the model has no part 'haed'. Did you mean 'head'? Parts: "),
        ({"train": ["layer4"]}, "the model has no part 'layer4'. Did you mean 'layer3'?"),
        ({"train": ["head"], "rates": {"layer3": 2}}, "fine_tuning.rates: layer3 is not trained."),
        ({"rates": {"layer3": 0}}, "the rate of layer3 must be a factor > 0, got 0. To freeze it, use train."),
        ({"train": []}, "fine_tuning.train"),
    ],
)
def test_what_makes_no_sense_is_told(
    settings: dict[str, Any], message: str, digits: Path, tmp_path: Path, recipe: Make
) -> None:
    with pytest.raises(ConfigError) as told:
        train(recipe(fine_tuning=settings), tmp_path / "run", digits)
    assert message in str(told.value)
    assert not (tmp_path / "run").exists()


def test_weights_come_from_a_run_and_the_head_where_it_fits(
    digits: Path, tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe(), tmp_path / "first", digits)
    theirs = Checkpoint.load(tmp_path / "first" / LAST).model
    frozen = {"weights": str(tmp_path / "first" / LAST), "train": ["head"]}
    wider = recipe(model=MODEL | {"dim": 7}, loss=[{"use": "supcon"}], seed=5, fine_tuning=frozen)
    found = train(wider, tmp_path / "second", digits).model
    assert {key.partition(".")[0] for key in changed(dict(theirs), dict(found) | {})} >= {"head"}
    assert all(torch.equal(theirs[key], found[key]) for key in theirs if key.startswith(("encoder", "classifier")))
    said = capsys.readouterr().err
    assert f"note: encoder and classifier from {tmp_path / 'first' / LAST}; head from random weights." in said


def test_weights_are_looked_for_below_the_data_first(
    digits: Path, tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {f"module.{key}": value for key, value in build_model(SETTINGS, 3, seed=9).state_dict().items()}
    data = tmp_path / "data"
    for place in (data, tmp_path / "here"):
        place.mkdir()
        torch.save(state, place / "net.pth")
    for name in ("x.npy", "y.npy"):
        (data / name).write_bytes((digits / name).read_bytes())
    monkeypatch.chdir(tmp_path / "here")
    ours = recipe(fine_tuning={"weights": "net.pth"}, training={"epochs": 1, "batch": 8})
    train(ours, tmp_path / "one", data)
    assert f"from {data / 'net.pth'}" in capsys.readouterr().err
    (data / "net.pth").unlink()
    train(ours, tmp_path / "two", data)
    assert "from net.pth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        (MODEL, "nowhere.pth", "nowhere.pth: no such weights. Put the file there, or change fine_tuning.weights."),
        (MODEL | {"width": 8}, "LAST", ": width 4, the recipe's model has 8. Change one of them."),
        (MODEL | {"encoder": "resnet20"}, "LAST", ": encoder resnet8, the recipe's model has resnet20."),
    ],
)
def test_weights_that_are_absent_or_do_not_fit_are_told(
    model: dict[str, Any], weights: str, message: str, digits: Path, tmp_path: Path, recipe: Make
) -> None:
    train(recipe(training={"epochs": 1, "batch": 41}), tmp_path / "first", digits)
    ours = recipe(model=model, fine_tuning={"weights": weights.replace("LAST", str(tmp_path / "first" / LAST))})
    with pytest.raises(CheckpointError) as told:
        train(ours, tmp_path / "second", digits)
    assert message in str(told.value)
    assert not (tmp_path / "second").exists()


OWN = """
import torch
from torch import nn
from spherood.data import Preprocess

class Corners(nn.Module):
    seen = 0

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=3, bias=False)
        with torch.no_grad():
            self.conv.weight.fill_(0.1)

    def forward(self, images):
        Corners.seen += len(images)
        return self.conv(images).flatten(1)

def encoder():
    return Corners(), Preprocess(size=8, mean=(0.1, 0.2, 0.3))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user with an encoder of 20 features."""
    (tmp_path / "corners.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "corners:encoder"  # type: ignore[misc]
    sys.modules.pop("corners", None)


def test_ones_own_encoder_comes_with_its_weights_its_width_and_its_preprocess(
    own: str, digits: Path, tmp_path: Path, recipe: Make
) -> None:
    keys = recipe().model_dump(by_alias=True)
    keys |= {"model": {"encoder": own, "head": "linear", "dim": 6}, "loss": [{"use": "supcon"}]}
    del keys["preprocess"]
    found = train(Recipe.model_validate(keys | {"fine_tuning": {"train": ["head"]}}), tmp_path / "run", digits)
    assert (found.recipe.model.features, found.recipe.preprocess.mean) == (20, (0.1, 0.2, 0.3))
    assert torch.equal(found.model["encoder.network.network.conv.weight"], torch.full((5, 3, 3, 3), 0.1))
    again = Checkpoint.load(tmp_path / "run" / LAST).build_model()
    assert again.head.weight.shape == (6, 20)  # type: ignore[union-attr]


def test_a_frozen_encoder_sees_every_image_once_where_no_view_changes_it(
    own: str, digits: Path, tmp_path: Path, recipe: Make
) -> None:
    still = recipe(
        model={"encoder": own, "head": "linear", "dim": 6},
        loss=[{"use": "supcon"}],
        views={},
        fine_tuning={"train": ["head"]},
        preprocess={"size": 8},
    )
    train(still, tmp_path / "runs" / "a", digits)
    seen = sys.modules["corners"].Corners.seen
    assert seen < 2 * 41  # each image, and a black one to ask how wide the features are
    train(still.model_copy(update={"seed": 1}), tmp_path / "runs" / "b", digits)
    assert sys.modules["corners"].Corners.seen < seen + 41  # those of the first run are kept beside it


def test_an_encoder_that_brings_its_weights_takes_no_others(
    own: str, digits: Path, tmp_path: Path, recipe: Make
) -> None:
    ours = recipe(model={"encoder": own, "head": "linear", "dim": 6}, fine_tuning={"weights": "net.pth"})
    with pytest.raises(ConfigError, match="corners:encoder brings its own weights"):
        train(ours, tmp_path / "run", digits)
