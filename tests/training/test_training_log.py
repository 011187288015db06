from __future__ import annotations

from pathlib import Path

from spherood.training.log import append_log, cut_log, read_log


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
