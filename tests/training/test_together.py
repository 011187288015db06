"""What two processes train together, against what one trains alone.

This file is also what the two processes run: `python test_together.py PLACE` with the environment that torchrun sets.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from spherood.errors import TrainingError
from spherood.losses import Terms
from spherood.models import build_model
from spherood.outputs import Outputs
from spherood.processes import Processes
from spherood.schema import parse
from spherood.training import Checkpoint, Recipe, batches, engine, train
from spherood.training.log import read_log
from spherood.training.network import forward_backward
from spherood.training.objective import Objective
from spherood.training.together import add_gradients, agree, anyone, gather, share

LAST = Path("checkpoints", "last.pt")
EPOCHS, BATCH, STEPS = 3, 9, 5  # 41 images: four batches of nine, of which one process repeats one, and one of five
LOSSES = ("cider", "supcon", "reweightood", "palm", "fixed_prototypes", "simclr", f"{__name__}:Whole")
CASES = [
    *((use, images, None) for use in LOSSES for images in (8, 9)),
    *((use, 1, None) for use in LOSSES),
    *((use, 9, 2) for use in ("cider", f"{__name__}:Whole")),
]


class Whole(nn.Module):
    """Reads feature and embedding, and learns a weight of its own."""

    reads = "outputs"

    def __init__(self, *, dim: int, feature_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, dim * feature_dim).view(dim, feature_dim))

    def forward(self, x: Outputs, label: Tensor) -> Terms:
        assert x.embedding is not None
        return Terms(((x.feature @ self.weight.T) * x.embedding).sum(dim=1).square().mean())


def tiny(**keys: Any) -> Recipe:
    content = {
        "name": "tiny",
        "data": {"arrays": "x.npy", "labels": "y.npy"},
        "preprocess": {"size": 8},
        "views": {"scale": (0.5, 1.0), "flip": 0.5, "jitter": 0.8, "grey": 0.2},
        "model": {"encoder": "resnet8", "width": 4, "head": "mlp", "dim": 6},
        "loss": [{"use": "cider"}],
        "schedule": {"lr": 0.1, "warmup_epochs": 1},
        "training": {"epochs": EPOCHS, "batch": BATCH},
    }
    return parse(Recipe, content | keys, "tiny.yaml")


def one_step(use: str, images: int, micro_batch: int | None, mine: Processes) -> dict[str, Any]:
    """Loss, state of the loss after it, and gradients, of this process's share of a batch; batch-norm stands still."""
    training = {"micro_batch": micro_batch}
    recipe = tiny(loss=[{"use": use.replace("__main__", __name__)}], training=training)
    model = build_model(recipe.model, 3, seed=0).eval()
    objective = Objective(recipe, model, 3)
    objective.at(0)
    x = torch.randn(2, images, 3, 8, 8, generator=torch.Generator().manual_seed(images))
    label = torch.tensor([0, 2, 2, 1, 0, 1, 1, 2, 1])[:images].repeat(2)  # prototypes depend on the order of rows
    rows = np.arange(images)
    here = x[:, torch.from_numpy(share(rows, mine))].flatten(0, 1)
    image = torch.from_numpy(rows).repeat(2)
    terms = forward_backward(model, objective, here, label, image, mine, 2, recipe.training)
    add_gradients(model.parameters(), mine)
    return {
        "loss": {"total": terms.total.detach(), **{name: part.detach() for name, part in terms.parts.items()}},
        "state": objective.losses.state_dict(),
        "of the model": {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None},
        "of the loss": {name: weight.grad for name, weight in objective.named_parameters()},
    }


def main(place: Path) -> None:
    """Everything that takes two processes, once: each leaves what it found in a file of its own."""
    torch.set_num_threads(1)
    engine.LOG_STEPS = 2
    mine = Processes.join()
    found: dict[str, Any] = {"steps": [one_step(*case, mine) for case in CASES]}
    moved = nn.BatchNorm1d(3)
    for tensor in moved.state_dict().values():
        tensor.fill_(mine.rank)
    agree(moved, mine)
    found["agreed"] = moved.state_dict()
    found["anyone"] = [anyone(mine.rank in asked, mine, torch.device("cpu")) for asked in ((), (0,), (1,), (0, 1))]

    made = noted_views()
    ended = train(tiny(), place / f"whole-{mine.rank}", place)
    found["views"], found["model"], found["losses"] = list(made), ended.model, ended.losses

    for name, stop in STOPS.items():
        with pytest.MonkeyPatch.context() as patch:
            stop(mine, patch)
            try:
                train(tiny(), place / name, place)
                found[name] = "ended"
            except TrainingError as error:
                found[name] = str(error).partition(";")[0]
        mine.wait()
        if mine.first:
            kept = Checkpoint.load(place / name / LAST)
            found[f"{name} kept"] = (kept.epoch, kept.step)
        found[f"{name} model"] = train(tiny(), place / name, place, resume=True).model
    torch.save(found, place / f"found-{mine.rank}.pt")


def noted_views() -> list[tuple[int, list[int], Tensor]]:
    """From now on, a list of the views that are made, each with its epoch and its images."""
    plain, made = batches.make_views, []

    def make(recipe: Recipe, pixels: Tensor, rows: batches.Rows, epoch: int, views: int) -> Tensor:
        x = plain(recipe, pixels, rows, epoch, views)
        made.append((epoch, rows.tolist(), x))
        return x

    batches.make_views = make
    return made


def at_step(number: int, ranks: tuple[int, ...]) -> Callable[[Processes, pytest.MonkeyPatch], None]:
    """SIGTERM comes to those processes just before that step."""
    return lambda mine, patch: signalled(patch, "one_step", number, mine.rank in ranks)


def signalled(patch: pytest.MonkeyPatch, name: str, number: int, here: bool) -> None:
    """SIGTERM comes just before that call of the engine's `name`, counted from 0."""
    plain, calls = getattr(engine, name), iter(range(10**9))

    def called(*args: Any) -> Any:
        if next(calls) == number and here:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args)

    patch.setattr(engine, name, called)


def just_after_asking(mine: Processes, patch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes to the first when both have just told each other, for the first time, that none had come."""
    plain, calls = engine.anyone, iter(range(10**9))

    def asked(*args: Any) -> bool:
        answer = plain(*args)
        if next(calls) == 0 and mine.first:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer

    patch.setattr(engine, "anyone", asked)


STOPS = {
    "to both": at_step(6, (0, 1)),
    "to the first": at_step(1, (0,)),
    "to the second": at_step(5, (1,)),
    "in the last step": at_step(EPOCHS * STEPS - 1, (0, 1)),
    "just after asking": just_after_asking,
    "while the first validates": lambda mine, patch: signalled(patch, "_validate", 0, mine.first),
}


class Two(NamedTuple):
    """What two processes found, and where they left the rest."""

    place: Path
    found: list[dict[str, Any]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    place = tmp_path_factory.mktemp("together")
    digits = load_digits(n_class=3)
    np.save(place / "x.npy", np.round(digits.images[:41] * (255 / 16)).astype(np.uint8))
    np.save(place / "y.npy", digits.target[:41])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(place)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(told)
    return Two(place, [torch.load(place / f"found-{rank}.pt", weights_only=True) for rank in range(2)])


ALONE = Processes()


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        most = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5 * most, msg=f"{name} differs")


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: "-".join(map(str, CASES[case])))
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_have_the_loss_the_prototypes_and_the_gradients_of_one(two: Two, case: int, rank: int) -> None:
    use, images, _ = CASES[case]
    expected, found = one_step(use, images, None, ALONE), two.found[rank]["steps"][case]
    for part in ("loss", "state", "of the model", "of the loss"):
        close(found[part], expected[part])
    if images > 1:
        assert max(float(gradient.abs().max()) for gradient in expected["of the model"].values()) > 1e-3
    for part in ("loss", "state", "of the model"):  # the same rows give both the same bits
        for name, value in two.found[0]["steps"][case][part].items():
            assert torch.equal(found[part][name], value)


def test_two_processes_end_with_the_same_bits(two: Two) -> None:
    first, second = two.found
    weights = [name for name, _ in build_model(tiny().model, 3).named_parameters()]
    for name in weights:
        assert torch.equal(first["model"][name], second["model"][name]), name
    assert torch.equal(first["losses"]["0.prototypes"], second["losses"]["0.prototypes"])
    begun = build_model(tiny().model, 3).state_dict()
    assert not any(torch.equal(first["model"][name], begun[name]) for name in weights if name.endswith("weight"))


def test_the_first_process_alone_writes_and_what_it_returned(two: Two) -> None:
    assert not (two.place / "whole-1").exists()
    run = two.place / "whole-0"
    kept = Checkpoint.load(run / LAST)
    assert (kept.epoch, kept.step) == (EPOCHS, 0)
    assert all(torch.equal(value, two.found[0]["model"][name]) for name, value in kept.model.items())
    assert [row["step"] for row in read_log(run)] == [2, 4, 5, 7, 9, 10, 12, 14, 15]
    assert [row["epoch"] for row in read_log(run, "validation.jsonl")] == [1, 2, 3]


def test_a_batch_is_shared_and_the_views_of_an_image_do_not_depend_on_who_makes_them(two: Two) -> None:
    pixels = torch.from_numpy(np.load(two.place / "x.npy"))[:, None].repeat(1, 3, 1, 1)
    number = 0
    for epoch in range(EPOCHS):
        for rows in batches.orders(tiny(), 41, epoch):
            whole = batches.make_views(tiny(), pixels, rows, epoch, 2).unflatten(0, (2, -1))
            shown: list[int] = []
            for rank in range(2):
                its_epoch, images, x = two.found[rank]["views"][number]
                assert its_epoch == epoch
                where = [rows.tolist().index(image) for image in images]
                torch.testing.assert_close(x.unflatten(0, (2, -1)), whole[:, where], rtol=0, atol=1e-5)
                shown += images
            assert shown == [*rows, *([rows[-1]] * (len(rows) % 2))]  # of an odd batch the last image twice
            number += 1
    assert number == len(two.found[0]["views"]) == len(two.found[1]["views"])


@pytest.mark.parametrize(
    ("name", "epoch", "step"),
    [
        (
            "to both",
            1,
            2,
        ),  # it came in the second step of the second epoch, which is finished; then they ask each other
        ("to the first", 0, 2),
        ("to the second", 1, 2),
        ("just after asking", 0, 4),
        ("while the first validates", 1, 0),
    ],
)
def test_a_signal_to_any_of_them_stops_both_and_they_go_on_to_the_same_bits(
    two: Two, name: str, epoch: int, step: int
) -> None:
    told = f"Stopped after {epoch} of {EPOCHS} epochs and {step} steps"
    assert [found[name].partition(";")[0] for found in two.found] == [told, told]
    assert two.found[0][f"{name} kept"] == (epoch, step)
    ended, whole = (Checkpoint.load(two.place / run / LAST) for run in (name, "whole-0"))
    for found, expected in ((ended.model, whole.model), (ended.losses, whole.losses)):
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
    weights = [key for key, _ in build_model(tiny().model, 3).named_parameters()]
    assert all(torch.equal(two.found[1][f"{name} model"][key], whole.model[key]) for key in weights)
    rows = read_log(two.place / name), read_log(two.place / "whole-0")
    assert [row["step"] for row in rows[0] if row["step"] % STEPS == 0] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


def test_a_signal_in_the_very_last_step_lets_both_end(two: Two) -> None:
    assert [found["in the last step"] for found in two.found] == ["ended", "ended"]
    assert two.found[0]["in the last step kept"] == (EPOCHS, 0)


def test_what_drifted_apart_is_again_as_the_first_has_it(two: Two) -> None:
    first, second = (found["agreed"] for found in two.found)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all((tensor == 0).all() for tensor in second.values())


def test_all_know_whether_one_of_them_asked(two: Two) -> None:
    assert [found["anyone"] for found in two.found] == [[False, True, True, True]] * 2


@given(images=st.integers(1, 60), size=st.integers(1, 9))
def test_shares_are_equal_and_in_order_and_only_the_last_image_comes_again(images: int, size: int) -> None:
    rows = np.random.default_rng(images).permutation(100)[:images]
    shares = [share(rows, Processes(rank, size)) for rank in range(size)]
    assert {len(one) for one in shares} == {-(-images // size)}
    joined = np.concatenate(shares)
    np.testing.assert_array_equal(joined[:images], rows)
    assert (joined[images:] == rows[-1]).all()


def test_alone_nothing_is_gathered_added_or_asked() -> None:
    outputs = Outputs(torch.ones(2, 3))
    assert gather(outputs, ["feature"], 2, 1, ALONE) is outputs
    assert [anyone(asked, ALONE, torch.device("cpu")) for asked in (True, False)] == [True, False]
    module = nn.Linear(2, 1)
    add_gradients(module.parameters(), ALONE)
    agree(module, ALONE)
    assert module.weight.grad is None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
