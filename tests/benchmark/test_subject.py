"""What a user may type for a model, and what is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spherood.benchmark.evaluation import evaluate
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.shipping import make_bundle
from spherood.benchmark.subject import Subject, find_subjects
from spherood.bundle.encoder import origin_of
from spherood.bundle.origin import FunctionOrigin
from spherood.data import Preprocess
from spherood.errors import CheckpointError, ConfigError, DataError
from spherood.features import FeatureStore
from spherood.models import ModelSettings, build_model
from spherood.training.checkpoint import LAST, Checkpoint
from spherood.training.recipe import Recipe

SETTINGS = ModelSettings(encoder="resnet8", width=2, classifier=True)
PROTOCOL = Protocol.model_validate(
    {
        "name": "toy",
        "version": "1",
        "about": "",
        "crop": 0.5,
        "normalise": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
        "id": {"train": {"sample": "digits"}, "test": {"sample": "digits"}},
    }
)


def checkpoint(path: Path, seed: int, classes: int = 10) -> Path:
    """A classifier under OpenOOD's names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = build_model(SETTINGS, classes, seed).state_dict()
    torch.save({key.removeprefix("encoder.").replace("classifier.", "fc."): v for key, v in state.items()}, path)
    return path


def saved_run(folder: Path, name: str, seed: int = 0) -> None:
    content = {"name": name, "seed": seed, "data": {"sample": "digits"}, "loss": [{"use": "cross_entropy"}]}
    recipe = Recipe.model_validate(content | {"model": SETTINGS.model_dump(), "preprocess": {"size": 8}})
    weights = build_model(SETTINGS, 2, seed).state_dict()
    Checkpoint(recipe, ("a", "b"), 1, 0, weights, {}, {}).save(folder / LAST)


def find(text: Path | str, tmp_path: Path, epoch: int | None = None) -> list[Subject]:
    return find_subjects(str(text), tmp_path / "runs" / Path(text).name, PROTOCOL, epoch)


def test_a_run_is_found_by_its_name_and_by_its_folder_with_its_seed_and_the_protocols_rule(tmp_path: Path) -> None:
    saved_run(tmp_path / "runs" / "mine", "digits", seed=3)
    (by_name,), (by_path,) = find("mine", tmp_path), find(tmp_path / "runs" / "mine", tmp_path)
    assert by_name.name == by_path.name == "mine"
    assert (by_name.seed, by_name.classes, by_name.origin) == ("3", ("a", "b"), origin_of(SETTINGS, 2))
    assert by_name.preprocess.rule == "short side to 16 px, centre 8 px, bilinear"


def test_runs_that_differ_in_their_seed_alone_are_one_group(tmp_path: Path) -> None:
    saved_run(tmp_path / "runs" / "a", "digits", seed=0)
    saved_run(tmp_path / "runs" / "b", "digits", seed=1)
    saved_run(tmp_path / "runs" / "c", "others", seed=1)
    a, b, c = (find(name, tmp_path)[0].group for name in "abc")
    assert a == b != c
    assert a.startswith("digits#")


def test_trials_are_subjects_of_one_group_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        checkpoint(tmp_path / "cifar" / f"s{number}" / "best.ckpt", number)
    found = find(tmp_path / "cifar", tmp_path)
    assert [(one.name, one.group, one.seed) for one in found] == [
        (f"cifar {seed}", "cifar", seed) for seed in ("s0", "s2", "s10")
    ]
    assert found[0].classes == 10


def test_of_ciders_epochs_the_newest_is_taken_unless_one_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "CIFAR-10" / "mine"
    for epoch in (5, 10, 500):
        checkpoint(folder / f"checkpoint_{epoch}.pth.tar", epoch)
    (newest,), (tenth,) = find(folder, tmp_path), find(folder, tmp_path, epoch=10)
    assert newest.name == tenth.name == "mine"
    weights = [one.model.state_dict()["encoder.conv1.weight"] for one in (newest, tenth)]
    assert torch.equal(weights[0], build_model(SETTINGS, 10, 500).state_dict()["encoder.conv1.weight"])
    assert torch.equal(weights[1], build_model(SETTINGS, 10, 10).state_dict()["encoder.conv1.weight"])
    with pytest.raises(ConfigError, match=r"no checkpoint of epoch 7\. There are: 5, 10, 500\."):
        find(folder, tmp_path, epoch=7)


@pytest.mark.parametrize(
    ("file", "name"), [("a/resnet20-cifar10.th", "resnet20-cifar10"), ("mine/best.ckpt", "mine"), ("x/model.pt", "x")]
)
def test_a_file_gives_its_name_and_where_it_has_none_its_folders(tmp_path: Path, file: str, name: str) -> None:
    (found,) = find(checkpoint(tmp_path / file, 0), tmp_path)
    assert found.name == name
    assert found.preprocess.mean == (0.1, 0.2, 0.3)  # the protocol's, which OpenOOD's layout leaves to it


def test_a_bundle_is_found_and_measures_as_the_run_did(world: Path, subject: Subject, tmp_path: Path) -> None:
    model = build_model(SETTINGS, 2)
    own = Subject("m", model, Preprocess(size=4), ("0", "1"), origin_of(SETTINGS, 2))
    parts = {
        part: {"arrays": f"{part}.npy", "labels": f"{part}.labels.npy"} for part in ("train", "validation", "test")
    }
    protocol = Protocol.model_validate(
        {"name": "toy", "version": "1", "about": "", "id": parts, "far": {"blue": {"arrays": "blue.npy"}}}
    )
    store = FeatureStore(tmp_path / "store")
    first = evaluate(own, protocol, world, store, ["knn:k=3"])
    make_bundle(first, "knn:k=3").save(tmp_path / "runs" / "m" / "bundle")
    (again,) = find_subjects(str(tmp_path / "runs" / "m" / "bundle"), tmp_path / "none", protocol)
    assert again.name == "m"
    assert again.origin is None  # measuring what was shipped must not ship another
    second = evaluate(again, protocol, world, store, ["knn:k=3"])
    assert second.evaluation.scores["knn:k=3"].metrics == first.evaluation.scores["knn:k=3"].metrics


def test_a_function_gives_a_network_that_a_bundle_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mylab.py").write_text(
        "import torch\nfrom spherood.data import Preprocess\n"
        "def net():\n    return torch.nn.Flatten(), Preprocess(size=8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = find("mylab:net", tmp_path)
    assert (found.name, found.classes) == ("mylab:net", None)
    assert isinstance(found.origin, FunctionOrigin)
    assert (found.origin.name, len(found.origin.sha256)) == ("mylab:net", 64)


def test_other_classes_than_the_protocols_are_refused(world: Path, tmp_path: Path) -> None:
    (found,) = find(checkpoint(tmp_path / "ten.pt", 0), tmp_path)
    parts = {
        part: {"arrays": f"{part}.npy", "labels": f"{part}.labels.npy"} for part in ("train", "validation", "test")
    }
    protocol = Protocol.model_validate({"name": "toy", "version": "1", "about": "", "id": parts})
    with pytest.raises(DataError, match=r"toy: the model knows 10 classes, the ID set of this protocol has 2 \(0, 1\)"):
        evaluate(found, protocol, world, FeatureStore(tmp_path), ["msp"])


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: expected a run .* found 0 checkpoints\. Name the file\."):
        find(tmp_path / "empty", tmp_path)
    with pytest.raises(
        CheckpointError, match=r"no run at .*, no checkpoint and no folder .*none\.ckpt\. Train one with"
    ):
        find(tmp_path / "none.ckpt", tmp_path)
    saved_run(tmp_path / "runs" / "cider", "digits")
    with pytest.raises(CheckpointError, match=r"no run at .*cidr\. Did you mean 'cider'\?"):
        find("cidr", tmp_path)
