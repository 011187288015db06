from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from spherood.data.views import Plan, Views
from spherood.errors import CheckpointError, ConfigError, DataError, TrainingError
from spherood.models import build_model, infer, weights_hash
from spherood.schema import write_yaml
from spherood.training import Checkpoint, Recipe, batches, engine, load_recipe, train
from spherood.training.log import read_log
from spherood.training.schedule import Schedule

Make = Callable[..., Recipe]
Same = Callable[[Path, Path], None]
LAST = Path("checkpoints", "last.pt")
CROSS_ENTROPY = [{"use": "cross_entropy"}]


def test_training_is_that_of_a_plain_loop(digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType) -> None:
    ours = recipe(
        views={},
        loss=[
            {"use": "cross_entropy", "times": 0.5},
            {"use": "mylab.losses:Squares", "times": 3, "with": {"power": 1}},
        ],
        seed=3,
    )
    found = train(ours, tmp_path / "run", digits)

    x = torch.from_numpy(np.load(digits / "x.npy")).unsqueeze(1).repeat(1, 3, 1, 1) / 255
    x, y = ((x - 0.5) / 0.25).contiguous(memory_format=torch.channels_last), torch.from_numpy(np.load(digits / "y.npy"))
    model = build_model(ours.model, classes=3, seed=3).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=1e-4)
    losses = []
    for epoch in range(3):
        order = np.random.default_rng([3, epoch]).permutation(41)
        for step in range(6):
            rows = torch.from_numpy(order[8 * step : 8 * step + 8])
            plain.param_groups[0]["lr"] = ours.schedule.at(6 * epoch + step, 18, 6)
            feature, _, logits, _ = model(x[rows])
            loss = 0.5 * F.cross_entropy(logits, y[rows]) + 3 * feature.abs().mean()
            losses.append(loss.item())
            plain.zero_grad()
            loss.backward()
            plain.step()
    for key, value in model.state_dict().items():
        if not key.startswith("head"):  # no loss reads the embedding
            torch.testing.assert_close(found.model[key], value, rtol=1e-5, atol=1e-6)
    logged = [row["loss"] for row in read_log(tmp_path / "run")]
    assert logged == pytest.approx([np.mean(losses[6 * epoch : 6 * epoch + 6]) for epoch in range(3)], rel=1e-4)


def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(
    digits: Path, tmp_path: Path, recipe: Make, assert_same_run: Same
) -> None:
    torch.manual_seed(1)
    first = train(recipe(), tmp_path / "a", digits)
    torch.manual_seed(2)  # training has generators of its own
    train(recipe(), tmp_path / "b", digits)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    other = train(recipe(seed=1), tmp_path / "c", digits)
    assert not torch.equal(first.model["encoder.conv1.weight"], other.model["encoder.conv1.weight"])


def test_a_run_leaves_recipe_environment_log_and_checkpoint(digits: Path, tmp_path: Path, recipe: Make) -> None:
    run = tmp_path / "runs" / "tiny"
    found = train(recipe(), run, digits)
    assert load_recipe(run / "recipe.yaml") == recipe()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["device"] == "cpu"
    saved = Checkpoint.load(run / LAST)
    assert (saved.recipe, saved.classes, saved.epoch, saved.step) == (recipe(), ("0", "1", "2"), 3, 0)
    assert weights_hash(saved.build_model()) == weights_hash(found.build_model())
    rows = read_log(run)
    assert [row["step"] for row in rows] == [6, 12, 18]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["lr"] for row in rows] == [recipe().schedule.at(step, 18, 6) for step in (5, 11, 17)]
    assert {"loss", "compactness", "dispersion", "images_per_second"} < set(rows[0])


def test_the_log_holds_means_over_the_steps_between_two_readings(
    digits: Path, tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOG_STEPS", 1)
    train(recipe(training={"epochs": 2, "batch": 8}), tmp_path / "each", digits)
    monkeypatch.setattr(engine, "LOG_STEPS", 4)
    train(recipe(training={"epochs": 2, "batch": 8}), tmp_path / "some", digits)
    each, some = read_log(tmp_path / "each"), read_log(tmp_path / "some")
    assert [row["step"] for row in each] == list(range(1, 13))
    assert [row["step"] for row in some] == [4, 6, 10, 12]
    for name in ("loss", "dispersion"):
        value = [row[name] for row in each]
        means = [np.mean(part) for part in (value[:4], value[4:6], value[6:10], value[10:])]
        assert [row[name] for row in some] == pytest.approx(means, rel=1e-6)


def test_a_loss_gets_every_view_of_a_batch_and_labels_to_match(
    digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType
) -> None:
    one = recipe(loss=[{"use": "mylab.losses:Squares"}], training={"epochs": 1, "batch": 8})
    train(one, tmp_path / "one", digits)
    assert [len(x) for x, _ in mylab.Squares.seen] == [8] * 5 + [1]  # the last batch holds a single image
    shown = [label for _, labels in mylab.Squares.seen for label in labels.tolist()]
    assert sorted(shown) == sorted(np.load(digits / "y.npy").tolist())  # each image once an epoch
    mylab.Squares.seen = []
    two = recipe(loss=[{"use": "mylab.losses:Squares"}, {"use": "cider"}], training={"epochs": 1, "batch": 8})
    train(two, tmp_path / "two", digits)
    for x, label in mylab.Squares.seen:
        assert len(x) == len(label)
        views = x.unflatten(0, (2, -1))
        assert torch.equal(label[: len(label) // 2], label[len(label) // 2 :])
        assert not torch.equal(views[0], views[1])
    assert [len(x) for x, _ in mylab.Squares.seen] == [16] * 5 + [2]


def test_views_are_drawn_by_seed_epoch_image_and_view(
    digits: Path, tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[tuple[int, int, int], list[int]] = {}

    def plan(views: Views, seed: int, epoch: int, image: NDArray[np.int64], view: int, *size: int) -> Plan:
        shown.setdefault((seed, epoch, view), []).extend(image.tolist())
        return plain(views, seed, epoch, image, view, *size)

    plain = batches.plan
    monkeypatch.setattr(batches, "plan", plan)
    train(recipe(seed=7), tmp_path / "run", digits)
    assert set(shown) == {(7, epoch, view) for epoch in range(3) for view in range(2)}
    assert all(sorted(images) == list(range(41)) for images in shown.values())
    assert shown[7, 0, 0] == shown[7, 0, 1]
    assert shown[7, 0, 0] != shown[7, 1, 0]  # another order every epoch


@pytest.mark.parametrize("loss", ["cider", "supcon", "cross_entropy"])
def test_a_last_batch_of_one_image_trains_on(digits: Path, tmp_path: Path, recipe: Make, loss: str) -> None:
    found = train(recipe(loss=[{"use": loss}], training={"epochs": 1, "batch": 40}), tmp_path / "run", digits)
    assert found.epoch == 1
    assert all(bool(weight.isfinite().all()) for weight in found.model.values())


def test_ciders_prototypes_start_from_the_class_means_of_the_training_set(
    digits: Path, tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "INFERENCE_BATCH", 16)
    monkeypatch.setattr(engine, "orders", lambda *args: [])  # no step
    found = train(recipe(), tmp_path / "run", digits)
    grey = np.load(digits / "x.npy")
    pixels, label = torch.from_numpy(np.repeat(grey[..., None], 3, axis=3)), np.load(digits / "y.npy")
    embedding = infer(build_model(recipe().model, 3), pixels, recipe().preprocess).embedding
    assert embedding is not None
    mean = torch.stack([embedding[label == class_].mean(dim=0) for class_ in range(3)])
    expected = mean / mean.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.losses["0.prototypes"], expected, rtol=0, atol=1e-5)


def test_bfloat16_is_used_where_asked_for(digits: Path, tmp_path: Path, recipe: Make) -> None:
    half = train(recipe(training={"epochs": 1, "batch": 8, "precision": "bf16-mixed"}), tmp_path / "half", digits)
    full = train(recipe(training={"epochs": 1, "batch": 8}), tmp_path / "full", digits)
    weight = "encoder.conv1.weight"
    assert half.model[weight].dtype == torch.float32
    assert 1e-6 < float((half.model[weight] - full.model[weight]).abs().max()) < 0.1


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType
) -> None:
    run = tmp_path / "run"
    broken = recipe(loss=[{"use": "mylab.losses:Broken", "with": {"good": 8}}])
    with pytest.raises(TrainingError) as told:
        train(broken, run, digits)
    assert str(told.value) == (
        "The loss is nan in epoch 2, near step 6. Try a smaller schedule.lr, or precision 32-true. "
        f"The last good checkpoint stays at {run / LAST}."
    )
    kept = Checkpoint.load(run / LAST)
    assert (kept.epoch, kept.step) == (1, 0)
    assert all(bool(weight.isfinite().all()) for weight in kept.model.values())
    assert [row["step"] for row in read_log(run)] == [6]


def test_a_loss_that_is_no_number_at_once_leaves_no_checkpoint(
    digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType
) -> None:
    with pytest.raises(TrainingError, match=r"The loss is nan in epoch 1, near step 6\..*There is no checkpoint yet\."):
        train(recipe(loss=[{"use": "mylab.losses:Broken", "with": {"good": 0}}]), tmp_path / "run", digits)
    assert not (tmp_path / "run" / LAST).exists()


def test_a_run_that_exists_is_not_overwritten(digits: Path, tmp_path: Path, recipe: Make) -> None:
    train(recipe(training={"epochs": 1, "batch": 40}), tmp_path / "run", digits)
    before = (tmp_path / "run" / LAST).read_bytes()
    with pytest.raises(ConfigError, match=r"run: holds a trained run\. Choose another --run, or go on with it by --re"):
        train(recipe(), tmp_path / "run", digits)
    assert (tmp_path / "run" / LAST).read_bytes() == before


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss": CROSS_ENTROPY, "model": {}}, "loss cross_entropy: reads logits. Set model.classifier: true."),
        ({"model": {}}, "loss cider: reads the embedding, but the model has no head. Set model.head: mlp."),
    ],
)
def test_a_loss_that_reads_what_the_model_lacks_is_told(
    digits: Path, tmp_path: Path, recipe: Make, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as told:
        train(recipe(**keys), tmp_path / "run", digits)
    assert str(told.value) == message
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_told(digits: Path, tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(ConfigError, match=r"^device cuda:99: not usable here \(.*\)\. Choose auto or cpu\.$"):
        train(recipe(), tmp_path / "run", digits, device="cuda:99")


def test_absent_data_is_told_before_a_run_folder_is_made(tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(DataError, match=r"x\.npy: no such file\. Check the path, or where --data points"):
        train(recipe(), tmp_path / "run", tmp_path)
    assert not (tmp_path / "run").exists()


def test_an_unreadable_training_image_is_skipped_and_the_rest_is_trained_on(
    digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, (pixels, label) in enumerate(zip(np.load(digits / "x.npy"), np.load(digits / "y.npy"), strict=True)):
        path = tmp_path / "set" / str(label) / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    broken = next((tmp_path / "set" / "1").iterdir())
    broken.write_bytes(b"text")
    ours = recipe(data={"folder": "set"}, loss=[{"use": "mylab.losses:Squares"}], training={"epochs": 1, "batch": 8})
    ours = ours.model_copy(update={"schedule": Schedule(lr=0.1, warmup_epochs=0)})
    train(ours, tmp_path / "run", tmp_path)
    assert sum(len(label) for _, label in mylab.Squares.seen) == 40
    err = capsys.readouterr().err.splitlines()
    assert err == [
        f"skipped: {broken}: not an image that Pillow can read.",
        "set: skipped 1 of 41 unreadable images.",
    ]


def test_training_works_outside_the_main_thread_where_no_signal_can_be_caught(
    digits: Path, tmp_path: Path, recipe: Make, assert_same_run: Same
) -> None:
    train(recipe(), tmp_path / "here", digits)
    thread = threading.Thread(target=lambda: train(recipe(), tmp_path / "there", digits))
    thread.start()
    thread.join()
    assert_same_run(tmp_path / "here", tmp_path / "there")


def test_a_run_of_another_recipe_is_not_resumed(digits: Path, tmp_path: Path, recipe: Make) -> None:
    train(recipe(training={"epochs": 1, "batch": 40}), tmp_path / "run", digits)
    other = recipe(training={"epochs": 2, "batch": 40}, seed=1)
    with pytest.raises(CheckpointError) as told:
        train(other, tmp_path / "run", digits, resume=True)
    assert str(told.value) == (
        f"{tmp_path / 'run'}: was trained with another recipe (different: training, seed). Resume with the recipe in "
        f"{tmp_path / 'run' / 'recipe.yaml'}, or choose another --run."
    )


def test_a_run_whose_classes_changed_is_not_resumed(digits: Path, tmp_path: Path, recipe: Make) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("x.npy", "y.npy"):
        (data / name).write_bytes((digits / name).read_bytes())
    train(recipe(training={"epochs": 1, "batch": 40}), tmp_path / "run", data)
    label = np.load(data / "y.npy")
    label[0] = 3
    np.save(data / "y.npy", label)
    with pytest.raises(CheckpointError, match=r"run: trained on classes \('0', '1', '2'\), the data now has .*'3'"):
        train(recipe(training={"epochs": 1, "batch": 40}), tmp_path / "run", data, resume=True)


def test_a_run_that_is_not_there_cannot_be_resumed(digits: Path, tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*last\.pt\. Train first"):
        train(recipe(), tmp_path / "run", digits, resume=True)


def test_a_recipe_written_by_a_run_repeats_it(
    digits: Path, tmp_path: Path, recipe: Make, assert_same_run: Same
) -> None:
    train(recipe(), tmp_path / "a", digits)
    (tmp_path / "again.yaml").write_text(write_yaml(recipe()))
    assert (tmp_path / "a" / "recipe.yaml").read_text() == (tmp_path / "again.yaml").read_text()
    train(load_recipe(tmp_path / "a" / "recipe.yaml"), tmp_path / "b", digits)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_loss_that_wants_it_gets_the_index_of_each_rows_image(
    digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType
) -> None:
    both = [{"use": "mylab.losses:Squares"}, {"use": "mylab.losses:Indices"}]
    train(recipe(loss=both, training={"epochs": 1, "batch": 8}), tmp_path / "run", digits)
    label = torch.cat([label for _, label in mylab.Squares.seen])
    image = torch.cat([label for _, label in mylab.Indices.seen])
    assert sorted(image.tolist()) == list(range(41))
    assert torch.equal(label, torch.from_numpy(np.load(digits / "y.npy"))[image])


def test_prototypes_that_never_parted_are_reported_and_others_are_not(
    digits: Path, tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((41, 8, 8), dtype=np.uint8))  # all images alike: nothing to part classes by
    np.save(tmp_path / "y.npy", np.load(digits / "y.npy"))
    train(recipe(), tmp_path / "parallel", tmp_path)
    assert "cider: collapsed: after 3 epochs all prototypes lie within 5 degrees" in capsys.readouterr().err
    train(recipe(), tmp_path / "apart", digits)
    assert "collapsed" not in capsys.readouterr().err
