from __future__ import annotations

import random
import time
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import KNN, Detector
from spherood.errors import ConfigError
from spherood.outputs import Outputs
from spherood.sphere import ClassMeans, normalize
from spherood.testing import check_detector


class Mine(Detector):
    """Keeps the contract: one minus the cosine to the nearest class mean, to some power."""

    laws: ClassVar[tuple[str, ...]] = ("permutation", "rotation", "scale")
    mean: Tensor

    def __init__(self, *, power: float = 1.0) -> None:
        super().__init__()
        self.power = power
        self.declare("mean")

    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        means = ClassMeans()
        for rows, of_rows in self.batches(x, label):
            assert of_rows is not None
            means.add(normalize(rows), of_rows)
        self.mean = means.direction.float()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (1 - (normalize(x).to(self.mean.dtype) @ self.mean.T).amax(dim=1)) ** self.power

    @property
    def width(self) -> int | None:
        return self.mean.shape[-1]


class Evidence(Mine):
    """Reads the classifier, and clones it."""

    needs_classifier = True
    laws = ("permutation", "rotation")

    def __init__(self) -> None:
        super().__init__()
        self.declare("weight")

    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        weight, _ = self.head(classifier)
        super().fit(x, label)
        self.weight = weight.clone()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return -(x.to(self.weight.dtype) @ self.weight.T).amax(dim=1)


class Unit(Mine):
    """Takes unit embeddings for granted."""

    reads = "embedding"

    def checked(self, x: Any) -> Tensor:
        rows = super().checked(x)
        assert bool(((rows.norm(dim=1) - 1).abs() < 1e-2).logical_or(rows.norm(dim=1) == 0).all())
        return rows


@pytest.mark.parametrize(
    "detector",
    [Mine, Evidence, Unit, "ssd", "spherood.detectors:SSD", "msp", "layers", lambda power=2.0: Mine(power=power)],
    ids=["class", "classifier", "embeddings", "file name", "import path", "logits", "layers", "function"],
)
def test_a_score_that_keeps_the_contract_passes_in_silence(detector: Any, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    check_detector(detector, others={"score": "knn:k=5"} if detector == "layers" else None)
    assert time.perf_counter() - start < 2
    assert capsys.readouterr() == ("", "")


def test_torchs_generator_is_left_where_it_was() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_detector(Mine)
    assert torch.equal(torch.get_rng_state(), before)


class Shortness(Detector):
    """OOD is short: made for other OOD than is planted by default."""

    reads = "feature"
    laws = ("permutation", "rotation")

    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return -x.norm(dim=1)


def test_own_planted_rows_take_the_place_of_those_planted() -> None:
    with pytest.raises(AssertionError, match=r"planted ood: planted OOD scores from -[\d.]+ on, known rows reach -"):
        check_detector(Shortness)
    check_detector(Shortness, ood=torch.full((9, 6), 0.1))
    check_detector(Shortness, ood=Outputs(torch.full((9, 6), 0.1)))


class NoDetector(nn.Module):
    pass


class Pixels(Mine):
    reads = "pixels"  # type: ignore[assignment]


class Turned(Mine):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


class AColumn(Mine):
    def score(self, x: Any) -> Tensor:
        return super().score(x)[:, None]


class Unused(Mine):
    def __init__(self, *, power: float = 1.0) -> None:
        super().__init__()


class Named(Mine):
    def __init__(self, *, method: str = "plain") -> None:
        super().__init__(power=1.0 if method == "plain" else 2.0)


class AsksUndeclared(Evidence):
    needs_classifier = False


class DoesWithout(Mine):
    needs_classifier = True


class Shares(Evidence):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        super().fit(x, label, classifier)
        self.weight = self.head(classifier)[0]
        return self


class Remembers(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        rows, label = (torch.cat(parts) for parts in zip(*self.batches(x, label), strict=True))
        super().fit(rows, label)
        self.fits = getattr(self, "fits", 0) + 1
        self.mean = self.mean * self.fits
        return self


class Hasty(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        old = self.mean
        self.mean = old * 2
        return super().fit(x, label)


class FitsNothing(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        return self if isinstance(x, list) and not x else super().fit(x, label)


class Forgetful(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        super().fit(x, label)
        self.shift = float(self.mean.sum())
        return self

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


class HalfForgetful(Forgetful):
    shift = 0.0


class Scattered(Mine):
    def __init__(self) -> None:
        super().__init__(power=1 + float(torch.rand(())))


class LastBatch(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        rows, of_rows = max(self.batches(x, label), key=lambda pair: len(pair[0]))
        return super().fit(rows, of_rows)


class TwoReadings(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        super().fit(x, label)
        length = 0.0
        for rows, _ in x if not isinstance(x, Tensor) else [(x, label)]:
            length = max(length, len(rows))
        self.mean = self.mean if length else self.mean * 2
        return self


class TensorsOnly(Mine):
    def score(self, x: Any) -> Tensor:
        return super().score(x.clone())


class TellsOutputsApart(Mine):
    def score(self, x: Any) -> Tensor:
        return super().score(x) + (1 if isinstance(x, Outputs) else 0)


class Rounds(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        super().fit(x, label)
        if isinstance(x, Tensor) and x.dtype == torch.bfloat16:
            self.mean = self.mean.bfloat16().float()
        return self


class Wide(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        super().fit(x, label)
        self.mean = self.mean * (0.9 if isinstance(x, Tensor) and x.dtype == torch.float64 else 1)
        return self


class Mixes(Mine):
    def forward(self, x: Tensor) -> Tensor:
        return (1 - (normalize(x) @ self.mean.T).amax(dim=1)) ** self.power


class Batch(Mine):
    def forward(self, x: Tensor) -> Tensor:
        score = super().forward(x)
        return score + score.mean()


class NeverEmpty(Mine):
    def score(self, x: Any) -> Tensor:
        score = super().score(x)
        return score if len(score) else torch.zeros(1)


class Divides(Mine):
    laws = ()

    def forward(self, x: Tensor) -> Tensor:
        unit = x / x.norm(dim=1, keepdim=True)
        return (1 - (unit.to(self.mean.dtype) @ self.mean.T).amax(dim=1)) ** self.power


class TakesNaN(Mine):
    def _rows(self, x: Any, where: str) -> Tensor:
        return super()._rows(x.nan_to_num(0.0, 0.0) if isinstance(x, Tensor) else x, where)


class TakesInfinity(Mine):
    def _rows(self, x: Any, where: str) -> Tensor:
        return super()._rows(x.nan_to_num(torch.nan, 0.0, 0.0) if isinstance(x, Tensor) else x, where)


class FitsNaN(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        return super().fit(x.nan_to_num(0.0, 0.0) if isinstance(x, Tensor) else x, label)


class Ready(Mine):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.eye(3, 6)


class Bare(Mine):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 if torch.is_grad_enabled() else 1)


class Graph(Mine):
    def score(self, x: Any) -> Tensor:
        return self(self.checked(x)) * torch.ones((), requires_grad=True)


class Drawn(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        super().fit(x, label)
        self.mean = self.mean * (1 + random.random() / 100)
        return self


class First(Mine):
    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        rows, label = (torch.cat(parts) for parts in zip(*self.batches(x, label), strict=True))
        return super().fit(rows[:30], label[:30])


class Clipped(Mine):
    laws = ("rotation",)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x.abs().sum(dim=1) / 1000


class Long(Mine):
    laws = ("scale",)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x.norm(dim=1) / 1000


BROKEN: list[tuple[Any, dict[str, Any], str]] = [
    (NoDetector, {}, r"^check_detector\(NoDetector\), declarations: NoDetector is no Detector\. Derive it from"),
    (Pixels, {}, r"declarations: reads is 'pixels'\. .* declare reads = \"feature\" \(the default\)"),
    (Turned, {}, r"planted ood: planted OOD scores from -[\d.]+ on, known rows reach -[\d.]+\. Higher = more OOD"),
    (AColumn, {}, r"planted ood: 60 rows have scores of shape \(60, 1\)"),
    (Unused, {}, r"settings: power=0\.5 changes nothing\. A setting that changes nothing is a typo"),
    (Mine, {"idle": ["power"]}, r"settings: power=0\.5 changes something, yet idle"),
    (Named, {}, r"settings: what is another value of method='plain'\? Pass others=\{'method': \.\.\.\}"),
    (AsksUndeclared, {}, r"classifier: fit refuses None, and needs_classifier is False\. Declare needs_classifier"),
    (DoesWithout, {}, r"classifier: fit accepts None, and needs_classifier is True"),
    (Shares, {}, r"classifier: a change of the classifier changed a fitted score\. .* clone what it gives"),
    (Remembers, {}, r"a second fit: fitted again, scores are off by [\d.]+\. Fit forgets the past"),
    (Hasty, {}, r"a failing fit: fit\(\[\]\) has changed the score\. .* assigns buffers at its end only"),
    (FitsNothing, {}, r"a failing fit: fit\(\[\]\) raises no FitError"),
    (Forgetful, {}, r"a reload: AttributeError: .*'shift'\. Keep all that was learned in buffers"),
    (HalfForgetful, {}, r"a reload: after load_state_dict the scores are others\. Keep all that was learned"),
    (Scattered, {}, r"a reload: after load_state_dict the scores are others"),
    (LastBatch, {}, r"batching: scores after a fit in batches of \[30, 30, 30\] and in one differ by up to [\d.]+\."),
    (TwoReadings, {}, r"batching: scores after a fit from a generator and from an array differ .* refuse a generator"),
    (TensorsOnly, {}, r"arrays and outputs: AttributeError: .* which take arrays, tensors and Outputs"),
    (TellsOutputsApart, {}, r"arrays and outputs: Outputs score otherwise than tensors\. Read x through self\.batches"),
    (Rounds, {}, r"precision: torch\.bfloat16 rows score otherwise than the same numbers in float32\. Rows in half"),
    (Wide, {}, r"precision: scores by double rows of float ones and by float ones differ by up to [\d.]+\."),
    (Mixes, {}, r"precision: RuntimeError: .* rows\.to\(self\.mean\.dtype\)"),
    (Batch, {}, r"single rows: scores of rows one by one and together differ by up to [\d.]+\. A score belongs to"),
    (NeverEmpty, {}, r"single rows: no row has scores of shape \(1,\)"),
    (Divides, {}, r"a zero row: a zero row scores nan\. A feature of length 0 happens"),
    (TakesNaN, {}, r"bad rows: score takes a row with nan\. Refuse NaN and infinity with a ShapeError"),
    (TakesInfinity, {}, r"bad rows: score takes a row with inf"),
    (FitsNaN, {}, r"bad rows: fit takes a row with nan"),
    (Ready, {}, r"before fitting: an unfitted one gives a score\. A score asked for too early is a NotFittedError"),
    (Bare, {}, r"forward: forward and score give other numbers\. `forward` is the bare arithmetic"),
    (Graph, {}, r"forward: the score carries a gradient"),
    (Drawn, {}, r"repetition: two fits on the same rows give other scores\. .* a generator with a seed of its own"),
    (First, {}, r"law permutation: the scores .* differ by up to [\d.]+\. If the order of rows counts"),
    (Clipped, {}, r"law rotation: the scores .* differ .* declare laws without \"rotation\""),
    (Long, {}, r"law scale: the scores .* differ .* declare laws without \"scale\"; else normalise"),
]


@pytest.mark.parametrize(("detector", "told", "message"), BROKEN, ids=lambda it: getattr(it, "__name__", None))
def test_what_is_broken_is_told_with_the_numbers_and_the_way_out(
    detector: Any, told: dict[str, Any], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_detector(detector, **told)


def test_a_law_of_the_default_settings_need_not_hold_for_others() -> None:
    settings: dict[str, Any] = {"kernel": "gaussian", "features": 64}
    with pytest.raises(AssertionError, match="law rotation"):
        check_detector("kpca", **settings)
    check_detector("kpca", laws=["permutation", "scale"], **settings)


@pytest.mark.parametrize(
    ("detector", "told", "message"),
    [
        (Mine, {"laws": ["scales"]}, r"^laws: there is no law 'scales'\. Did you mean 'scale'\?"),
        (Mine, {"others": {"powers": 1.0}}, r"^others, idle: there is no setting 'powers'\. Did you mean 'power'\?"),
        (KNN(), {}, r"^detectors: expected a class, got a KNN that is made\. Pass its class and settings"),
        ("kn", {}, r"^detectors: there is no 'kn'\. Did you mean 'knn'\?"),
    ],
    ids=["a law", "others", "an instance", "a file name"],
)
def test_what_was_mistyped_is_told(detector: Any, told: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_detector(detector, **told)
