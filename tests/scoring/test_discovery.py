from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spherood.calibration import discoveries, p_values
from spherood.errors import ConfigError, DataError
from spherood.scoring.discovery import Flagged, flag
from spherood.scoring.parts import FORMATS, Row, part_files, read_part, write_part

every_format = pytest.mark.parametrize("suffix", sorted(FORMATS))


def row(image: str, p: float | None, reason: str = "far") -> Row:
    return {
        "image": image,
        "source": "lake",
        "time": None,
        "is_ood": None if p is None else p < 0.05,
        "score": None if p is None else 1 - p,
        "p_value": p,
        "threshold": None if p is None else 0.95,
        "nearest_class": None,
        "needs_review": None if p is None else False,
        "reason": None if p is None else reason,
        "neighbours": [],
        "error": f"{image}: no image" if p is None else None,
    }


def write(out: Path, parts: list[list[Row]], suffix: str = ".jsonl") -> Path:
    for number, rows in enumerate(parts):
        write_part(out / "parts" / f"part-{number:08d}{suffix}", rows)
    return out


def flags(out: Path) -> list[list[bool | None]]:
    return [[one["discovery"] for one in read_part(path)] for path in part_files(out)]


@every_format
def test_three_parts_worked_out_by_hand(tmp_path: Path, suffix: str) -> None:
    # 5 verdicts against 9 held-out images; lines at rate .5: .1, .2, .3, .4, .5
    rows = [[row("a", 0.1), row("b", 0.9), row("c", None)], [], [row("d", 0.3), row("e", 1.0), row("f", 0.3)]]
    out = write(tmp_path, rows, suffix)
    assert flag(out, 9, 0.5) == Flagged(images=5, discoveries=3, cut=0.3)
    assert flags(out) == [[True, False, None], [], [True, False, True]]
    for path, before in zip(part_files(out), rows, strict=True):  # nothing else changed
        assert [{name: one[name] for name in one if name != "discovery"} for one in read_part(path)] == before
    if suffix != ".jsonl":
        assert b"discovery" in part_files(out)[1].read_bytes()  # a table reader takes the columns of any part


@every_format
def test_another_rate_afterwards_gives_what_it_gives_alone(tmp_path: Path, suffix: str) -> None:
    parts = [[row("a", 0.1), row("b", 0.9)], [row("c", 0.3), row("d", 1.0), row("e", 0.3)]]
    twice, once = (write(tmp_path / name, parts, suffix) for name in ("twice", "once"))
    assert flag(twice, 9, 0.5).discoveries == 3
    assert flag(twice, 9, 0.1) == flag(once, 9, 0.1) == Flagged(5, 0, 0.0)
    assert [path.read_bytes() for path in part_files(twice)] == [path.read_bytes() for path in part_files(once)]


@given(
    ranks=st.lists(st.lists(st.none() | st.integers(1, 30), max_size=8), min_size=1, max_size=4),
    percent=st.integers(1, 99),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_however_the_images_are_divided_the_flags_are_those_of_all_of_them_at_once(
    tmp_path: Path, ranks: list[list[int | None]], percent: int
) -> None:
    shutil.rmtree(tmp_path / "parts", ignore_errors=True)
    out = write(tmp_path, [[row("a", rank and rank / 30) for rank in part] for part in ranks])
    found = flag(out, 29, percent / 100)
    p = [rank / 30 for part in ranks for rank in part if rank]
    expected = discoveries(p, percent / 100).tolist() if p else []
    flat = [
        (rank, one)
        for part, flagged in zip(ranks, flags(out), strict=True)
        for rank, one in zip(part, flagged, strict=True)
    ]
    assert [one for rank, one in flat if rank] == expected
    assert all(one is None for rank, one in flat if not rank)
    assert found[:2] == (len(p), sum(expected))


def test_the_promised_rate_is_kept_over_many_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(150):
        score = np.concatenate([rng.random(30), 0.97 + 0.1 * rng.random(10)])  # 30 ID, 10 OOD
        p = p_values(rng.random(199), score)
        out = write(tmp_path, [[row("a", float(one)) for one in p[start : start + 20]] for start in (0, 20)])
        found = flag(out, 199, 0.2)
        flagged = [one for part in flags(out) for one in part]
        shares.append(sum(map(bool, flagged[:30])) / max(1, found.discoveries))
    error = float(np.std(shares)) / math.sqrt(len(shares))
    assert np.mean(shares) == pytest.approx(0.75 * 0.2, abs=4 * error)


def test_a_p_value_that_went_through_other_digits_counts_as_the_nearest_step(tmp_path: Path) -> None:
    out = write(tmp_path, [[row("a", 0.3 + 5e-10), row("b", 0.3 - 5e-10), row("c", 1.0)]])
    assert flag(out, 9, 0.5) == Flagged(3, 2, 0.3)
    assert flags(out) == [[True, True, False]]


@pytest.mark.parametrize("p", [0.35, 0.3 + 2e-9, 0.0, 1.1, -0.1])
def test_p_values_of_another_bundle_are_refused_before_anything_is_written(tmp_path: Path, p: float) -> None:
    out = write(tmp_path, [[row("a", 0.1)], [row("b", 0.2), row("c.jpg", p)]])
    with pytest.raises(DataError) as caught:
        flag(out, 9, 0.5)
    assert str(caught.value) == (
        f"{out}/parts/part-00000001.jsonl: the p-value {p:g} of c.jpg is no multiple of 1/10, as 9 held-out images "
        "give. Was it scored by another bundle? Score anew into an empty folder."
    )
    assert "discovery" not in read_part(part_files(out)[0])[0]


KILLED = """
import resource, signal, sys
from pathlib import Path
from spherood.scoring.discovery import flag
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
flag(Path(sys.argv[1]), 9, 0.5)
"""


@every_format
def test_a_pass_that_was_killed_while_it_wrote_is_made_good_by_another(tmp_path: Path, suffix: str) -> None:
    out, rng = tmp_path / "killed", np.random.default_rng(0)
    large = [row(f"{number}", float(rng.integers(1, 11)) / 10, rng.bytes(99).hex()) for number in range(400)]
    write(out, [[row("a", 0.1)] * 40, large, [row("c", 0.1)] * 40], suffix)
    assert flag(out, 9, 0.11).discoveries == 0
    before, whole = flags(out), shutil.copytree(out, tmp_path / "whole")
    size = [path.stat().st_size for path in part_files(out)]
    assert max(size[0], size[2]) < size[1] / 2
    done = subprocess.run([sys.executable, "-B", "-c", KILLED, out, str(size[1] // 2)], check=False)
    assert done.returncode == -signal.SIGXFSZ  # the kernel ended it in the middle of a write
    assert any(path.name.startswith(".") for path in (out / "parts").iterdir())  # half of the second part
    assert flags(out) == [[True] * 40, *before[1:]]  # each part is the new one or the old one, whole

    assert flag(out, 9, 0.5) == flag(whole, 9, 0.5)
    assert contents(out) == contents(whole)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "parts").iterdir()}


def test_memory_does_not_grow_with_the_number_of_parts(tmp_path: Path) -> None:
    def peak(parts: int) -> int:
        rows = [row(f"{number}.jpg", 0.1 * (1 + number % 10)) for number in range(200)]
        out = write(tmp_path / str(parts), [rows] * parts)
        flag(out, 9, 0.5)  # what is made once: imports, caches
        tracemalloc.start()
        try:
            flag(out, 9, 0.5)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(24) < 1.1 * peak(6)


def test_progress_is_told_of_every_part_and_results_are_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spherood.progress.QUIET_SECONDS", 0.0)
    flag(write(tmp_path, [[row("a", 0.1)], [row("b", 0.2)]]), 9, 0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(" parts,")[0] for line in err.splitlines()] == [
        "counting p-values: 1/2",
        "counting p-values: 2/2",
        "flagging discoveries: 1/2",
        "flagging discoveries: 2/2",
    ]


def test_a_folder_of_images_without_a_verdict_has_no_discovery(tmp_path: Path) -> None:
    out = write(tmp_path, [[row("a", None)]])
    assert flag(out, 9, 0.5) == Flagged(0, 0, 0.0)
    assert flags(out) == [[None]]


def test_bad_settings_are_told_before_any_part_is_read(tmp_path: Path) -> None:
    out = write(tmp_path, [[row("a", 0.35)]])
    with pytest.raises(ConfigError, match=r"^flag: rate must lie strictly between 0 and 1, got 10\."):
        flag(out, 9, 10)
    with pytest.raises(ConfigError, match=r"^flag: expected a number of held-out scores, got 0\."):
        flag(out, 0, 0.1)
    with pytest.raises(DataError, match="holds no parts"):
        flag(tmp_path / "absent", 9, 0.1)
