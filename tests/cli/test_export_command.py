from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


def test_a_run_is_no_bundle_and_what_it_can_become_is_said(
    spherood: Command, untrained: Callable[..., Checkpoint]
) -> None:
    untrained("mine", encoder="resnet10", width=16, head="mlp")
    assert spherood("export", "mine") == (
        2,
        "",
        "spherood export: mine is a run. Name its bundle, runs/mine/bundle, which spherood evaluate makes; or write "
        "its weights for OpenOOD: --openood FILE\n",
    )
    told = spherood("export", "mine", "--openood", "best.ckpt", "-o", "there")
    assert (told.code, told.err) == (
        2,
        "spherood export: --openood goes with a run alone. Leave --out, --held-out, --trust out.\n",
    )


def test_a_bundle_becomes_one_that_needs_no_torch_and_the_next_command_is_named(
    spherood: Command, bundle: Path, photos: Path
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    held_out = np.random.default_rng(70).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)  # as conftest.py draws them
    np.save(bundle.parent / "bundle-held-out.npy", held_out)
    told = spherood("export", bundle)
    exported = bundle.parent / "bundle-onnx"
    assert told.code == 0, told.err
    compared, made, following = told.out.splitlines()
    assert compared.startswith("compared: 70 images; scores differ by ")
    assert re.search(
        r"\(relative; 0\.0001 is let through\); (0 verdicts differ|1 verdict differs, that near)", compared
    )
    assert made.startswith(f"bundle:   {exported}  (needs onnxruntime, no torch; threshold 0.2")
    assert following == f"next:     spherood score {exported} IMAGE..."
    ours, theirs = (spherood("score", one, photos, "--json").out.splitlines() for one in (bundle, exported))
    for one, other in zip(map(json.loads, ours), map(json.loads, theirs), strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-5)
        assert (one["image"], one["is_ood"]) == (other["image"], other["is_ood"])
    np.testing.assert_array_equal(np.load(bundle.parent / "bundle-onnx-held-out.npy"), held_out)
    assert spherood("export", bundle, "-o", bundle).err.endswith("is the bundle itself. Choose another folder.\n")
    assert "is exported already" in spherood("export", exported).err
