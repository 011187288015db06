"""A cluster of two nodes on this machine makes the parts that one process makes, also where a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spherood.bundle import Bundle
from spherood.errors import BundleError, ConfigError
from spherood.scoring.parts import part_files, read_part
from spherood.scoring.work import Work

ray: Any = pytest.importorskip("ray", reason="needs the extra ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of two nodes with one core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    try:
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


def kill_a_worker(out: Path, killed: list[int]) -> None:
    """As soon as some parts are there: a process of Ray's that scores."""
    while len(list((out / "parts").glob("part-*"))) < 5:
        time.sleep(0.05)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and "ShardScorer" in _command(process):
            os.kill(int(process.name), signal.SIGKILL)
            killed.append(int(process.name))
            return


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds workers by /proc")
def test_two_nodes_make_the_rows_that_one_process_makes_though_a_worker_is_killed(
    cluster: str, bundle: Path, lake: Path, tmp_path: Path
) -> None:
    work = Work(bundle, [lake], size=5)
    loaded = Bundle.load(bundle)
    work.here(loaded, work.plan(loaded, tmp_path / "local"))
    out, killed = tmp_path / "out", list[int]()
    plan = work.plan(loaded, out)
    watching = threading.Thread(target=kill_a_worker, args=(out, killed), daemon=True)
    watching.start()
    counted = work.on_ray(plan, cluster)
    watching.join(5)
    assert len(killed) == 1
    assert (counted.rows, counted.errors) == (300, 1)
    rows = [[row for file in part_files(one) for row in read_part(file)] for one in (out, tmp_path / "local")]
    assert rows[0] == rows[1]
    assert work.on_ray(plan, cluster) == counted  # nothing is left
    assert {path.name for path in (out / "parts").iterdir()} == {file.name for file in part_files(out)}


def test_what_a_worker_tells_the_user_arrives_as_one_message(
    cluster: str, bundle: Path, lake: Path, tmp_path: Path
) -> None:
    work = Work(bundle, [lake], size=100)
    plan = work.plan(Bundle.load(bundle), tmp_path / "out")
    gone = replace(work, bundle=tmp_path / "gone")
    with pytest.raises(BundleError, match=r"gone: not a bundle \(no bundle\.json\)"):
        gone.on_ray(plan, cluster)


def test_a_cluster_that_is_not_there_is_told(bundle: Path, lake: Path, tmp_path: Path) -> None:
    if ray.is_initialized():
        ray.shutdown()
    work = replace(Work(bundle, [lake]), threads=1)
    with pytest.raises(ConfigError, match=r"^--address 127\.0\.0\.1:1: no Ray cluster answers there"):
        work.on_ray(work.plan(Bundle.load(bundle), tmp_path / "out"), "127.0.0.1:1")
