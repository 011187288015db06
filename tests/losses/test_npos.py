from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spherood.errors import ConfigError, DataError, ShapeError
from spherood.losses import CIDER, NPOS, Terms
from spherood.outputs import Outputs
from spherood.sphere import normalize
from spherood.sphere.boundary import kth_square

TIGHT = {"rtol": 1e-9, "atol": 1e-12}
CLASSES, DIM, WIDTH = 3, 5, 6
SMALL: dict[str, Any] = {
    "classes": CLASSES,
    "dim": DIM,
    "feature_dim": WIDTH,
    "start_epoch": 1,
    "queue": 8,
    "k": 3,
    "select": 4,
    "samples": 9,
    "points": 2,
}


def small(**changed: Any) -> NPOS:
    return NPOS(**SMALL | changed)


def drawn(rows: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Outputs, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    embedding = normalize(torch.randn(rows, DIM, generator=generator, dtype=torch.float64)).to(dtype)
    return Outputs(feature, embedding), torch.randint(CLASSES, (rows,), generator=generator)


def filled(loss: NPOS) -> NPOS:
    """In the first epoch with outliers, every queue full."""
    x, _ = drawn(24, seed=5, dtype=loss.queue.dtype)
    loss(x, torch.arange(24) % CLASSES)
    loss.at(1)
    return loss


def step(loss: NPOS, x: Outputs, label: Tensor) -> tuple[Terms, Tensor, Tensor]:
    """Terms, and the gradients of the total by feature and by embedding; those of phi are left on it."""
    assert x.embedding is not None
    feature, embedding = (it.detach().clone().requires_grad_() for it in (x.feature, x.embedding))
    terms = loss(Outputs(feature, embedding), label)
    loss.zero_grad()
    terms.total.backward()
    of_feature, of_embedding = (torch.zeros_like(it) if it.grad is None else it.grad for it in (feature, embedding))
    return terms, of_feature, of_embedding


class Given(NPOS):
    """NPOS with the outliers of the golden file, for those of the released code come from its own random numbers."""

    given: Tensor

    def outliers(self) -> Tensor:
        return self.given


def test_the_total_and_its_gradient_are_those_of_the_released_parts() -> None:
    file = np.load(Path(__file__).parents[1] / "golden" / "npos.npz")
    g = {key[2:]: torch.from_numpy(file[key]) for key in file if key.startswith("t_")}
    (classes, dim), width = g["proto_raw"].shape, g["penultimate"].shape[1]
    weights = {name: float(g[key]) for name, key in [("dispersion_weight", "w_disp"), ("compactness_weight", "w_comp")]}
    loss = Given(
        **SMALL | {"classes": classes, "dim": dim, "feature_dim": width, "momentum": float(g["proto_m"])} | weights,
        temperature=float(g["temperature"]),
        boundary_weight=float(g["loss_weight"]),
    ).double()
    loss.cider.prototypes = normalize(g["proto_raw"].double())
    loss.phi.load_state_dict(
        {"0.weight": g["mlp_w1"], "0.bias": g["mlp_b1"], "2.weight": g["mlp_w2"], "2.bias": g["mlp_b2"]}
    )
    loss.given, loss.count = g["outliers"], torch.full((classes,), 8)
    loss.at(1)

    feature = g["penultimate"].requires_grad_()
    terms = loss(Outputs(feature, normalize(feature @ g["head_weight"].T)), g["labels"])
    terms.total.backward()
    torch.testing.assert_close(terms.total.detach(), g["total"], **TIGHT)
    torch.testing.assert_close(feature.grad, g["grad_penultimate"], **TIGHT)
    for part, key in [("dispersion", "dispersion"), ("compactness", "compactness"), ("boundary", "bce")]:
        torch.testing.assert_close(terms.parts[part].detach(), g[key], **TIGHT)
    torch.testing.assert_close(loss.prototypes, g["prototypes_after"], **TIGHT)


def test_before_the_start_epoch_it_is_cider_with_the_weights_of_its_terms() -> None:
    x, label = drawn()
    loss = filled(small(dispersion_weight=0.7, compactness_weight=1.3).double())
    cider = CIDER(classes=CLASSES, dim=DIM).double()
    cider.prototypes = loss.prototypes
    loss.at(0)
    terms, of_feature, _ = step(loss, x, label)
    expected = cider(x.embedding, label).parts
    assert terms.parts["boundary"] == 0
    torch.testing.assert_close(terms.total, 0.7 * expected["dispersion"] + 1.3 * expected["compactness"], **TIGHT)
    assert not bool(of_feature.any())
    assert bool(step(filled(loss), x, label)[1].any())


def test_the_boundary_waits_for_the_queue_of_every_class() -> None:
    x, label = drawn(CLASSES)
    label = torch.arange(CLASSES)
    loss = small().double()
    loss.at(1)
    found = []
    for _ in range(10):
        terms, of_feature, _ = step(loss, x, label)  # a row of every class
        found.append(float(terms.parts["boundary"].detach()))
        assert bool(of_feature.any()) == (found[-1] > 0)
    assert [value > 0 for value in found] == [False] * 7 + [True] * 3  # the eighth row fills a queue of 8
    step(late := small().double(), drawn(40)[0], torch.zeros(40).long())
    late.at(1)
    assert step(late, x, torch.zeros(CLASSES).long())[0].parts["boundary"] == 0  # one class has all


@given(st.lists(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=30), min_size=1, max_size=4))
def test_a_queue_fills_in_order_and_wraps(batches: list[list[int]]) -> None:
    loss, came = small(), [[] for _ in range(CLASSES)]  # type: ignore[var-annotated]
    for seed, labels in enumerate(batches):
        x, _ = drawn(len(labels), seed, torch.float32)
        loss(x, torch.tensor(labels))
        for row, c in zip(x.feature, labels, strict=True):
            came[c].append(row)
    expected = torch.zeros(CLASSES, 8, WIDTH)
    for c, rows in enumerate(came):
        for number, row in enumerate(rows):
            expected[c, number % 8] = row
    assert torch.equal(loss.queue, expected)
    assert loss.count.tolist() == [len(rows) for rows in came]


def large(**changed: Any) -> NPOS:
    """Queues of 40, filled, 10 outermost rows, 50 candidates around each anchor."""
    loss = small(queue=40, k=10, select=10, samples=50, points=10, **changed).double()
    loss(drawn(40 * CLASSES, seed=3)[0], torch.arange(40 * CLASSES) % CLASSES)
    return loss


def test_the_outliers_lie_farther_out_than_candidates_do_and_these_farther_than_the_class() -> None:
    loss = large(noise=0.5)
    own = kth_square(loss.queue, loss.queue, 10)  # (C, Q)
    row = own.topk(10, dim=1).indices[..., None].expand(-1, -1, WIDTH)
    noise = 0.5 * torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    candidate = (loss.queue.gather(1, row)[:, :, None] + noise).flatten(1, 2)  # around every outermost row
    kept = loss.outliers().unflatten(0, (CLASSES, -1))
    means = [kth_square(it, loss.queue, 10).mean(dim=1) for it in (kept, candidate, loss.queue)]
    assert bool((means[0] > means[1]).all())
    assert bool((means[1] > means[2]).all())


def test_anchors_are_two_of_the_outermost_rows_and_each_of_those_has_its_turn() -> None:
    loss = large(noise=1e-9)
    drawn_rows = [set[int]() for _ in range(CLASSES)]
    for loss.calls in range(60):  # a row is passed over 60 times with probability .8^60 = 2e-6
        anchor = loss.outliers().view(CLASSES, 2, 10, WIDTH)[:, :, 0]
        apart, row = torch.cdist(anchor, loss.queue).min(dim=2)
        assert float(apart.max()) < 1e-7
        assert bool((row[:, 0] != row[:, 1]).all())
        for c in range(CLASSES):
            drawn_rows[c] |= set(row[c].tolist())
    outermost = kth_square(loss.queue, loss.queue, 10).topk(10, dim=1).indices.tolist()
    assert drawn_rows == [set(rows) for rows in outermost]


def test_every_call_draws_anew_and_a_resumed_run_draws_the_same() -> None:
    x, label = drawn()
    loss = filled(small().double())
    for _ in range(3):
        step(loss, x, label)
    resumed = small(seed=0).double()
    resumed.load_state_dict(deepcopy(loss.state_dict()))
    resumed.at(1)
    for seed in range(3):
        x, label = drawn(seed=seed)
        before = loss.outliers()
        assert torch.equal(resumed.outliers(), before)
        ours, theirs = step(loss, x, label), step(resumed, x, label)
        assert torch.equal(ours[0].total, theirs[0].total)
        assert torch.equal(ours[1], theirs[1])
        assert not torch.equal(loss.outliers(), before)
    loss.calls -= 1  # the queues being equal, the number of calls alone makes another draw
    assert not torch.equal(loss.outliers(), resumed.outliers())


def test_torchs_own_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    step(filled(small(seed=7).double()), *drawn())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_gives_the_prototypes_the_network_and_the_draws() -> None:
    first, same, other = (filled(small(seed=seed)) for seed in (1, 1, 2))
    untouched, others = small(seed=1), small(seed=2)
    assert torch.equal(first.outliers(), same.outliers())
    assert not torch.equal(first.outliers(), other.outliers())  # from equal queues
    assert not torch.equal(untouched.prototypes, others.prototypes)
    assert torch.equal(untouched.phi[0].weight, first.phi[0].weight)
    assert not torch.equal(untouched.phi[0].weight, others.phi[0].weight)


@pytest.mark.parametrize("epoch", [0, 1, 100])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("label", [[1], [2, 2, 2], [0] * 20], ids=["one row", "one class", "more than a queue"])
def test_a_degenerate_batch_has_a_finite_value_and_gradient(epoch: int, full: bool, label: list[int]) -> None:
    loss = filled(small()) if full else small()
    loss.at(epoch)
    terms, of_feature, of_embedding = step(loss, drawn(len(label), dtype=torch.float32)[0], torch.tensor(label))
    found = [terms.total, of_feature, of_embedding, *(p.grad for p in loss.parameters() if p.grad is not None)]
    assert all(bool(it.isfinite().all()) for it in found)


def test_every_setting_changes_something() -> None:
    def value(**changed: Any) -> Tensor:
        return step(filled(small(**changed)), *drawn(dtype=torch.float32))[0].total

    assert torch.equal(value(), value())
    others = {
        "start_epoch": 2, "temperature": 0.2, "momentum": 0.5, "dispersion_weight": 1.0, "compactness_weight": 2.0,
        "boundary_weight": 0.2, "queue": 9, "k": 4, "select": 5, "pick": 1, "samples": 8, "noise": 0.2, "points": 3,
        "as_released": True, "seed": 1,
    }  # fmt: skip
    for key, other in others.items():
        assert not torch.equal(value(**{key: other}), value()), key


@pytest.mark.parametrize("changed", [{"pick": 1}, {"points": 1}, {"pick": 1, "points": 1, "as_released": True}])
def test_one_anchor_or_one_point_works(changed: dict[str, Any]) -> None:
    loss = filled(small(**changed))
    assert loss.outliers().shape == (CLASSES * loss.pick * loss.points, WIDTH)
    assert float(step(loss, *drawn(dtype=torch.float32))[0].parts["boundary"].detach()) > 0


def test_turning_embeddings_and_prototypes_changes_no_value_nor_does_turning_features_and_what_reads_them() -> None:
    x, label = drawn()
    generator = torch.Generator().manual_seed(1)
    turns = [torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q for n in (DIM, WIDTH)]
    still = Given(**SMALL).double()
    still.given = filled(small().double()).outliers()
    filled(still)
    turned = deepcopy(still)
    turned.cider.prototypes = still.prototypes @ turns[0]
    turned.given = still.given @ turns[1]
    with torch.no_grad():
        turned.phi[0].weight.copy_(still.phi[0].weight @ turns[1])
    expected = still(x, label)
    found = turned(Outputs(x.feature @ turns[1], x.embedding @ turns[0]), label)
    for part, value in expected.parts.items():
        torch.testing.assert_close(found.parts[part], value, **TIGHT)
    torch.testing.assert_close(found.total, expected.total, **TIGHT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_computed_in_float32(dtype: torch.dtype) -> None:
    x, label = drawn(dtype=dtype)
    terms, of_feature, _ = step(filled(small()), x, label)
    expected, expected_gradient, _ = step(filled(small()), Outputs(*(it.float() for it in x[:2])), label)
    torch.testing.assert_close(terms.total, expected.total)
    torch.testing.assert_close(of_feature.float(), expected_gradient, rtol=1e-2, atol=1e-4)
    whole = filled(small().to(dtype))
    terms = step(whole, x, label)[0]
    assert {it.dtype for it in (terms.total, *terms.parts.values(), whole.outliers())} == {torch.float32}
    assert whole.queue.dtype == dtype


def test_two_forwards_before_one_backward_work() -> None:
    loss, (x, label) = filled(small()), drawn(dtype=torch.float32)
    x.feature.requires_grad_()
    (loss(x, label).total + loss(x, label).total).backward()
    assert x.feature.grad is not None
    assert bool(x.feature.grad.isfinite().all())
    assert not loss.queue.requires_grad


def test_start_gives_the_prototypes_of_cider_and_names_an_absent_class() -> None:
    x, _ = drawn()
    label = torch.arange(12) % CLASSES
    loss, cider = small().double(), CIDER(classes=CLASSES, dim=DIM).double()
    loss.start([(x, label)])
    cider.start([(x.embedding, label)])
    assert torch.equal(loss.prototypes, cider.prototypes)
    with pytest.raises(DataError, match="no sample of class 2"):
        loss.start([(x, label % 2)])


def test_what_it_remembers_is_in_the_checkpoint() -> None:
    loss = filled(small())
    state = loss.state_dict()
    assert {"queue", "count", "cider.prototypes", "_extra_state"} <= state.keys()
    assert int(state["_extra_state"]) == 1
    assert {name.partition(".")[0] for name, _ in loss.named_parameters()} == {"phi"}


def test_the_defaults_are_those_of_the_benchmark() -> None:
    loss = NPOS(classes=2)
    assert [tuple(loss.phi[i].weight.shape) for i in (0, 2)] == [(128, 512), (1, 128)]
    assert loss.queue.shape == (2, 1000, 512)
    assert (loss.epoch, loss.weights) == (0, (0.5, 1.0, 0.1))
    assert loss.outliers().shape == (2 * 2 * 200, 512)


def test_outputs_without_an_embedding_are_told_with_the_way_out() -> None:
    x, label = drawn()
    for wrong in (Outputs(x.feature), x.embedding):
        with pytest.raises(ConfigError, match=r"NPOS: needs Outputs with a feature and an embedding\. Set model\.head"):
            small()(wrong, label)


def test_another_width_or_number_of_rows_is_told_with_the_setting_to_change() -> None:
    x, label = drawn()
    assert x.embedding is not None
    with pytest.raises(ShapeError, match=r"NPOS: expected feature \(12, 512\), got \(12, 6\)\. Pass feature_dim=6"):
        NPOS(classes=CLASSES, dim=DIM)(x, label)
    with pytest.raises(ShapeError, match=r"NPOS: expected feature \(12, 6\), got \(11, 6\)"):
        small()(Outputs(x.feature[1:], x.embedding), label)
    with pytest.raises(ShapeError, match=r"NPOS: embeddings have 5 columns, the prototypes 128\. Pass dim=5"):
        NPOS(classes=CLASSES, feature_dim=WIDTH)(x, label)
    with pytest.raises(ShapeError, match=r"NPOS: expected embedding \(N, d\) and label \(N,\)"):
        small()(x, label[1:])
    with pytest.raises(ShapeError, match=r"NPOS: labels run 0\.\.3, expected 0\.\.2"):
        small()(x.rows(0, 2), torch.tensor([0, 3]))


@pytest.mark.parametrize(
    "setting",
    [{"k": 9}, {"k": 0}, {"select": 9}, {"pick": 5}, {"pick": 0}, {"points": 10}, {"points": 0}, {"queue": 2}],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"NPOS: needs 1 <= k <= queue, 1 <= pick .*, got k=\d+, queue=\d+, pick="):
        small(**setting)


@pytest.mark.parametrize("noise", [0.0, float("nan")])
def test_noise_without_a_size_is_refused(noise: float) -> None:
    with pytest.raises(ConfigError, match=r"NPOS: noise must be > 0, got .*\. Try 0\.1\."):
        small(noise=noise)
