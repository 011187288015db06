"""From archives as they are published, with a few images each, to a table by the protocol of CIDER."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spherood.cli import main
from spherood.data import Source, catalogue
from spherood.data.catalogue import Entry
from spherood.data.image_set import ImageSet

RECIPE = """
name: small
data: {cifar: datasets/cifar-10-batches-bin, split: train}
preprocess: {size: 32}
model: {encoder: resnet8, width: 2, head: linear, dim: 4}
loss: [{use: supcon}]
training: {epochs: 1, batch: 20}
"""


def pictures(count: int, side: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def tarred(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))


def images(names: str, count: int, seed: int) -> dict[str, bytes]:
    found = {}
    for number, image in enumerate(pictures(count, 40, seed)):
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG" if names.endswith("png") else "JPEG")
        found[names.format(number)] = out.getvalue()
    return found


@pytest.fixture
def have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archives; the catalogue and the protocol without the numbers and checksums of the real ones."""
    savemat = pytest.importorskip("scipy.io").savemat
    pytest.importorskip("altair")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "have"
    folder.mkdir()

    def records(count: int, seed: int) -> bytes:
        planes = pictures(count, 32, seed).transpose(0, 3, 1, 2)
        return b"".join(bytes([row % 10]) + image.tobytes() for row, image in enumerate(planes))

    cifar = {f"cifar-10-batches-bin/data_batch_{n}.bin": records(20, n) for n in range(1, 6)}
    cifar |= {"cifar-10-batches-bin/test_batch.bin": records(30, 9)}
    cifar |= {"cifar-10-batches-bin/batches.meta.txt": "\n".join(f"class{n}" for n in range(10)).encode()}
    tarred(folder / "cifar-10-binary.tar.gz", cifar)
    digits = np.arange(40, dtype=np.uint8)[:, None] % 10 + 1
    savemat(folder / "test_32x32.mat", {"X": pictures(40, 32, 20).transpose(1, 2, 3, 0), "y": digits})
    tarred(folder / "dtd-r1.0.1.tar.gz", images("dtd/images/banded/banded_{}.jpg", 12, 21))
    tarred(folder / "test_256.tar", images("test_256/Places365_test_{:08}.jpg", 15, 22))
    tarred(folder / "LSUN.tar.gz", images("LSUN/test/{}.jpg", 12, 23))
    tarred(folder / "iSUN.tar.gz", images("iSUN/iSUN_patches/{}.jpg", 12, 24))

    def small(entry: Entry) -> Entry:
        files = tuple(file.model_copy(update={"md5": None}) for file in entry.files)
        changed = [{"draw": 10} if hasattr(one, "draw") else {} for one in entry.steps]
        steps = tuple(one.model_copy(update=new) for one, new in zip(entry.steps, changed, strict=True))
        return entry.model_copy(update={"files": files, "steps": steps})

    known = {name: small(entry) for name, entry in catalogue.catalogue().items()}
    monkeypatch.setattr(catalogue, "entry_of", known.__getitem__)
    monkeypatch.setattr(catalogue, "catalogue", lambda: known)
    plain = Source.load

    def uncounted(self: Source, data: Path, name: str | None = None) -> ImageSet:
        return plain(self.model_copy(update={"count": None}), data, name)

    monkeypatch.setattr(Source, "load", uncounted)
    return folder


def test_archives_become_a_table(
    have: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spherood(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["spherood", *words])
        code: object = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        out, err = capsys.readouterr()
        assert code in (0, None), err
        return out

    sets = ("cifar10", "svhn", "textures", "places365", "lsun-crop", "isun")
    made = spherood("data", "prepare", *sets, "--from", "have", "--data", ".")
    assert "places365: datasets/small_OOD_dataset/places365 (10 of 15 images, drawn with seed 0)" in made
    assert spherood("data", "verify", *sets, "--data", ".").count("complete") == len(sets)
    Path("small.yaml").write_text(RECIPE)
    spherood("train", "--recipe", "small.yaml", "--data", ".", "--device", "cpu")
    told = spherood(
        "evaluate", "small", "--protocol", "cider/cifar10", "--scores", "knn:k=3", "--data", ".", "--device", "cpu"
    )
    for name in ("SVHN", "Places365", "iSUN", "Textures", "LSUN"):
        assert name in told
