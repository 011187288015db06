from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from spherood.benchmark.protocol import Protocol, load_protocol, protocol_names
from spherood.errors import ConfigError

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
    assert protocol_names() == ["demo/digits", "openood/cifar10-sample"]
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
        ({"near": {"foxes": {}}}, "near.foxes: give exactly one of folder, list, arrays, sample"),
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
