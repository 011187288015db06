from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from spherood.benchmark.protocol import Protocol, load_protocol, protocol_names
from spherood.data import Preprocess, Source
from spherood.errors import ConfigError, DataError

OWN: dict[str, Any] = {
    "name": "pets",
    "about": "Cats and dogs.",
    "version": "1",
    "id": {part: {"folder": f"pets/{part}"} for part in ("train", "validation", "test")},
    "near": {"foxes": {"folder": "foxes"}},
    "far": {"cars": {"folder": "cars"}, "aardvarks": {"folder": "aardvarks"}},
}


def written(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(path)


def test_the_package_brings_these_protocols_and_each_can_be_loaded_under_its_own_name() -> None:
    assert protocol_names() == [
        "cider/cifar10",
        "cider/cifar100",
        "cider/imagenet100",
        "demo/digits",
        "openood/cifar10",
        "openood/cifar10-sample",
        "openood/cifar100",
        "openood/imagenet1k",
        "openood/imagenet200",
    ]
    assert [load_protocol(name).name for name in protocol_names()] == protocol_names()


def test_a_misspelt_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no protocol 'demo/digit'\. Did you mean 'demo/digits'"):
        load_protocol("demo/digit")


def test_ones_own_protocol_is_read_by_path_with_near_sets_first_and_the_order_kept(tmp_path: Path) -> None:
    found = load_protocol(written(tmp_path, OWN))
    assert [(name, kind, source.folder) for name, (kind, source) in found.ood.items()] == [
        ("foxes", "near", "foxes"),
        ("cars", "far", "cars"),
        ("aardvarks", "far", "aardvarks"),
    ]
    assert (found.resize, found.false_alarm_rate, found.confidence) == ("short_side", 0.05, 0.95)


def test_a_path_without_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No protocol at .*absent\.yaml"):
        load_protocol(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"far": {"foxes": {"folder": "f"}}}, "'foxes' is both near and far"),
        ({"near": {"far": {"folder": "f"}}}, "a set cannot be called 'far'"),
        ({"far": {"near": {"folder": "f"}}}, "a set cannot be called 'near'"),
        ({"false_alarm_rat": 0.1}, "no key 'false_alarm_rat' here. Did you mean 'false_alarm_rate'"),
        ({"false_alarm_rate": 0}, "false_alarm_rate: Input should be greater than 0"),
        ({"confidence": 1}, "confidence: Input should be less than 1"),
        ({"near": {"foxes": {"foldr": "f"}}}, "near.foxes: there is no key 'foldr' here. Did you mean 'folder'"),
        ({"near": {"foxes": {}}}, "near.foxes: give exactly one of folder, list, table, arrays"),
        ({"resize": "crop"}, "resize: Input should be 'short_side' or 'stretch'"),
        ({"id": {"train": {"folder": "a"}, "validation": {"folder": "b"}}}, "id.test: Field required"),
    ],
)
def test_a_protocol_that_contradicts_itself_is_refused_with_file_and_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=r"own\.yaml: ") as caught:
        load_protocol(written(tmp_path, OWN | change))
    assert message in str(caught.value)


def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own\.yaml: "):
        load_protocol(written(tmp_path, ["a", "list"]))


def test_the_demo_knows_six_digits_in_three_disjoint_parts_and_not_the_other_four() -> None:
    protocol = load_protocol("demo/digits")
    parts = [source.load(Path()) for source in (protocol.id.train, protocol.id.validation, protocol.id.test)]
    assert {images.classes for images in parts} == {tuple("012345")}
    names = [name for images in parts for name in images.names]
    assert len(set(names)) == len(names) == 1083  # scikit-learn's digits 0-5
    near = protocol.ood["digits 6-9"][1].load(Path())
    assert len(near) == 1797 - 1083
    assert not set(near.names) & set(names)


def test_the_lists_of_cifar10_sample_have_the_counts_it_states_and_openoods_own(
    shared_data: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, shared_data / "unpack.py", tmp_path, "imglists"], check=True, capture_output=True)
    protocol = load_protocol("openood/cifar10-sample")
    openood = json.loads((Path(__file__).parents[1] / "golden" / "protocol_counts.json").read_text(encoding="utf-8"))
    published = openood["openood_v1.5"]["cifar10"]
    for source, count in (
        (protocol.id.validation, published["id"]["val"]),
        (protocol.id.test, published["id"]["test"]),
        (protocol.near["tin"], published["near"]["tin"]),
    ):
        place = source.where(tmp_path)
        assert place is not None
        assert len(place.read_text(encoding="utf-8").splitlines()) == source.count == count


def test_the_folders_of_cifar10_sample_have_the_counts_of_the_shared_data(shared_data: Path) -> None:
    sets = json.loads((shared_data / "MANIFEST.json").read_text(encoding="utf-8"))["sets"]
    there = {one["folder"]: one["count"] for one in sets if "count" in one}
    protocol: Protocol = load_protocol("openood/cifar10-sample")
    sources = [protocol.id.train, *(source for _, source in protocol.ood.values())]
    stated = {source.folder: source.count for source in sources if source.folder}
    assert len(stated) == 5
    assert stated == {folder: there[folder] for folder in stated}


def golden_counts() -> dict[str, Any]:
    path = Path(__file__).parents[1] / "golden" / "protocol_counts.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("name", "listed"),
    [("cifar10", "cifar10"), ("cifar100", "cifar100"), ("imagenet200", "imagenet200"), ("imagenet1k", "imagenet")],
)
def test_openoods_protocols_name_its_sets_with_the_counts_of_its_lists(name: str, listed: str) -> None:
    protocol, counts = load_protocol(f"openood/{name}"), golden_counts()["openood_v1.5"][listed]

    def stated(sets: dict[str, Source]) -> dict[str, int | None]:
        return {name: source.count for name, source in sets.items()}

    assert stated(protocol.near) == counts["near"]
    assert stated(protocol.far) == counts["far"]
    csid = {one: counts["csid"][one] for one in counts.get("csid_published_v1.5", counts["csid"])}
    assert stated(protocol.csid) == csid
    assert stated(protocol.validation_ood) == counts["ood_val"]
    assert protocol.id.validation is not None
    found = {"train": protocol.id.train.count, "val": protocol.id.validation.count, "test": protocol.id.test.count}
    assert found == counts["id"]
    lists = [source.list_ for source in (protocol.id.train, *protocol.far.values()) if source.list_]
    assert all(file.startswith(f"benchmark_imglist/{listed}/") for file in lists)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet200"])
def test_openoods_own_lists_have_the_counts_that_its_protocols_state(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    subprocess.run([sys.executable, shared_data / "unpack.py", tmp_path, "imglists"], check=True, capture_output=True)
    protocol = load_protocol(f"openood/{name}")
    sources = [protocol.id.train, protocol.id.validation, protocol.id.test, *protocol.validation_ood.values()]
    if name == "imagenet200":  # the copy at hand has the test images as its validation list
        sources.remove(protocol.id.validation)
    sources += [source for _, source in protocol.ood.values()]
    there = 0
    for source in sources:
        assert source is not None
        place = source.where(tmp_path)
        assert place is not None
        if place.exists():
            there += 1
            assert len(place.read_text(encoding="utf-8").splitlines()) == source.count
    assert there == len(sources) - (name == "imagenet200")  # its training list is not to be had


@pytest.mark.parametrize(("name", "k"), [("cifar10", 100), ("cifar100", 300), ("imagenet100", 300)])
def test_ciders_protocols_have_its_sets_k_and_rules(name: str, k: int) -> None:
    protocol, counts = load_protocol(f"cider/{name}"), golden_counts()["cider"]
    assert counts[name]["k"] == k
    assert protocol.scores[0] == f"knn:k={k}"
    assert protocol.id.test.count == counts[name]["id_test"]
    assert protocol.near == {}
    assert all(source.draw == counts["cifar10"]["ood_cap"] for name, source in protocol.far.items() if name != "SVHN")
    assert protocol.published is not None
    assert (protocol.published.fpr, protocol.published.aupr) == ("fpr_ood_at_id95_cider", ("average_precision",))
    if name == "imagenet100":
        assert list(protocol.far) == ["SUN", "Places365", "Textures", "iNaturalist"]
        assert protocol.applied_to(Preprocess(size=224)).rule == "short side to 224 px, centre 224 px, bilinear"
    else:
        assert list(protocol.far) == ["SVHN", "Places365", "iSUN", "Textures", "LSUN"]
        assert list(protocol.extra) == counts["sets_listed_not_evaluated"]


def test_openood_sees_224_of_256_pixels_and_scales_that_with_the_model() -> None:
    protocol = load_protocol("openood/imagenet200")
    assert protocol.applied_to(Preprocess(size=224)).rule == "short side to 256 px, centre 224 px, bilinear"
    assert protocol.applied_to(Preprocess(size=112)).short_side == 128
    assert load_protocol("openood/cifar10").applied_to(Preprocess(size=32)).rule.startswith("short side to 32 px")


def test_ciders_folders_are_found_in_either_spelling_with_the_mat_file_and_the_archive(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    from scipy.io import savemat

    small = tmp_path / "datasets" / "small_OOD_dataset"
    (small / "SVHN").mkdir(parents=True)
    pixels = np.zeros((32, 32, 3, 10), dtype=np.uint8)
    savemat(small / "SVHN" / "selected_test_32x32.mat", {"X": pixels, "y": np.arange(1, 11)[:, None]})
    for folder in ("Places365/a", "dtd/images/banded", "LSUN_resize/x"):
        (small / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(small / folder / "1.png")
    protocol = load_protocol("cider/cifar10")
    there = {name for name, (_, source) in protocol.ood.items() if source.present(tmp_path)}
    assert there == {"SVHN", "Places365", "Textures", "LSUN_resize"}
    assert len(protocol.far["Places365"].load(tmp_path)) == 1
    with pytest.raises(DataError, match=r"SVHN.*holds 10 images, expected 10,000"):
        protocol.far["SVHN"].load(tmp_path)
    (small / "places365").mkdir()
    for number in range(2):
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(small / "places365" / f"{number}.png")
    with pytest.raises(DataError, match=r"places365 holds 2 images.*Places365 1\b"):
        protocol.far["Places365"].load(tmp_path)


def test_an_extra_set_is_no_part_of_a_mean_and_as_is_must_name_a_set(tmp_path: Path) -> None:
    found = load_protocol(written(tmp_path, OWN | {"extra": {"boats": {"folder": "boats"}}}))
    assert found.ood["boats"][0] == "extra"
    with pytest.raises(ConfigError, match=r"as_is names 'fox', which is no set here\. Did you mean 'foxes'\?"):
        load_protocol(written(tmp_path, OWN | {"as_is": ["fox"]}))
