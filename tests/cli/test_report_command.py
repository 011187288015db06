from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.cli.train import _draw
from spherood.schema import write_yaml
from spherood.training.recipe import Recipe

for library in ("altair", "jinja2", "vl_convert"):
    pytest.importorskip(library, reason="the extra report is not installed")
Command = Callable[..., Any]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run as training leaves it, made by hand, seen from the folder around runs/."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/mine")
    folder.mkdir(parents=True)
    recipe = {"name": "mine", "data": {"sample": "digits"}, "loss": [{"use": "supcon"}], "training": {"epochs": 2}}
    (folder / "recipe.yaml").write_text(write_yaml(Recipe.model_validate(recipe)))
    (folder / "environment.json").write_text(json.dumps({"device": "cpu"}))
    rows = [
        {"step": 9 * epoch, "epoch": float(epoch), "loss": 3.0 - epoch, "lr": 0.1, "images_per_second": 50.0}
        for epoch in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = {"step": 18, "epoch": 2, "of": "training images", "accuracy": {"k-NN": 0.75}}
    (folder / "validation.jsonl").write_text(json.dumps(row) + "\n")
    z = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    np.savez(folder / "embedding.npz", embedding=z, label=np.arange(24) % 2, classes=np.array(["cat", "dog"]))
    return folder


def test_the_page_goes_into_the_run_or_where_one_says(spherood: Command, trained: Path) -> None:
    told = spherood("report", "mine")
    assert told == (0, "page: runs/mine/training.html  (open it in a browser)\n", "")
    assert "2 of 2 epochs" in (trained / "training.html").read_text(encoding="utf-8")
    assert spherood("report", "runs/mine", "out/a.html").out == "page: out/a.html  (open it in a browser)\n"
    assert Path("out/a.html").is_file()
    assert not (trained / "report.html").exists()  # that is the page of an evaluation


@pytest.mark.parametrize("figure", ["curves", "learning-rate", "geometry", "projection", "sphere"])
def test_a_figure_goes_into_the_run_as_svg(spherood: Command, trained: Path, figure: str) -> None:
    assert spherood("report", "mine", "--figure", figure) == (0, f"figure: runs/mine/{figure}.svg\n", "")
    assert (trained / f"{figure}.svg").read_text().startswith("<svg")
    assert not (trained / "training.html").exists()


def test_a_figure_goes_where_one_says_by_its_ending(spherood: Command, trained: Path) -> None:
    assert spherood("report", "mine", "here.png", "--figure", "sphere") == (0, "figure: here.png\n", "")
    assert Path("here.png").read_bytes().startswith(b"\x89PNG")


def test_the_projection_can_be_chosen_and_its_library_is_named_where_it_is_absent(
    spherood: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pacmap", None)
    for words in (["--figure", "projection"], []):  # the page too has a projection
        told = spherood("report", "mine", "--projection", "pacmap", *words)
        assert (told.code, told.out) == (1, "")
        assert told.err == (
            "--projection pacmap: needs pacmap, which is not installed. Install it with: "
            "pip install 'spherood[projection]'\n"
        )
    assert spherood("report", "mine", "--figure", "sphere", "--projection", "pacmap").code == 0  # needs none


def test_a_run_that_is_not_there_is_told_the_nearest(spherood: Command, trained: Path) -> None:
    assert spherood("report", "mime") == (1, "", "spherood report: no run at runs/mime. Did you mean 'mine'?\n")


def test_a_run_without_metrics_says_what_to_do(spherood: Command, trained: Path) -> None:
    (trained / "metrics.jsonl").unlink()
    told = spherood("report", "mine")
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("spherood report: runs/mine has no metrics yet")


def test_a_wrong_ending_is_refused_before_anything_is_read(spherood: Command, trained: Path) -> None:
    told = spherood("report", "gone", "a.jpeg", "--figure", "curves")
    assert told == (2, "", "a.jpeg: a figure ends in .svg, .png or .pdf.\n")
    told = spherood("report", "gone", "a.svg")
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("a.svg: the page ends in .html. For a picture add --figure curves or learning-rate")


def test_an_unknown_figure_is_told_the_known_ones(spherood: Command, trained: Path) -> None:
    told = spherood("report", "mine", "--figure", "spher")
    assert (told.code, told.out) == (2, "")
    assert "'learning-rate'" in told.err


def test_a_figure_whose_file_is_missing_names_the_recipes_key(spherood: Command, trained: Path) -> None:
    (trained / "embedding.npz").unlink()
    told = spherood("report", "mine", "--figure", "sphere")
    assert (told.code, told.out) == (1, "")
    assert "needs runs/mine/embedding.npz, which is not there: by validation.every=1" in told.err
    assert not (trained / "sphere.svg").exists()


def test_training_ends_with_the_page_or_with_what_to_install(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _draw(trained)
    assert capsys.readouterr() == ("page: runs/mine/training.html\n", "")
    (trained / "training.html").unlink()
    monkeypatch.setitem(sys.modules, "altair", None)
    _draw(trained)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "no page: report: needs altair, which is not installed. Install it with: pip install 'spherood[report]'\n"
    )
    assert not (trained / "training.html").exists()
