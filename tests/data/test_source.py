from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.data import Source
from spherood.errors import ConfigError, DataError
from spherood.schema import parse

Picture = Callable[..., Path]


def source(**keys: Any) -> Source:
    return parse(Source, keys, "recipe.yaml")


@pytest.fixture
def pets(tmp_path: Path, picture: Picture) -> Path:
    for class_ in ("cat", "dog", "owl"):
        for number in range(5):
            picture(f"pets/{class_}/{number}.png", seed=number)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "some.txt").write_text("dog/1.png 0\ncat/2.png 1\n")
    np.save(tmp_path / "x.npy", np.zeros((4, 2, 2, 3), dtype=np.uint8))
    np.save(tmp_path / "y.npy", np.array([0, 1, 1, 0]))
    return tmp_path


def test_every_place_is_read_against_the_data_root(pets: Path) -> None:
    assert len(source(folder="pets").load(pets)) == 15
    assert source(list="lists/some.txt", root="pets").load(pets).names == ["dog/1.png", "cat/2.png"]
    assert source(arrays="x.npy", labels="y.npy").load(pets).label.tolist() == [0, 1, 1, 0]
    assert source(arrays="x.npy").load(pets).label.tolist() == [-1] * 4
    assert len(source(sample="noise").load(pets)) == 300
    assert source(folder="pets").load(pets, "ours").name == "ours"


def test_it_says_where_it_looks(pets: Path) -> None:
    assert source(list="lists/some.txt", root="pets").where(pets) == pets / "lists" / "some.txt"
    assert source(sample="digits").where(pets) is None


def test_classes_are_chosen_before_the_part_and_the_part_before_the_count(pets: Path) -> None:
    found = source(folder="pets", classes=["owl", "cat"], part="train", count=6).load(pets)
    assert found.classes == ("owl", "cat")
    assert sorted(found.label.tolist()) == [0, 0, 0, 1, 1, 1]


def test_another_count_is_told_with_the_place(pets: Path) -> None:
    with pytest.raises(DataError, match=r"pets: holds 15 images, expected 50,000\."):
        source(folder="pets", count=50_000).load(pets)
    with pytest.raises(DataError, match=r"^digits: holds 1,797 images, expected 1,796\."):
        source(sample="digits", count=1796).load(pets)


@pytest.mark.parametrize("places", [{}, {"folder": "a", "sample": "digits"}, {"list": "a", "arrays": "b"}])
def test_two_places_or_none_are_refused(places: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.yaml: .*give exactly one of folder, list, table, arrays"):
        source(**places)


def test_a_mistyped_key_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"there is no key 'foldre' here\. Did you mean 'folder'\?"):
        source(foldre="pets")


def test_a_list_is_present_when_one_of_its_images_is(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a/1.png 0\na/2.png 0\n")
    source = Source.model_validate({"list": "list.txt"})
    assert not source.present(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "2.png").write_bytes(b"x")
    assert source.present(tmp_path)
    assert not Source(folder="b").present(tmp_path)
    assert Source(folder="a").present(tmp_path)
    assert Source(sample="noise").present(tmp_path)


def cifar(place: Path, train: int = 3) -> None:
    """A CIFAR-100 of `train` + 1 images in two classes."""
    place.mkdir(parents=True)
    for file, n in (("train.bin", train), ("test.bin", 1)):
        (place / file).write_bytes(b"".join(bytes([0, row % 2]) + bytes(3072) for row in range(n)))
    (place / "fine_label_names.txt").write_text("apple\nbear\n")


def test_a_cifar_archive_is_read_by_split(tmp_path: Path) -> None:
    found = source(cifar="c100", split="train")
    assert not found.present(tmp_path)
    (tmp_path / "c100").mkdir()
    assert not found.present(tmp_path)  # a folder, and no archive in it
    cifar(tmp_path / "c100" / "cifar-100-binary")
    assert found.present(tmp_path)
    assert found.where(tmp_path) == tmp_path / "c100"
    assert found.load(tmp_path).names == ["apple/0001", "bear/0001", "apple/0002"]
    assert len(source(cifar="c100", split="test").load(tmp_path, "ours")) == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"cifar": "c"}, "cifar needs its split: train or test."),
        ({"folder": "f", "split": "test"}, "split goes with cifar only. Leave it out, or use part."),
        ({"cifar": "c", "split": "validation"}, "split: Input should be 'train' or 'test'"),
        ({"cifar": "c", "split": "test", "svhn": "s.mat"}, "give exactly one of"),
        ({"one_of": []}, "one_of: Tuple should have at least 1 item"),
        ({"one_of": [{"folder": "a"}], "folder": "b"}, "give exactly one of"),
        ({"one_of": [{"foldre": "a"}]}, "one_of.0: there is no key 'foldre' here. Did you mean 'folder'?"),
        ({"list": "l", "root": []}, "root"),
        ({"folder": "f", "draw": 0}, "draw: Input should be greater than or equal to 1"),
        ({"folder": "f", "per_class": 0}, "per_class: Input should be greater than or equal to 1"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as told:
        source(**keys)
    assert message in str(told.value)


def test_an_svhn_file_is_read(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    found = source(svhn="svhn/test.mat")
    assert not found.present(tmp_path)
    (tmp_path / "svhn").mkdir()
    savemat(tmp_path / "svhn" / "test.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[10], [3]])})
    assert found.present(tmp_path)
    assert found.where(tmp_path) == tmp_path / "svhn" / "test.mat"
    assert found.load(tmp_path, "SVHN").label.tolist() == [0, 3]


def test_every_choice_is_made_in_its_order(pets: Path) -> None:
    chosen = source(folder="pets", classes=["owl", "cat"], per_class=4, part="train", draw=3, count=3).load(pets)
    stepwise = source(folder="pets").load(pets).keep_classes(["owl", "cat"]).first_of_each_class(4).part("train")
    assert len(stepwise) == 4
    assert chosen.names == stepwise.draw(3).names
    assert chosen.classes == ("owl", "cat")
    assert len(source(folder="pets", draw=99).load(pets)) == 15


def test_the_first_root_that_holds_an_image_of_the_list_is_used(pets: Path, picture: Picture) -> None:
    def root_of(*roots: str) -> str:
        (first, _) = source(list="lists/some.txt", root=list(roots)).load(pets).images
        return Path(first).relative_to(pets).parts[0]

    for name in ("copy/dog/1.png", "copy/cat/2.png"):
        picture(name)
    assert root_of("pets", "copy") == "pets"
    assert root_of("copy", "pets") == "copy"
    assert root_of("nowhere", "copy", "pets") == "copy"
    assert source(list="lists/some.txt", root=["nowhere", "copy"]).present(pets)
    assert not source(list="lists/some.txt", root=["nowhere", "elsewhere"]).present(pets)
    with pytest.raises(DataError, match=r"some\.txt: 2 of 2 images are missing under .*nowhere, first"):
        root_of("nowhere", "elsewhere")
    (pets / "pets" / "cat" / "2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images are missing under .*pets, first"):
        root_of("pets", "copy")  # one image is enough to choose it, and then it must be complete


def test_of_several_places_the_first_that_is_there_is_read(pets: Path) -> None:
    found = source(one_of=[{"folder": "Pets!"}, {"list": "lists/some.txt", "root": "pets"}])
    assert found.present(pets)
    assert found.where(pets) == pets / "lists" / "some.txt"
    assert found.load(pets, "ours").names == ["dog/1.png", "cat/2.png"]
    assert found.load(pets, "ours").name == "ours"
    both = source(one_of=[{"arrays": "x.npy"}, {"list": "lists/some.txt", "root": "pets"}], draw=2)
    with pytest.raises(DataError) as told:
        both.load(pets)
    assert str(told.value) == (
        f"{pets / 'x.npy'} holds 4 images, {pets / 'lists' / 'some.txt'} 2. They should be the same: remove one."
    )


def test_places_with_equally_many_images_are_alternatives_and_the_choice_comes_after(pets: Path) -> None:
    (pets / "cats").mkdir()
    for number in range(2):
        (pets / "cats" / f"{number}.png").write_bytes((pets / "pets" / "cat" / f"{number}.png").read_bytes())
    list_ = {"list": "lists/some.txt", "root": "pets"}
    assert source(one_of=[{"folder": "cats"}, list_]).load(pets).names == ["0.png", "1.png"]
    assert source(one_of=[list_, {"folder": "cats"}]).load(pets).names == ["dog/1.png", "cat/2.png"]
    assert source(one_of=[list_, {"folder": "cats"}], classes=["cat"], count=1).load(pets).names == ["cat/2.png"]
    cut = source(one_of=[{"folder": "pets", "per_class": 1, "classes": ["cat", "owl"]}, list_])
    assert cut.load(pets).names == ["cat/0.png", "owl/0.png"]  # a place may have a choice of its own


def test_two_spellings_of_one_folder_are_one_place(pets: Path) -> None:
    (pets / "Pets").symlink_to(pets / "pets", target_is_directory=True)
    places = [{"folder": "Pets", "classes": ["cat"]}, {"arrays": "x.npy"}, {"folder": "pets"}]
    with pytest.raises(DataError, match=r"Pets holds 5 images, .*x\.npy 4\."):
        source(one_of=places).load(pets)
    del places[1]
    assert len(source(one_of=places).load(pets)) == 5


def test_when_no_place_is_there_all_are_listed(pets: Path) -> None:
    (pets / "lists" / "gone.txt").write_text("fox/1.png 0\n")
    found = source(
        one_of=[
            {"folder": "a"},
            {"list": "lists/gone.txt", "root": ["r", "s"]},
            {"one_of": [{"cifar": "c", "split": "test"}, {"svhn": "d.mat"}]},
        ]
    )
    assert not found.present(pets)
    assert found.where(pets) == pets / "a"
    with pytest.raises(DataError) as told:
        found.load(pets, "foxes")
    assert str(told.value) == (
        f"foxes: none of its places is there. Looked at {pets / 'a'}, {pets / 'lists' / 'gone.txt'} (its images under "
        f"{pets / 'r'} or {pets / 's'}), {pets / 'c'}, {pets / 'd.mat'}. "
        "Put the images at one of them (spherood data list), or check where --data points."
    )


def test_a_source_survives_being_written_and_read() -> None:
    keys = {"one_of": [{"list": "l", "root": ["a", "b"]}, {"cifar": "c", "split": "test"}], "draw": 5, "per_class": 7}
    found = source(**keys)
    assert source(**found.model_dump(mode="json", by_alias=True)) == found
