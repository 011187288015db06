"""A batch in parts against the batch at once: 8 images of two views, 1, 3 or 5 of them at a time."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spherood.losses import Terms
from spherood.models import build_model
from spherood.models.model import Model
from spherood.outputs import Outputs
from spherood.processes import Processes
from spherood.training import Recipe, train
from spherood.training.network import forward_backward, statistics_kept
from spherood.training.objective import Objective
from spherood.training.recipe import Training

Make = Callable[..., Recipe]
IMAGES, VIEWS = 8, 2
LABEL = torch.tensor([0, 2, 2, 1, 0, 1, 1, 2])
ONCE = Training()
MODEL = {"encoder": "resnet8", "width": 4, "head": "mlp", "dim": 6}


def pixels(views: int = VIEWS) -> Tensor:
    return torch.randn(views * IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def built(recipe: Recipe) -> tuple[Model, Objective]:
    model = build_model(recipe.model, 3, seed=0).eval()
    objective = Objective(recipe, model, 3)
    objective.at(0)
    return model, objective


def step(network: nn.Module, objective: Objective, training: Training) -> Terms:
    views = objective.views
    image = torch.arange(IMAGES).repeat(views)
    terms = forward_backward(
        network, objective, pixels(views), LABEL.repeat(views), image, Processes(), views, training
    )
    assert not terms.total.isnan()
    return terms


def gradients(*modules: nn.Module) -> list[Tensor]:
    found = [weight.grad for module in modules for weight in module.parameters() if weight.grad is not None]
    assert found
    return found


def close(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    """Within that share of the largest value: most sums of a gradient cancel out."""
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=share * float(expected.abs().max()))


LOSSES: dict[str, list[dict[str, Any]]] = {
    "cider": [{"use": "cider"}],
    "supcon": [{"use": "supcon"}],
    "reweightood": [{"use": "reweightood"}],
    "palm": [{"use": "palm"}],
    "simclr": [{"use": "simclr"}],
    "learnable": [{"use": "cider", "with": {"learnable": True}}],
    "two parts": [{"use": "cross_entropy", "times": 0.5}, {"use": "cider"}],
    "all outputs": [{"use": "mylab.losses:Whole"}],
    "one view": [{"use": "mylab.losses:Owner"}],
}


@pytest.mark.parametrize("micro_batch", [1, 3, 5])
@pytest.mark.parametrize("loss", LOSSES)
def test_parts_give_the_loss_the_prototypes_and_the_gradients_of_the_whole_batch(
    recipe: Make, mylab: ModuleType, loss: str, micro_batch: int
) -> None:
    ours = recipe(loss=LOSSES[loss], model=MODEL | {"classifier": loss == "two parts"})
    (model, objective), (whole, its) = built(ours), built(ours)
    found, expected = step(model, objective, Training(micro_batch=micro_batch)), step(whole, its, ONCE)
    close(found.total.detach(), expected.total.detach())
    assert found.parts.keys() == expected.parts.keys()
    for name, part in expected.parts.items():
        close(found.parts[name].detach(), part.detach())
    state = its.state_dict()
    assert objective.state_dict().keys() == state.keys()
    for name, value in objective.state_dict().items():
        close(value, state[name])
    for gradient, of_whole in zip(gradients(model, objective), gradients(whole, its), strict=True):
        close(gradient, of_whole)


@pytest.mark.parametrize("micro_batch", [8, 9])
def test_a_batch_that_fits_is_not_cut(recipe: Make, micro_batch: int) -> None:
    (model, objective), (whole, its) = (built(recipe()) for _ in range(2))
    seen = rows_seen(model)
    step(model, objective, Training(micro_batch=micro_batch))
    step(whole, its, ONCE)
    assert seen == [(16, True)]
    assert all(map(torch.equal, gradients(model), gradients(whole)))


def rows_seen(model: Model) -> list[tuple[int, bool]]:
    """From now on, how many rows each pass has, and whether it keeps what a gradient needs."""
    seen: list[tuple[int, bool]] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append((len(inputs[0]), torch.is_grad_enabled())))
    return seen


def test_no_pass_has_more_rows_than_asked_for_and_the_first_ones_keep_nothing(recipe: Make) -> None:
    model, objective = built(recipe())
    seen = rows_seen(model)
    step(model, objective, Training(micro_batch=3))
    assert seen == [(6, False), (6, False), (4, False), (6, True), (6, True), (4, True)]


def parted(x: Tensor, micro_batch: int) -> list[Tensor]:
    """The views of the first images, then those of the next: what a part of a batch is."""
    return [rows.flatten(0, 1) for rows in x.unflatten(0, (VIEWS, -1)).split(micro_batch, dim=1)]


def test_in_training_batch_norm_notes_the_statistics_of_each_part_once(recipe: Make) -> None:
    model, objective = built(recipe())
    plain = deepcopy(model).train()
    step(model.train(), objective, Training(micro_batch=3))
    with torch.no_grad():
        for rows in parted(pixels(), 3):
            plain(rows)
    buffers, expected = dict(model.named_buffers()), dict(plain.named_buffers())
    assert int(buffers["encoder.bn1.num_batches_tracked"]) == 3
    for name, value in buffers.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7, msg=f"{name} differs")


def test_in_training_the_gradient_is_that_of_one_loss_over_parts_normalised_each_by_itself(recipe: Make) -> None:
    model, objective = built(recipe())
    plain, its = built(recipe())
    step(model.train(), objective, Training(micro_batch=3))
    parts = [plain.train()(rows).embedding.unflatten(0, (VIEWS, -1)) for rows in parted(pixels(), 3)]
    whole = Outputs(torch.empty(16, 0), torch.cat(parts, dim=1).flatten(0, 1))
    its(whole, LABEL.repeat(VIEWS), torch.arange(IMAGES).repeat(VIEWS)).total.backward()
    for gradient, expected in zip(gradients(model), gradients(plain), strict=True):
        close(gradient, expected, 1e-4)


def test_batch_norm_notes_again_after_statistics_were_kept_even_where_a_pass_failed(recipe: Make) -> None:
    model, _ = built(recipe())
    model.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    momentum = model.encoder.bn1.momentum  # type: ignore[union-attr]

    def fail() -> None:
        with statistics_kept(model):
            model(pixels())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert model.encoder.bn1.momentum == momentum  # type: ignore[union-attr]
    model(pixels())
    assert not any(torch.equal(value, before[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_bfloat16_is_for_the_network_alone(recipe: Make, micro_batch: int | None) -> None:
    half = Training(precision="bf16-mixed", micro_batch=micro_batch)
    (model, objective), (whole, its) = (built(recipe()) for _ in range(2))
    found, full = step(model, objective, half), step(whole, its, ONCE)
    assert found.total.dtype == torch.float32
    assert 1e-5 < abs(float(found.total.detach() / full.total.detach()) - 1) < 0.05
    mine, theirs = (torch.cat([gradient.flatten() for gradient in gradients(one)]) for one in (model, whole))
    assert mine.dtype == torch.float32
    assert float(torch.cosine_similarity(mine, theirs, dim=0)) > 0.98


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_loss_reads_float32_whatever_the_network_computed_in(
    recipe: Make, mylab: ModuleType, micro_batch: int | None
) -> None:
    model, objective = built(recipe(loss=[{"use": "mylab.losses:Whole"}]))
    step(model, objective, Training(precision="bf16-mixed", micro_batch=micro_batch))
    (x,) = mylab.Whole.seen
    assert (x.feature.dtype, x.embedding.dtype) == (torch.float32, torch.float32)
    assert not torch.equal(x.feature, model(pixels()).feature)


def test_a_part_as_large_as_the_batch_trains_to_the_bits_of_a_run_without_parts(
    digits: Path, tmp_path: Path, recipe: Make
) -> None:
    runs = []
    for number, micro_batch in enumerate((None, 8, 3)):
        ours = recipe(training={"epochs": 1, "batch": 8, "micro_batch": micro_batch})
        runs.append(train(ours, tmp_path / str(number), digits).model)
    assert all(torch.equal(runs[1][name], value) for name, value in runs[0].items())
    norm = "encoder.bn1.num_batches_tracked"
    assert [int(run[norm]) for run in runs] == [6, 6, 16]  # five batches of three parts, and one of a single image
