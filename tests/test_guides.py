"""Every command of ours in docs/from-cider.md and docs/from-openood.md, run on small stand-ins in those layouts.

The stand-ins have few images, so the counts that the protocols state are not asked for; tests/benchmark checks them.
"""

from __future__ import annotations

import pickle
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image

from spherood.benchmark.protocol import load_protocol
from spherood.cli import app, main
from spherood.data import Preprocess, Source
from spherood.data.image_set import ImageSet
from spherood.models import ModelSettings, build_model
from spherood.training.checkpoint import LAST, Checkpoint
from spherood.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"spherood train": ["--set", "model.width=2", "--set", "training.epochs=1", "--set", "training.batch=64"]}
Run = Callable[[str], str]


def commands(page: str) -> list[str]:
    """Ours in the right column of the tables, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"\| `(spherood [^`]*)` \|$", text, re.M)


@pytest.fixture
def type_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    plain = Source.load

    def uncounted(self: Source, data: Path, name: str | None = None) -> ImageSet:
        return plain(self.model_copy(update={"count": None}), data, name)

    monkeypatch.setattr(Source, "load", uncounted)

    def run(line: str) -> str:
        more = next((words for start, words in SMALL.items() if line.startswith(start)), [])
        monkeypatch.setattr(sys, "argv", [*shlex.split(line), *more])
        code: Any = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        out, err = capsys.readouterr()
        assert code in (0, None), f"{line}: {err}"
        return out

    return run


def save_images(folder: Path, count: int, size: int, seed: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    draw, files = np.random.default_rng(seed), []
    for number in range(count):
        files.append(folder / f"{number:04d}.png")
        Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(files[-1])
    return files


def save_checkpoint(
    path: Path, settings: ModelSettings, classes: int, rename: Callable[[str], str], **more: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {rename(key): value for key, value in build_model(settings, classes).state_dict().items()}
    torch.save({"state_dict": state, **more} if more else state, path)


def as_cider(key: str) -> str:
    return key.replace("downsample", "shortcut")


def as_openood(key: str) -> str:
    return key.removeprefix("encoder.").replace("downsample", "shortcut").replace("classifier.", "fc.")


def cifar_archive(folder: Path, classes: int) -> None:
    """CIFAR-10's or CIFAR-100's Python archive with few images."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(classes)
    names = [f"class{number}".encode() for number in range(classes)]
    key, meta = (b"labels", "batches.meta") if classes == 10 else (b"fine_labels", "meta")
    files = (
        {**{f"data_batch_{n}": 60 for n in range(1, 6)}, "test_batch": 20}
        if classes == 10
        else {"train": 400, "test": 100}
    )
    for file, count in files.items():
        label = [row % classes for row in range(count)]
        data = draw.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / file).write_bytes(pickle.dumps({b"data": data, key: label}, protocol=2))
    label_key = b"label_names" if classes == 10 else b"fine_label_names"
    (folder / meta).write_bytes(pickle.dumps({label_key: names}, protocol=2))


def test_the_commands_for_people_from_cider_do_what_the_page_says(tmp_path: Path, type_in: Run) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    small = tmp_path / "datasets" / "small_OOD_dataset"
    cifar_archive(tmp_path / "datasets" / "CIFAR10" / "cifar-10-batches-py", 10)
    cifar_archive(tmp_path / "datasets" / "CIFAR100" / "cifar-100-python", 100)
    for seed, folder in enumerate(("places365/test_subset", "iSUN/iSUN_patches", "dtd/images/banded", "LSUN/test")):
        save_images(small / folder, 12, 40, seed)
    (small / "svhn").mkdir()
    digits = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    savemat(small / "svhn" / "selected_test_32x32.mat", {"X": digits, "y": (np.arange(20) % 10 + 1)[:, None]})
    large = tmp_path / "datasets"
    for number in range(3):
        save_images(large / "ImageNet100" / "train" / f"n0{number}", 110, 64, number)
        save_images(large / "ImageNet100" / "val" / f"n0{number}", 4, 64, 10 + number)
    for seed, folder in enumerate(("SUN/images", "Places/images", "dtd/images/banded", "iNaturalist/images")):
        save_images(large / "ImageNet_OOD_dataset" / folder, 4, 64, 20 + seed)
    head = {"head": "mlp", "dim": 8}
    for name, epochs, classes in (("CIFAR-10/ckpt_c10", (100, 500), 10), ("CIFAR-100/ckpt_c100", (500,), 100)):
        for epoch in epochs:
            file = tmp_path / "checkpoints" / name / f"checkpoint_{epoch}.pth.tar"
            save_checkpoint(file, ModelSettings(encoder="resnet18", width=2, **head), classes, as_cider, epoch=epoch)
    imagenet = ModelSettings(encoder="resnet34", width=2, stem="imagenet", **head)
    file = tmp_path / "checkpoints" / "ImageNet-100" / "ckpt_in100" / "checkpoint_10.pth.tar"
    save_checkpoint(file, imagenet, 3, lambda key: key, epoch=10)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")

    said = {line: type_in(line) for line in commands("from-cider.md")}
    assert len(said) == 8
    first, table = next(iter(said.values())), said[commands("from-cider.md")[6]]
    for name in ("SVHN", "Places365", "iSUN", "Textures", "LSUN"):
        assert name in first
    assert "absent: LSUN_resize (extra)" in first
    assert "no ID validation set: no threshold is calibrated" in first
    assert re.search(r"\| OOD +\| +FPR95 \| +AUROC \| +AUPR \|", table)
    assert "| AVG " in table


def test_the_commands_for_people_from_openood_do_what_the_page_says(tmp_path: Path, type_in: Run) -> None:
    pytest.importorskip("altair")
    pytest.importorskip("pyarrow")
    lists = tmp_path / "data" / "benchmark_imglist"

    def listed(set_: str, name: str, root: str, files: list[Path], labels: list[int]) -> None:
        (lists / set_).mkdir(parents=True, exist_ok=True)
        lines = [f"{f.relative_to(tmp_path / 'data' / root)} {y}\n" for f, y in zip(files, labels, strict=True)]
        (lists / set_ / f"{name}.txt").write_text("".join(lines))

    def both(set_: str, root: str, size: int, classes: int, sizes: dict[str, int]) -> None:
        for seed, (name, count) in enumerate(sizes.items()):
            known = name.startswith(("train_", f"val_{set_}", f"test_{set_}", "test_imagenet_", "test_cifar10c"))
            files = save_images(tmp_path / "data" / root / set_ / name, count, size, seed)
            listed(set_, name, root, files, [row % classes if known else -1 for row in range(count)])

    near_and_far = ("cifar100", "tin", "mnist", "svhn", "texture", "places365")
    many = {"train_cifar10": 1010, "val_cifar10": 140, "test_cifar10": 40, "test_cifar10c": 20, "val_tin": 20}
    both("cifar10", "images_classic", 32, 10, many | {f"test_{name}": 10 for name in near_and_far})
    few = {"train_imagenet": 12, "val_imagenet": 60, "test_imagenet": 9}
    far = ("ssb_hard", "ninco", "inaturalist", "openimage_o")
    both("imagenet", "images_largescale", 64, 3, few | {f"test_{name}": 3 for name in far})
    for trial in ("s0", "s1", "s2"):
        plain = ModelSettings(encoder="resnet18", width=2, classifier=True)
        save_checkpoint(tmp_path / "results" / "c10" / trial / "best.ckpt", plain, 10, as_openood)
        headed = ModelSettings(encoder="resnet18", width=2, head="mlp", dim=8)
        file = tmp_path / "results" / "c10_reweightood" / trial / "best.ckpt"
        save_checkpoint(file, headed, 10, lambda key: as_cider(key).replace("encoder.", "backbone."))
    torchvision = ModelSettings(encoder="resnet50", width=2, stem="imagenet", classifier=True)
    save_checkpoint(
        tmp_path / "resnet50.pth", torchvision, 3, lambda k: k.removeprefix("encoder.").replace("classifier.", "fc.")
    )
    recipe = Recipe.model_validate(
        {
            "name": "mine",
            "data": {"sample": "digits"},
            "loss": [{"use": "cross_entropy"}],
            "model": {"classifier": True},
        }
    )
    weights = build_model(recipe.model, 2).state_dict()
    Checkpoint(recipe, ("0", "1"), 1, 0, weights, {}, {}).save(tmp_path / "runs" / "mine" / LAST)

    said = {line: type_in(line) for line in commands("from-openood.md")}
    assert len(said) == 10
    sweep, *_ = said.values()
    assert "chosen on ID validation against tin" in sweep
    assert len(re.findall(r"c10 s\d", sweep)) >= 6
    assert re.search(r"\| c10 +\| knn:k=50/100/200/500/1000 .*\| 3 +\| +\d+\.\d\d ± \d+\.\d\d", sweep)
    assert "full spectrum" in said[commands("from-openood.md")[3]]
    assert list((tmp_path / "runs" / "c10" / "tables" / "openood-cifar10").glob("scores.parquet"))
    assert "nearood" in (tmp_path / "c10.csv").read_text()
    assert "37.68 ± 0.97" in said[commands("from-openood.md")[7]]
    assert "rows of the OpenOOD leaderboard" in said[commands("from-openood.md")[8]]
    assert (tmp_path / "results" / "mine" / "s0" / "best.ckpt").is_file()


def test_the_protocol_of_ten_lines_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "from-openood.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (tmp_path / "pets.yaml").write_text(text)
    protocol = load_protocol(str(tmp_path / "pets.yaml"))
    assert protocol.applied_to(Preprocess(size=64)).rule.startswith("short side to 64 px")
    assert len(text.splitlines()) == 10


GUARD = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", GUARD, re.S), ids=["features", "one pass"])
def test_the_python_of_the_guide_to_guards_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(compile(code, "docs/guard.md", "exec"), space)
    if "verdicts" in space:
        assert len(space["verdicts"]) == len(space["output"]) == 8


def test_the_options_that_the_guide_to_guards_names_exist() -> None:
    known = set()
    for name in ("fit", "score"):
        known |= {option for it in typer.main.get_command(app).commands[name].params for option in it.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"`(?:spherood score )?(--[a-z-]+)", GUARD)) <= known


def test_the_python_of_the_page_on_training_runs() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    space: dict[str, Any] = {}
    exec(compile(code, "docs/training.md", "exec"), space)
    assert space["model"](torch.from_numpy(space["feature"]).float()).feature.shape == (600, 8)


def test_the_recipe_parts_of_the_page_on_training_are_valid() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for part in re.findall(r"```yaml\n(.*?)```", text, re.S):
        Recipe.model_validate({"name": "x", "data": {"folder": "x"}, "loss": [{"use": "cider"}]} | yaml.safe_load(part))
