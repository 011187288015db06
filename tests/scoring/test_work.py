from __future__ import annotations

import multiprocessing
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherood.bundle import Bundle
from spherood.errors import CalibrationError, ConfigError, ShapeError
from spherood.scoring import pipeline
from spherood.scoring.parts import part_files, read_part
from spherood.scoring.pipeline import Tally, tally
from spherood.scoring.work import Work, parse_share

Rows = list[dict[str, Any]]


def parts_of(out: Path) -> Rows:
    return [row for file in part_files(out) for row in read_part(file)]


def score(work: Work, out: Path) -> Tally:
    loaded = Bundle.load(work.bundle)
    return work.here(loaded, work.plan(loaded, out))


@pytest.fixture(scope="module")
def whole(bundle: Path, lake: Path) -> Rows:
    """Every row of the lake, in memory."""
    return Work(bundle, [lake]).rows(Bundle.load(bundle))


def test_a_row_says_what_the_bundle_says_and_where_and_when_the_image_was_found(
    whole: Rows, bundle: Path, lake: Path
) -> None:
    loaded = Bundle.load(bundle)
    assert [row["image"] for row in whole] == sorted(map(str, lake.rglob("*.png")))
    for row in whole[::50]:
        (verdict,) = loaded.predict([row["image"]])
        assert row["score"] == pytest.approx(verdict.score, rel=1e-5)
        assert (row["is_ood"], row["nearest_class"], row["reason"]) == (
            verdict.is_ood,
            verdict.nearest_class,
            verdict.reason,
        )
        assert [one["row"] for one in row["neighbours"]] == [one.row for one in verdict.neighbours]
        assert row["source"] == str(Path(row["image"]).parent)
        assert row["error"] is None
    (broken,) = [row for row in whole if row["error"]]
    assert broken["image"].endswith("a/011.png")
    assert broken["error"].startswith(f"{broken['image']}: damaged: ")
    assert {broken[key] for key in ("is_ood", "score", "p_value", "threshold", "needs_review", "reason")} == {None}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_parts_hold_the_rows_in_order_whatever_their_format_and_size(
    suffix: str, whole: Rows, bundle: Path, lake: Path, tmp_path: Path
) -> None:
    work = Work(bundle, [lake], size=70, suffix=suffix)
    counted = score(work, tmp_path / "out")
    assert [file.name for file in part_files(tmp_path / "out")] == [f"part-0000000{n}{suffix}" for n in range(5)]
    found = parts_of(tmp_path / "out")
    assert [row["image"] for row in found] == [row["image"] for row in whole]
    for one, other in zip(found, whole, strict=True):
        assert one | {"score": 0, "neighbours": [], "p_value": 0} == other | {
            "score": 0,
            "neighbours": [],
            "p_value": 0,
        }
        assert one["score"] is None or one["score"] == pytest.approx(other["score"], rel=1e-5)
    assert counted == tally(found)
    assert (counted.rows, counted.errors) == (300, 1)
    stamps = [file.stat().st_mtime_ns for file in part_files(tmp_path / "out")]
    assert score(work, tmp_path / "out") == counted  # nothing is left to do, and all is counted
    assert [file.stat().st_mtime_ns for file in part_files(tmp_path / "out")] == stamps


def test_any_number_of_threads_and_any_block_size_give_the_same_rows(
    whole: Rows, bundle: Path, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BLOCK", 7)
    for threads in (1, 5):
        out = tmp_path / str(threads)
        score(Work(bundle, [lake], size=50, threads=threads), out)
        found = parts_of(out)
        assert [row["image"] for row in found] == [row["image"] for row in whole]
        scores = [[row["score"] or 0 for row in rows] for rows in (found, whole)]
        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_killed_at_twenty_moments_not_a_row_is_lost_or_doubled(bundle: Path, lake: Path, tmp_path: Path) -> None:
    """Killed as kill -9 does it, after delays of up to the time that the whole takes."""
    work, out = Work(bundle, [lake], size=5, threads=2), tmp_path / "out"
    begin = time.monotonic()
    score(work, tmp_path / "uninterrupted")
    seconds = time.monotonic() - begin
    rng, in_between = random.Random(0), 0
    for _ in range(20):
        child = multiprocessing.get_context("fork").Process(target=score, args=(work, out))
        child.start()
        time.sleep(rng.random() * seconds / 3)
        child.kill()
        child.join()
        done = len(list((out / "parts").glob("part-*.parquet"))) if (out / "parts").exists() else 0
        in_between += 0 < done < 60
    assert in_between >= 3
    score(work, out)
    strip = [[row | {"time": None} for row in parts_of(one)] for one in (out, tmp_path / "uninterrupted")]
    assert strip[0] == strip[1]
    assert len({row["image"] for row in strip[0]}) == len(strip[0]) == 300
    assert {path.name for path in out.iterdir()} == {"plan.jsonl", "parts"}
    assert all(path.name.startswith("part-") for path in (out / "parts").iterdir())  # nothing half-made is left


def test_shares_make_all_parts_between_them_and_each_counts_its_own(bundle: Path, lake: Path, tmp_path: Path) -> None:
    work, out = Work(bundle, [lake], size=40), tmp_path / "out"
    counted = [score(replace(work, share=(share, 3)), out) for share in (2, 0, 1)]
    assert [one.rows for one in counted] == [80, 120, 100]
    assert len(parts_of(out)) == 300
    assert score(work, out).rows == 300


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/3", "1/0", "/"])
def test_a_share_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--share .*: expected I/N with 0 <= I < N, for example 2/16\.$"):
        parse_share(text)
    assert parse_share("2/16") == (2, 16)
    assert parse_share(None) == (0, 1)


def test_features_are_scored_by_the_file_and_take_their_names_along(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = Bundle.fit(rng.normal(size=(400, 4)).astype(np.float32), score="knn:k=3")
    made.save(tmp_path / "bundle")
    query = rng.normal(size=(9000, 4)).astype(np.float32)
    np.savez(tmp_path / "named.npz", feature=query[:5], name=np.array([f"{row}.jpg" for row in range(5)]))
    np.save(tmp_path / "bare.npy", query)
    work = Work(tmp_path / "bundle", [tmp_path / "named.npz", tmp_path / "bare.npy"])
    assert score(work, tmp_path / "out").rows == 9005
    rows = parts_of(tmp_path / "out")
    assert [row["image"] for row in rows[:6]] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", f"{tmp_path}/bare.npy:0"]
    expected = [verdict.score for verdict in made.predict(query)]
    np.testing.assert_allclose([row["score"] for row in rows[5:]], expected, rtol=1e-5)
    np.save(tmp_path / "wide.npy", rng.normal(size=(3, 5)).astype(np.float32))
    with pytest.raises(ShapeError, match="features have 5 columns, the fitted ones had 4"):
        score(Work(tmp_path / "bundle", [tmp_path / "wide.npy"]), tmp_path / "other")


def test_a_rate_that_cannot_be_promised_is_refused_before_any_image_is_opened(
    bundle: Path, lake: Path, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match=r"a false-alarm rate of 0\.001 needs at least"):
        Work(bundle, [lake], false_alarm_rate=0.001).rows(Bundle.load(bundle))


def test_a_photograph_that_vanishes_while_it_is_scored_is_a_row_with_the_error(bundle: Path, tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
    loaded, work = Bundle.load(bundle), Work(bundle, [tmp_path / "a.png", tmp_path / "b.png"])
    plan = work.plan(loaded, tmp_path / "out")
    (tmp_path / "b.png").unlink()
    assert work.here(loaded, plan) == Tally(2, work.rows(loaded)[0]["is_ood"], 0, 1)
