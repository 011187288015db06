"""Real photographs of steel, from the first command to the last: four defects are known, two are new.

Of each known defect 50 photographs train an encoder, 80 others make the guard, 20 more are further ID. The figures are
printed: pytest -s tests/end_to_end/test_steel.py
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spherood import calibration
from spherood.metrics import clopper_pearson

NEW = ("patches", "scratches")
PARTS = {"train": slice(0, 50), "known": slice(50, 130), "further": slice(130, 150)}
RECIPE = """
name: steel
data: {folder: train, count: 200}
preprocess: {size: 64, resize: stretch}
views: {scale: [0.5, 1.0], flip: 0.5}
model: {encoder: resnet8, width: 16, classifier: true}
loss:
  - use: cross_entropy
schedule: {lr: 0.05, warmup_epochs: 1}
training: {epochs: 20, batch: 32}
seed: 0
"""
ENCODER = ["--encoder", "steel", "--data", "."]  # fit looks there for the images that trained it
FIT = ["known", *ENCODER, "--test", "further", *(f"--ood={name}=new/{name}" for name in NEW)]


@pytest.fixture(scope="module")
def steel(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What every command printed, and the folder that they were typed in."""
    pytest.importorskip("altair")
    shared = os.environ.get("SPHEROOD_SHARED")
    if not shared or not (Path(shared) / "data" / "unpack.py").exists():
        pytest.skip("SPHEROOD_SHARED names no folder with data/unpack.py, the packed real images")
    place = tmp_path_factory.mktemp("steel works")
    unpack = [sys.executable, str(Path(shared) / "data" / "unpack.py"), str(place / "all"), "steel"]
    subprocess.run(unpack, check=True, capture_output=True)
    for defect in sorted((place / "all" / "steel").iterdir()):
        files = sorted(defect.iterdir())
        parts = {"new": slice(None)} if defect.name in NEW else PARTS
        for part, rows in parts.items():
            (place / part / defect.name).mkdir(parents=True)
            for file in files[rows]:
                os.link(file, place / part / defect.name / file.name)
    (place / "steel.yaml").write_text(RECIPE)

    def spherood(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "spherood", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=place)

    return SimpleNamespace(
        place=place,
        trained=spherood("train", "--recipe", "steel.yaml", "--data", "."),
        fitted=spherood("fit", *FIT),
        again=spherood("fit", *FIT, "--run", "again/guard", "--json"),
        further=spherood("score", "runs/guard-known/bundle", "further", "--json"),
        new=spherood("score", "runs/guard-known/bundle", "new", "-o", "new.jsonl"),
        overlap=spherood("fit", "train", *ENCODER, "--run", "overlap"),
    )


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_command_is_done_and_only_those_with_something_to_say_write_to_stdout(steel: SimpleNamespace) -> None:
    for done in (steel.trained, steel.fitted, steel.again, steel.further, steel.new):
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "Warning" not in done.stderr
    assert steel.new.stdout == ""
    assert steel.trained.stdout.startswith("trained: runs/steel/checkpoints/last.pt\n")
    assert steel.fitted.stderr == steel.again.stderr == ""
    assert "parts:   fit 176, choose 48, calibrate 96; they share no row\n" in steel.fitted.stdout  # of 320
    print(f"\n{steel.fitted.stdout}\n{steel.further.stderr}{steel.new.stderr}")


def test_the_promise_is_that_of_96_held_out_photographs(steel: SimpleNamespace) -> None:
    assert calibration.allowed_exceedances(96, 0.05) == 1  # P(Bin(96, .05) <= 1) = .044
    mean, low, high = calibration.expected_rate(96, 1)
    said = " ".join(steel.fitted.stdout.split())
    assert (
        "promise: With confidence 0.95 over the draw of the 96 held-out images, at most 5 % of further images of the "
        f"same kind raise a false alarm. To expect: {100 * mean:.3g} %, and between {100 * low:.3g} % and "
        f"{100 * high:.3g} % for 95 of 100 such draws."
    ) in said
    assert f"{100 * mean:.3g}" == "2.06"  # 2 of 97


def test_false_alarms_on_further_photographs_are_no_more_than_promised(steel: SimpleNamespace) -> None:
    rows = rows_of(steel.further.stdout)
    alarms = sum(row["is_ood"] for row in rows)
    low, high = clopper_pearson(alarms, len(rows))
    assert len(rows) == 80
    assert low <= 0.05
    told = f"{100 * alarms / 80:.2f} ({100 * low:.2f} to {100 * high:.2f}) % of 80 ID images in alarm"
    assert re.search(rf"^test: +{re.escape(told)}$", steel.fitted.stdout, re.MULTILINE)
    assert steel.further.stderr == f"80 images: {alarms} OOD, {80 - alarms} within range, 0 unreadable\n"


def test_both_new_defects_are_caught_far_more_often_than_false_alarms_are_raised(steel: SimpleNamespace) -> None:
    """98 and 47 % where it was written, 65 to 100 and 20 to 81 % with other seeds; softmax 0 to 2 and 9 to 23 %."""
    rows = rows_of((steel.place / "new.jsonl").read_text(encoding="utf-8"))
    for name in NEW:
        own = [row for row in rows if f"/{name}/" in row["image"]]
        caught = sum(row["is_ood"] for row in own)
        low, high = clopper_pearson(caught, len(own))
        assert len(own) == 150
        assert low > 0.1, name
        told = f"{100 * caught / 150:.2f} ({100 * low:.2f} to {100 * high:.2f})"
        assert re.search(rf"^│ {name} +│ +150 │ +{re.escape(told)} │", steel.fitted.stdout, re.MULTILINE)


def test_the_new_defects_are_caught_more_often_than_by_maximum_softmax(steel: SimpleNamespace) -> None:
    for one in json.loads(steel.again.stdout)["results"]["ood"]:
        assert one["caught"]["value"] > one["msp"]["value"], one["name"]


def test_a_verdict_has_every_field_and_its_parts_agree(steel: SimpleNamespace) -> None:
    known = {"crazing", "inclusion", "pitted_surface", "rolled-in_scale"}
    record = json.loads(steel.again.stdout)
    for row in rows_of(steel.further.stdout) + rows_of((steel.place / "new.jsonl").read_text(encoding="utf-8")):
        assert set(row) == {
            *("image", "source", "time", "is_ood", "score", "p_value", "threshold", "nearest_class", "neighbours"),
            *("reason", "needs_review", "error"),
        }
        assert row["threshold"] == record["threshold"]
        assert row["is_ood"] is (row["score"] > row["threshold"])
        assert row["p_value"] * 97 == pytest.approx(round(row["p_value"] * 97))
        assert row["p_value"] <= 2 / 97 or not row["is_ood"]  # at most one held-out score is as high
        assert row["nearest_class"] in known
        assert len(row["neighbours"]) == (0 if record["score"].startswith("mahalanobis") else 3)
        assert {near["name"].split("/")[0] for near in row["neighbours"]} <= known
        assert row["reason"].endswith(f"; nearest class: {row['nearest_class']}")
    right = [row["nearest_class"] == row["image"].split("/")[1] for row in rows_of(steel.further.stdout)]
    assert sum(right) > 48  # 20 by chance


def test_fitted_again_from_the_images_every_file_of_the_bundle_is_the_same(steel: SimpleNamespace) -> None:
    bundles = [steel.place / "runs" / "guard-known" / "bundle", steel.place / "again" / "guard" / "bundle"]
    contents = [{path.name: path.read_bytes() for path in bundle.iterdir()} for bundle in bundles]
    manifests = [json.loads(one.pop("bundle.json")) for one in contents]
    cards = [re.sub("made by .*", "", one.pop("README.md").decode()) for one in contents]  # when
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3  # model, detector, names of the bank: the names hold their hashes
    for manifest in manifests:
        del manifest["created"], manifest["sha256"]
    assert manifests[0] == manifests[1]
    assert cards[0] == cards[1]


def test_photographs_that_trained_the_encoder_may_not_calibrate(steel: SimpleNamespace) -> None:
    assert (steel.overlap.returncode, steel.overlap.stdout) == (1, "")
    assert steel.overlap.stderr.startswith("60 of 60 held-out images trained steel, first ")
    assert not (steel.place / "runs" / "overlap").exists()


def test_the_page_and_the_next_command_are_there(steel: SimpleNamespace) -> None:
    page = (steel.place / "runs" / "guard-known" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in NEW)
    *_, last = steel.fitted.stdout.splitlines()
    assert shlex.split(last) == ["next:", "spherood", "score", "runs/guard-known/bundle", "IMAGE..."]
