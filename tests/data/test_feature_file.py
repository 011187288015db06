from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from spherood.data.feature_file import BLOCK, FeatureSet, is_feature_file, read_features
from spherood.errors import ConfigError, MissingExtraError, ShapeError, SpheroodError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FEATURE = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LOGITS = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
LABEL = np.array([2, 0, 1, 1, 0, 2])
SITE = np.array([30, 10, 30, 20, 10, 30])
NAMES = [f"a/{row}.png" for row in range(6)]
ALL = {"feature": FEATURE, "logits": LOGITS, "label": LABEL, "site": SITE}

Save = Callable[..., Path]


def npy(folder: Path, feature: Any, name: str = "set.npy", **options: Any) -> Path:
    np.save(folder / name, feature, **options)
    return folder / name


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def safetensors(folder: Path, **arrays: Any) -> Path:
    save_file(arrays, folder / "set.safetensors")
    return folder / "set.safetensors"


def table(folder: Path, **columns: Any) -> Path:
    """Parquet: arrays and lists as they are, (N, D) as a column of lists."""
    made = {
        name: arrow.array(list(column)) if isinstance(column, np.ndarray) and column.ndim == 2 else column
        for name, column in columns.items()
    }
    parquet.write_table(arrow.table(made), folder / "set.parquet")
    return folder / "set.parquet"


every_container = pytest.mark.parametrize("save", [npz, safetensors, table])


def told(path: Path, **options: Any) -> str:
    """The message, without the path of the file at its start."""
    with pytest.raises(SpheroodError) as error:
        read_features(path, **options)
    text = str(error.value)
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


def same(found: FeatureSet) -> bool:
    return np.array_equal(found.feature, FEATURE) and found.feature.dtype == np.float32


@every_container
def test_what_was_saved_is_read(tmp_path: Path, save: Save) -> None:
    path = save(tmp_path, **ALL)
    found = read_features(path, group_by="site")
    assert same(found)
    assert found.logits is not None
    assert found.label is not None
    assert found.group is not None
    assert np.array_equal(found.logits, LOGITS)
    assert found.label.tolist() == LABEL.tolist()
    assert found.group.tolist() == [0, 1, 0, 2, 1, 0]  # by first appearance
    assert (found.label.dtype, found.group.dtype) == (np.int64, np.int64)
    assert (found.name, found.classes, found.names) == (path.name, ("0", "1", "2"), ())
    assert len(found) == 6


@every_container
def test_the_feature_alone_is_enough(tmp_path: Path, save: Save) -> None:
    found = read_features(save(tmp_path, feature=FEATURE))
    assert same(found)
    assert (found.logits, found.label, found.classes, found.group, found.names) == (None, None, (), None, ())


@every_container
def test_the_first_of_four_names_is_the_feature_and_else_the_only_matrix(tmp_path: Path, save: Save) -> None:
    other = FEATURE + 1
    assert same(read_features(save(tmp_path, embeddings=other, embedding=other, features=FEATURE)))
    assert same(read_features(save(tmp_path, embeddings=other, embedding=FEATURE)))
    assert same(read_features(save(tmp_path, other=other, embeddings=FEATURE, labels=LABEL)))
    only = read_features(save(tmp_path, dino=FEATURE, logits=LOGITS, labels=LABEL, site=SITE), group_by="site")
    assert same(only)
    assert only.label is not None
    assert only.label.tolist() == LABEL.tolist()


def test_an_npy_file_is_the_feature_and_stays_on_disk(tmp_path: Path) -> None:
    path = npy(tmp_path, FEATURE)
    found = read_features(path)
    assert same(found)
    assert isinstance(found.feature, np.memmap)
    assert isinstance(found.feature.base, mmap.mmap)
    tensor = torch.from_numpy(found.feature)  # without the warning of memory that cannot be written
    tensor[0] = 0
    assert np.array_equal(np.load(path), FEATURE)  # and what is written stays away from the file


def test_labels_of_an_npy_file_stand_in_a_second_one(tmp_path: Path) -> None:
    path = npy(tmp_path, FEATURE)
    numbers = read_features(path, labels=npy(tmp_path, LABEL.astype(np.uint8), "label.npy"))
    assert numbers.label is not None
    assert (numbers.label.tolist(), numbers.classes) == (LABEL.tolist(), ("0", "1", "2"))
    names = np.array(["cow", "bee", "ant"])[LABEL]
    named = read_features(path, labels=npy(tmp_path, names, "label.npy"))
    assert named.label is not None
    assert (named.label.tolist(), named.classes) == ([0, 2, 1, 1, 2, 0], ("ant", "bee", "cow"))


@pytest.mark.parametrize("save", [npz, table])
def test_names_are_sorted_into_classes_and_rows_keep_theirs(tmp_path: Path, save: Save) -> None:
    label = np.array(["cow", "ant", "bee", "bee", "ant", "cow"])
    site = np.array(["x", "y", "x", "z", "y", "x"])
    for title in ("image", "name"):
        found = read_features(
            save(tmp_path, feature=FEATURE, label=label, site=site, **{title: np.array(NAMES)}), group_by="site"
        )
        assert found.classes == ("ant", "bee", "cow")
        assert found.label is not None
        assert found.label.tolist() == [2, 0, 1, 1, 0, 2]
        assert found.group is not None
        assert found.group.tolist() == [0, 1, 0, 2, 1, 0]
        assert found.names == tuple(NAMES)


def test_pictures_beside_the_feature_are_no_names(tmp_path: Path) -> None:
    path = npz(tmp_path, feature=FEATURE, image=np.zeros((6, 2, 2, 3), dtype=np.uint8), name=np.array(NAMES))
    assert read_features(path).names == tuple(NAMES)
    pictures = arrow.array([{"bytes": b"", "path": "x"}] * 6)  # as data sets of pictures have them
    assert read_features(table(tmp_path, feature=FEATURE, image=pictures)).names == ()


@pytest.mark.parametrize("save", [npy, npz, safetensors, table])
@pytest.mark.parametrize("type_", [np.float16, np.float64])
def test_half_and_double_precision_become_float32(tmp_path: Path, save: Save, type_: type) -> None:
    feature = FEATURE.astype(type_)
    found = read_features(save(tmp_path, feature=feature))
    assert found.feature.dtype == np.float32
    assert np.array_equal(found.feature, feature.astype(np.float32))


def test_another_byte_order_is_read_in_ours(tmp_path: Path) -> None:
    found = read_features(npy(tmp_path, FEATURE.astype(">f4")))
    assert same(found)
    assert found.feature.dtype.isnative


def test_a_subset_keeps_every_row_together(tmp_path: Path) -> None:
    found = read_features(npz(tmp_path, **ALL, image=np.array(NAMES)), group_by="site").subset(np.array([5, 2]))
    assert np.array_equal(found.feature, FEATURE[[5, 2]])
    assert found.logits is not None
    assert found.label is not None
    assert found.group is not None
    assert np.array_equal(found.logits, LOGITS[[5, 2]])
    assert (found.label.tolist(), found.group.tolist(), found.names) == ([2, 1], [0, 0], ("a/5.png", "a/2.png"))
    assert (found.name, found.classes) == ("set.npz", ("0", "1", "2"))
    bare = read_features(npy(tmp_path, FEATURE)).subset(np.array([1]))
    assert (bare.feature.shape, bare.logits, bare.label, bare.group, bare.names) == ((1, 4), None, None, None, ())


def test_the_suffix_tells_a_feature_file() -> None:
    assert all(
        is_feature_file(Path(f"a.b/set{suffix}")) for suffix in (".npy", ".npz", ".safetensors", ".parquet", ".NPY")
    )
    assert not any(is_feature_file(Path(name)) for name in ("set.csv", "npy", "set.npy.gz"))


# What only Parquet has


@pytest.mark.parametrize("kind", ["list", "large list", "fixed-size list"])
def test_parquet_lists_of_every_kind_are_read_over_row_groups(tmp_path: Path, kind: str) -> None:
    feature = np.random.default_rng(2).normal(size=(20_000, 3)).astype(np.float32)
    type_ = {
        "list": arrow.list_(arrow.float32()),
        "large list": arrow.large_list(arrow.float32()),
        "fixed-size list": arrow.list_(arrow.float32(), 3),
    }[kind]
    path = tmp_path / "set.parquet"
    parquet.write_table(arrow.table({"feature": arrow.array(list(feature), type_)}), path, row_group_size=7_777)
    assert np.array_equal(read_features(path).feature, feature)


def test_one_column_per_dimension_is_a_feature(tmp_path: Path) -> None:
    wide = np.random.default_rng(3).normal(size=(9_000, 12)).astype(np.float32)
    columns = {f"feature_{dimension}": wide[:, dimension] for dimension in reversed(range(12))}  # 10 is not before 2
    found = read_features(table(tmp_path, label=np.arange(9_000) % 3, **columns))
    assert np.array_equal(found.feature, wide)
    assert same(read_features(table(tmp_path, features=FEATURE, feature_0=LABEL)))


def test_columns_of_dimensions_have_no_hole_and_hold_floating_numbers(tmp_path: Path) -> None:
    path = table(tmp_path, feature_1=FEATURE[:, 1], feature_2=FEATURE[:, 2])
    assert told(path) == ": has columns up to 'feature_2', but no 'feature_0'. Add it."
    path = table(tmp_path, feature_0=FEATURE[:, 0], feature_1=LABEL)
    assert told(path) == ", 'feature_1': expected floating numbers, got int64. Save it as float32."


def test_parquet_categories_dates_and_other_values_are_groups(tmp_path: Path) -> None:
    words = arrow.array(["x", "y", "x", "z", "y", "x"])
    for column in (
        words.dictionary_encode(),
        words.cast(arrow.binary()),
        arrow.array(SITE).cast(arrow.timestamp("s")),
        arrow.array(SITE).cast(arrow.decimal128(21, 2)),
        arrow.array(SITE / 4),
    ):
        found = read_features(table(tmp_path, feature=FEATURE, site=column), group_by="site").group
        assert found is not None
        assert found.tolist() == [0, 1, 0, 2, 1, 0]
    found = read_features(table(tmp_path, feature=FEATURE, label=words.dictionary_encode()))
    assert found.classes == ("x", "y", "z")


def test_empty_cells_are_refused(tmp_path: Path) -> None:
    tail = " has an empty cell (null). Drop such rows, or fill them in."
    rows: list[Any] = FEATURE.tolist()
    path = table(tmp_path, feature=[*rows[:4], None, rows[5]])
    assert told(path) == f", 'feature': row 4{tail}"
    path = table(tmp_path, feature=[*rows[:2], [1.0, 2.0, None, 4.0], *rows[3:]])
    assert told(path) == f", 'feature': row 2{tail}"
    path = table(tmp_path, feature_0=FEATURE[:, 0], feature_1=[1.0, None, 1.0, 1.0, 1.0, 1.0])
    assert told(path) == f", 'feature_1': row 1{tail}"
    for name in ("label", "site", "image"):
        path = table(tmp_path, feature=FEATURE, **{name: ["a", "b", "a", None, "a", "b"]})
        assert told(path, group_by="site" if name == "site" else None) == f", '{name}': row 3{tail}"


def test_an_empty_cell_is_told_by_its_row_in_the_whole_file(tmp_path: Path) -> None:
    rows: list[Any] = [[1.0, 2.0]] * 20_000
    tail = " has an empty cell (null). Drop such rows, or fill them in."
    rows[17_001] = None
    assert told(table(tmp_path, feature=rows)) == f", 'feature': row 17001{tail}"
    rows[17_001] = [1.0, None]
    assert told(table(tmp_path, feature=rows)) == f", 'feature': row 17001{tail}"
    rows[17_001] = [1.0]
    assert told(table(tmp_path, feature=rows)).startswith(", 'feature': row 17001 holds 1 numbers, row 0 holds 2.")
    column: list[Any] = [1.0] * 20_000
    column[17_001] = None
    assert told(table(tmp_path, feature_0=column)) == f", 'feature_0': row 17001{tail}"


def test_lists_of_differing_length_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, feature=[[1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0]])
    assert told(path) == ", 'feature': row 2 holds 3 numbers, row 0 holds 2. Save as many for every row."
    path = table(tmp_path, feature=[[1.0, 2.0]] * BLOCK + [[1.0]] * BLOCK)
    assert told(path) == f", 'feature': row {BLOCK} holds 1 numbers, row 0 holds 2. Save as many for every row."


def test_columns_of_other_things_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, feature=[["a"]] * 6)
    assert told(path).endswith(" expected one value or a list of numbers a row.")
    path = table(tmp_path, feature=FEATURE, site=[{"a": 1}] * 6)
    assert told(path, group_by="site") == (
        ", 'site': holds struct<a: int64>, expected one value or a list of numbers a row."
    )
    twice = arrow.table([arrow.array(list(FEATURE)), arrow.array(LABEL), arrow.array(LABEL)], ["feature", "y", "y"])
    parquet.write_table(twice, path)
    assert told(path) == ": has several columns 'y'. Rename all but one."


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path, feature=FEATURE)
    for module in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [NoArrow(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"set\.parquet: needs pyarrow, .* pip install 'spherood\[parquet\]'"):
        read_features(path)


class NoArrow:
    """A finder that finds no pyarrow."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


# Messages


def test_a_file_of_no_known_suffix_and_one_that_is_absent_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_features(tmp_path / "set.csv")
    assert str(error.value) == (
        f"{tmp_path}/set.csv: features are not read from '.csv' files. Known: .npy, .npz, .safetensors, .parquet."
    )
    for suffix in (".npy", ".npz", ".safetensors", ".parquet"):
        assert told(tmp_path / f"none{suffix}") == ": no such file. Check the path."


@every_container
def test_a_file_without_a_feature_lists_what_it_holds(tmp_path: Path, save: Save) -> None:
    for arrays in ({"logits": LOGITS, "label": LABEL}, {"logits": LOGITS, "a": FEATURE, "b": FEATURE}):
        text = told(save(tmp_path, **arrays))
        start, held = text.split("It holds: ")
        assert start == (
            ": no feature array, expected the name feature, features, embedding or embeddings, or a single matrix. "
        )
        assert set(held.removesuffix(". Rename the one of the features.").split(", ")) == set(arrays)


def test_an_archive_of_nothing_says_so(tmp_path: Path) -> None:
    assert "It holds: nothing. " in told(npz(tmp_path))


@pytest.mark.parametrize("save", [npy, npz, safetensors])
@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (FEATURE[0], "expected (N, D), got (4,). Save one row of D numbers for every image."),
        (FEATURE[None], "expected (N, D), got (1, 6, 4). Save one row of D numbers for every image."),
        (FEATURE.astype(np.int32), "expected floating numbers, got int32. Save it as float32."),
        (FEATURE > 0, "expected floating numbers, got bool. Save it as float32."),
        (FEATURE[:0], "holds no number, only (0, 4). Save at least one row."),
        (FEATURE[:, :0], "holds no number, only (6, 0). Save at least one row."),
    ],
)
def test_a_feature_of_another_shape_or_type_is_told(
    tmp_path: Path, save: Save, feature: np.ndarray[Any, Any], message: str
) -> None:
    path = save(tmp_path, feature=feature)
    place = ": " if save is npy else ", 'feature': "
    assert told(path) == place + message
    with pytest.raises(ShapeError):
        read_features(path)


def test_a_parquet_feature_of_another_shape_or_type_is_told(tmp_path: Path) -> None:
    for column, message in (
        (FEATURE[:, 0], "expected (N, D), got (6,). Save one row of D numbers for every image."),
        (FEATURE.astype(np.int32), "expected floating numbers, got int32. Save it as float32."),
        (arrow.array([], arrow.list_(arrow.float32())), "holds no number, only (0, 0). Save at least one row."),
        ([[]] * 6, ""),
    ):
        assert told(table(tmp_path, feature=column)).startswith(f", 'feature': {message}")


def test_bfloat16_is_told(tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    for type_, name in ((torch.bfloat16, "BF16"), (torch.float8_e4m3fn, "F8_E4M3")):
        save_tensors({"feature": torch.ones(6, 4).to(type_)}, path)
        assert told(path) == f", 'feature': NumPy has no {name}. Save it as float32 or float16."


@pytest.mark.parametrize("type_", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_counted(tmp_path: Path, type_: type, bad: float) -> None:
    feature = np.ones((20_000, 2), dtype=type_)
    feature[[17_001, 18_000, 18_001], [0, 1, 1]] = bad
    assert told(npy(tmp_path, feature)) == (
        ": 3 of 20,000 rows, first row 17001, hold NaN or infinity. Drop these rows, or find out what made them."
    )


def test_logits_that_are_not_finite_are_told_too(tmp_path: Path) -> None:
    logits = LOGITS.copy()
    logits[4, 1] = np.nan
    assert told(npz(tmp_path, feature=FEATURE, logits=logits)).startswith(", 'logits': 1 of 6 rows, first row 4, hold")


def test_what_is_too_large_for_float32_is_told(tmp_path: Path) -> None:
    feature = np.ones((20_000, 2))
    feature[[9_000, 18_000], 1] = [3.5e38, -1e300]
    assert told(npy(tmp_path, feature)) == (
        ": 2 of 20,000 rows, first row 9000, hold numbers beyond 3.4e38, the largest of float32. Scale all rows down."
    )
    feature[[9_000, 18_000], 1] = 3.4e38
    assert len(read_features(npy(tmp_path, feature))) == 20_000


@every_container
def test_arrays_of_another_length_are_told(tmp_path: Path, save: Save) -> None:
    if save is table:  # columns of a table are of one length
        path = save(tmp_path, feature=FEATURE, site=FEATURE)
        assert told(path, group_by="site") == (
            ", 'site': expected (6,), one value for every row of the feature, got (6, 4)."
        )
        return
    tail = "one value for every row of the feature, got"
    assert told(save(tmp_path, feature=FEATURE, label=LABEL[:4])) == f", 'label': expected (6,), {tail} (4,)."
    path = save(tmp_path, feature=FEATURE, site=SITE[:5])
    assert told(path, group_by="site") == f", 'site': expected (6,), {tail} (5,)."
    path = save(tmp_path, feature=FEATURE, logits=LOGITS[:5])
    assert told(path) == ", 'logits': expected 6 rows, as the feature has, got 5."


def test_names_of_another_length_are_told(tmp_path: Path) -> None:
    path = npz(tmp_path, feature=FEATURE, name=np.array(NAMES[:2]))
    assert told(path) == ", 'name': expected (6,), one value for every row of the feature, got (2,)."


@every_container
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            [0, 1, -1, 1, -2, 0],
            "2 of 6 labels are below 0, first row 2. Drop the rows of unknown class.",
        ),
        (
            [0, 4, 2, 2, 0, 0],
            "labels run 0..4, but no row is of class 1. "
            "Number the classes 0, 1, ... without gaps, or save their names instead.",
        ),
        (
            [1, 2, 1, 2, 1, 3],
            "labels run 1..3, but no row is of class 0. "
            "Number the classes 0, 1, ... without gaps, or save their names instead.",
        ),
        ([0.0, 1, 0, 1, 0, 1], "expected integers or strings, got float64. Save the labels as one of these."),
        ([True, False] * 3, "expected integers or strings, got bool. Save the labels as one of these."),
    ],
)
def test_labels_that_number_no_classes_are_told(tmp_path: Path, save: Save, label: list[Any], message: str) -> None:
    path = save(tmp_path, feature=FEATURE, label=np.array(label))
    assert told(path) == f", 'label': {message}"


def test_labels_in_a_second_file_are_checked_alike(tmp_path: Path) -> None:
    path = npy(tmp_path, FEATURE)

    def message(labels: Path) -> str:
        with pytest.raises(SpheroodError) as error:
            read_features(path, labels=labels)
        return str(error.value).replace(str(tmp_path), "")

    assert message(npy(tmp_path, LABEL[:5], "label.npy")) == (
        "/label.npy: expected (6,), one value for every row of the feature, got (5,)."
    )
    assert message(npy(tmp_path, LABEL - 1, "label.npy")).startswith("/label.npy: 2 of 6 labels are below 0, first")
    assert message(tmp_path / "none.npy") == "/none.npy: no such file. Check the path."
    assert message(tmp_path / "label.txt") == (
        "/label.txt: labels are read from a .npy file. Save them with numpy.save."
    )
    names = npy(tmp_path, np.array(["a"] * 6, dtype=object), "label.npy", allow_pickle=True)
    assert message(names) == (
        "/label.npy: holds Python objects, that is a pickle, which could run code. "
        "Save numbers, or strings as array.astype(str)."
    )
    with pytest.raises(ConfigError, match=r"set\.npz: has labels of its own, 'labels'\. Leave out .*label\.npy\."):
        read_features(npz(tmp_path, feature=FEATURE, labels=LABEL), labels=names)


@every_container
def test_a_group_that_is_not_there_is_told_with_the_nearest(tmp_path: Path, save: Save) -> None:
    path = save(tmp_path, **ALL)
    assert told(path, group_by="sites") == ": there is no 'sites' to group by. Did you mean 'site'?"
    with pytest.raises(ConfigError):
        read_features(path, group_by="sites")
    assert told(save(tmp_path, feature=FEATURE), group_by="patient") == (
        ": there is no 'patient' to group by. Save it beside the feature, in a .npz or .parquet file."
    )


def test_an_npy_file_has_no_groups(tmp_path: Path) -> None:
    for name in ("site", "feature"):
        assert told(npy(tmp_path, FEATURE), group_by=name) == (
            f": there is no '{name}' to group by. Save it beside the feature, in a .npz or .parquet file."
        )


def test_a_group_that_is_not_a_number_is_told(tmp_path: Path) -> None:
    path = npz(tmp_path, feature=FEATURE, site=np.array([1, 1, np.nan, 2, np.nan, 2]))
    assert told(path, group_by="site") == ", 'site': row 2 is not a number. Give it a group."


class Trap:
    """Would make a file when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


@pytest.mark.parametrize("save", [npy, npz])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, feature=np.array([[Trap()]], dtype=object))
    assert told(path) == (
        ": holds Python objects, that is a pickle, which could run code. Save numbers, or strings as array.astype(str)."
    )
    assert not Path("sprung").exists()
    if save is npy:
        np.load(path, allow_pickle=True)
    else:
        with np.load(path, allow_pickle=True) as archive:
            assert archive["feature"].shape == (1, 1)
    assert Path("sprung").exists()  # so it was a trap


@pytest.mark.parametrize(
    ("save", "format_"),
    [(npy, "NumPy array"), (npz, "NumPy archive"), (safetensors, "safetensors"), (table, "Parquet")],
)
def test_a_damaged_file_is_told(tmp_path: Path, save: Save, format_: str) -> None:
    path = save(tmp_path, feature=np.random.default_rng(0).normal(size=(100, 20)))
    whole = path.read_bytes()
    for content in (b"", b"this is a text\n" * 9, whole[:60], whole[: len(whole) // 2], whole[:-3]):
        path.write_bytes(content)
        text = told(path)
        assert text.startswith(f": not a {format_} file, or damaged: ")
        assert text.endswith(". Write it again.")


def test_a_damaged_page_of_an_archive_is_told(tmp_path: Path) -> None:
    for save, damage in ((npz, slice(200, 900)), (table, slice(4, 60))):  # Parquet has no checksum of the numbers
        path = save(tmp_path, feature=np.random.default_rng(0).normal(size=(100, 20)))
        content = bytearray(path.read_bytes())
        content[damage] = bytes(len(content[damage]))
        path.write_bytes(content)
        assert ", or damaged: " in told(path)
    path = npy(tmp_path, FEATURE)
    for old, new in ((b"(6, 4)", b"(6, 4 "), (b"<f4", b"<04")):  # NumPy parses its header as Python
        content = bytearray(path.read_bytes().replace(old, new))
        (tmp_path / "other.npy").write_bytes(content)
        assert ", or damaged: " in told(tmp_path / "other.npy")
    path = tmp_path / "set.npz"
    np.savez_compressed(path, feature=FEATURE)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    assert ", or damaged: " in told(path)


def test_an_archive_with_a_password_is_told(tmp_path: Path) -> None:
    path = npz(tmp_path, feature=FEATURE)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the bit that says so, in the archive's directory
    path.write_bytes(content)
    assert "is encrypted, password required" in told(path)
