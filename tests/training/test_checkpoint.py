from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spherood.errors import CheckpointError, TrainingError
from spherood.models import build_model, weights_hash
from spherood.training import Checkpoint, Recipe


@pytest.fixture
def checkpoint(recipe: Callable[..., Recipe]) -> Checkpoint:
    model = build_model(recipe().model, classes=3, seed=5)
    losses = {"0.prototypes": torch.rand(3, 6)}
    return Checkpoint(recipe(), ("0", "1", "2"), 2, 4, model.state_dict(), losses, {"state": {}, "param_groups": []})


def rewritten(checkpoint: Checkpoint, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    checkpoint.save(path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_what_was_saved_is_loaded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run" / "last.pt")
    found = Checkpoint.load(tmp_path / "run" / "last.pt")
    assert (found.recipe, found.classes, found.epoch, found.step) == (checkpoint.recipe, ("0", "1", "2"), 2, 4)
    assert found.optimiser == checkpoint.optimiser
    assert torch.equal(found.losses["0.prototypes"], checkpoint.losses["0.prototypes"])
    assert weights_hash(found.build_model()) == weights_hash(build_model(checkpoint.recipe.model, 3, seed=5))
    assert weights_hash(found.build_model()) != weights_hash(build_model(checkpoint.recipe.model, 3, seed=0))


def test_by_what_it_is_the_best_one_is_kept_and_older_files_do_not_say(checkpoint: Checkpoint, tmp_path: Path) -> None:
    replace(checkpoint, criterion=("k-NN", 0.875)).save(tmp_path / "best.pt")
    assert Checkpoint.load(tmp_path / "best.pt").criterion == ("k-NN", 0.875)
    checkpoint.save(tmp_path / "last.pt")
    assert Checkpoint.load(tmp_path / "last.pt").criterion is None
    older = rewritten(checkpoint, tmp_path / "older.pt", lambda content: content.pop("criterion"))
    assert Checkpoint.load(older).criterion is None


def test_losses_that_do_not_fit_are_listed(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError) as told:
        replace(checkpoint, losses={"0.prototypes": torch.rand(3, 7)}).build_model()
    assert str(told.value) == (
        "The checkpoint does not fit the losses: 0.prototypes has shape (3, 7), expected (3, 6). "
        "Was it made with another recipe?"
    )


def test_a_failure_while_saving_leaves_the_old_file_and_no_other(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path)

    plain = Path.write_bytes

    def full(aside: Path, content: bytes) -> None:
        plain(aside, b"half")
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TrainingError) as told:
        replace(checkpoint, epoch=3).save(path)
    monkeypatch.undo()
    assert str(told.value).startswith(
        f"{path}: the checkpoint cannot be written: No space left on device. Make room (0 MB), then go on with the same"
    )
    assert Checkpoint.load(path).epoch == 2
    assert list(tmp_path.iterdir()) == [path]


def test_an_absent_file_says_how_to_train(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*last\.pt\. Train first: spherood train --recipe R"):
        Checkpoint.load(tmp_path / "last.pt")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_told(checkpoint: Checkpoint, tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"last\.pt: not a readable checkpoint \(.+\)\. Is the file whole\?"):
        Checkpoint.load(path)


def test_a_single_flipped_bit_of_a_weight_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path, weight = tmp_path / "last.pt", checkpoint.losses["0.prototypes"]
    checkpoint.save(path)
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not a readable checkpoint \(.* is damaged\)"):
        Checkpoint.load(path)


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for content in (b"some text", pickle.dumps({"model": 1})):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            Checkpoint.load(path)
    np.savez(path.with_suffix(".npz"), model=np.zeros(3))
    for other in (path.with_suffix(".npz"), tmp_path):
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            Checkpoint.load(other)


class Trap:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def test_nothing_in_a_checkpoint_is_executed(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = rewritten(checkpoint, tmp_path / "last.pt", lambda content: content.update(model=Trap()))
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        Checkpoint.load(path)
    assert not Path("sprung").exists()


def test_what_a_foreign_file_lacks_is_listed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = rewritten(checkpoint, tmp_path / "last.pt", lambda content: (content.pop("losses"), content.pop("epoch")))
    with pytest.raises(CheckpointError, match=r"last\.pt: lacks epoch, losses\. It was not written by spherood train"):
        Checkpoint.load(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="lacks recipe, classes, epoch, step, model, losses, optimiser"):
        Checkpoint.load(path)


def test_another_format_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = rewritten(checkpoint, tmp_path / "last.pt", lambda content: content.update(format=2))
    with pytest.raises(CheckpointError, match=r"format 2, this version reads 1\. Update spherood\."):
        Checkpoint.load(path)


def test_weights_that_do_not_fit_are_listed_and_nothing_is_loaded(checkpoint: Checkpoint) -> None:
    state = dict(checkpoint.model)
    state["classifier.fc"] = state.pop("classifier.bias")
    state["encoder.conv1.weight"] = torch.zeros(4, 3, 7, 7)
    with pytest.raises(CheckpointError) as told:
        replace(checkpoint, model=state).build_model()
    assert str(told.value) == (
        "The checkpoint does not fit the model: missing classifier.bias; unknown classifier.fc; encoder.conv1.weight "
        "has shape (4, 3, 7, 7), expected (4, 3, 3, 3). Was it made with another recipe?"
    )


def test_of_many_misfits_eight_are_listed_and_the_rest_counted(checkpoint: Checkpoint) -> None:
    keys = len(checkpoint.model)
    with pytest.raises(CheckpointError, match=rf"missing encoder\.conv1\.weight; .* and {keys - 8} more\. Was it made"):
        replace(checkpoint, model={}).build_model()
