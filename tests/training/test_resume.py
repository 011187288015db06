"""An interrupted run that goes on ends with the bits of an uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spherood.errors import TrainingError
from spherood.schema import write_yaml
from spherood.training import Checkpoint, Recipe, engine, train
from spherood.training.log import read_log

Make = Callable[..., Recipe]
Same = Callable[[Path, Path], None]
Hook = Callable[[Callable[[int], None]], None]
LAST = Path("checkpoints", "last.pt")
STEPS = 6  # an epoch, of 3


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LOG_STEPS", 2)


def settings(precision: str, loss: str) -> dict[str, Any]:
    return {"training": {"epochs": 3, "batch": 8, "precision": precision}, "loss": [{"use": loss}]}


CASES = [("32-true", "cider"), ("bf16-mixed", "cider"), ("32-true", "cross_entropy")]


def signal_at(before_step: Hook, steps: set[int], number: int = signal.SIGINT) -> None:
    before_step(lambda step: os.kill(os.getpid(), number) if step in steps else None)


@pytest.mark.parametrize(("precision", "loss"), CASES)
@pytest.mark.parametrize("at", [0, 4, 5, 8, 16], ids=lambda step: f"step{step}")
def test_a_run_stopped_by_a_signal_goes_on_to_the_same_bits(
    digits: Path,
    tmp_path: Path,
    recipe: Make,
    before_step: Hook,
    assert_same_run: Same,
    at: int,
    precision: str,
    loss: str,
) -> None:
    ours = recipe(**settings(precision, loss))
    train(ours, tmp_path / "whole", digits)
    signal_at(before_step, {at})
    with pytest.raises(TrainingError) as told:
        train(ours, tmp_path / "run", digits)
    epoch, step = divmod(at + 1, STEPS)  # the running step is finished
    assert str(told.value).startswith(f"Stopped after {epoch} of 3 epochs and {step} steps; all of it is kept in")
    assert str(told.value).endswith("Go on with the same command and --resume.")
    kept = Checkpoint.load(tmp_path / "run" / LAST)
    assert (kept.epoch, kept.step) == (epoch, step)
    train(ours, tmp_path / "run", digits, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    steps = [row["step"] for row in read_log(tmp_path / "run")]
    assert steps == [row["step"] for row in read_log(tmp_path / "whole")]


def test_a_run_stopped_again_and_again_goes_on_to_the_same_bits(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook, assert_same_run: Same
) -> None:
    train(recipe(), tmp_path / "whole", digits)
    signal_at(before_step, {1, 2, 8, 13}, signal.SIGTERM)
    for attempt in range(4):
        with pytest.raises(TrainingError, match="Stopped after"):
            train(recipe(), tmp_path / "run", digits, resume=attempt > 0)
    train(recipe(), tmp_path / "run", digits, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_signal_in_the_very_last_step_lets_the_run_end(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook
) -> None:
    signal_at(before_step, {3 * STEPS - 1})
    assert train(recipe(), tmp_path / "run", digits).epoch == 3


def test_a_second_signal_stops_at_once_and_the_handlers_are_given_back(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def twice(step: int) -> None:
        for _ in range(2 if step == 8 else 0):
            os.kill(os.getpid(), signal.SIGINT)

    before_step(twice)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path / "run", digits)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert Checkpoint.load(tmp_path / "run" / LAST).epoch == 1


@pytest.mark.parametrize("at", [4, 8])
def test_a_run_in_parts_of_a_batch_goes_on_to_the_same_bits(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook, assert_same_run: Same, at: int
) -> None:
    ours = recipe(training={"epochs": 3, "batch": 8, "micro_batch": 3})
    train(ours, tmp_path / "whole", digits)
    signal_at(before_step, {at})
    with pytest.raises(TrainingError, match="Stopped after"):
        train(ours, tmp_path / "run", digits)
    train(ours, tmp_path / "run", digits, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


class Cut(BaseException):
    """Stands for a kill, or a machine that goes down."""


@pytest.mark.parametrize(("precision", "loss"), CASES)
@pytest.mark.parametrize("at", [6, 9, 17], ids=lambda step: f"step{step}")
def test_a_run_that_broke_off_goes_on_from_its_last_epoch_to_the_same_bits(
    digits: Path,
    tmp_path: Path,
    recipe: Make,
    before_step: Hook,
    assert_same_run: Same,
    at: int,
    precision: str,
    loss: str,
) -> None:
    ours = recipe(**settings(precision, loss))
    train(ours, tmp_path / "whole", digits)

    def cut(step: int) -> None:
        if step == at:
            raise Cut

    before_step(cut)
    with pytest.raises(Cut):
        train(ours, tmp_path / "run", digits)
    assert Checkpoint.load(tmp_path / "run" / LAST).epoch == at // STEPS
    train(ours, tmp_path / "run", digits, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    logs = [
        [(row["step"], row["epoch"], row["loss"], row["lr"]) for row in read_log(tmp_path / run)]
        for run in ("run", "whole")
    ]
    assert logs[0] == logs[1]
    assert [row[0] for row in logs[0]] == list(range(2, 3 * STEPS + 1, 2))


def test_a_run_that_broke_off_in_its_first_epoch_starts_afresh(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook, assert_same_run: Same
) -> None:
    def cut(step: int) -> None:
        if step == 4:
            raise Cut

    before_step(cut)
    with pytest.raises(Cut):
        train(recipe(), tmp_path / "run", digits)
    assert [row["step"] for row in read_log(tmp_path / "run")] == [2, 4]
    train(recipe(), tmp_path / "run", digits)
    train(recipe(), tmp_path / "whole", digits)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert [row["step"] for row in read_log(tmp_path / "run")] == list(range(2, 3 * STEPS + 1, 2))


def test_a_run_that_broke_off_while_saving_goes_on_from_the_checkpoint_before(
    digits: Path, tmp_path: Path, recipe: Make, assert_same_run: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, saved = Path.write_bytes, []

    def write(path: Path, content: bytes) -> int:
        saved.append(path)
        if len(saved) == 2:
            plain(path, b"half a checkpoint")
            raise Cut
        return plain(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(Cut):
        train(recipe(), tmp_path / "run", digits)
    assert Checkpoint.load(tmp_path / "run" / LAST).epoch == 1
    train(recipe(), tmp_path / "run", digits, resume=True)
    train(recipe(), tmp_path / "whole", digits)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_finished_run_resumed_stays_as_it_is(
    digits: Path, tmp_path: Path, recipe: Make, assert_same_run: Same
) -> None:
    train(recipe(), tmp_path / "whole", digits)
    rows = read_log(tmp_path / "whole")
    train(recipe(), tmp_path / "run", digits)
    train(recipe(), tmp_path / "run", digits, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert len(read_log(tmp_path / "run")) == len(rows)


def test_a_signal_after_a_loss_that_is_no_number_does_not_keep_the_broken_weights(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook, mylab: ModuleType
) -> None:
    signal_at(before_step, {8})  # its loss is not logged yet
    with pytest.raises(TrainingError, match=r"The loss is nan in epoch 2, near step 3\."):
        train(recipe(loss=[{"use": "mylab.losses:Broken", "with": {"good": 8}}]), tmp_path / "run", digits)
    kept = Checkpoint.load(tmp_path / "run" / LAST)
    assert (kept.epoch, kept.step) == (1, 0)


def test_a_killed_process_goes_on_to_the_same_bits(
    digits: Path, tmp_path: Path, recipe: Make, assert_same_run: Same
) -> None:
    long = recipe(
        **settings("bf16-mixed", "cider") | {"training": {"epochs": 60, "batch": 8, "precision": "bf16-mixed"}}
    )
    (tmp_path / "long.yaml").write_text(write_yaml(long))
    run = tmp_path / "killed"
    command = ["-c", "from spherood.cli import main; main()", "train", "--recipe", str(tmp_path / "long.yaml")]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *command, "--run", str(run), "--data", str(digits)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            deadline = time.monotonic() + 120
            while len(read_log(run)) < 3 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "stderr").read_text()
    kept = Checkpoint.load(run / LAST).epoch
    assert 2 <= kept < 60
    train(long, run, digits, resume=True)
    train(long, tmp_path / "whole", digits)
    assert_same_run(run, tmp_path / "whole")
    steps = [row["step"] for row in read_log(run)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 60 * STEPS
