from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from re import fullmatch
from typing import Any

import pytest
import torch

from spherood.losses import Terms
from spherood.training import Recipe, engine, train
from spherood.training.log import Log, append_log, cut_log, read_log


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
    for step in (2, 4):
        append_log(tmp_path, {"step": step, "loss": 0.5})
    assert read_log(tmp_path) == [{"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.5}]


def test_a_last_line_cut_off_by_a_kill_is_left_out_and_goes_with_the_next_cut(tmp_path: Path) -> None:
    append_log(tmp_path, {"step": 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert read_log(tmp_path) == [{"step": 2}]
    cut_log(tmp_path, 10)
    append_log(tmp_path, {"step": 4})
    assert read_log(tmp_path) == [{"step": 2}, {"step": 4}]


def test_a_cut_keeps_the_rows_up_to_its_step(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        append_log(tmp_path, {"step": step})
    cut_log(tmp_path, 4)
    assert read_log(tmp_path) == [{"step": 2}, {"step": 4}]
    cut_log(tmp_path, 0)
    assert read_log(tmp_path) == []


def test_each_file_of_a_run_is_read_and_cut_by_itself(tmp_path: Path) -> None:
    for file in ("metrics.jsonl", "validation.jsonl"):
        for step in (2, 4):
            append_log(tmp_path, {"step": step}, file)
    cut_log(tmp_path, 2, "validation.jsonl")
    assert read_log(tmp_path) == [{"step": 2}, {"step": 4}]
    assert read_log(tmp_path, "validation.jsonl") == [{"step": 2}]
    cut_log(tmp_path, 2, "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def added(log: Log, *totals: float) -> None:
    for total in totals:
        log.add(8, Terms(torch.tensor(total), {"compactness": torch.tensor(total / 2)}))


def test_a_row_holds_means_since_the_last_one_and_the_note_shows_them_with_the_learning_rate(tmp_path: Path) -> None:
    log = Log(tmp_path)
    assert log.note == ""
    added(log, 1.0, 2.0)
    row = log.row(epoch=1, step=3, steps_per_epoch=6, lr=0.012345)
    assert (row["step"], row["epoch"], row["loss"], row["compactness"], row["lr"]) == (9, 1.5, 1.5, 0.75, 0.012345)
    assert log.note == "loss 1.500, compactness 0.750, lr 0.0123"
    added(log, 5.0)
    assert log.row(1, 4, 6, 0.5)["loss"] == 5
    assert log.note == "loss 5.000, compactness 2.500, lr 0.5"


def test_the_note_ends_with_what_the_last_validation_told(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.told = "k-NN 87.5 %"
    added(log, 1.0)
    log.row(0, 1, 6, 0.1)
    assert log.note == "loss 1.000, compactness 0.500, lr 0.1, k-NN 87.5 %"


def test_a_run_shows_terms_learning_rate_and_the_accuracy_of_its_last_validation(
    digits: Path, tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    @contextmanager
    def noted(*args: Any, **keys: Any) -> Iterator[Callable[..., None]]:
        yield lambda n, note="": notes.append(note)

    monkeypatch.setattr(engine, "progress", noted)
    train(recipe(training={"epochs": 2, "batch": 8}), tmp_path / "run", digits)
    number = r"-?\d+\.\d{3}"
    terms = rf"loss {number}, compactness {number}, dispersion {number}, lr 0\.\d+"
    (accuracy,) = {row["accuracy"]["k-NN"] for row in read_log(tmp_path / "run", "validation.jsonl")[:1]}
    assert fullmatch(terms, next(filter(None, notes)))
    assert fullmatch(rf"{terms}, k-NN {100 * accuracy:.1f} %", notes[-1])


def test_the_rate_is_images_by_time_since_the_last_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 104.0, 104.0, 105.0, 105.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    log = Log(tmp_path)
    added(log, 1.0, 1.0)
    assert log.row(0, 2, 6, 0.1)["images_per_second"] == 4
    added(log, 1.0)
    assert log.row(0, 3, 6, 0.1)["images_per_second"] == 8
