from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spherood.errors import ConfigError, DataError
from spherood.scoring.plan import Plan, open_plan
from spherood.scoring.shards import Shard, shards

HEADER = {"bundle": "abc", "false_alarm_rate": 0.05, "format": ".csv", "part_size": 2}


def of(*names: str) -> list[Shard]:
    return [Shard(kind="files", paths=(name, "/x.png"), rows=2) for name in names]


def begun(out: Path, *names: str) -> Plan:
    return open_plan(out, HEADER, iter(of(*names)))


def test_the_plan_is_a_header_and_a_shard_a_line_and_is_found_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = begun(out, "/a", "/b", "/c")
    lines = (out / "plan.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == HEADER
    assert [json.loads(line)["paths"][0] for line in lines[1:]] == ["/a", "/b", "/c"]
    assert (len(plan), plan.images) == (3, 6)
    assert [plan.shard(number) for number in (2, 0)] == [of("/c")[0], of("/a")[0]]
    assert begun(out, "/a", "/b", "/c") == Plan.of(out) == plan
    assert [path.name for path in out.iterdir()] == ["plan.jsonl"]


def test_a_part_that_is_there_is_done_and_shares_divide_the_rest(tmp_path: Path) -> None:
    plan = begun(tmp_path / "out", *["/a", "/b", "/c", "/d", "/e"])
    assert plan.part(3) == tmp_path / "out" / "parts" / "part-00000003.csv"
    plan.part(3).parent.mkdir()
    plan.part(3).touch()
    assert plan.left() == [0, 1, 2, 4]
    assert [plan.left((share, 2)) for share in (0, 1)] == [[0, 2, 4], [1]]


def test_how_many_images_there_are_is_not_known_where_a_tar_is_among_them(tmp_path: Path) -> None:
    tar = Shard(kind="tar", paths=("/s.tar",), size=1, changed=2)
    assert open_plan(tmp_path / "out", HEADER, iter([*of("/a"), tar])).images is None


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("bundle", "xyz", "holds parts of another bundle (abc, not xyz)"),
        ("false_alarm_rate", 0.1, "holds parts of another false alarm rate (0.05, not 0.1)"),
        ("format", ".jsonl", "holds parts of another format (.csv, not .jsonl)"),
    ],
)
def test_a_folder_that_was_begun_otherwise_is_refused_with_what_differs(
    tmp_path: Path, key: str, value: object, told: str
) -> None:
    begun(tmp_path / "out", "/a")
    with pytest.raises(ConfigError) as error:
        open_plan(tmp_path / "out", HEADER | {key: value}, iter(of("/a")))
    assert str(error.value) == f"{tmp_path / 'out'}: {told}. Choose another folder, or remove it."


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        (["/a", "/z"], "shard 1 is another: /z to /x.png"),
        (["/a"], "fewer or more"),
        (["/a", "/b", "/c"], "fewer or more"),
    ],
)
def test_other_inputs_than_those_it_was_begun_with_are_refused_and_the_plan_stays(
    tmp_path: Path, now: list[str], difference: str
) -> None:
    out = tmp_path / "out"
    before = begun(out, "/a", "/b")
    with pytest.raises(DataError) as error:
        begun(out, *now)
    assert str(error.value) == (
        f"{out}: was begun with other inputs ({difference}). Choose another folder for these, or give the ones it was "
        "begun with."
    )
    assert Plan.of(out) == before
    assert [path.name for path in out.iterdir()] == ["plan.jsonl"]


def test_a_folder_with_other_things_or_without_a_plan_is_told(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").touch()
    with pytest.raises(ConfigError, match=r"holds other things\. Choose a folder that is empty or absent\.$"):
        begun(tmp_path, "/a")
    with pytest.raises(DataError, match=r"holds no plan\.jsonl\. Score into it with: spherood score BUNDLE INPUT -o "):
        Plan.of(tmp_path)
    (tmp_path / "plan.jsonl").write_text('{"bundle": 1}\n{"kind"')
    with pytest.raises(DataError, match=r"plan\.jsonl: damaged\. Choose another folder\.$"):
        Plan.of(tmp_path)


def test_a_plan_that_fails_while_it_is_written_leaves_none(tmp_path: Path, saved: Callable[..., Path]) -> None:
    def failing() -> Iterator[Shard]:
        yield from shards([saved(tmp_path / "in" / "a.png")])
        raise DataError("the second input is damaged")

    with pytest.raises(DataError, match="the second input"):
        open_plan(tmp_path / "out", HEADER, failing())
    assert list((tmp_path / "out").iterdir()) == []
    assert len(begun(tmp_path / "out", "/a")) == 1


def test_the_same_command_goes_on_after_a_kill_while_the_plan_was_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = """
import os, pathlib, signal, sys
from spherood.scoring.plan import open_plan
from spherood.scoring.shards import Shard

def killed():
    yield Shard(kind="files", paths=("/a", "/x.png"), rows=2)
    os.kill(os.getpid(), signal.SIGKILL)

open_plan(pathlib.Path(sys.argv[1]), {}, killed())
"""
    assert subprocess.run([sys.executable, "-c", code, out]).returncode == -signal.SIGKILL
    (left,) = out.iterdir()
    assert left.name.endswith(".part")
    assert len(begun(out, "/a")) == 1
    assert [path.name for path in out.iterdir()] == ["plan.jsonl"]
