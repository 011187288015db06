"""What holds for every score of the room; a new one is walked without being named here.

Named are settings only: those that suit 90 rows of 6 columns, and what is to be known of settings that do not show by
themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import KNN, Detector, detector
from spherood.errors import ConfigError, FitError, MissingExtraError, NotFittedError, ShapeError
from spherood.naming import build, members
from spherood.outputs import Outputs
from spherood.testing import check_detector


class Spec(NamedTuple):
    """A score, its settings, and what the check is told besides."""

    name: str
    settings: dict[str, Any] = {}  # noqa: RUF012
    told: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        return f"{self.name} {self.settings}"


SMALL: dict[str, dict[str, Any]] = {  # where the default asks for more rows or columns
    "ash": {"percentile": 50.0},
    "dice": {"percentile": 80.0},
    "faiss_knn": {"k": 40, "index": "IVF2,Flat", "probes": 1},  # one list of 90 rows holds fewer
    "kpca": {"features": 64},
    "nnguide": {"k": 5, "fraction": 1.0},
    "scale": {"percentile": 65.0},
}
TOLD: dict[str, dict[str, Any]] = {
    "combined": {"others": {"scores": ["knn:k=3", "mahalanobis"]}},
    "dice": {"others": {"percentile": 95.0}},
    "faiss_knn": {"others": {"index": "SQ4"}},
    "gen": {"others": {"m": 2}},
    "kpca": {"idle": ["gamma", "features", "seed"]},  # of the other kernel
    "knn": {"others": {"storage": "bfloat16", "per_class": 20}, "idle": ["seed"]},  # nothing is drawn from all rows
    "layers": {"others": {"score": "knn:k=3"}},
    "nci": {"others": {"alpha": 0.1}},
    "nnguide": {"idle": ["seed"], "laws": ["permutation", "rotation"]},  # nothing is drawn: the bank is all rows
    "vra": {"others": {"low": 60.0, "high": 80.0}},
}
FAR = 6 * torch.eye(6)[3:]  # where the planted OOD of the check lies, turned round
VARIANTS = [
    Spec("knn", {"k": 1}, TOLD["knn"]),
    Spec("knn", {"k": 5, "per_class": 20, "storage": "float16"}, {"others": {"storage": "bfloat16"}, "laws": []}),
    Spec("mahalanobis", {"unit": True}),
    Spec("mahalanobis", {"covariance": "total"}),
    Spec("mahalanobis", {"covariance": "total", "unit": True, "shrinkage": 0.1}),
    Spec("mahalanobis", {"shrinkage": "ledoit-wolf"}),
    Spec("kpca", {"kernel": "gaussian", "features": 64}, {"laws": ["permutation", "scale"]}),
    Spec("relation", {"power": 2.0}),
    Spec("she", {"metric": "cosine"}),
    Spec("she", {"metric": "euclidean"}),
    Spec("rmds", {"unit": True}),
    Spec("residual", {"dim": 2}, {"ood": -2 * FAR}),  # a third of what is known lies outside two directions
    Spec("vim", {"dim": 2}),
    Spec("nnguide", {"k": 5, "fraction": 0.3}),
    Spec("fdbd", {"denominator": "norm"}),
]


def installed(name: str) -> bool:
    """Whether the library that a score needs is there."""
    try:
        build("detectors", name, {})
    except MissingExtraError:
        return False
    return True


ABSENT = [name for name in members("detectors") if not installed(name)]
ALL = [Spec(name, SMALL.get(name, {}), TOLD.get(name, {})) for name in members("detectors") if name not in ABSENT]
ALL += VARIANTS
LEARNING = [spec for spec in ALL if list(build("detectors", spec.name, spec.settings).buffers())]
EVERY = pytest.mark.parametrize("spec", ALL, ids=str)
EVERY_LEARNING = pytest.mark.parametrize("spec", LEARNING, ids=str)
ANY_WIDTH = {"temperature_msp"}
TWO_PASSES = {"combined", "faiss_knn", "layers", "react", "vim", "vra"}
CLASSES, DIM = 3, 6


def make(spec: Spec) -> Detector:
    made: Detector = build("detectors", spec.name, spec.settings)
    return made


def known(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class c around 6 e_c: such rows serve as features, as embeddings and as logits."""
    label = torch.arange(rows) % CLASSES
    noise = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))
    return 6 * torch.eye(DIM)[label] + 0.5 * noise, label


def handed(judge: Detector, x: Any) -> Any:
    """Rows as what the detector reads: as two layers, as columns for which there are."""
    return Outputs(x, layers=(x[:, :2], x[:, 2:])) if judge.reads == "layers" else x


def fit(judge: Detector, x: Any, label: Any = None) -> Detector:
    """With a classifier that tells the known classes apart, for the scores that read one."""
    classifier = nn.Linear(DIM, CLASSES)
    with torch.no_grad():
        classifier.weight.copy_(torch.eye(CLASSES, DIM))
        classifier.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    if isinstance(x, Tensor | np.ndarray):
        x = handed(judge, x)
    elif isinstance(x, list):
        x = [(handed(judge, part), of_part) for part, of_part in x]
    return judge.fit(x, label, classifier)


def fitted(spec: Spec) -> Detector:
    return fit(make(spec), *known(90))


def test_the_room_offers_its_detectors_by_file_name() -> None:
    assert {"knn", "mahalanobis", "msp"} <= members("detectors").keys()
    assert {"knn", "mahalanobis"} <= {spec.name for spec in LEARNING}


def test_no_score_is_left_out_for_lack_of_a_library() -> None:
    if ABSENT:
        pytest.skip(f"not walked, the library is not installed: {', '.join(ABSENT)}")


@EVERY
def test_a_score_keeps_the_contract(spec: Spec) -> None:
    check_detector(spec.name, **spec.settings, **spec.told)


def refusal(spec: Spec) -> str:
    """What a fit without classifier is told; nothing where it does without."""
    x, label = known(90)
    try:
        make(spec).fit(handed(make(spec), x), label)
    except FitError as error:
        return str(error)
    return ""


@EVERY
def test_without_a_classifier_it_fits_or_asks_for_one(spec: Spec) -> None:
    asked = "needs the model's classifier. Call fit(feature, label, classifier=model.classifier)."
    assert refusal(spec) in ("", f"{make(spec).name}.fit: {asked}")


def test_the_scores_that_read_a_classifier_are_these_at_least() -> None:
    asking = {spec.name for spec in ALL if refusal(spec)}
    assert {"residual", "vim", "nnguide", "fdbd"} <= asking
    assert asking.isdisjoint({"combined", "knn", "mahalanobis", "msp", "rmds", "vmf"})


@EVERY
def test_any_chunk_scores_the_same(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, x = fitted(spec), handed(make(spec), known(20, 1)[0])
    whole = judge.score(x)
    monkeypatch.setattr(detector, "SCORE_ROWS", 7)
    torch.testing.assert_close(judge.score(x), whole, rtol=1e-5, atol=1e-6)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(spec: Spec, dtype: torch.dtype) -> None:
    judge, (x, label) = make(spec), known(90)
    assert [rows.dtype for rows, _ in judge.batches(handed(judge, x.to(dtype)), label)] == [torch.float32]


@EVERY
@pytest.mark.filterwarnings("error")
def test_read_only_maps_and_reversed_views_are_read(spec: Spec) -> None:
    x, label = (part.numpy() for part in known(90))

    def scores(x: Any, label: Any, query: Any) -> Tensor:
        return fit(make(spec), x, label).score(handed(make(spec), query))

    expected = scores(x, label, x[:9])
    copied = scores(x[::-1].copy(), label[::-1].copy(), x[8::-1].copy())
    assert torch.equal(scores(x[::-1], label[::-1], x[8::-1]), copied)
    for array in (x, label):
        array.flags.writeable = False
    assert torch.equal(scores(x, label, x[:9]), expected)


@EVERY_LEARNING
def test_scoring_before_fitting_says_what_to_call(spec: Spec) -> None:
    with pytest.raises(NotFittedError, match=r"^\w+: not fitted\. Call fit\(feature, label\) first"):
        make(spec).score(handed(make(spec), known(3)[0]))


@EVERY_LEARNING
def test_another_width_is_told_with_both_numbers(spec: Spec) -> None:
    judge, narrow = fitted(spec), handed(make(spec), known(3)[0][:, :4])
    if spec.name in ANY_WIDTH:
        assert judge.score(narrow).shape == (3,)
        return
    columns = rf"{judge.rows_read} have 4 columns, the fitted ones had 6"
    with pytest.raises(ShapeError, match=rf"\.score: {columns}\. Was it fitted on another encoder\?"):
        judge.score(narrow)


@EVERY_LEARNING
def test_batches_of_different_widths_are_refused(spec: Spec) -> None:
    x, label = known(90)
    told = "batches have layers of" if spec.name == "layers" else "a batch has 4 columns, the first had 6"
    with pytest.raises(ShapeError, match=rf"\.fit: {told}"):
        fit(make(spec), [(x, label), (x[:, :4], label)])


@EVERY
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_are_counted_and_placed(spec: Spec, bad: float) -> None:
    x, label = known(90)
    judge = fitted(spec)
    x[[4, 7], 2] = bad
    message = "2 of 90 rows hold NaN or infinity, the first is row 4"
    with pytest.raises(ShapeError, match=rf"\.score: {message}"):
        judge.score(handed(judge, x))
    if spec in LEARNING:
        with pytest.raises(ShapeError, match=rf"\.fit: {message}"):
            fit(judge, x, label)


@EVERY
@pytest.mark.parametrize(
    ("x", "got"),
    [
        (torch.zeros(6), r"torch\.float32 of shape \(6,\)"),
        (torch.zeros(2, 3, 6), r"torch\.float32 of shape \(2, 3, 6\)"),
        (np.zeros((2, 6), dtype="i8"), r"torch\.int64 of shape \(2, 6\)"),
    ],
    ids=["one axis", "three axes", "integers"],
)
def test_what_is_no_table_of_floats_is_refused(spec: Spec, x: Any, got: str) -> None:
    with pytest.raises(ShapeError, match=rf"\.score: expected floating {make(spec).rows_read} \(B, D\), got {got}"):
        fitted(spec).score(x)


@pytest.mark.parametrize("spec", [spec for spec in ALL if make(spec).reads != "feature"], ids=str)
def test_a_model_without_the_part_that_is_read_is_told(spec: Spec) -> None:
    with pytest.raises(ConfigError, match=rf"reads {make(spec).reads}, which this model does not have"):
        fitted(spec).score(Outputs(feature=known(3)[0]))


@EVERY_LEARNING
def test_no_data_and_a_used_up_generator_are_told(spec: Spec) -> None:
    x, label = known(90)

    def stream() -> Iterator[tuple[Any, Tensor]]:
        yield handed(make(spec), x), label

    once, query = stream(), handed(make(spec), x)
    if spec.name in TWO_PASSES or spec.settings.get("shrinkage") == "ledoit-wolf":
        with pytest.raises(FitError, match=r"a generator gives them once\. Pass a list of batches"):
            fit(make(spec), once)
        used_up: list[Any] = []
    else:
        assert torch.equal(fit(make(spec), once).score(query), fit(make(spec), x, label).score(query))
        used_up = [once]
    for nothing in (*used_up, [], [(x[:0], label[:0])]):
        with pytest.raises(FitError, match=r"\.fit: no data: .* A used-up generator gives nothing"):
            fit(make(spec), nothing)
    with pytest.raises(FitError, match="no data"):
        fit(make(spec), x[:0], label[:0])


@EVERY_LEARNING
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.arange(90) % 3 - 1, r"labels begin at -1, expected 0 or more"),
        (torch.zeros(90), r"expected integer labels \(90,\), got torch\.float32 of shape \(90,\)"),
        (torch.zeros(89).long(), r"expected integer labels \(90,\), got torch\.int64 of shape \(89,\)"),
        (torch.zeros(90, 1).long(), r"expected integer labels \(90,\), got torch\.int64 of shape \(90, 1\)"),
    ],
    ids=["negative", "floating", "too short", "in a column"],
)
def test_labels_that_do_not_fit_are_told(spec: Spec, label: Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=rf"\.fit: {message}"):
        fit(make(spec), known(90)[0], label)


@EVERY_LEARNING
def test_batches_that_are_no_pairs_and_labels_beside_batches_are_told(spec: Spec) -> None:
    (x, label), classifier = known(90), nn.Linear(DIM, CLASSES)
    rows = handed(make(spec), x)
    with pytest.raises(FitError, match=r"expected batches of pairs \(x, label\)\. Without labels pass \(x, None\)"):
        make(spec).fit([rows, rows], None, classifier)
    apart: list[Any] = [Outputs(x)]
    with pytest.raises(FitError, match="expected batches of pairs"):
        make(spec).fit(apart, None, classifier)
    with pytest.raises(FitError, match="labels belong into the batches"):
        make(spec).fit([(rows, label)], label, classifier)


class Together(nn.Module):
    """Many scores of the same rows, with three neighbours each: exported in one go, which takes seconds."""

    def __init__(self, judges: list[Detector]) -> None:
        super().__init__()
        self.judges = nn.ModuleList(judges)

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """score, cosine, row of each in turn; of most the score alone."""
        found: list[Tensor] = []
        for judge in self.judges:
            score, near = judge.forward_with_neighbours(rows, 3)  # type: ignore[operator]
            found += [score] if near is None else [score, *near]
        return tuple(found)


@pytest.fixture(scope="module")
def graph() -> Any:
    """(session, names of its outputs) for every score that can be a graph."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="needs the extra onnx")
    import onnx
    import onnxruntime

    judges = {str(spec): fitted(spec).eval() for spec in ALL}
    judges = {name: judge for name, judge in judges.items() if not judge.no_graph}
    names = [
        f"{name} {part}"
        for name, judge in judges.items()
        for part in ("score", "cosine", "row")[: 1 if judge.forward_with_neighbours(known(2)[0], 3)[1] is None else 3]
    ]
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        program = torch.onnx.export(
            Together(list(judges.values())).eval(),
            (known(2)[0],),
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    onnx.checker.check_model(program.model_proto)
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString()), names


@EVERY
def test_a_score_is_the_same_in_a_graph_or_says_why_it_cannot_be_one(spec: Spec, graph: Any) -> None:
    judge = fitted(spec)
    if judge.no_graph:
        assert spec.name == "faiss_knn"
        assert "faiss" in judge.no_graph
        return
    session, names = graph
    for count in (1, 5, 17):
        x = known(count, seed=count)[0] + FAR.repeat(6, 1)[:count] / 3
        found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: x.numpy()}), strict=True))
        score, near = judge.score_with_neighbours(handed(judge, x), 3)
        np.testing.assert_allclose(found[f"{spec} score"], score, rtol=2e-5, atol=1e-5)  # rmds subtracts two
        if near is not None:
            np.testing.assert_allclose(found[f"{spec} cosine"], near[0], atol=2e-6)
            assert (found[f"{spec} row"] == near[1].numpy()).mean() > 0.9  # equal cosines may change places


def test_a_score_that_cannot_be_a_graph_says_why_whatever_it_stands_in() -> None:
    assert "bfloat16" in KNN(storage="bfloat16").no_graph
    assert "bfloat16" in build("detectors", "combined", {"scores": ["knn:storage=bfloat16", "mahalanobis"]}).no_graph
    assert "bfloat16" in build("detectors", "layers", {"score": "knn:storage=bfloat16"}).no_graph
