from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import spherood.bundle.rows as module
from spherood.bundle.rows import Rows
from spherood.data.feature_file import FeatureSet
from spherood.data.image_set import ImageSet
from spherood.detectors import KNN, MSP
from spherood.errors import ShapeError
from spherood.features import Stored
from spherood.outputs import Outputs

FEATURE = np.arange(12, dtype=np.float32).reshape(4, 3)


def images(label: list[int]) -> ImageSet:
    n = len(label)
    pixels = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    return ImageSet("photos", pixels, np.array(label), [f"{row}.png" for row in range(n)], ("cat", "dog"))


def stored(label: list[int]) -> Stored:
    outputs = Outputs(torch.from_numpy(FEATURE), logits=torch.from_numpy(FEATURE[:, :2]))
    return Stored(images(label), outputs, {})


def test_of_images_it_keeps_features_labels_names_and_the_images() -> None:
    found = stored([1, 0, 1, 1])
    rows = Rows.of_images(found)
    assert rows.label is not None
    assert (rows.name, rows.label.tolist(), rows.classes) == ("photos", [1, 0, 1, 1], ("cat", "dog"))
    assert (list(rows.names), rows.images, rows.outputs, len(rows)) == (
        ["0.png", "1.png", "2.png", "3.png"],
        found.images,
        found.outputs,
        4,
    )


def test_images_of_which_one_is_unlabelled_are_not_labelled() -> None:
    rows = Rows.of_images(stored([1, 0, -1, 1]))
    assert (rows.label, rows.classes) == (None, ())


def test_of_a_feature_file_it_keeps_all_that_the_file_has() -> None:
    label = np.array([0, 1, 1, 0])
    rows = Rows.of_features(FeatureSet("f.npz", FEATURE, FEATURE[:, :2], label, ("a", "b"), None, ("p", "q", "r", "s")))
    assert rows.outputs.logits is not None
    np.testing.assert_array_equal(rows.outputs.feature.numpy(), FEATURE)
    np.testing.assert_array_equal(rows.outputs.logits.numpy(), FEATURE[:, :2])
    assert (rows.name, rows.classes, rows.names, rows.images) == ("f.npz", ("a", "b"), ("p", "q", "r", "s"), None)
    assert rows.label is label
    bare = Rows.of_features(FeatureSet("f.npy", FEATURE, None, None, (), None, ()))
    assert (bare.outputs.logits, bare.label, bare.classes, bare.names) == (None, None, (), ())


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["arrays", "tensors"])
def test_of_arrays_classes_are_their_numbers(kind: Any) -> None:
    rows = Rows.of_arrays("mine", kind(FEATURE), kind(np.array([2, 0, 2, 0], dtype=np.int32)))
    assert rows.label is not None
    assert (rows.classes, rows.label.tolist(), rows.label.dtype) == (("0", "1", "2"), [2, 0, 2, 0], np.int64)
    assert torch.equal(rows.outputs.feature, torch.from_numpy(FEATURE))
    assert (Rows.of_arrays("mine", kind(FEATURE)).label, Rows.of_arrays("mine", kind(FEATURE)).classes) == (None, ())


@pytest.mark.parametrize(
    ("feature", "got"),
    [
        (FEATURE[0], "torch.float32 (3,)"),
        (FEATURE[None], "torch.float32 (1, 4, 3)"),
        (FEATURE.astype(int), "torch.int64 (4, 3)"),
        (FEATURE[:0], "torch.float32 (0, 3)"),
    ],
)
def test_what_is_no_matrix_of_features_is_refused(feature: Any, got: str) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(f'mine: expected floating features (N, F), got {got}.')}$"):
        Rows.of_arrays("mine", feature)


@pytest.mark.parametrize(
    ("label", "got"),
    [
        (np.zeros(3, int), "int64 (3,)"),
        (np.zeros((4, 1), int), "int64 (4, 1)"),
        (np.zeros(4), "float64 (4,)"),
        (np.array([0, 1, -1, 0]), "int64 (4,)"),
        (np.array(list("abcd")), "<U1 (4,)"),
    ],
)
def test_what_is_no_label_for_every_row_is_refused(label: Any, got: str) -> None:
    message = f"mine: expected integer labels (4,) from 0 on, got {got}."
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        Rows.of_arrays("mine", FEATURE, label)


def test_a_subset_takes_everything_along_in_the_order_asked_for() -> None:
    rows = Rows.of_images(stored([1, 0, 1, 1])).subset(np.array([3, 1]))
    assert rows.label is not None
    assert rows.images is not None
    assert rows.outputs.logits is not None
    assert rows.outputs.feature.tolist() == FEATURE[[3, 1]].tolist()
    assert rows.outputs.logits.tolist() == FEATURE[[3, 1], :2].tolist()
    assert (rows.label.tolist(), list(rows.names), list(rows.images.names)) == ([1, 0], ["3.png", "1.png"], rows.names)
    assert np.asarray(rows.images.images)[:, 0, 0, 0].tolist() == [3, 1]
    assert (rows.name, rows.classes) == ("photos", ("cat", "dog"))
    bare = Rows.of_arrays("mine", FEATURE).subset(np.array([2]))
    assert (bare.outputs.feature.tolist(), bare.label, bare.names, bare.images) == (
        [FEATURE[2].tolist()],
        None,
        (),
        None,
    )
    assert len(Rows.of_images(stored([1, 0, 1, 1])).subset(np.array([], dtype=np.int64))) == 0


def test_batches_come_in_order_as_often_as_one_likes_and_say_how_many_rows_they_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIT_ROWS", 3)
    batches = Rows.of_arrays("mine", FEATURE, np.array([0, 1, 2, 3])).batches()
    assert batches.total == 4
    for _ in range(2):
        found = list(batches)
        assert [len(outputs.feature) for outputs, _ in found] == [3, 1]
        assert torch.cat([outputs.feature for outputs, _ in found]).tolist() == FEATURE.tolist()
        assert [None if label is None else label.tolist() for _, label in found] == [[0, 1, 2], [3]]
    assert [label for _, label in Rows.of_arrays("mine", FEATURE).batches()] == [None, None]


def test_a_detector_reads_of_a_row_what_it_reads() -> None:
    rows = Rows.of_images(stored([1, 0, 1, 1]))
    found = rows.scored(KNN(k=1).fit(rows.batches()))
    assert (found.dtype, found.shape) == (np.float64, (4,))
    np.testing.assert_allclose(found, 0, atol=1e-6)
    np.testing.assert_allclose(rows.scored(MSP()), np.full(4, -1 / (1 + np.exp(-1))))  # the logits differ by 1
