"""`spherood reproduce` and `spherood cite`, on an experiment of two seconds."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood import naming
from spherood.benchmark.protocol import load_protocol, protocol_names
from spherood.benchmark.references import behind, references, used
from spherood.training.recipe import load_recipe, shipped_recipes

Command = Callable[..., Any]
RECIPE = """
name: tiny
data: {arrays: train.npy, labels: train.labels.npy}
preprocess: {size: 8}
model: {encoder: resnet8, width: 2, head: linear, dim: 4}
loss:
  - use: supcon
schedule: {lr: 0.01}
training: {epochs: 2, batch: 20}
protocol: own.yaml
scores: [knn:k=3]
"""
PROTOCOL = """
name: own
about: Noise.
version: '1'
id:
  train: {arrays: train.npy, labels: train.labels.npy}
  validation: {arrays: validation.npy, labels: validation.labels.npy}
  test: {arrays: test.npy, labels: test.labels.npy}
far:
  svhn: {arrays: dark.npy}
  gone: {folder: gone}
"""


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("altair")
    monkeypatch.chdir(tmp_path)
    for seed, (part, count) in enumerate({"train": 40, "validation": 70, "test": 40, "dark": 20}.items()):
        images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        np.save(f"{part}.npy", images // (1 + (part == "dark")))
        np.save(f"{part}.labels.npy", np.arange(count) % 2)
    Path("own.yaml").write_text(PROTOCOL)
    Path("tiny.yaml").write_text(RECIPE)
    return tmp_path


def test_the_plan_says_what_is_there_and_how_long_it_takes_and_does_nothing(
    spherood: Command, experiment: Path
) -> None:
    told = spherood("reproduce", "tiny.yaml", "--seeds", "2", "--data", ".", "--device", "cpu", "--plan")
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    assert lines[0] == "data:  40 images to train on, 40 ID and 20 OOD images (svhn) to measure on"
    assert lines[1] == "       absent: gone; means over them are incomplete"
    assert lines[2:4] == ["run:   runs/tiny-seed0: to train", "run:   runs/tiny-seed1: to train"]
    assert re.fullmatch(r"time:  about \d+ s on this machine \(cpu\): training \d+ s, evaluation \d+ s", lines[4])
    assert not Path("runs").exists()


def test_what_is_missing_is_trained_measured_and_compared_once(spherood: Command, experiment: Path) -> None:
    words = ("reproduce", "tiny.yaml", "--data", ".", "--device", "cpu", "--without", "gone")
    told = spherood(*words, "--seeds", "1")
    assert told.code == 0, told.err
    first = Path("runs/tiny-seed0/checkpoints/last.pt").stat().st_mtime_ns
    told = spherood(*words, "--seeds", "2")
    assert told.code == 0, told.err
    assert "run:   runs/tiny-seed0: trained, measured\nrun:   runs/tiny-seed1: to train\n" in told.out
    assert Path("runs/tiny-seed0/checkpoints/last.pt").stat().st_mtime_ns == first
    assert Path("runs/tiny-seed1/report.html").is_file()
    last = told.out[told.out.index("2 runs") :]
    assert "±" in last  # two seeds are one row
    assert last.endswith("Nothing published is at hand to stand beside it.\n")
    again = spherood(*words, "--seeds", "2")
    assert "time:  about 0 s" in again.out
    assert "evaluating" not in again.err


def test_what_is_missing_is_told_before_any_work(spherood: Command, experiment: Path) -> None:
    Path("test.npy").unlink()
    told = spherood("reproduce", "tiny.yaml", "--data", ".", "--device", "cpu")
    assert told.code == 1
    assert "test.npy" in told.err
    assert not Path("runs").exists()
    told = spherood("reproduce", "reweightood-cifar1")
    assert told.code == 2
    assert "Did you mean 'reweightood-cifar10'?" in told.err
    Path("tiny.yaml").write_text(RECIPE.replace("protocol: own.yaml\n", ""))
    told = spherood("reproduce", "tiny.yaml")
    assert told.err == "tiny.yaml: names no protocol to be measured by. Add protocol: NAME.\n"


def test_a_run_of_another_recipe_is_not_overwritten(spherood: Command, experiment: Path) -> None:
    train = ("train", "--recipe", "tiny.yaml", "--run", "tiny-seed0", "--data", ".", "--device", "cpu")
    spherood(*train, "--set", "schedule.lr=0.02")
    told = spherood("reproduce", "tiny.yaml", "--data", ".", "--device", "cpu")
    assert told.code == 1
    assert told.err.startswith("runs/tiny-seed0: was trained with another recipe.")


def test_a_run_is_cited_with_all_it_used(spherood: Command, experiment: Path) -> None:
    spherood("train", "--recipe", "tiny.yaml", "--data", ".", "--device", "cpu")
    told = spherood("cite", "tiny")
    assert told.out.splitlines() == [
        "losses.supcon",
        "    Khosla et al., 2020. Supervised Contrastive Learning. NeurIPS, arXiv:2004.11362.",
        "models.resnet",
        "    He et al., 2016. Deep Residual Learning for Image Recognition. CVPR, arXiv:1512.03385.",
    ]
    spherood("evaluate", "tiny", "--protocol", "own.yaml", "--scores", "knn:k=3", "--data", ".", "--device", "cpu")
    told = spherood("cite", "tiny", "--bibtex")
    assert re.findall(r"^@\w+\{(\w+),$", told.out, re.M) == [
        "khosla2020supcon",
        "he2016resnet",
        "sun2022knn",
        "vovk2012conditional",
        "netzer2011svhn",
    ]
    assert told.out.endswith("% no paper known here: protocol.own\n")
    assert spherood("cite", "nowhere").code == 1


def test_every_loss_score_and_set_of_the_package_has_its_papers() -> None:
    losses = [f"losses.{name}" for name in naming.members("losses") if name != "cross_entropy"]
    own = ("combined", "layers", "prototype_cosine", "vmf")  # combined and layers have those of their parts
    scores = [f"detectors.{name}" for name in naming.members("detectors") if name not in own]
    sets = set()
    for name in protocol_names():
        if name.startswith(("cider/", "openood/")):
            protocol = load_protocol(name)
            sets |= {f"sets.{one.lower()}" for one in (*protocol.ood, *protocol.csid)}
    _, without = behind([*losses, *scores, *sorted(sets)])
    assert without == ["sets.scenes"]  # Intel's, which states no paper


def test_arxiv_numbers_are_those_of_the_modules_that_they_stand_behind() -> None:
    wrong = []
    for one in references():
        for name in one.of:
            room, _, module = name.partition(".")
            if room in ("losses", "detectors") and one.arxiv and module != "combined":
                source = sys.modules[naming.find(room, module).__module__].__doc__ or ""
                wrong += [] if one.arxiv in source else [(one.key, name)]
    assert wrong == []


def test_recipes_of_the_package_use_what_is_known() -> None:
    for path in shipped_recipes().values():
        _, without = behind(used(load_recipe(path)))
        assert set(without) <= {"losses.cross_entropy", "models.none"}
