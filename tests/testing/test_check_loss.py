from __future__ import annotations

import random
import time
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherood.errors import ConfigError
from spherood.losses import SupCon, Terms
from spherood.losses.terms import check_labelled
from spherood.outputs import Outputs
from spherood.sphere import at_least_float32, normalize
from spherood.testing import check_loss


class Mine(nn.Module):
    """Keeps the contract: cross-entropy of the cosine to class means that move once a batch."""

    laws: tuple[str, ...] = ("permutation", "rotation")
    mean: Tensor

    def __init__(
        self,
        *,
        classes: int,
        dim: int = 128,
        temperature: float = 0.1,
        weights: tuple[float, float] = (1.0, 0.5),
        power: Literal[1, 2] = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.temperature, self.weights, self.power = temperature, weights, power
        start = torch.randn(classes, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("mean", normalize(start))

    def checked(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return at_least_float32(x), check_labelled("Mine", x, label)

    def forward(self, x: Tensor, label: Tensor) -> Any:
        z, label = self.checked(x, label)
        z = z.to(torch.promote_types(z.dtype, self.mean.dtype))
        mean = self.mean.to(z.dtype)
        loss = F.cross_entropy(z @ mean.T / self.temperature, label)
        spread = (z.mean(dim=0) ** 2).sum() ** self.power
        self.remember(z.detach(), label)
        return Terms(self.weights[0] * loss + self.weights[1] * spread)

    def remember(self, z: Tensor, label: Tensor) -> None:
        own = F.one_hot(label, len(self.mean)).to(z.dtype)
        self.mean = normalize(self.mean.to(z.dtype) + 0.1 * own.T @ z)


@pytest.mark.parametrize(
    "loss",
    [Mine, "supcon", "spherood.losses:SupCon", SupCon, lambda classes, dim: Mine(classes=classes, dim=dim)],
    ids=["class", "file name", "import path", "another class", "function"],
)
def test_a_loss_that_keeps_the_contract_passes_in_silence(loss: Any, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    check_loss(loss)
    assert time.perf_counter() - start < 2
    assert capsys.readouterr() == ("", "")


def test_sizes_and_settings_are_those_that_were_given() -> None:
    made = []

    class Kept(Mine):
        def __init__(self, **settings: Any) -> None:
            made.append(settings)
            super().__init__(classes=4, dim=7, **settings)

    check_loss(Kept, classes=4, dim=7, temperature=0.3)
    assert made[0] == {"temperature": 0.3}  # a constructor that does not name the sizes is not given them
    check_loss(lambda **settings: Mine(classes=4, dim=7, **settings), classes=4, dim=7, temperature=0.3)


def test_torchs_generator_is_left_where_it_was() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_loss(lambda dim: Weighted(nn.Linear(dim, dim)), idle=())
    assert torch.equal(torch.get_rng_state(), before)


class Weighted(nn.Module):
    """Parameters from torch's own generator, on features."""

    reads, views = "feature", 1

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, label: Tensor) -> Terms:
        h = at_least_float32(x)
        check_labelled("Weighted", x, label, what="feature")
        h = h.to(torch.promote_types(h.dtype, self.layer.weight.dtype))
        weight, bias = self.layer.weight.to(h.dtype), self.layer.bias.to(h.dtype)
        return Terms(F.cross_entropy(F.linear(h, weight, bias), label.long() % len(bias)))


class Whole(nn.Module):
    """Reads everything; feature and embedding are of other widths."""

    reads, views = "outputs", 3

    def __init__(self, *, classes: int, dim: int, feature_dim: int) -> None:
        super().__init__()
        self.sizes = (feature_dim, dim, classes)

    def forward(self, x: Outputs, label: Tensor) -> Terms:
        assert x.embedding is not None
        assert x.logits is not None
        label = check_labelled("Whole", x.embedding, label)
        assert (x.feature.shape[1], x.embedding.shape[1], x.logits.shape[1]) == self.sizes
        assert len(set(self.sizes)) == 3
        return Terms(sum((at_least_float32(it) ** 2).sum() for it in (x.feature, x.embedding, x.logits)))  # type: ignore[arg-type]


class Late(Mine):
    """The other term from epoch 100 on."""

    epoch = 0

    def __init__(self, *, classes: int, dim: int, temperature: float = 0.1) -> None:
        super().__init__(classes=classes, dim=dim)
        self.late = temperature

    def at(self, epoch: int) -> None:
        self.epoch = epoch

    def forward(self, x: Tensor, label: Tensor) -> Terms:
        terms: Terms = super().forward(x, label)
        return Terms(terms.total / self.late) if self.epoch >= 100 else terms


class LateNaN(Late):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        total = super().forward(x, label).total
        return Terms(total * torch.nan if self.epoch >= 100 else total)


class FullNaN(LateNaN):
    """Once late and more than a batch was seen."""

    seen = 0

    def forward(self, x: Tensor, label: Tensor) -> Terms:
        seen, self.seen = self.seen, self.seen + len(x)
        return super().forward(x, label) if seen >= 60 else Terms(Late.forward(self, x, label).total)


class Zero(Mine):
    """A setting whose half is itself."""

    def __init__(
        self, *, classes: int, dim: int, offset: float = 0.0, offsets: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        super().__init__(classes=classes, dim=dim, temperature=0.1 + offset + offsets[0] + 2 * offsets[1])


def test_a_loss_of_all_outputs_is_handed_parts_of_their_own_widths() -> None:
    check_loss(Whole, dim=7)


def test_features_are_as_wide_as_dim_or_as_feature_dim() -> None:
    check_loss(lambda dim: Weighted(nn.Linear(dim, 3)))
    check_loss(lambda feature_dim: Weighted(nn.Linear(feature_dim, 3)))


def test_a_setting_that_counts_late_is_found_to_count() -> None:
    check_loss(Late)


def test_a_setting_of_zero_has_another_value() -> None:
    check_loss(Zero)


class Pixels(Mine):
    reads = "pixels"


class NoView(Mine):
    views = 0


class Indexed(Mine):
    labels = "index"


class Bare(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Any:
        return super().forward(x, label).total


class ARow(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        return Terms(super().forward(x, label).total[None])


class Double(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        return Terms(super().forward(x, label).total.double())


class Detached(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        return Terms(super().forward(x, label).total.detach())


class Elsewhere(Mine):
    def __init__(self, *, classes: int, dim: int) -> None:
        super().__init__(classes=classes, dim=dim)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, label: Tensor) -> Terms:
        return Terms(super().forward(x.detach(), label).total * self.weight)


class Logarithm(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        return Terms(super().forward(x, label).total + (x - x.detach()).float().abs().sum().log())


class Root(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        return Terms(super().forward(x, label).total + (x - x.detach()).float().abs().sum().sqrt())


class Positives(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        z, label = self.checked(x, label)
        pair = (label[:, None] == label) & ~torch.eye(len(label), dtype=torch.bool)
        return Terms(-(z @ z.T)[pair].mean())


class InHalf(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        label = check_labelled("InHalf", x, label)
        return Terms(F.cross_entropy(at_least_float32(x @ self.mean.to(x.dtype).T), label))


class HalfGradient(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        extra = x.sum() - x.sum().detach()
        return Terms(super().forward(x, label).total + (0 if x.dtype.itemsize > 2 else extra.float()))


class HalfTotal(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        return Terms(super().forward(x, label).total.to(self.mean.dtype))

    def remember(self, z: Tensor, label: Tensor) -> None:
        kind = self.mean.dtype
        super().remember(z, label)
        self.mean = self.mean.to(kind)


class OnlyLong(Mine):
    def checked(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        check_labelled("Mine", x, label)
        return at_least_float32(x), label if label.dtype == torch.int64 else (label.long() + 1) % 5


class RefusesInt(Mine):
    def checked(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        check_labelled("Mine", x, label)
        return at_least_float32(x), label


class InPlace(Mine):
    def remember(self, z: Tensor, label: Tensor) -> None:
        self.mean.add_(0.1)


class Attached(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        terms: Terms = super().forward(x, label)
        self.mean = self.mean + terms.total * 0
        return terms


class Forgetful(Mine):
    def __init__(self, *, classes: int, dim: int) -> None:
        super().__init__(classes=classes, dim=dim)
        mean = self.mean
        del self.mean
        self.mean = mean


class Scattered(Mine):
    def __init__(self, *, classes: int, dim: int) -> None:
        super().__init__(classes=classes, dim=dim, temperature=0.1 + float(torch.rand(())))


class ChangesRows(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        terms: Terms = super().forward(x, label)
        x.data.mul_(2)
        return terms


class ChangesLabels(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        terms: Terms = super().forward(x, label)
        label.zero_()
        return terms


class Draws(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        torch.rand(1)
        terms: Terms = super().forward(x, label)
        return terms


class Unchecked(Mine):
    def checked(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return at_least_float32(x), label.long()


class TakesColumns(Mine):
    def checked(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return super().checked(x, label.flatten())


class Unused(Mine):
    def __init__(self, *, classes: int, dim: int, temperature: float = 0.1) -> None:
        super().__init__(classes=classes, dim=dim)


class HalfUsed(Mine):
    def __init__(self, *, classes: int, dim: int, weights: tuple[float, float] = (1.0, 2.0)) -> None:
        super().__init__(classes=classes, dim=dim, weights=(weights[0], 0.5))


class Named(Mine):
    def __init__(self, *, classes: int, dim: int, method: str = "plain") -> None:
        super().__init__(classes=classes, dim=dim, temperature=0.1 if method == "plain" else 0.2)


class Unseeded(Mine):
    def __init__(self, *, classes: int, dim: int) -> None:
        super().__init__(classes=classes, dim=dim, temperature=0.1 + random.random() / 1e6)


class Ordered(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        z, _ = self.checked(x, label)
        return Terms((torch.arange(len(z)) * (z**2)[:, 0]).sum())


class LastRow(Mine):
    def remember(self, z: Tensor, label: Tensor) -> None:
        self.mean = normalize(self.mean + z[-1])


class Pulled(Mine):
    """The right value, the gradient of the first row alone."""

    def forward(self, x: Tensor, label: Tensor) -> Terms:
        z, label = self.checked(x, label)
        return Terms((z[:, 0] ** 2).sum().detach() + z[0, 0] - z[0, 0].detach())


class Axes(Mine):
    def forward(self, x: Tensor, label: Tensor) -> Terms:
        terms: Terms = super().forward(x, label)
        return Terms(terms.total + at_least_float32(x).abs().mean())


BROKEN: list[tuple[Any, dict[str, Any], str]] = [
    (Pixels, {}, r"Pixels\), declarations: reads is 'pixels'\. Declare reads = \"embedding\""),
    (NoView, {}, r"declarations: views is 0\. .* how many views, as views = 2 or 1"),
    (Indexed, {}, r"declarations: labels is 'index'\. .* labels = \"image\" where it takes image indices"),
    (Bare, {}, r"Bare\), terms: forward gave a Tensor\. Return Terms\(total\), a scalar"),
    (ARow, {}, r"terms: the total has shape \(1,\)"),
    (Double, {}, r"terms: the total is torch\.float64"),
    (Detached, {}, r"terms: the total has no gradient"),
    (Elsewhere, {}, r"no gradient reaches the rows, on which the total must depend"),
    (Logarithm, {}, r"an ordinary batch: labels \[.*\] give a total of -inf\. Look for a logarithm of 0"),
    (Root, {}, r"an ordinary batch: labels \[.*\] give a gradient that is not finite"),
    (Positives, {}, r"a degenerate batch: labels \[4\] give a total of nan\. .*\.clamp\(min=1\)"),
    (
        InHalf,
        {},
        r"half precision: the total of torch\.float16 rows .* float64 differ by up to [\d.e-]+\. Compute in",
    ),
    (HalfGradient, {}, r"half precision: the gradients of torch\.float16 rows and those in float64 differ by up to"),
    (HalfTotal, {}, r"half precision: the loss in torch\.float16 gives a total in torch\.float16\. Compute in float32"),
    (OnlyLong, {}, r"integer labels: labels in torch\.uint8 give [\d.]+, in int64 [\d.]+\. .* label\.long\(\)"),
    (RefusesInt, {}, r"integer labels: \w+Error: .* Labels come as int64, int32, int16"),
    (InPlace, {}, r"two forwards before one backward: RuntimeError: .*modified by an inplace.* Reassign what is"),
    (Attached, {}, r"two forwards before one backward: RuntimeError: .* backward .*second time.* Reassign what is"),
    (Forgetful, {}, r"a reload: after load_state_dict the next total is [\d.]+, without [\d.]+\. Keep .* in buffers"),
    (Scattered, {}, r"a reload: after load_state_dict the next total is"),
    (ChangesRows, {}, r"purity: forward has changed what it was given\. Forward changes neither rows nor"),
    (ChangesLabels, {}, r"purity: forward has changed what it was given"),
    (Draws, {}, r"purity: forward has moved torch's global generator\. .* a torch\.Generator of its own"),
    (Unchecked, {}, r"wrong input: \w+Error: .* begin with spherood\.losses\.terms\.check_labelled"),
    (TakesColumns, {}, r"wrong input: labels in a column: no ValueError\. A wrong shape or type is told"),
    (Unused, {}, r"settings: temperature=0\.05 changes nothing\. A setting that changes nothing is a typo"),
    (Unused, {"others": {"temperature": 3.0}}, r"settings: temperature=3\.0 changes nothing"),
    (Mine, {"temperature": 0.3, "idle": ["temperature"]}, r"settings: temperature=0\.15 changes something, yet idle"),
    (HalfUsed, {}, r"settings: weights=\(1\.0, 1\.0\) changes nothing"),
    (Named, {}, r"settings: what is another value of method='plain'\? Pass others=\{'method': \.\.\.\}"),
    (Unseeded, {}, r"repetition: of two instances one gives other numbers\. The same settings give"),
    (Ordered, {"laws": ["permutation"]}, r"law permutation: of step 1 the total .* by up to .*declare laws without"),
    (Ordered, {}, r"law permutation: of step 1"),
    (LastRow, {}, r"law permutation: of step 2 the total"),
    (Pulled, {}, r"law permutation: of step 1 the gradient and the one that the law expects differ"),
    (Axes, {}, r"law rotation: of step 1 the total and the one that the law expects differ .* without \"rotation\""),
    (FullNaN, {}, r"^check_loss\(FullNaN\), epoch 10000, an ordinary batch: labels .* a total of nan"),
    (LateNaN, {}, r"^check_loss\(LateNaN\), epoch 10000, an ordinary batch: labels .* a total of nan"),
]


@pytest.mark.parametrize(("loss", "settings", "message"), BROKEN, ids=lambda it: getattr(it, "__name__", None))
def test_what_is_broken_is_told_with_the_numbers_and_the_way_out(
    loss: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_loss(loss, **settings)


def test_what_is_not_declared_is_not_checked_and_permutation_is_by_default() -> None:
    class Axis(Axes):
        laws = ("permutation",)

    class Undeclared(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Terms:
            check_labelled("Undeclared", x, label)
            return Terms((torch.arange(len(x)) * (at_least_float32(x) ** 2)[:, 0]).sum())

    check_loss(Axis)
    check_loss(Undeclared, laws=())
    with pytest.raises(AssertionError, match="law permutation"):
        check_loss(Undeclared)


def test_another_value_from_the_caller_counts() -> None:
    check_loss(Named, others={"method": "other"})


@pytest.mark.parametrize(
    ("loss", "told", "message"),
    [
        (Mine, {"laws": ["rotations"]}, r"^laws: there is no law 'rotations'\. Did you mean 'rotation'\?"),
        (Mine, {"laws": "rotation"}, r"^laws: expected a tuple of names, got 'rotation'\. Write \('rotation',\)\."),
        (Mine, {"others": {"temperatur": 1.0}}, r"there is no setting 'temperatur'\. Did you mean 'temperature'\?"),
        (Mine, {"idle": ["seeds"]}, r"^others, idle: there is no setting 'seeds'\. Did you mean 'seed'\?"),
        (SupCon(), {}, r"^losses: expected a class, got a SupCon that is made\. Pass its class and settings"),
        ("supcom", {}, r"^losses: there is no 'supcom'\. Did you mean 'supcon'\?"),
    ],
    ids=["a law", "a law alone", "others", "idle", "an instance", "a file name"],
)
def test_what_was_mistyped_is_told(loss: Any, told: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_loss(loss, **told)
