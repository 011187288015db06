from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from spherood.errors import ConfigError, DataError
from spherood.models import infer
from spherood.sphere.geometry import dispersion, geometry
from spherood.training import Checkpoint, Recipe, train, validation
from spherood.training.log import read_log
from spherood.training.validation import criterion

Make = Callable[..., Recipe]
Same = Callable[[Path, Path], None]
LAST, BEST = Path("checkpoints", "last.pt"), Path("checkpoints", "best.pt")
HELD_OUT = {"arrays": "id.npy", "labels": "id_y.npy"}
OOD = {"new": {"arrays": "new.npy"}, "noise": {"arrays": "noise.npy"}}


@pytest.fixture
def place(digits: Path, tmp_path: Path) -> Path:
    """The 41 digits of training, 30 others of the same classes, 20 of two new ones, 25 of noise."""
    for name in ("x.npy", "y.npy"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    found = load_digits(n_class=5)
    known = np.flatnonzero(found.target < 3)[41:71]
    np.save(tmp_path / "id.npy", grey(found.images[known]))
    np.save(tmp_path / "id_y.npy", found.target[known])
    np.save(tmp_path / "new.npy", grey(found.images[found.target > 2][:20]))
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 256, (25, 8, 8), dtype=np.uint8))
    return tmp_path


def grey(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.round(images * (255 / 16)).astype(np.uint8)


def validated(run: Path) -> list[dict[str, Any]]:
    return read_log(run, "validation.jsonl")


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (5, [3]), (0, [])])
def test_there_is_a_row_after_every_so_many_epochs_and_after_the_last(
    place: Path, recipe: Make, every: int, epochs: list[int]
) -> None:
    train(recipe(validation={"every": every}), place / "run", place)
    rows = validated(place / "run")
    assert [row["epoch"] for row in rows] == epochs
    assert [row["step"] for row in rows] == [6 * epoch for epoch in epochs]
    assert (place / "run" / "validation.jsonl").exists() == (place / "run" / "embedding.npz").exists() == (every > 0)
    assert not (place / "run" / BEST).exists()  # it takes held-out ID images to tell


def test_a_row_says_of_what_it_is_and_gives_accuracy_geometry_prototypes_and_auroc(place: Path, recipe: Make) -> None:
    found = train(recipe(validation={"id": HELD_OUT, "ood": OOD, "every": 3}), place / "run", place)
    (row,) = validated(place / "run")
    assert list(row) == ["step", "epoch", "of", "accuracy", "geometry", "prototypes", "auroc"]
    assert row["of"] == "held-out images"
    assert list(row["accuracy"]) == ["class mean", "k-NN"]
    assert list(row["auroc"]) == ["new", "noise"]
    embedding, label = features(found, pixels(place / "id.npy"), "embedding"), np.load(place / "id_y.npy")
    expected = geometry(torch.from_numpy(embedding), torch.from_numpy(label))
    assert row["geometry"]["rows"] == 30
    assert row["geometry"]["compactness"] == pytest.approx(expected.compactness, rel=1e-4)
    unlike = np.concatenate([features(found, pixels(place / f"{name}.npy"), "embedding") for name in OOD])
    means = np.stack([embedding[label == one].mean(axis=0) for one in range(3)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    inside, outside = (np.degrees(np.arccos((z @ means.T).max(axis=1).clip(-1, 1))) for z in (embedding, unlike))
    assert row["geometry"]["separability"] == pytest.approx(outside.mean() - inside.mean(), abs=0.01)
    mean, least = dispersion(found.losses["0.prototypes"])
    assert row["prototypes"] == {"dispersion": pytest.approx(mean), "least_angle": pytest.approx(least)}


def test_without_prototypes_and_ood_a_row_has_none(place: Path, recipe: Make) -> None:
    train(recipe(loss=[{"use": "supcon"}], validation={"every": 3}), place / "run", place)
    (row,) = validated(place / "run")
    assert list(row) == ["step", "epoch", "of", "accuracy", "geometry"]
    assert row["of"] == "training images"


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.repeat(np.load(path)[..., None], 3, axis=3))


def features(of: Checkpoint, images: torch.Tensor, part: str = "feature") -> NDArray[np.float64]:
    """Unit rows, in float64."""
    found = getattr(infer(of.build_model(), images, of.recipe.preprocess), part).double().numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)  # type: ignore[no-any-return]


def halves(recipe: Recipe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the training set that are the bank, and those that are asked about."""
    order = np.random.default_rng([recipe.seed, 1]).permutation(41)
    half = min(recipe.validation.images, 20)
    return order[:half], order[half : 2 * half]


def slow_accuracies(
    query: NDArray[np.float64],
    label: NDArray[np.int64],
    bank: NDArray[np.float64],
    known: NDArray[np.int64],
    votes: int,
) -> dict[str, float]:
    means = [bank[known == class_].mean(axis=0) for class_ in range(3)]
    by_mean = by_vote = 0
    for row, class_ in zip(query, label, strict=True):
        by_mean += int(np.argmax([row @ mean / np.linalg.norm(mean) for mean in means])) == class_
        near = np.argsort(-(bank @ row), kind="stable")[:votes]
        count = Counter(known[near].tolist())
        by_vote += int(np.argmax([count[c] for c in range(3)])) == class_
    return {"class mean": by_mean / len(query), "k-NN": by_vote / len(query)}


def slow_auroc(bank: NDArray[np.float64], query: NDArray[np.float64], ood: NDArray[np.float64], k: int) -> float:
    def score(row: NDArray[np.float64]) -> float:
        return sorted(float(((row - known) ** 2).sum()) for known in bank)[k - 1]

    id_score, ood_score = [score(row) for row in query], [score(row) for row in ood]
    return float(np.mean([(o > i) + 0.5 * (o == i) for i in id_score for o in ood_score]))


@pytest.mark.parametrize("held_out", [False, True], ids=["training images", "held-out images"])
@pytest.mark.parametrize("images", [15, 2000])
def test_accuracies_and_auroc_are_those_of_a_slow_computation_on_the_same_rows(
    place: Path, recipe: Make, held_out: bool, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "VOTES", 5)  # of 15 or 20 in the bank
    settings = {"every": 3, "images": images, "ood": OOD} | ({"id": HELD_OUT} if held_out else {})
    ours = recipe(validation=settings, seed=2)
    found = train(ours, place / "run", place)
    (row,) = validated(place / "run")
    x, y = pixels(place / "x.npy"), np.load(place / "y.npy")
    known, asked = halves(ours)
    bank = features(found, x[known])
    query, label = features(found, x[asked]), y[asked]
    if held_out:
        drawn = np.sort(np.random.default_rng(0).permutation(30)[:images])
        query, label = features(found, pixels(place / "id.npy")[drawn]), np.load(place / "id_y.npy")[drawn]
    assert row["accuracy"] == slow_accuracies(query, label, bank, y[known], 5)
    assert row["accuracy"]["k-NN"] not in (0, 1)
    for name in OOD:
        new = pixels(place / f"{name}.npy")
        drawn = np.sort(np.random.default_rng(0).permutation(len(new))[:images])
        assert row["auroc"][name] == pytest.approx(slow_auroc(bank, query, features(found, new[drawn]), 10), abs=0.01)


def test_bank_and_query_share_no_training_image(place: Path, recipe: Make) -> None:
    known, asked = halves(recipe())
    assert len(known) == len(asked) == 20
    assert not set(known) & set(asked)


@pytest.mark.parametrize("best", ["k-NN", "class mean", "auroc"])
def test_with_held_out_images_the_best_checkpoint_is_the_first_one_with_the_greatest_value(
    place: Path, recipe: Make, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "VOTES", 3)
    settings = {"id": HELD_OUT, "ood": OOD, "best": best}
    ours = recipe(validation=settings, training={"epochs": 5, "batch": 8})
    train(ours, place / "run", place)
    rows = validated(place / "run")
    values = [np.mean(list(row["auroc"].values())) if best == "auroc" else row["accuracy"][best] for row in rows]
    kept = Checkpoint.load(place / "run" / BEST)
    name, value = kept.criterion or ("", 0)
    assert (name, value) == (best, pytest.approx(max(values)))
    assert (kept.epoch, kept.step) == (1 + int(np.argmax(values)), 0)
    assert len(set(values)) > 1
    assert Checkpoint.load(place / "run" / LAST).criterion is None


def test_the_best_checkpoint_is_kept_through_worse_epochs_and_a_resumed_run_knows_it(
    place: Path, recipe: Make, before_step: Callable[[Callable[[int], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {1: 0.5, 2: 0.9, 3: 0.6, 4: 0.9}
    monkeypatch.setattr("spherood.training.engine.criterion", lambda row, best: values[row["geometry"]["epoch"]])
    plain = validation.Validation.__call__
    epoch = iter((1, 2, 3, 3, 4))  # the third is validated, lost, and validated again

    def noted(self: validation.Validation, *args: Any) -> Any:
        row, sample = plain(self, *args)
        return row | {"geometry": {"epoch": next(epoch)}}, sample

    monkeypatch.setattr(validation.Validation, "__call__", noted)
    ours = recipe(validation={"id": HELD_OUT}, training={"epochs": 4, "batch": 8})
    save, saved = Checkpoint.save, []

    def broken(self: Checkpoint, path: Path) -> None:
        saved.append(path.name)
        if saved.count("last.pt") == 3:
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(Checkpoint, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        train(ours, place / "run", place)
    assert saved == ["best.pt", "last.pt", "best.pt", "last.pt", "last.pt"]
    monkeypatch.setattr(Checkpoint, "save", save)
    train(ours, place / "run", place, resume=True)
    kept = Checkpoint.load(place / "run" / BEST)
    assert (kept.epoch, kept.criterion) == (2, ("k-NN", 0.9))
    assert [row["step"] for row in validated(place / "run")] == [6, 12, 18, 24]


def test_a_best_checkpoint_of_an_epoch_that_was_lost_is_made_again(
    place: Path, recipe: Make, assert_same_run: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = recipe(validation={"id": HELD_OUT, "ood": OOD})
    train(ours, place / "whole", place)
    save = Checkpoint.save

    def broken(self: Checkpoint, path: Path) -> None:
        if self.epoch == 2 and path.name == "last.pt":
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(Checkpoint, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        train(ours, place / "run", place)
    monkeypatch.setattr(Checkpoint, "save", save)
    assert [row["step"] for row in validated(place / "run")] == [6, 12]  # of the second epoch nothing else was kept
    train(ours, place / "run", place, resume=True)
    assert_same_run(place / "run", place / "whole")
    assert validated(place / "run") == validated(place / "whole")
    ours_best, theirs = (Checkpoint.load(place / run / BEST) for run in ("run", "whole"))
    assert (ours_best.epoch, ours_best.criterion) == (theirs.epoch, theirs.criterion)
    assert all(torch.equal(value, theirs.model[name]) for name, value in ours_best.model.items())


def test_validation_changes_nothing_of_the_training(place: Path, recipe: Make) -> None:
    ends = []
    for every in (0, 1):
        settings = {"every": every, "id": HELD_OUT, "ood": OOD}
        ends.append(train(recipe(validation=settings), place / str(every), place))
    for first, second in ((ends[0].model, ends[1].model), (ends[0].losses, ends[1].losses)):
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    losses = [[row["loss"] for row in read_log(place / str(every))] for every in (0, 1)]
    assert losses[0] == losses[1]


def test_held_out_classes_are_matched_by_name_in_whatever_order(place: Path, recipe: Make) -> None:
    train(recipe(validation={"id": HELD_OUT, "every": 3}), place / "a", place)
    turned = HELD_OUT | {"classes": ["2", "0", "1"]}
    train(recipe(validation={"id": turned, "every": 3}), place / "b", place)
    assert validated(place / "a") == validated(place / "b")
    assert np.array_equal(np.load(place / "b" / "embedding.npz")["label"], np.load(place / "id_y.npy"))


def test_some_of_the_classes_are_enough(place: Path, recipe: Make) -> None:
    train(recipe(validation={"id": HELD_OUT | {"classes": ["2", "1"]}, "every": 3}), place / "run", place)
    label = np.load(place / "run" / "embedding.npz")["label"]
    assert sorted(set(label.tolist())) == [1, 2]
    assert validated(place / "run")[0]["geometry"]["rows"] == len(label) == int((np.load(place / "id_y.npy") > 0).sum())


def test_the_sample_holds_the_embeddings_of_the_last_validation(place: Path, recipe: Make) -> None:
    found = train(recipe(validation={"id": HELD_OUT}), place / "run", place)
    sample = np.load(place / "run" / "embedding.npz")
    assert set(sample.files) == {"embedding", "label", "classes", "prototypes"}
    expected = features(found, pixels(place / "id.npy"), "embedding")
    np.testing.assert_allclose(sample["embedding"], expected, atol=1e-5)
    np.testing.assert_array_equal(sample["label"], np.load(place / "id_y.npy"))
    assert sample["classes"].tolist() == ["0", "1", "2"]
    np.testing.assert_allclose(sample["prototypes"], found.losses["0.prototypes"].numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(sample["embedding"], axis=1), 1, atol=1e-5)


def test_without_a_head_the_sample_is_of_unit_features(place: Path, recipe: Make) -> None:
    bare = {"encoder": "resnet8", "width": 4, "classifier": True}
    ours = recipe(loss=[{"use": "cross_entropy"}], model=bare, validation={"id": HELD_OUT, "every": 3})
    found = train(ours, place / "run", place)
    sample = np.load(place / "run" / "embedding.npz")
    assert set(sample.files) == {"embedding", "label", "classes"}
    np.testing.assert_allclose(sample["embedding"], features(found, pixels(place / "id.npy")), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"id": {"arrays": "id.npy", "labels": "new_y.npy"}},
            r"^validation ID: class '3' is none of the training set's \(0, 1, 2\)\.$",
        ),
        ({"id": {"arrays": "id.npy"}}, r"^validation ID: labels run -1\.\.-1, expected 0\.\.2\.$"),
        (
            {"id": {"arrays": "id.npy", "labels": "partly_y.npy"}},
            r"^validation ID: labels run -1\.\.2, expected 0\.\.2\.$",
        ),
        ({"ood": {"broken": {"folder": "broken"}}}, r"^broken: none of 1 images can be read\.$"),
        ({"id": {"arrays": "none.npy"}}, r"none\.npy: no such file\."),
        ({"ood": {"far": {"arrays": "none.npy"}}}, r"none\.npy: no such file\."),
    ],
)
def test_a_set_that_cannot_be_used_is_told_before_anything_is_written(
    place: Path, recipe: Make, settings: dict[str, Any], message: str
) -> None:
    label = np.load(place / "id_y.npy")
    np.save(place / "new_y.npy", np.where(np.arange(30) == 4, 3, label))
    np.save(place / "partly_y.npy", np.where(np.arange(30) == 4, -1, label))
    (place / "broken").mkdir()
    (place / "broken" / "a.png").write_bytes(b"text")
    with pytest.raises(DataError, match=message):
        train(recipe(validation=settings), place / "run", place)
    assert not (place / "run").exists()


def test_sets_of_a_validation_that_never_comes_are_not_read(place: Path, recipe: Make) -> None:
    train(recipe(validation={"every": 0, "id": {"arrays": "none.npy"}}), place / "run", place)


def test_the_best_by_auroc_needs_ood(recipe: Make) -> None:
    with pytest.raises(ConfigError) as told:
        recipe(validation={"best": "auroc"})
    assert "best: auroc needs validation OOD. Name some under validation.ood, or choose k-NN." in str(told.value)


def test_the_criterion_is_an_accuracy_or_the_mean_auroc() -> None:
    row = {"accuracy": {"k-NN": 0.7, "class mean": 0.6}, "auroc": {"a": 0.5, "b": 1.0}}
    assert [criterion(row, best) for best in ("k-NN", "class mean", "auroc")] == [0.7, 0.6, 0.75]
    assert criterion({"accuracy": row["accuracy"]}, "auroc") is None


def test_two_images_of_each_set_are_enough_and_what_they_cannot_tell_is_null(place: Path, recipe: Make) -> None:
    train(recipe(validation={"images": 2, "every": 3, "id": HELD_OUT, "ood": OOD}), place / "run", place)
    (row,) = validated(place / "run")
    json.dumps(row, allow_nan=False)
    assert row["geometry"]["rows"] == 2
    assert None in row["geometry"]["compactness_per_class"]
