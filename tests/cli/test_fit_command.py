"""`spherood fit` and `score` as a user types them: features of six columns around three axes, images of two colours."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from spherood import calibration, detectors
from spherood.bundle import Bundle
from spherood.errors import FitError

Command = Callable[..., Any]
Pixels = NDArray[np.uint8]
KNOWN = np.arange(300) % 3  # of its 300 rows .55, .15 and .3 are 165, 45 and 90
COLOURS = {"red": (180, 60, 60), "green": (60, 180, 60), "blue": (40, 60, 200)}
NETWORK = """
import torch
from torch import nn
from spherood.data import Preprocess

class Colour(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images):
        return torch.cat([images.mean(dim=(2, 3)) * self.weight, images.std(dim=(2, 3))], dim=1)

def network():
    return Colour(), Preprocess(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""


def around(axis: NDArray[np.int64] | Sequence[int], seed: int, width: int = 6) -> NDArray[np.float32]:
    """One row per entry: three times that axis, and noise."""
    noise = np.random.default_rng(seed).normal(0, 0.3, (len(axis), width))
    return (3 * np.eye(width)[axis] + noise).astype(np.float32)


def painted(folder: Path, colour: str, count: int, seed: int = 0) -> None:
    """Images of 8 x 8 pixels: a colour, a shift of the whole image, noise on each pixel."""
    draw = np.random.default_rng([seed, *COLOURS[colour]])
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.array(COLOURS[colour]) + draw.normal(0, 30, 3) + draw.normal(0, 25, (8, 8, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of features, folders of images, a network's module."""
    place = tmp_path_factory.mktemp("given")
    known = around(KNOWN, 0)
    np.savez(place / "known.npz", feature=known, label=KNOWN)
    np.save(place / "known.npy", known)
    np.save(place / "labels.npy", KNOWN)
    np.savez(place / "videos.npz", feature=known, label=KNOWN, video=np.arange(300) // 10)
    np.savez(place / "night.npz", feature=around([3] * 50, 1))
    np.savez(place / "fog.npz", feature=around([4] * 40, 2))
    np.savez(place / "long.npz", feature=3 * around([0, 1] * 20, 3))  # of known directions
    np.savez(place / "test.npz", feature=around(np.arange(200) % 3, 4))
    np.save(place / "wide.npy", around([3] * 20, 5, width=8))
    known[7, 2] = np.nan
    np.save(place / "nan.npy", known)
    for colour in ("red", "green"):
        painted(place / "photos" / colour, colour, 100)
        painted(place / "further" / colour, colour, 30, seed=1)
    painted(place / "blue", "blue", 20)
    painted(place / "few" / "red", "red", 20)
    (place / "empty").mkdir()
    (place / "file").write_text("a regular file")
    (place / "own_network.py").write_text(NETWORK)
    (place / "no.onnx").write_text("none")
    return place


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are typed in an empty folder; a user's module can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(given)


def told_of(out: str) -> dict[str, str]:
    """What stands behind each word and its colon: {"parts": "fit 165, ..."}; of equal words the last."""
    pairs = (line.partition(":") for line in out.splitlines())
    return {word: text.strip() for word, colon, text in pairs if colon and " " not in word}


def typed(spherood: Command, line: str, place: str, inputs: Sequence[Path], *more: str) -> Any:
    """The command of a line that ends in a place for inputs, with these in it."""
    assert line.endswith(f" {place}")
    program, *words = shlex.split(line.removesuffix(place))
    assert program == "spherood"
    return spherood(*words, *inputs, *more)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_features_with_labels_become_a_bundle_and_every_line_says_what_is_in_it(spherood: Command, given: Path) -> None:
    told = spherood("fit", given / "known.npz", "--test", given / "test.npz")
    assert told.code == 0, told.err
    says, bundle = told_of(told.out), Bundle.load("runs/guard-known/bundle")
    assert says["parts"] == "fit 165, choose 45, calibrate 90; they share no row"
    assert says["score"].startswith("combined  (AUROC against hidden classes: combined ")
    # Of 90 none may lie above: P(Bin(90, .05) <= 1) = .057. The threshold is the highest, and 1/91 to be expected.
    assert bundle.threshold() == bundle.held_out_score.max()
    assert "at most 5 % of further images of the same kind raise a false alarm. To expect: 1.1 %" in " ".join(
        told.out.split()
    )
    alarms = sum(it.is_ood for it in bundle.predict(np.load(given / "test.npz")["feature"]))
    assert says["test"].startswith(f"{alarms / 2:.2f} (")
    assert says["test"].endswith("% of 200 ID images in alarm")
    assert says["bundle"].startswith("runs/guard-known/bundle ")
    assert sorted(Path("runs").iterdir()) == [Path("runs/guard-known")]


def test_the_command_printed_last_scores_features(spherood: Command, given: Path) -> None:
    told = spherood("fit", given / "known.npz", "--run", "a guard")
    found = typed(spherood, told_of(told.out)["next"], "FEATURES", [given / "night.npz", given / "test.npz"], "--json")
    rows = lines(found.out)
    assert (found.code, len(rows)) == (0, 250)
    assert [row["image"] for row in rows[49:51]] == [f"{given / 'night.npz'}:49", f"{given / 'test.npz'}:0"]
    assert all(row["is_ood"] for row in rows[:50])
    alarms = sum(row["is_ood"] for row in rows)
    assert found.err == f"250 images: {alarms} OOD, {250 - alarms} within range, 0 unreadable\n"
    expected = Bundle.load("runs/a guard/bundle").predict(np.load(given / "test.npz")["feature"])
    assert [row["score"] for row in rows[50:]] == [it.score for it in expected]


def test_a_npy_takes_its_labels_from_beside_and_gives_the_same_bundle_as_a_npz(spherood: Command, given: Path) -> None:
    runs = {
        "beside": [given / "known.npy", "--labels", given / "labels.npy"],
        "within": [given / "known.npz"],
        "another draw": [given / "known.npz", "--seed", "1"],
    }
    assert [spherood("fit", *words, "--run", run).code for run, words in runs.items()] == [0, 0, 0]
    one, other, drawn = ({path.name for path in Path("runs", run, "bundle").iterdir()} for run in runs)
    assert one == other  # a file's name holds its hash
    assert len(one - drawn) == 1  # the detector's


def test_without_labels_the_neighbours_decide_and_no_class_is_named(spherood: Command, given: Path) -> None:
    says = told_of(spherood("fit", given / "known.npy").out)
    assert says["parts"] == "fit 210, choose 0, calibrate 90; they share no row"
    assert says["score"] == "knn:k=10"
    rows = lines(spherood("score", "runs/guard-known/bundle", given / "fog.npz", "--json").out)
    assert {(row["is_ood"], row["nearest_class"]) for row in rows} == {(True, None)}


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_groups_stay_in_one_part_and_what_that_does_to_the_confidence_is_told(
    spherood: Command, given: Path, kind: str
) -> None:
    path = given / "videos.npz"
    if kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {name: list(value) for name, value in np.load(path).items()}
        path = Path("videos.parquet")
        parquet.write_table(arrow.table(columns), path)
    told = spherood("fit", path, "--group-by", "video", "--json")
    assert told.code == 0, told.err
    record = json.loads(told.out)
    assert sum(record["parts"].values()) == 300
    assert all(count % 10 == 0 for count in record["parts"].values())  # ten rows a video
    assert record["results"]["notes"][0].startswith("Groups were kept in one part. Images of one group are alike")
    assert Bundle.load(record["bundle"]).provenance["groups"] == "video"


def test_images_through_a_function_are_judged_by_the_command_that_was_printed(spherood: Command, given: Path) -> None:
    told = spherood("fit", given / "photos", "--encoder", "own_network:network", "--test", given / "further")
    assert told.code == 0, told.err
    says = told_of(told.out)
    assert says["parts"] == "fit 110, choose 30, calibrate 60; they share no row"
    assert says["test"].endswith("% of 60 ID images in alarm")
    red = given / "further" / "red" / "000.png"
    found = typed(spherood, says["next"], "IMAGE...", [given / "blue", red], "--json")
    assert found.code == 0, found.err
    rows = lines(found.out)
    assert [row["is_ood"] for row in rows] == [True] * 20 + [False]
    assert rows[-1]["nearest_class"] == "red"
    assert {near["name"].split("/")[0] for near in rows[-1]["neighbours"]} == {"red"}


def test_a_network_that_is_code_of_ones_own_runs_only_where_it_is_trusted(spherood: Command, given: Path) -> None:
    spherood("fit", given / "photos", "--encoder", "own_network:network", "--run", "own")
    words = ["score", "runs/own/bundle", given / "blue" / "000.png"]
    told = spherood(*words)
    assert (told.code, told.out) == (2, "")
    assert told.err == (
        "the bundle's network is own_network:network, code of your own. If you trust it, say so: "
        "Bundle.load(folder, trust=['own_network:network']), or --trust own_network:network\n"
    )
    assert spherood(*words, "--trust", "own_network:network").code == 0


def test_images_through_a_run_need_no_trust(spherood: Command, given: Path, run_: Path) -> None:
    told = spherood("fit", given / "photos", "--encoder", run_.name, "--run", "guard")
    assert told.code == 0, told.err
    found = typed(spherood, told_of(told.out)["next"], "IMAGE...", [given / "further", given / "blue"], "--json")
    assert (found.code, len(lines(found.out))) == (0, 80)
    expected = Bundle.load("runs/guard/bundle").predict([given / "blue" / f"{number:03}.png" for number in range(20)])
    assert [row["score"] for row in lines(found.out)[60:]] == pytest.approx([it.score for it in expected], rel=1e-5)


def test_the_record_for_machines_is_all_of_stdout_and_agrees_with_the_bundle(spherood: Command, given: Path) -> None:
    pytest.importorskip("altair", reason="the page beside an OOD source needs it")
    sources = ["--ood", f"darkness={given / 'night.npz'}", "--ood", given / "fog.npz"]
    told = spherood("fit", given / "known.npz", *sources, "--test", given / "test.npz", "--json")
    assert told.code == 0, told.err
    record = json.loads(told.out)
    bundle = Bundle.load(record["bundle"])
    assert record["parts"] == {"fit": 165, "choose": 45, "calibrate": 90}
    assert record["score"] == "combined"
    assert list(record["choice"]["auroc"]) == ["combined", "knn:k=10", "mahalanobis:unit=true", "mahalanobis"]
    assert (record["threshold"], record["promise"]["held_out"]) == (bundle.threshold(), 90)
    assert [(one["name"], one["caught"]["of"]) for one in record["results"]["ood"]] == [("darkness", 50), ("fog", 40)]
    for one, file in zip(record["results"]["ood"], ("night.npz", "fog.npz"), strict=True):
        alarms = [it.is_ood for it in bundle.predict(np.load(given / file)["feature"])]
        assert one["caught"]["value"] == np.mean(alarms)
        assert one["caught"]["low"] <= one["caught"]["value"] <= one["caught"]["high"]


def test_validation_ood_decides_which_score_is_taken(spherood: Command, given: Path) -> None:
    """Rows three times as long lie in known directions: only a score that sees the length tells them."""
    words = ["fit", given / "known.npz", "--scores", "knn:k=10,mahalanobis", "--json"]
    alone = json.loads(spherood(*words).out)
    chosen = json.loads(spherood(*words, "--validation-ood", f"long={given / 'long.npz'}").out)
    assert (alone["score"], alone["choice"]["against"]) == ("knn:k=10", "hidden classes")
    assert (chosen["score"], chosen["choice"]["against"]) == ("mahalanobis", "long")
    assert chosen["choice"]["auroc"]["mahalanobis"] == 1
    assert chosen["choice"]["auroc"]["knn:k=10"] < 0.9


def test_by_class_each_row_meets_the_threshold_of_its_predicted_class(spherood: Command, given: Path) -> None:
    told = spherood("fit", given / "known.npz", "--by-class", "--false-alarm-rate", "0.2")
    assert told.code == 0, told.err
    assert "Each predicted class has its own threshold" in told.out
    bundle = Bundle.load("runs/guard-known/bundle")
    assert bundle.held_out_class is not None
    expected = {}
    for number, name in enumerate(bundle.classes):
        own = np.sort(bundle.held_out_score[bundle.held_out_class == number])
        above = calibration.allowed_exceedances(len(own), 0.2)
        assert above is not None
        expected[name] = own[len(own) - 1 - above]
    rows = lines(spherood("score", "runs/guard-known/bundle", given / "test.npz", "--json").out)
    assert len({row["nearest_class"] for row in rows}) == len(set(expected.values())) == 3
    assert all(row["threshold"] == expected[row["nearest_class"]] for row in rows)


def test_between_two_thresholds_a_row_goes_to_a_person(spherood: Command, given: Path) -> None:
    told = spherood("fit", given / "known.npz", "--false-alarm-rate", "0.1", "--review-rate", "0.3")
    assert told.code == 0, told.err
    assert "promise: At most 30 % raise an alarm or go to a person; both rates hold together." in told.out
    bundle = Bundle.load("runs/guard-known/bundle")
    lower = calibration.threshold(bundle.held_out_score, 0.3, confidence=0.975)  # half of the doubt each
    found = spherood("score", "runs/guard-known/bundle", given / "test.npz", "--json")
    rows = lines(found.out)
    review = [row for row in rows if row["needs_review"]]
    assert review == [row for row in rows if lower < row["score"] <= bundle.threshold()]
    assert 0 < len(review) < 100
    assert all(row["reason"].count("; a person should look") == row["needs_review"] for row in rows)
    assert found.err.endswith(f"0 unreadable, {len(review)} for a person\n")


def test_a_coreset_keeps_so_many_rows_of_the_bank(spherood: Command, given: Path) -> None:
    told = spherood("fit", given / "known.npz", "--scores", "knn:k=3", "--coreset", "60", "--json")
    assert json.loads(told.out)["parts"] == {"fit": 60, "choose": 0, "calibrate": 90}
    (path,) = Path("runs/guard-known/bundle").glob("detector-*")
    assert load_file(path)["detector.bank"].shape == (60, 6)


def test_a_bank_in_half_precision_is_calibrated_as_it_ships(spherood: Command, given: Path) -> None:
    words = ["fit", given / "known.npz", "--scores", "knn:k=3", "--run"]
    assert spherood(*words, "whole").code == spherood(*words, "halved", "--half").code == 0
    bank = {}
    for run in ("whole", "halved"):
        (path,) = Path("runs", run, "bundle").glob("detector-*")
        bank[run] = load_file(path)["detector.bank"]
    assert bank["halved"].dtype == np.float16
    np.testing.assert_array_equal(bank["halved"], bank["whole"].astype(np.float16))
    whole, halved = (Bundle.load(Path("runs", run, "bundle")) for run in ("whole", "halved"))
    scored = halved.predict(np.load(given / "known.npz")["feature"])
    assert set(halved.held_out_score) <= {it.score for it in scored}
    assert not set(halved.held_out_score) & set(whole.held_out_score)


def test_thumbnails_show_the_images_of_the_bank(spherood: Command, given: Path) -> None:
    words = ["--encoder", "own_network:network", "--scores", "knn:k=3", "--thumbnails"]
    assert spherood("fit", given / "photos", *words).code == 0
    bundle = Bundle.load("runs/guard-photos/bundle", trust=["own_network:network"])
    assert bundle.thumbnails is not None
    assert len(bundle.thumbnails) == len(bundle.bank_names) == 140
    for near in bundle.predict([given / "further" / "red" / "000.png"])[0].neighbours:
        shown, kept = Image.open(given / "photos" / near.name), bundle.thumbnail(near)
        difference = np.asarray(shown, dtype=int) - np.asarray(kept)
        assert np.abs(difference).mean() < 20  # a JPEG of noise: what another image differs by is 30 and more


def test_held_out_images_apart_all_calibrate(spherood: Command, given: Path) -> None:
    told = spherood("fit", given / "known.npz", "--held-out", given / "test.npz", "--scores", "knn:k=3", "--json")
    assert json.loads(told.out)["parts"] == {"fit": 300, "choose": 0, "calibrate": 200}


def test_a_false_discovery_rate_flags_a_part_of_the_batch_and_says_how_few_it_can_before(
    spherood: Command, given: Path
) -> None:
    spherood("fit", given / "known.npz")
    words = ["score", "runs/guard-known/bundle", given / "night.npz", given / "test.npz"]
    told = spherood(*words, "--false-discovery-rate", "0.1", "--json")
    rows = lines(told.out)
    p = np.array([row["p_value"] for row in rows])
    under = [j for j in range(1, 251) if np.sort(p)[j - 1] <= 0.1 * j / 250]  # Benjamini and Hochberg
    assert [row["discovery"] for row in rows] == list(p <= np.sort(p)[max(under) - 1])
    first, last = told.err.splitlines()
    assert first == (
        f"false-discovery rate 0.1: with 90 held-out images, of 250 none or at least {ceil(250 / (0.1 * 91))} can be "
        "flagged."
    )
    assert last.endswith(f"; {sum(row['discovery'] for row in rows)} discoveries at a false-discovery rate of 0.1")
    assert "discovery" not in lines(spherood(*words, "--json").out)[0]


BAD = {
    "images without an encoder": ("photos", [], 2, "photos: images need an encoder. Name one: --encoder RUN, FILE or "
        "package.module:function."),
    "features with an encoder": ("known.npz", ["--encoder", "own_network:network"], 2, "known.npz: features need no "
        "encoder. Leave --encoder out, or name a folder of images."),
    "an absent folder": ("gone", [], 1, "gone: no such file or folder. Check the path."),
    "an absent file": ("gone.npz", [], 1, "gone.npz: no such file or folder. Check the path."),
    "an absent source": ("known.npz", ["--ood", "gone"], 1, "gone: no such file or folder. Check the path."),
    "an empty folder": ("empty", ["--encoder", "own_network:network"], 1, "empty: holds no image (.bmp, .gif, .jpeg, "
        ".jpg, .pgm, .png, .ppm, .tif, .tiff, .webp). Is it the right folder?"),
    "too few images": ("few", ["--encoder", "own_network:network"], 1, "known: of 20 rows 6 (30 %) would calibrate, "
        "and a false-alarm rate of 0.05 with confidence 0.95 needs 59. Give 197 rows or more, or held-out ones apart, "
        "or ask for a rate of 0.394 or more."),
    "no such module": ("photos", ["--encoder", "gone_network:f"], 2, "gone_network:f: cannot be imported: No module "
        "named 'gone_network'. Write it as package.module:function."),
    "a misspelt score": ("known.npz", ["--scores", "knnn:k=3"], 2, "detectors: there is no 'knnn'. Did you mean "
        "'knn'? Your own: package.module:Class."),
    "a misspelt setting": ("known.npz", ["--scores", "knn:kk=3"], 2, "detectors: 'knn' has no setting 'kk'. Did you "
        "mean 'k'?"),
    "no false alarms at all": ("known.npz", ["--false-alarm-rate", "0"], 2, "spherood fit: false_alarm_rate must lie "
        "strictly between 0 and 1, got 0. Try 0.05 or 0.95."),
    "nothing but false alarms": ("known.npz", ["--false-alarm-rate", "1"], 2, "spherood fit: false_alarm_rate must lie "
        "strictly between 0 and 1, got 1. For 1 % write 0.01."),
    "more than all": ("known.npz", ["--false-alarm-rate", "1.5"], 2, "spherood fit: false_alarm_rate must lie strictly "
        "between 0 and 1, got 1.5. For 1.5 % write 0.015."),
    "a review rate below": ("known.npz", ["--review-rate", "0.01"], 2, "spherood fit: the review rate 0.01 must be "
        "larger than the false-alarm rate 0.05."),
    "an unknown column": ("videos.npz", ["--group-by", "vidoe"], 2, "videos.npz: there is no 'vidoe' to group by. Did "
        "you mean 'video'?"),
    "a column of no table": ("photos", ["--group-by", "site", "--encoder", "own_network:network"], 2, "--group-by "
        "site: for images write FILE.csv:COLUMN; its column image names them."),
    "thresholds by no class": ("known.npy", ["--by-class"], 2, "a threshold per class needs labels. Label the images, "
        "or leave --by-class out."),
    "a coreset of more than all": ("known.npz", ["--coreset", "165"], 2, "a coreset of 165 rows out of 165: ask for "
        "fewer than there are, and at least one."),
    "NaN": ("nan.npy", [], 1, "nan.npy: 1 of 300 rows, first row 7, hold NaN or infinity. Drop these rows, or find "
        "out what made them."),
    "OOD of another width": ("known.npz", ["--ood", "wide.npy"], 1, "wide.npy: features have 8 columns, the known "
        "ones 6. Use one encoder for both."),
    "held-out of another width": ("known.npz", ["--held-out", "wide.npy", "--false-alarm-rate", "0.2"], 1, "wide.npy: "
        "features have 8 columns, the known ones 6. Use one encoder for both."),
    "two sources of one name": ("known.npz", ["--ood", "a=night.npz", "--ood", "a=fog.npz"], 2, "--ood a=fog.npz: "
        "the name 'a' is taken. Write it as NAME=PATH with another name."),
    "a run below a file": ("known.npz", ["--run", "file/run"], 1, "file/run/bundle: Not a directory. Mend that, or "
        "choose another place."),
    "outputs of no graph": ("photos", ["--encoder", "own_network:network", "--feature-output", "x"], 2, "spherood fit: "
        "own_network:network is no .onnx file, and only such a file has outputs by name."),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_that_says_what_to_do_and_leaves_no_run(
    spherood: Command, given: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    if "--ood" in BAD[case][1]:
        pytest.importorskip("altair", reason="the page beside an OOD source needs it")
    known, more, code, message = BAD[case]
    monkeypatch.chdir(given)
    before = set(given.rglob("*"))
    words = ["fit", known, *more] + ([] if "--run" in more else ["--run", "half/made"])
    assert spherood(*words) == (code, "", message + "\n")
    left = {path.relative_to(given).parts[:2] for path in set(given.rglob("*")) - before}
    assert left <= {("__pycache__",), ("half",), ("half", ".features")}  # features are whole, and serve the next try


def test_an_onnx_file_without_the_named_output_offers_the_nearest(spherood: Command, given: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["features"])]  # fmt: skip
    takes = helper.make_tensor_value_info("image", number, ["B", 3, 8, 8])
    gives = helper.make_tensor_value_info("features", number, ["B", 3])
    graph = helper.make_graph(nodes, "colours", [takes], [gives])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "colours.onnx")
    Path("own.yaml").write_text("{size: 8, mean: [0, 0, 0], std: [1, 1, 1]}")
    words = ["fit", given / "photos", "--encoder", "colours.onnx", "--preprocess", "own.yaml"]
    told = spherood(*words, "--feature-output", "feature")
    assert told == (
        2,
        "",
        "colours.onnx: has no tensor 'feature'. Nearest: 'features'. Outputs: 'features' (B, 3).\n",
    )
    assert not Path("runs").exists()
    told = spherood(*words, "--feature-output", "features")
    assert told.code == 0, told.err
    assert typed(spherood, told_of(told.out)["next"], "IMAGE...", [given / "blue"]).code == 0


def test_a_score_that_reads_twice_refuses_a_generator() -> None:
    with pytest.raises(FitError, match=r"Combined\.fit: reads the batches twice, and a generator gives them once\."):
        detectors.Combined().fit((around(KNOWN, 0), KNOWN) for _ in range(1))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("wide.npy", "features have 8 columns, the fitted ones had 6. Was it fitted on another encoder?"),
        ("nan.npy", "nan.npy: 1 of 300 rows, first row 7, hold NaN or infinity. Drop these rows, or find out what "
            "made them."),
    ],
)  # fmt: skip
def test_features_that_the_bundle_cannot_read_are_told_and_no_file_is_written(
    spherood: Command, given: Path, file: str, message: str
) -> None:
    spherood("fit", given / "known.npz")
    told = spherood("score", "runs/guard-known/bundle", given / "fog.npz", given / file, "-o", "rows.jsonl")
    assert (told.code, told.out) == (1, "")
    assert told.err.endswith(message + "\n")
    assert not Path("rows.jsonl").exists()


def test_images_for_a_bundle_of_features_are_told_what_it_reads(spherood: Command, given: Path) -> None:
    spherood("fit", given / "known.npz")
    told = spherood("score", "runs/guard-known/bundle", given / "blue")
    assert (told.code, told.out) == (2, "")
    assert told.err == (
        f"{given / 'blue'}: the bundle reads features. Give files of them (.npy, .npz, .parquet, .safetensors), or "
        "wrap your network: spherood.Guard(model, bundle)\n"
    )


@pytest.mark.parametrize("role", ["detector", "bank"])
def test_a_bundle_of_which_one_byte_was_altered_is_refused(spherood: Command, given: Path, role: str) -> None:
    spherood("fit", given / "known.npz")
    (path,) = Path("runs/guard-known/bundle").glob(f"{role}-*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    told = spherood("score", "runs/guard-known/bundle", given / "fog.npz")
    assert told == (
        1,
        "",
        f"runs/guard-known/bundle: {path.name} was altered (its hash differs). Copy the bundle again.\n",
    )


def test_verdicts_cannot_go_below_a_regular_file(spherood: Command, given: Path) -> None:
    spherood("fit", given / "known.npz")
    out = given / "file" / "below.jsonl"
    told = spherood("score", "runs/guard-known/bundle", given / "fog.npz", "-o", out)
    assert told == (1, "", f"{out}: its folder cannot be made: File exists. Choose another place.\n")
    assert (given / "file").read_text() == "a regular file"


def test_where_the_file_system_ends_an_older_bundle_stays_whole(spherood: Command, given: Path) -> None:
    spherood("fit", given / "known.npz", "--run", "guard")
    folder = Path("runs/guard/bundle")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = subprocess.run(
        [sys.executable, "-m", "spherood", "fit", given / "known.npz", "--run", "guard", "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "runs/guard/bundle: its detector cannot be written (Error while serializing: I/O error: File too large (os "
        "error 27)). Mend that, or choose another place.\n"
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert spherood("score", folder, given / "fog.npz").code == 0


def twins(folder: Path) -> None:
    """Pictures in every form a camera or a designer leaves, each beside the plain RGB picture that it shows."""
    rgb = np.random.default_rng(7).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)

    def save(name: str, picture: Image.Image, shown: Pixels, **more: Any) -> None:
        picture.save(folder / name, **more)
        Image.fromarray(shown).save(folder / f"{name.partition('.')[0]}.twin.png")

    index = np.arange(64, dtype=np.uint8).reshape(8, 8)
    palette = Image.fromarray(index, mode="P")
    palette.putpalette(rgb.reshape(-1).tolist())
    save("palette.png", palette, rgb)
    inks = [Image.fromarray(255 - rgb[..., channel]) for channel in range(3)]
    save("inks.tif", Image.merge("CMYK", [*inks, Image.new("L", (8, 8))]), rgb)
    wide = np.random.default_rng(8).integers(0, 65536, (8, 8), dtype=np.uint16)
    save("wide.png", Image.fromarray(wide), np.repeat((wide // 256).astype(np.uint8)[..., None], 3, axis=2))
    blue = Image.new("RGB", (8, 8), (0, 0, 255))
    save("animated.png", image, rgb, save_all=True, append_images=[blue])
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: to be turned by a quarter, clockwise
    save("turned.png", image, np.rot90(rgb, -1).copy(), exif=exif)


def test_a_picture_in_another_form_gets_the_verdict_of_its_plain_twin(
    spherood: Command, bundle: Path, tmp_path: Path
) -> None:
    twins(tmp_path)
    rows = {Path(row["image"]).name.partition(".")[0] + ".twin" * (".twin." in row["image"]): row
            for row in lines(spherood("score", bundle, tmp_path, "--json").out)}  # fmt: skip
    names = ("animated", "inks", "palette", "turned", "wide")
    assert len(rows) == 10
    for name in names:
        found, twin = rows[name], rows[f"{name}.twin"]
        assert found["score"] == pytest.approx(twin["score"], rel=1e-5), name
        same = ("is_ood", "p_value", "nearest_class", "reason")
        assert [found[key] for key in same] == [twin[key] for key in same], name
    assert rows["turned"]["score"] != pytest.approx(rows["palette"]["score"], rel=1e-5)


@pytest.fixture
def mixed(given: Path, tmp_path: Path) -> Path:
    """The images of `photos` and, among the red ones, an empty file and two that end too early."""
    folder = tmp_path / "mixed"
    for file in (given / "photos").rglob("*.png"):
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(file, folder / file.parent.name / file.name)
    (folder / "red" / "empty.png").touch()
    (folder / "red" / "short.png").write_bytes((given / "photos" / "red" / "000.png").read_bytes()[:-60])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.jpg")
    (folder / "red" / "short.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-900])
    return folder


def test_what_cannot_be_read_is_named_and_skipped_and_the_rest_is_fitted_and_judged(
    spherood: Command, mixed: Path, given: Path
) -> None:
    told = spherood("fit", mixed, "--encoder", "own_network:network", "--run", "guard")
    assert told.code == 0
    assert told_of(told.out)["parts"] == "fit 110, choose 30, calibrate 60; they share no row"
    files = [mixed / "red" / name for name in ("empty.png", "short.jpg", "short.png")]
    assert told.err == (
        f"skipped: red/empty.png: {files[0]}: not an image that Pillow can read.\n"
        f"skipped: red/short.jpg: {files[1]}: damaged: image file is truncated (28 bytes not processed). Copy or save "
        "it again.\n"
        f"skipped: red/short.png: {files[2]}: damaged: image file is truncated. Copy or save it again.\n"
        "known: skipped 3 unreadable images.\n"
    )
    found = spherood("score", "runs/guard/bundle", mixed, "--trust", "own_network:network", "--json")
    assert (found.code, len(lines(found.out))) == (1, 203)
    assert [row["image"] for row in lines(found.out) if row["error"]] == [str(file) for file in files]
    assert all((row["score"] is None) == bool(row["error"]) for row in lines(found.out))


def test_groups_of_images_come_from_a_table_that_is_read_before_any_image(spherood: Command, mixed: Path) -> None:
    names = sorted(path.relative_to(mixed).as_posix() for path in mixed.rglob("*.*g"))
    Path("meta.csv").write_text("image,patient\n" + "".join(f"{name},{name[:-5]}\n" for name in names))  # by tens
    words = ["fit", mixed, "--encoder", "own_network:network", "--group-by"]
    told = spherood(*words, "meta.csv:patent")
    assert told == (2, "", "meta.csv: there is no column 'patent'. Did you mean 'patient'?\n")
    assert not Path("runs").exists()
    told = spherood(*words, "meta.csv:patient", "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out)["parts"] == {"fit": 110, "choose": 30, "calibrate": 60}


def test_a_picture_of_thirty_thousand_by_two_hundred_pixels_gets_a_verdict(
    spherood: Command, bundle: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (30_000, 200), (255, 0, 0)).save(tmp_path / "long.png", compress_level=1)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "small.png")
    told = spherood("score", bundle, tmp_path / "long.png", tmp_path / "small.png", "--json")
    assert told.code == 0
    long, small = lines(told.out)
    assert long["score"] == pytest.approx(small["score"], rel=1e-5)
