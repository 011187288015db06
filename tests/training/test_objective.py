from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spherood.errors import ConfigError, TrainingError
from spherood.models import build_model, infer, weights_hash
from spherood.outputs import Outputs
from spherood.sphere import normalize
from spherood.training import Checkpoint, Recipe, engine, train
from spherood.training.log import read_log
from spherood.training.objective import Objective

Make = Callable[..., Recipe]
Same = Callable[[Path, Path], None]
Hook = Callable[[Callable[[int], None]], None]
LAST = Path("checkpoints", "last.pt")
STEPS = 6  # an epoch, of 3
BARE = {"encoder": "resnet8", "width": 4, "head": "mlp", "dim": 6}
LATE = [{"use": "cross_entropy"}, {"use": "cider", "begin": 1}]


def objective(recipe: Recipe) -> Objective:
    return Objective(recipe, build_model(recipe.model, 3), 3)


def stopped(before_step: Hook, recipe: Recipe, run: Path, data: Path, step: int) -> None:
    """Train until that step, counted from 0, is done."""
    before_step(lambda number: os.kill(os.getpid(), signal.SIGINT) if number == step else None)
    with pytest.raises(TrainingError, match="Stopped after"):
        train(recipe, run, data)


def test_the_losses_add_up_each_with_its_weight(recipe: Make, mylab: ModuleType) -> None:
    both = [{"use": "cross_entropy", "times": 0.5}, {"use": "mylab.losses:Squares", "times": 3}]
    ours = objective(recipe(loss=both))
    outputs = Outputs(torch.tensor([[1.0, 3.0]]), None, torch.tensor([[0.0, 0.0, 0.0]]))
    terms = ours(outputs, torch.tensor([1]), torch.tensor([7]))
    assert float(terms.total) == pytest.approx(0.5 * np.log(3) + 3 * 5)  # equal logits; mean of 1 and 9
    assert {name: float(part) for name, part in terms.parts.items()} == {"size": pytest.approx(5)}  # unweighted


def test_each_loss_counts_in_its_epochs_alone(recipe: Make, mylab: ModuleType) -> None:
    spans = [
        {"use": "cross_entropy"},
        {"use": "cider", "begin": 1},
        {"use": "mylab.losses:Squares", "end": 2},
        {"use": "mylab.losses:Whole", "begin": 1, "end": 2},
    ]
    ours, counted, begun = objective(recipe(loss=spans)), [], []
    for epoch in range(3):
        ours.at(epoch)
        counted.append([type(loss).__name__ for _, loss in ours.active])
        begun.append([type(loss).__name__ for loss in ours.beginning])
    assert counted == [
        ["CrossEntropy", "Squares"],
        ["CrossEntropy", "CIDER", "Squares", "Whole"],
        ["CrossEntropy", "CIDER"],
    ]
    assert begun == [[], ["CIDER", "Whole"], []]  # of those that want to see the training set


def test_views_parts_and_prototypes_are_those_of_the_losses_of_the_epoch(recipe: Make, mylab: ModuleType) -> None:
    spans = [
        {"use": "mylab.losses:Squares", "end": 1},
        {"use": "cider", "begin": 1},
        {"use": "palm", "begin": 1},
        {"use": "mylab.losses:Whole", "begin": 2},
    ]
    ours, found = objective(recipe(loss=spans)), []
    for epoch in range(3):
        ours.at(epoch)
        found.append((ours.views, ours.parts, None if ours.prototypes is None else tuple(ours.prototypes.shape)))
    assert found == [(1, {"feature"}, None), (2, {"embedding"}, (3, 6)), (2, {"feature", "embedding"}, (3, 6))]


def test_a_run_gives_a_loss_its_epochs_and_as_many_views_as_they_want(
    digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType
) -> None:
    spans = [{"use": "mylab.losses:Squares", "end": 2}, {"use": "cider", "begin": 1}]
    train(recipe(loss=spans), tmp_path / "run", digits)
    assert [len(x) for x, _ in mylab.Squares.seen] == [8, 8, 8, 8, 8, 1, 16, 16, 16, 16, 16, 2]
    parts = [set(row) & {"size", "dispersion"} for row in read_log(tmp_path / "run")]
    assert parts == [{"size"}, {"size", "dispersion"}, {"dispersion"}]


def test_a_loss_that_ended_moves_no_more_neither_by_momentum_nor_by_decay(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook
) -> None:
    spans = [{"use": "cider", "with": {"learnable": True}, "end": 1}, {"use": "cross_entropy"}]
    stopped(before_step, recipe(loss=spans), tmp_path / "run", digits, STEPS - 1)
    kept = Checkpoint.load(tmp_path / "run" / LAST)
    ended = train(recipe(loss=spans), tmp_path / "run", digits, resume=True)
    assert torch.equal(ended.losses["0.prototypes"], kept.losses["0.prototypes"])
    assert torch.equal(ended.model["head.0.weight"], kept.model["head.0.weight"])  # nothing else reads the embedding
    assert not torch.equal(ended.model["encoder.conv1.weight"], kept.model["encoder.conv1.weight"])
    assert not torch.equal(kept.losses["0.prototypes"], objective(recipe(loss=spans)).losses[0].prototypes)  # type: ignore[arg-type]


def test_what_gets_a_gradient_late_then_moves_as_from_the_first_step_of_a_run(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook
) -> None:
    late = recipe(loss=LATE, optimiser={"momentum": 0.9, "nesterov": False, "weight_decay": 0.1})
    stopped(before_step, late, tmp_path / "run", digits, STEPS)
    kept = Checkpoint.load(tmp_path / "run" / LAST)
    names = [name for name, _ in kept.build_model().named_parameters()]
    begun = build_model(late.model, 3).state_dict()["head.2.bias"]
    buffer = kept.optimiser["state"][names.index("head.2.bias")]["momentum_buffer"]
    assert float(buffer.abs().max()) > 0
    lr = late.schedule.at(STEPS, 3 * STEPS, STEPS)
    torch.testing.assert_close(kept.model["head.2.bias"], begun - lr * buffer)


def test_a_loss_that_begins_later_sees_the_training_set_as_the_network_then_sees_it(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stopped(before_step, recipe(loss=LATE), run, digits, STEPS - 1)
    kept = Checkpoint.load(run / LAST)
    assert (kept.epoch, kept.step) == (1, 0)
    pixels = torch.from_numpy(np.repeat(np.load(digits / "x.npy")[..., None], 3, axis=3))
    embedding, label = infer(kept.build_model(), pixels, kept.recipe.preprocess).embedding, np.load(digits / "y.npy")
    assert embedding is not None
    expected = normalize(torch.stack([embedding[label == class_].mean(dim=0) for class_ in range(3)]))
    monkeypatch.setattr(engine, "orders", lambda *args: [])  # no step
    found = train(recipe(loss=LATE), run, digits, resume=True).losses["1.prototypes"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    before = kept.losses["1.prototypes"]
    assert float((before - expected).abs().max()) > 0.1


@pytest.mark.parametrize("at", [STEPS - 1, STEPS, STEPS + 2], ids=["before", "first step", "midway"])
@pytest.mark.parametrize("late", ["cider", "learnable"])
def test_a_run_stopped_where_a_loss_begins_goes_on_to_the_same_bits(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook, assert_same_run: Same, at: int, late: str
) -> None:
    begins = {"use": "cider", "begin": 1, "with": {"learnable": late == "learnable"}}
    ours = recipe(loss=[{"use": "cross_entropy", "end": 2}, begins])
    train(ours, tmp_path / "whole", digits)
    stopped(before_step, ours, tmp_path / "run", digits, at)
    train(ours, tmp_path / "run", digits, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


class Cut(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("at", [STEPS, STEPS + 3], ids=["first step", "midway"])
def test_a_run_that_broke_off_where_a_loss_begins_goes_on_to_the_same_bits(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook, assert_same_run: Same, at: int
) -> None:
    def cut(step: int) -> None:
        if step == at:
            raise Cut

    train(recipe(loss=LATE), tmp_path / "whole", digits)
    before_step(cut)
    with pytest.raises(Cut):
        train(recipe(loss=LATE), tmp_path / "run", digits)
    train(recipe(loss=LATE), tmp_path / "run", digits, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_loss_of_all_outputs_gets_feature_and_embedding_of_every_view_and_before_of_every_image(
    digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "INFERENCE_BATCH", 16)
    one = {"epochs": 1, "batch": 8}
    train(recipe(loss=[{"use": "mylab.losses:Whole"}], training=one), tmp_path / "run", digits)
    assert [tuple(x.feature.shape) for x in mylab.Whole.seen] == [(16, 16)] * 5 + [(2, 16)]
    for x in mylab.Whole.seen:
        assert x.embedding.shape == (len(x.feature), 6)
        torch.testing.assert_close(x.embedding.norm(dim=1), torch.ones(len(x.feature)))
    (shown,) = mylab.Whole.started
    assert [len(label) for _, label in shown] == [16, 16, 9]
    pixels = torch.from_numpy(np.repeat(np.load(digits / "x.npy")[..., None], 3, axis=3))
    expected = infer(build_model(recipe().model, 3), pixels, recipe().preprocess)
    feature, embedding = (torch.cat([getattr(x, part) for x, _ in shown]) for part in ("feature", "embedding"))
    torch.testing.assert_close(feature, expected.feature, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embedding, expected.embedding, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.cat([label for _, label in shown]), torch.from_numpy(np.load(digits / "y.npy")))


def test_a_loss_is_told_each_of_its_epochs_and_after_a_stop_the_running_one(
    digits: Path, tmp_path: Path, recipe: Make, before_step: Hook, mylab: ModuleType
) -> None:
    ours = recipe(loss=[{"use": "mylab.losses:Timed", "begin": 1}, {"use": "cross_entropy", "end": 1}])
    stopped(before_step, ours, tmp_path / "run", digits, STEPS + 2)
    assert mylab.Timed.told == [1]
    train(ours, tmp_path / "run", digits, resume=True)
    assert mylab.Timed.told == [1, 1, 2]


def test_the_trained_model_has_the_classifier_that_a_loss_owned(
    digits: Path, tmp_path: Path, recipe: Make, mylab: ModuleType
) -> None:
    train(recipe(loss=[{"use": "mylab.losses:Owner"}], model=BARE), tmp_path / "run", digits)
    kept = Checkpoint.load(tmp_path / "run" / LAST)
    model = kept.build_model()
    begun = objective(recipe(loss=[{"use": "mylab.losses:Owner"}], model=BARE)).state_dict()
    trained = kept.losses["0.classifier.weight"]
    assert not torch.equal(trained, begun["losses.0.classifier.weight"])
    assert model.classifier is not None
    assert torch.equal(model.classifier.weight, 2 * trained)
    feature, _, logits, _ = model.eval()(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(logits, feature @ (2 * trained).T + kept.losses["0.classifier.bias"])
    again = kept.build_model()
    assert weights_hash(again) == weights_hash(model)


def test_a_model_whose_losses_own_no_classifier_keeps_its_own(recipe: Make) -> None:
    assert objective(recipe()).served_classifier() is None


@pytest.mark.parametrize(
    ("use", "model", "message"),
    [
        ("cider", BARE | {"head": None}, "reads the embedding, but the model has no head. Set model.head: mlp."),
        ("mylab.losses:Whole", BARE | {"head": None}, "reads the embedding, but the model has no head. Set model.he"),
        ("logitnorm", BARE, "reads logits. Set model.classifier: true."),
        ("mylab.losses:Owner", BARE | {"classifier": True}, "brings its own classifier. Set model.classifier: false."),
    ],
)
def test_a_loss_and_a_model_that_do_not_fit_are_told(
    recipe: Make, mylab: ModuleType, use: str, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as told:
        objective(recipe(loss=[{"use": use}], model=model))
    assert str(told.value).startswith(f"loss {use}: {message}")


@pytest.mark.parametrize(
    ("spans", "epoch"),
    [
        ([{"begin": 1}], 0),
        ([{"end": 2}], 2),
        ([{"end": 1}, {"begin": 2}], 1),
        ([{"begin": 2, "end": 2}, {"end": 2}], 2),  # the first one covers nothing
    ],
)
def test_an_epoch_without_a_loss_is_told(recipe: Make, spans: list[dict[str, int]], epoch: int) -> None:
    with pytest.raises(ConfigError) as told:
        recipe(loss=[{"use": "cider"} | span for span in spans])
    assert f"no loss covers epoch {epoch}, counted from 0. Mend begin or end of one." in str(told.value)


def test_a_span_may_reach_beyond_the_run(recipe: Make) -> None:
    assert recipe(loss=[{"use": "cider", "end": 100}, {"use": "supcon", "begin": 50}]).loss[1].begin == 50


def test_labels_are_classes_or_images_as_each_loss_wants(recipe: Make, mylab: ModuleType) -> None:
    ours = objective(recipe(loss=[{"use": "mylab.losses:Squares"}, {"use": "mylab.losses:Indices"}]))
    label, image = torch.tensor([2, 0]), torch.tensor([40, 17])
    ours(Outputs(torch.ones(2, 4)), label, image)
    seen: list[Tensor] = [one.seen[0][1] for one in (mylab.Squares, mylab.Indices)]
    assert torch.equal(seen[0], label)
    assert torch.equal(seen[1], image)
