from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spherood.errors import ConfigError, MissingExtraError, TrainingError
from spherood.training import Recipe, engine, train
from spherood.training.log import read_log
from spherood.training.trackers import TensorBoard, flat, named

Make = Callable[..., Recipe]


class Recorder:
    """Notes its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, run: Path, recipe: Mapping[str, Any]) -> None:
        self.calls.append(("start", run, recipe))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append(("log", step, dict(values)))

    def end(self) -> None:
        self.calls.append(("end",))


class Refusing(Recorder):
    """Cannot start."""

    def start(self, run: Path, recipe: Mapping[str, Any]) -> None:
        raise MissingExtraError("no.")


def names(recorder: Recorder) -> list[str]:
    return [call[0] for call in recorder.calls]


def test_a_tracker_is_told_of_the_start_of_every_row_and_of_the_end(
    digits: Path, tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOG_STEPS", 4)
    recorder, another = Recorder(), Recorder()
    run = tmp_path / "run"
    train(recipe(training={"epochs": 2, "batch": 8}), run, digits, trackers=[recorder, another])
    (_, folder, told), *logged, ended = recorder.calls
    assert (folder, ended) == (run, ("end",))
    assert told["training"]["epochs"] == 2
    assert told["loss"][0]["with"] == {}  # keys as in the file
    assert [step for _, step, _ in logged] == [4, 6, 6, 10, 12, 12]  # a validation after each epoch
    rows = read_log(run)
    for row, (_, _, values) in zip(rows, [logged[0], logged[1], logged[3], logged[4]], strict=True):
        assert values == {key: value for key, value in row.items() if key not in ("step", "epoch")}
    validated = logged[2][2]
    assert {"accuracy/k-NN", "accuracy/class mean", "geometry/dispersion", "prototypes/least_angle"} <= set(validated)
    assert not {"of", "epoch", "geometry/collapsed", "geometry/compactness_per_class"} & set(validated)
    assert recorder.calls == another.calls


def test_a_tracker_is_told_of_the_end_of_a_run_that_failed(
    digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType
) -> None:
    recorder = Recorder()
    broken = recipe(loss=[{"use": "mylab.losses:Broken", "with": {"good": 8}}])
    with pytest.raises(TrainingError):
        train(broken, tmp_path / "run", digits, trackers=[recorder])
    assert names(recorder) == ["start", "log", "log", "end"]  # the first epoch and its validation


def test_where_a_tracker_cannot_start_those_before_it_are_ended_and_it_is_not(
    digits: Path, tmp_path: Path, recipe: Make
) -> None:
    first, refusing, third = Recorder(), Refusing(), Recorder()
    with pytest.raises(MissingExtraError):
        train(recipe(), tmp_path / "run", digits, trackers=[first, refusing, third])
    assert [names(tracker) for tracker in (first, refusing, third)] == [["start", "end"], [], []]


def test_a_resumed_run_starts_its_trackers_again(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Callable[[Callable[[int], None]], None]
) -> None:
    def cut(step: int) -> None:
        if step == 8:
            raise KeyboardInterrupt

    before_step(cut)
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path / "run", digits, trackers=[recorder])
    train(recipe(), tmp_path / "run", digits, resume=True, trackers=[recorder])
    steps = [call[1] if call[0] == "log" else call[0] for call in recorder.calls]
    assert steps == ["start", 6, 6, "end", "start", 12, 12, 18, 18, "end"]


def test_a_nested_row_is_flattened_to_its_numbers() -> None:
    row = {"a": 1, "b": {"c": 0.5, "d": {"e": 2}}, "word": "x", "flag": True, "list": [1, 2], "none": None}
    assert flat(row) == {"a": 1, "b/c": 0.5, "b/d/e": 2}
    assert flat({}) == {}


def test_without_tensorboard_the_command_that_installs_it_is_told(
    digits: Path, tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError) as told:
        train(recipe(), tmp_path / "run", digits, trackers=[TensorBoard()])
    assert str(told.value) == (
        "The tracker 'tensorboard': needs tensorboard, which is not installed. "
        "Install it with: pip install 'spherood[tensorboard]'"
    )


def test_tensorboard_reads_back_what_the_log_holds(digits: Path, tmp_path: Path, recipe: Make) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train(recipe(), run, digits, trackers=[TensorBoard()])
    (file,) = (run / "tensorboard").iterdir()
    assert file.name.startswith("events.out.tfevents.")
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    rows = read_log(run)
    for name in ("loss", "lr", "dispersion"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    assert "accuracy/k-NN" in events.Tags()["scalars"]
    (text,) = events.Tensors("recipe/text_summary")
    assert b"'epochs': 3" in text.tensor_proto.string_val[0]


def test_a_tracker_is_named_by_its_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mylab.tracking")
    module.Quiet, module.Lame = TensorBoard, object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mylab.tracking", module)
    assert isinstance(named("tensorboard"), TensorBoard)
    assert isinstance(named("mylab.tracking:Quiet"), TensorBoard)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensorbord", "tracker 'tensorbord': needs the methods start, log and end. Known by name: tensorboard."),
        ("builtins:object", "tracker 'builtins:object': needs the methods start, log and end. Known by name: tensorbo"),
        ("nolab:Mine", "tracker 'nolab:Mine': cannot be made: No module named 'nolab'. Write it as package.module:Cl"),
    ],
)
def test_what_is_no_tracker_is_told(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as told:
        named(text)
    assert str(told.value).startswith(message)
