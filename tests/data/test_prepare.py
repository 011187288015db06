"""Sets from made-up archives in every real format, of a few images each, to what protocols and recipes find."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from spherood.benchmark.protocol import load_protocol, protocol_names
from spherood.data import Source
from spherood.data.catalogue import Entry, catalogue, entry_of
from spherood.data.prepare import prepare, verify
from spherood.data.subset import classes_of, draw_classes, link_classes
from spherood.errors import ConfigError, DataError

Pixels = NDArray[np.uint8]


def pictures(count: int, side: int = 32, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def png(image: Pixels, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind)
    return out.getvalue()


def tarred(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))


def cifar(path: Path, classes: int) -> Pixels:
    """30 images of the binary archive: 5 x 4 to train on, 10 to test; the test images."""
    folder = "cifar-10-batches-bin" if classes == 10 else "cifar-100-binary"
    labels = 1 if classes == 10 else 2
    images = pictures(30)

    def records(rows: range) -> bytes:
        found = [bytes([row % classes] * labels) + images[row].transpose(2, 0, 1).tobytes() for row in rows]
        return b"".join(found)

    names = "\n".join(f"class{number}" for number in range(classes)).encode()
    if classes == 10:
        files = {f"{folder}/data_batch_{n}.bin": records(range(4 * n - 4, 4 * n)) for n in range(1, 6)}
        files |= {f"{folder}/test_batch.bin": records(range(20, 30)), f"{folder}/batches.meta.txt": names}
    else:
        files = {f"{folder}/train.bin": records(range(20)), f"{folder}/test.bin": records(range(20, 30))}
        files |= {f"{folder}/fine_label_names.txt": names}
    tarred(path, files)
    return images[20:]


def small(entry: Entry, **counts: int) -> Entry:
    """The entry without the checksums of the real files, with these counts."""
    files = tuple(file.model_copy(update={"md5": None, "sha256": None}) for file in entry.files)
    gives = {part: source.model_copy(update={"count": counts[part]}) for part, source in entry.gives.items()}
    return entry.model_copy(update={"files": files, "gives": gives})


@pytest.fixture
def have(tmp_path: Path) -> Path:
    folder = tmp_path / "have"
    folder.mkdir()
    return folder


def test_cifar_lies_where_recipes_and_protocols_look(have: Path, tmp_path: Path) -> None:
    test = cifar(have / "cifar-10-binary.tar.gz", 10)
    entry = small(entry_of("cifar10"), train=20, test=10)
    assert prepare(entry, tmp_path, have) == [f"7 files in {tmp_path / 'datasets/cifar-10-batches-bin'}"]
    found = entry.gives["test"].load(tmp_path)
    np.testing.assert_array_equal(found.images, test)
    assert prepare(entry, tmp_path) == []  # no host was asked
    assert entry.state(tmp_path) == "there"


def test_cifars_pictures_are_named_as_in_openoods_lists(have: Path, tmp_path: Path) -> None:
    test = cifar(have / "cifar-100-binary.tar.gz", 100)
    entry = small(entry_of("cifar100"), train=20, test=10)
    made = prepare(entry, tmp_path, have, pictures=True)
    assert made[1:] == [
        f"20 images in {tmp_path / 'images_classic/cifar100/train'}",
        f"10 images in {tmp_path / 'images_classic/cifar100/test'}",
    ]
    with Image.open(tmp_path / "images_classic/cifar100/test/class20/0001.png") as first:
        np.testing.assert_array_equal(np.asarray(first), test[0])


def test_svhn_keeps_the_first_of_each_digit_in_the_order_of_the_file(have: Path, tmp_path: Path) -> None:
    io_ = pytest.importorskip("scipy.io")
    label = np.array([10, 1, 10, 2, 1, 10, 2, 1, 2, 3], dtype=np.uint8)[:, None]
    images = pictures(10)
    io_.savemat(have / "test_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": label})
    entry = small(entry_of("svhn"), selected=7, test=10)
    steps = tuple(
        step.model_copy(update={"first_of_each": 2}) if hasattr(step, "first_of_each") else step for step in entry.steps
    )
    prepare(entry.model_copy(update={"steps": steps}), tmp_path, have)
    found = entry.gives["selected"].load(tmp_path)
    np.testing.assert_array_equal(found.images, images[[0, 1, 2, 3, 4, 6, 9]])
    assert found.label.tolist() == [0, 1, 0, 2, 1, 2, 3]


def test_a_tar_of_folders_gets_links_where_the_other_paper_looks(have: Path, tmp_path: Path) -> None:
    files = {f"dtd/images/{kind}/{kind}_{n}.jpg": png(pictures(1)[0], "JPEG") for kind in ("a", "b") for n in range(3)}
    tarred(have / "dtd-r1.0.1.tar.gz", files | {"dtd/labels/x.txt": b"x"})
    entry = small(entry_of("textures"), all=6)
    prepare(entry, tmp_path, have)
    for place in ("images_classic/texture", "datasets/ImageNet_OOD_dataset/dtd/images"):
        assert len(Source(folder=place).load(tmp_path)) == 6


def test_a_draw_is_the_same_whatever_the_order_of_the_archive(have: Path, tmp_path: Path) -> None:
    files = {f"test_256/{n:02}.jpg": png(pictures(1, seed=n)[0], "JPEG") for n in range(30)}
    entry = small(entry_of("places365"), drawn=8)
    step = entry.steps[0].model_copy(update={"draw": 8})
    entry = entry.model_copy(update={"steps": (step,)})
    found = []
    for number, order in enumerate((list(files), list(files)[::-1])):
        data = tmp_path / str(number)
        tarred(have / "test_256.tar", {name: files[name] for name in order})
        (told,) = prepare(entry, data, have)
        assert told.endswith("(8 of 30 images, drawn with seed 0)")
        found.append(sorted(path.name for path in (data / entry.place).rglob("*.jpg")))
    assert found[0] == found[1]
    assert len(found[0]) == 8


def test_a_zip(have: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(have / "tiny-imagenet-200.zip", "w") as out:
        for split in ("val/images", "train/n01/images"):
            for n in range(3):
                out.writestr(f"tiny-imagenet-200/{split}/val_{n}.JPEG", png(pictures(1)[0], "JPEG"))
    entry = small(entry_of("tin"), validation=3, train=3)
    prepare(entry, tmp_path, have)
    assert (tmp_path / "images_classic/tin/val/images/val_0.JPEG").is_file()  # as OpenOOD's lists name it


def idx(path: Path, content: NDArray[np.uint8]) -> None:
    head = bytes((0, 0, 8, content.ndim)) + struct.pack(f">{content.ndim}I", *content.shape)
    path.write_bytes(gzip.compress(head + content.tobytes()))


def test_mnists_format(have: Path, tmp_path: Path) -> None:
    images = pictures(6, 28)[..., 0]
    for part in ("t10k", "train"):
        idx(have / f"{part}-images-idx3-ubyte.gz", images)
        idx(have / f"{part}-labels-idx1-ubyte.gz", np.array([7, 2, 1, 0, 4, 7], dtype=np.uint8))
    prepare(small(entry_of("mnist"), test=6, train=6), tmp_path, have)
    with Image.open(tmp_path / "mnist/test/7/00005.png") as last:
        np.testing.assert_array_equal(np.asarray(last), images[5])


def test_weights_become_a_format_that_runs_no_code(have: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.arange(6.0).view(2, 3)}, have / "resnet34-b627a593.pth")
    entry = small(entry_of("weights/resnet34-imagenet1k-v1"))
    prepare(entry, tmp_path, have)
    found = load_file(tmp_path / "weights/resnet34-imagenet1k-v1.safetensors")
    np.testing.assert_array_equal(found["conv1.weight"], np.arange(6.0).reshape(2, 3))


def test_a_folder_that_is_there_already_gets_a_link(have: Path, tmp_path: Path) -> None:
    for n in range(4):
        (have / f"{n}.png").write_bytes(png(pictures(1, seed=n)[0]))
    entry = small(entry_of("isun"), all=4)
    assert prepare(entry, tmp_path, have) == [f"{tmp_path / entry.place} (a link to {have})"]
    assert len(Source(folder=entry.place).load(tmp_path)) == 4


def test_a_folder_with_another_count_is_not_linked(have: Path, tmp_path: Path) -> None:
    (have / "0.png").write_bytes(png(pictures(1)[0]))
    entry = small(entry_of("isun"), all=4)
    with pytest.raises(DataError, match=r"holds 1 images, expected 4(.|\n)*nothing was linked"):
        prepare(entry, tmp_path, have)
    assert not (tmp_path / entry.place).exists()


def test_a_wrong_checksum_of_ones_own_file_is_told(have: Path, tmp_path: Path) -> None:
    (have / "cifar-10-binary.tar.gz").write_bytes(b"something")
    with pytest.raises(DataError, match=r"wrong checksum \(md5 437b930db84b, expected c32a1d4ab5d0\)"):
        prepare(entry_of("cifar10"), tmp_path, have)
    assert not (tmp_path / "datasets").exists()


def test_what_needs_a_licence_says_where_to_get_it_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as told:
        prepare(entry_of("imagenet"), tmp_path)
    assert "Asks for a registration" in str(told.value)
    assert "https://www.image-net.org/download.php" in str(told.value)
    assert f"Put it at {tmp_path / 'images_largescale/imagenet_1k'}" in str(told.value)


def test_verify_says_what_is_missing(have: Path, tmp_path: Path) -> None:
    cifar(have / "cifar-10-binary.tar.gz", 10)
    entry = small(entry_of("cifar10"), train=20, test=10)
    assert [line.split(":")[0] for line in verify(entry, tmp_path)] == ["cifar10, train", "cifar10, test"]
    prepare(entry, tmp_path, have)
    assert verify(entry, tmp_path) == []
    (tmp_path / entry.place / "data_batch_3.bin").unlink()
    (line,) = verify(entry, tmp_path)
    assert "data_batch_3.bin: no such file. The archive is incomplete" in line


def test_the_counts_of_the_catalogue_are_those_of_the_protocols(shared_data: Path) -> None:
    """A set that a protocol reads whole has as many images in both, and OpenOOD's lists have theirs."""
    golden = json.loads((shared_data.parent / "golden" / "protocol_counts.json").read_text())["openood_v1.5"]
    known = {source.where(Path()): source.count for entry in catalogue().values() for source in entry.gives.values()}
    for name in protocol_names():
        protocol = load_protocol(name)
        sources = [protocol.id.train, protocol.id.test, *(source for _, source in protocol.ood.values())]
        for source in (one for given in sources for one in (given.one_of or (given,))):
            count = source.count or next(
                (given.count for given in sources if given.one_of and source in given.one_of), 0
            )
            if count and source.where(Path()) in known and source.split is None:
                assert known[source.where(Path())] == count, (name, source)
        if name.startswith("openood/") and not name.endswith("-sample"):
            counts = golden[name.removeprefix("openood/").replace("imagenet1k", "imagenet")]
            for kind in ("near", "far"):
                for ood, count in counts[kind].items():
                    assert protocol.ood[ood][1].count == count, (name, ood)


def test_a_misspelt_set_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no set 'cifar-10'"):
        entry_of("cifar-10")


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for n in range(5):
        (tmp_path / "imagenet" / f"n0000000{n}").mkdir(parents=True)
        (tmp_path / "imagenet" / f"n0000000{n}" / "a.png").write_bytes(png(pictures(1, seed=n)[0]))
    return tmp_path / "imagenet"


def test_a_subset_by_a_list_is_links_labelled_by_rank(imagenet: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("n00000003 goldfish\n# a comment\nn00000001 tench\n\n")
    assert link_classes(imagenet, classes_of(tmp_path / "list.txt"), tmp_path / "in2") == 2
    found = Source(folder="in2").load(tmp_path)
    assert found.classes == ("n00000001", "n00000003")
    assert found.label.tolist() == [0, 1]
    assert (tmp_path / "in2" / "n00000003").is_symlink()


def test_classes_may_be_those_of_another_folder_or_drawn(imagenet: Path) -> None:
    assert classes_of(imagenet) == [f"n0000000{n}" for n in range(5)]
    assert draw_classes(imagenet, 3, seed=1) == draw_classes(imagenet, 3, seed=1)
    assert {tuple(draw_classes(imagenet, 2, seed=seed)) for seed in range(20)} != {tuple(draw_classes(imagenet, 2, 0))}
    with pytest.raises(ConfigError, match="has 5 classes, asked for 6"):
        draw_classes(imagenet, 6, 0)


def test_a_class_that_is_not_there_is_told_and_nothing_is_left(imagenet: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no class 'n00000009'"):
        link_classes(imagenet, ["n00000001", "n00000009"], tmp_path / "in2")
    assert not (tmp_path / "in2").exists()
