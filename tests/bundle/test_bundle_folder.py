from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

import spherood.bundle.encoder as encoder
import spherood.bundle.learned as module
from spherood.bundle import Bundle, read_manifest
from spherood.errors import BundleError

Pixels = NDArray[np.uint8]
MakeBundle = Callable[..., Bundle]


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_what_is_loaded_gives_the_verdicts_of_what_was_saved(bundle: Bundle, folder: Path, noise: Pixels) -> None:
    loaded = Bundle.load(str(folder))
    assert loaded.predict(list(noise)) == bundle.predict(list(noise))
    assert loaded.classes == ("cat", "dog", "größe")
    assert (loaded.score, loaded.promise, loaded.preprocess) == (bundle.score, bundle.promise, bundle.preprocess)
    assert (loaded.runtime.origin, loaded.provenance) == (bundle.runtime.origin, bundle.provenance)
    np.testing.assert_array_equal(loaded.held_out_score, bundle.held_out_score)
    assert loaded.held_out_score.dtype == np.float64


def test_another_process_gives_the_same_verdicts(folder: Path, bundle: Bundle, noise: Pixels, tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", noise)
    code = (
        "import sys, numpy as np, torch, spherood as so; torch.set_num_threads(1)\n"
        "found = so.Bundle.load(sys.argv[1]).predict(list(np.load(sys.argv[2])))\n"
        "print([it.score for it in found], [it.is_ood for it in found])"
    )
    words = [sys.executable, "-c", code, str(folder), str(tmp_path / "noise.npy")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    expected = bundle.predict(list(noise))
    assert done.stdout.strip() == f"{[it.score for it in expected]} {[it.is_ood for it in expected]}"


def test_a_bundle_is_json_and_safetensors_and_nothing_pickled(folder: Path) -> None:
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".md", ".safetensors", ".safetensors"]
    for path in folder.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as opened:
            assert len(opened.keys()) > 0


def test_the_manifest_says_what_the_bundle_is_and_is_read_without_torch(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path; from spherood.bundle import read_manifest\n"
        "print(read_manifest(Path(sys.argv[1])).score.model_dump(by_alias=True))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'use': 'knn', 'with': {'k': 4}}"
    manifest = read_manifest(folder)
    assert {role: path.name.partition("-")[0] for role, path in manifest.files.items()} == {
        "model": "model",
        "detector": "detector",
        "bank": "bank",
    }
    assert manifest.promise.held_out == 70


@pytest.mark.parametrize("role", ["model", "detector", "bank"])
@pytest.mark.parametrize("where", [0, 0.5, 1], ids=["first", "middle", "last"])
def test_one_altered_byte_of_a_file_is_found_and_the_file_named(folder: Path, role: str, where: float) -> None:
    (path,) = folder.glob(f"{role}-*")
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"{path.name} was altered \(its hash differs\)\. Copy the bundle again"):
        Bundle.load(folder)


def test_one_altered_byte_of_the_manifest_is_found_wherever_it_stands(folder: Path) -> None:
    path = folder / "bundle.json"
    whole = path.read_bytes()
    before = json.loads(whole)
    told = set()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            read_manifest(folder)
        except BundleError as error:
            told.add(str(error).partition(": ")[2] or str(error).partition(".json ")[2])
        else:
            assert json.loads(path.read_bytes()) == before, f"byte {place} changed the content unseen"
    assert {
        "was altered (its hash differs). Copy the bundle again.",
        "damaged: it is not the JSON of a bundle. Copy the bundle again.",
    } == told


@pytest.mark.parametrize("role", ["model", "detector", "bank"])
def test_a_missing_file_is_named(folder: Path, role: str) -> None:
    (path,) = folder.glob(f"{role}-*")
    path.unlink()
    with pytest.raises(BundleError, match=f"{path.name} is missing"):
        Bundle.load(folder)


def test_a_folder_that_is_none_of_ours_is_told_with_what_makes_one(folder: Path, tmp_path: Path) -> None:
    message = r"not a bundle \(no bundle\.json\)\. Make one with: spherood fit, or spherood evaluate"
    (tmp_path / "photos").mkdir()
    for place in (tmp_path / "photos", tmp_path / "absent", folder / "bundle.json"):
        with pytest.raises(BundleError, match=message):
            Bundle.load(place)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"format"', "{}", "null", '{"format": '])
def test_a_manifest_that_is_no_manifest_is_called_damaged(folder: Path, text: str) -> None:
    (folder / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"bundle\.json: damaged: it is not the JSON of a bundle"):
        Bundle.load(folder)


def test_a_newer_format_says_to_update(folder: Path) -> None:
    change(folder, lambda content: content.update(format=4), seal=False)
    with pytest.raises(BundleError, match=r"bundle format 4, this version reads 3\. Update spherood"):
        Bundle.load(folder)


def change(folder: Path, alter: Callable[[dict[str, Any]], Any], *, seal: bool) -> None:
    """Edit the manifest; with `seal` as someone who knows its last line: the hash of the others, keys in order."""
    path = folder / "bundle.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["sha256"]
    alter(content)
    if seal:
        content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content), encoding="utf-8")


def _escape(content: dict[str, Any]) -> None:
    content["files"]["bank"]["name"] = "../bank.json"


ALTERED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another promise": (
        lambda it: it["promise"].update(false_alarm_rate=1.5),
        "promise.false_alarm_rate: Input should",
    ),
    "unknown key": (lambda it: it.update(clases=[]), "no key 'clases' here. Did you mean 'classes'"),
    "missing key": (lambda it: it.pop("classes"), "classes: Field required"),
    "path out of the folder": (_escape, "files.bank.name: String should match"),
}


@pytest.mark.parametrize(("alter", "message"), ALTERED.values(), ids=ALTERED)
def test_an_edited_manifest_is_refused_and_so_is_one_whose_hash_was_edited_too(
    folder: Path, alter: Callable[[dict[str, Any]], Any], message: str
) -> None:
    shutil.copytree(folder, folder.with_name("forged"))
    change(folder, alter, seal=False)
    with pytest.raises(BundleError, match=r"bundle\.json was altered \(its hash differs\)"):
        Bundle.load(folder)
    change(folder.with_name("forged"), alter, seal=True)
    with pytest.raises(BundleError, match=r"The manifest was altered\. Copy the bundle again") as caught:
        Bundle.load(folder.with_name("forged"))
    assert message in str(caught.value)


def failing(after: int) -> Callable[..., None]:
    """save_file as long as there is room on the disk."""
    calls: Iterator[int] = iter(range(99))

    def save(tensors: dict[str, Any], path: Path) -> None:
        if next(calls) == after:
            path.write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        real_save(tensors, path)

    real_save = module.save_file
    return save


@pytest.mark.parametrize("after", [0, 1])
def test_a_save_that_fails_midway_leaves_the_older_bundle_whole_and_the_next_one_cleans_up(
    folder: Path, make_bundle: MakeBundle, noise: Pixels, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    before = Bundle.load(folder).predict(list(noise))
    newer = make_bundle(1)
    with monkeypatch.context() as patch:
        save = failing(after)
        patch.setattr(module, "save_file", save)
        patch.setattr(encoder, "save_file", save)
        with pytest.raises(OSError, match="No space left"):
            newer.save(folder)
    assert len(list(folder.iterdir())) == 5 + after  # the first file of the newer one may lie beside the older five
    assert Bundle.load(folder).predict(list(noise)) == before

    newer.save(folder)
    assert len(list(folder.iterdir())) == 5
    after_ = Bundle.load(folder).predict(list(noise))
    assert after_ == newer.predict(list(noise)) != before


def test_saving_the_same_bundle_twice_changes_no_file_but_the_manifest(folder: Path, bundle: Bundle) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "bundle.json"}
    bundle.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "bundle.json"} == before


def test_files_of_others_in_the_folder_stay(folder: Path, make_bundle: MakeBundle) -> None:
    others = [folder / "notes.md", folder / "model-of-mine.safetensors"]
    for path in others:
        path.write_text("mine")
    make_bundle(1).save(folder)
    assert all(path.read_text() == "mine" for path in others)
