from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherood.bundle import Bundle

Command = Callable[..., Any]


def test_a_misspelt_protocol_is_refused_before_the_model_is_looked_at(spherood: Command) -> None:
    told = spherood("evaluate", "no-such-run", "--protocol", "openood/cifar10-sampl")
    assert (told.code, told.out) == (2, "")
    assert "There is no protocol 'openood/cifar10-sampl'. Did you mean 'openood/cifar10-sample'?" in told.err


def test_a_misspelt_score_is_refused_before_the_model_is_looked_at(spherood: Command) -> None:
    told = spherood("evaluate", "no-such-run", "--protocol", "demo/digits", "--scores", "knn:k=3,mps")
    assert (told.code, told.out) == (2, "")
    assert "there is no 'mps'. Did you mean 'msp'?" in told.err


def test_an_unknown_run_says_where_it_was_looked_for_and_how_to_make_one(spherood: Command) -> None:
    told = spherood("evaluate", "no-such-run", "--protocol", "demo/digits")
    assert (told.code, told.out) == (1, "")
    first, second = told.err.splitlines()
    assert first == (
        "spherood evaluate: no run at runs/no-such-run. "
        "Train one with: spherood train --recipe RECIPE.yaml --run no-such-run"
    )
    assert second.startswith("It could be a network of timm, but ")


def test_a_run_leaves_a_table_a_page_and_a_bundle_and_says_where(spherood: Command, run_: Path, photos: Path) -> None:
    pytest.importorskip("altair")
    protocol = run_.parents[1] / "own.yaml"
    words = ["evaluate", run_, "--protocol", protocol, "--data", run_.parents[1], "--device", "cpu"]
    told = spherood(*words, "--scores", "msp, knn:k=3 ,mahalanobis:unit=true")
    assert told.code == 0, told.err
    assert "own, in percent" in told.out
    assert "per set, in percent: AUROC / FPR OOD@ID95 / FPR ID@OOD95 / caught" in " ".join(told.out.split())
    assert "–: msp reads logits, which noise does not have." in told.out
    assert "* absent: gone (far); the far mean is incomplete." in told.out
    *_, tables, page, bundle, following = told.out.splitlines()
    assert tables == f"tables: {run_ / 'tables' / 'own'}"
    assert sorted(path.name for path in (run_ / "tables" / "own").iterdir()) == ["evaluation.json", "metrics.csv"]
    assert page == f"page: {run_ / 'report.html'}"
    assert "<html" in (run_ / "report.html").read_text(encoding="utf-8")[:500]
    assert bundle == f"bundle: {run_ / 'bundle'} (knn:k=3)"
    assert following == f"next: spherood score {run_ / 'bundle'} IMAGE..."
    _, *words_of_next = shlex.split(following.removeprefix("next: ").replace("IMAGE...", str(photos / "a.png")))
    assert spherood(*words_of_next).code == 0
    assert Bundle.load(run_ / "bundle").preprocess.resize == "stretch"  # the protocol's rule

    as_json = spherood(*words, "--scores", "knn:k=3", "--json")
    assert as_json.code == 0, as_json.err
    assert (
        json.loads(as_json.out)
        == json.loads((run_ / "tables" / "own" / "evaluation.json").read_text(encoding="utf-8"))[0]
    )


def test_a_run_none_of_whose_scores_can_be_computed_is_refused(spherood: Command, run_: Path) -> None:
    folder = run_.parents[1]
    told = spherood("evaluate", run_, "--protocol", folder / "own.yaml", "--data", folder, "--scores", "msp")
    assert (told.code, told.out) == (2, "")
    assert "none of the scores msp can be computed for this model" in told.err


def test_a_name_in_brackets_is_printed_as_it_is(spherood: Command, run_: Path) -> None:
    pytest.importorskip("altair")
    folder = run_.parents[1]
    protocol = folder / "own.yaml"
    protocol.write_text(
        protocol.read_text().replace("dark:", "'[red] :cat:':").replace("name: own", "name: '[bold]own'")
    )
    told = spherood("evaluate", run_, "--protocol", protocol, "--data", folder, "--scores", "knn:k=3")
    assert told.code == 0, told.err
    assert "[red] :cat:" in told.out
    assert "[bold]own, in percent" in told.out


def test_progress_and_skipped_images_go_to_stderr_and_leave_stdout_to_the_json(spherood: Command, run_: Path) -> None:
    pytest.importorskip("altair")
    folder = run_.parents[1]
    (folder / "gone").mkdir()
    for row in range(3):
        Image.fromarray(np.full((8, 8, 3), 80 * row, np.uint8)).save(folder / "gone" / f"{row}.png")
    (folder / "gone" / "broken.jpg").write_text("no image")
    words = ["--protocol", folder / "own.yaml", "--data", folder, "--scores", "knn:k=3", "--json"]
    told = spherood("evaluate", run_, *words)
    assert told.code == 0, told.err
    assert set(json.loads(told.out)["kinds"]) == {"dark", "gone"}
    assert "skipped: broken.jpg" in told.err
