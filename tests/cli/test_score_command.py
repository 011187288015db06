from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherood.bundle import Bundle
from spherood.calibration import discoveries
from spherood.scoring import judge, pipeline
from spherood.scoring.parts import part_files, read_part

Command = Callable[..., Any]
IMAGES = ("a.png", "below/b.PNG", "c.png", "red.png")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_image_of_a_folder_gets_the_verdict_that_python_gives(
    spherood: Command, bundle: Path, photos: Path
) -> None:
    told = spherood("score", bundle, photos, "--json")
    assert told.code == 0
    files = [photos / name for name in IMAGES]
    expected = [
        {"image": str(path)} | asdict(it) for path, it in zip(files, Bundle.load(bundle).predict(files), strict=True)
    ]
    rows = lines(told.out)
    for row, verdict in zip(rows, json.loads(json.dumps(expected)), strict=True):
        assert row == verdict | {"source": str(Path(row["image"]).parent), "time": row["time"], "error": None}
        assert datetime.fromisoformat(row["time"]).timestamp() == int(Path(row["image"]).stat().st_mtime)
    alarms = sum(row["is_ood"] for row in expected)
    assert expected[-1]["is_ood"] is True  # red is not noise
    assert told.err == f"4 images: {alarms} OOD, {4 - alarms} within range, 0 unreadable\n"


def test_for_people_there_is_one_sentence_per_image_on_stdout(spherood: Command, bundle: Path, photos: Path) -> None:
    told = spherood("score", bundle, photos / "red.png", photos / "a.png")
    red, noise = Bundle.load(bundle).predict([photos / "red.png", photos / "a.png"])
    assert told.out.splitlines() == [
        f"OOD  {photos / 'red.png'}  score {red.score:.4g}  p {red.p_value:.3g}  {red.reason}",
        f"ok   {photos / 'a.png'}  score {noise.score:.4g}  p {noise.p_value:.3g}  {noise.reason}",
    ]


def test_an_unreadable_file_among_good_ones_is_named_and_counted_and_the_others_get_their_verdicts(
    spherood: Command, bundle: Path, photos: Path
) -> None:
    (photos / "broken.jpg").write_text("no image")
    told = spherood("score", bundle, photos, photos / "gone.png", "--json")
    assert told.code == 1
    rows = {Path(row["image"]).name: row for row in lines(told.out)}
    assert list(rows) == ["a.png", "b.PNG", "broken.jpg", "c.png", "red.png", "gone.png"]
    assert {name for name, row in rows.items() if row["error"] is not None} == {"broken.jpg", "gone.png"}
    assert "broken.jpg: not an image" in rows["broken.jpg"]["error"]
    assert rows["gone.png"]["error"].endswith("gone.png: no such file.")
    whole = {Path(row["image"]).name: row for row in lines(spherood("score", bundle, *good(photos), "--json").out)}
    assert {name: row["score"] for name, row in rows.items() if row["score"] is not None} == {
        name: pytest.approx(row["score"], rel=1e-5) for name, row in whole.items()
    }
    assert "6 images: " in told.err
    assert ", 2 unreadable" in told.err
    text = spherood("score", bundle, photos)
    assert text.code == 1
    assert f"{photos / 'broken.jpg'}: no verdict: " in text.out


def good(photos: Path) -> list[Path]:
    return [photos / name for name in IMAGES]


def test_only_unreadable_files_give_no_verdict_and_exit_code_1(spherood: Command, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    told = spherood("score", bundle, tmp_path)
    assert told.code == 1
    assert "1 image: 0 OOD, 0 within range, 1 unreadable" in told.err


def test_a_file_of_results_holds_every_line_and_stdout_nothing(
    spherood: Command, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "verdicts.jsonl"
    told = spherood("score", bundle, photos, "-o", out)
    assert (told.code, told.out) == (0, "")
    assert told.err.endswith(f"0 unreadable; written to {out}\n")
    assert lines(out.read_text(encoding="utf-8")) == lines(spherood("score", bundle, photos, "--json").out)
    assert list(out.parent.iterdir()) == [out]


def test_many_images_in_several_batches_keep_their_order(
    spherood: Command, bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "broken.jpg").write_text("no image")
    whole = lines(spherood("score", bundle, photos, "--json").out)
    monkeypatch.setattr(pipeline, "BLOCK", 2)
    parts = lines(spherood("score", bundle, photos, "--json").out)
    assert [row["image"] for row in parts] == [row["image"] for row in whole]
    assert [row["score"] or 0 for row in parts] == pytest.approx([row["score"] or 0 for row in whole], rel=1e-5)


def test_hidden_files_and_folders_named_like_images_are_no_images(
    spherood: Command, bundle: Path, photos: Path
) -> None:
    (photos / "._a.png").write_text("what macOS leaves")
    (photos / "album.png").mkdir()
    told = spherood("score", bundle, photos, "--json")
    assert (told.code, len(lines(told.out))) == (0, 4)


def test_an_empty_folder_is_told(spherood: Command, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told = spherood("score", bundle, tmp_path / "empty")
    assert (told.code, told.out) == (1, "")
    assert f"{tmp_path / 'empty'}: holds no image" in told.err


def test_another_rate_is_used_and_one_too_strict_refused_before_any_image_is_read(
    spherood: Command, bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = lines(spherood("score", bundle, photos, "--false-alarm-rate", "0.2", "--json").out)
    assert {row["threshold"] for row in loose} == {Bundle.load(bundle).threshold(0.2)}
    monkeypatch.setattr("spherood.data.decode.read_rgb", None)
    told = spherood("score", bundle, photos, "--false-alarm-rate", "0.01")
    assert (told.code, told.out) == (1, "")
    assert "a false-alarm rate of 0.01 needs at least 299 held-out ID scores, got 70" in told.err
    assert spherood("score", bundle, photos, "--false-alarm-rate", "5").code == 2


def test_a_folder_that_is_no_bundle_is_told_with_what_makes_one(spherood: Command, photos: Path) -> None:
    told = spherood("score", photos, photos / "a.png")
    assert (told.code, told.out) == (1, "")
    assert f"{photos}: not a bundle (no bundle.json). Make one with: spherood fit" in told.err


def test_large_photographs_are_made_small_one_by_one(
    spherood: Command, bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of 128 photographs of 12 megapixels would be 4.6 GB."""
    seen: list[tuple[int, ...]] = []
    read = judge.open_image

    def watched(item: Any) -> Any:
        seen.append(read(item).size)
        return read(item)

    monkeypatch.setattr(judge, "open_image", watched)
    monkeypatch.setattr(judge.np, "stack", lambda pixels: seen.extend(one.shape for one in pixels) or np.array(pixels))
    Image.new("RGB", (400, 300)).save(photos / "large.png")
    spherood("score", bundle, photos / "large.png")
    assert seen == [(400, 300), (8, 8, 3)]


def test_a_folder_gets_parts_that_the_same_command_finishes_and_a_page_can_be_drawn(
    spherood: Command, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "broken.jpg").write_text("no image")
    out = tmp_path / "out"
    told = spherood("score", bundle, photos, "-o", out, "--part-size", "2", "--format", "csv")
    assert told.code == 1  # one is unreadable
    assert told.err.endswith(f", 1 unreadable; written to {out}\n")
    assert told.err.startswith("5 images: ")
    assert told.out == f"next: spherood report {bundle} {out}\n"
    parts = [out / "parts" / f"part-0000000{number}.csv" for number in range(3)]
    assert sorted((out / "parts").iterdir()) == parts
    before = [part.read_text() for part in parts]
    parts[1].unlink()
    again = spherood("score", bundle, photos, "-o", out, "--part-size", "2", "--format", "csv", "--json")
    assert json.loads(again.out)["rows"] == 5
    assert [part.read_text() for part in parts] == before
    report = spherood("report", bundle, out)
    assert report.code == 0, report.err
    assert report.out.endswith(f"page: {out / 'report.html'}  (open it in a browser)\n")
    assert spherood("report", bundle).err == (
        f"spherood report: {bundle} is a bundle. Name the folder that was scored with it, and no figure: spherood "
        f"report {bundle} OUT\n"
    )


def test_false_discoveries_are_counted_over_all_parts(
    spherood: Command, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    for out in (tmp_path / "out", tmp_path / "rows.parquet"):
        told = spherood("score", bundle, photos, "-o", out, "--false-discovery-rate", "0.5", "--part-size", "1")
        assert told.code == 0
        assert "false-discovery rate 0.5: with 70 held-out images, of 4 none or at least 1 can be flagged." in told.err
        assert f" at a false-discovery rate of 0.5; written to {out}" in told.err
    found = [row for file in part_files(tmp_path / "out") for row in read_part(file)]
    assert found == read_part(tmp_path / "rows.parquet")
    expected = discoveries([row["p_value"] for row in found], 0.5).tolist()
    assert [row["discovery"] for row in found] == expected
    assert expected[-1]  # red
    count = f"{sum(expected)} {'discovery' if sum(expected) == 1 else 'discoveries'}"
    assert f"; {count} at a false-discovery rate of 0.5; written to " in told.err


def test_shares_of_an_array_job_make_the_whole_between_them(
    spherood: Command, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    out = tmp_path / "out"
    for share in ("1/2", "0/2"):
        assert spherood("score", bundle, photos, "-o", out, "--part-size", "1", "--share", share).code == 0
    assert len([row for file in part_files(out) for row in read_part(file)]) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--share", "0/2"], "--share and --engine ray write parts. Name a folder for them: -o FOLDER"),
        (["-o", "x.json"], "x.json: a file of verdicts ends in .jsonl, .csv, .parquet; a folder of parts has another"),
        (["--engine", "ray", "-o", "x.csv"], "--share and --engine ray write parts."),
        (["--address", "ray://head:10001", "-o", "x"], "--address is that of a Ray cluster. Add --engine ray."),
        (["--share", "5/2", "-o", "x"], "--share 5/2: expected I/N with 0 <= I < N, for example 2/16."),
        (
            ["--share", "0/2", "-o", "x", "--false-discovery-rate", "0.1"],
            "false discoveries are counted over all parts.",
        ),
    ],
)
def test_what_does_not_go_together_is_told_before_any_work(
    spherood: Command, bundle: Path, photos: Path, more: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    told = spherood("score", bundle, photos, *more)
    assert (told.code, told.out) == (2, "")
    assert message in told.err
    assert not Path("x").exists()


def test_a_folder_that_holds_the_parts_of_another_bundle_is_refused(
    spherood: Command, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    spherood("score", bundle, photos, "-o", out, "--format", "jsonl")
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    replace(Bundle.load(bundle), provenance={"made": "again"}).save(other)
    told = spherood("score", other, photos, "-o", out, "--format", "jsonl")
    assert told.code == 2
    assert re.fullmatch(
        rf"{out}: holds parts of another bundle \([0-9a-f]{{16}}, not [0-9a-f]{{16}}\)\. Choose another folder, or "
        r"remove it\.\n",
        told.err,
    )
