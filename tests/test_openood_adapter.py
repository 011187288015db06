"""OpenOOD cannot be installed here (it needs torchvision): networks and post-processors below have its interface."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spherood.bundle import Bundle
from spherood.calibration import threshold
from spherood.detectors import KNN, MSP, Detector, Energy, Mahalanobis, PrototypeCosine, Scorer, ViM
from spherood.errors import (
    BundleError,
    ConfigError,
    DataError,
    FitError,
    NotFittedError,
    ShapeError,
    SpheroodError,
)
from spherood.metrics import auroc
from spherood.models import ModelSettings, build_model
from spherood.openood import FeatureNet, Postprocessor, from_openood

CLASSES, SIZE = 3, 8
PAGE = (Path(__file__).parents[1] / "docs" / "from-openood.md").read_text(encoding="utf-8")
SLIGHTLY = {"rtol": 1e-4, "atol": 1e-5}  # float32: a batch of another size rounds otherwise


class ResNet(nn.Module):
    """Our network with the methods of OpenOOD's classifiers."""

    def __init__(self) -> None:
        super().__init__()
        settings = ModelSettings(encoder="resnet8", width=4, classifier=True)
        self.model = build_model(settings, CLASSES).eval()
        nn.init.constant_(self.model.classifier.bias, 3)  # ViM refuses a classifier whose logits are below 0
        self.seen = 0

    def forward(self, x: Tensor, return_feature: bool = False, return_feature_list: bool = False) -> Any:
        self.seen += len(x)
        found = self.model(x)
        return (found.logits, found.feature) if return_feature else found.logits

    def intermediate_forward(self, x: Tensor, layer_index: int) -> Tensor:
        raise AssertionError("the maps of inner layers")  # of its classifiers only CIDERNet's one argument is feature

    def get_fc(self) -> tuple[NDArray[Any], NDArray[Any]]:
        fc = self.get_fc_layer()
        return fc.weight.detach().numpy(), fc.bias.detach().numpy()

    def get_fc_layer(self) -> nn.Linear:
        return self.model.classifier


class CIDERNet(nn.Module):
    """Our network with the methods of OpenOOD's CIDERNet, the squeeze that fails on a single image included."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build_model(ModelSettings(encoder="resnet8", width=4, head="linear", dim=5), CLASSES).eval()

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.model.head(self.model.encoder(x).squeeze()), dim=1)

    def intermediate_forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.model.encoder(x).squeeze(), dim=1)


class Images(Dataset[dict[str, Any]]):
    """Class c is bright in channel c; what is unknown is grey noise."""

    def __init__(self, rows: int, seed: int, *, known: bool = True) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.label = torch.arange(rows) % CLASSES if known else torch.full((rows,), -1)
        self.data = torch.randn(rows, 3, SIZE, SIZE, generator=draw)
        if known:
            self.data[torch.arange(rows), self.label] += 1.5

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> dict[str, Any]:
        soft = F.one_hot(self.label[row].clamp(min=0), CLASSES).float()
        return {"data": self.data[row], "label": int(self.label[row]), "soft_label": soft, "index": row}


def loader(rows: int, seed: int, *, known: bool = True, batch: int = 32) -> DataLoader[dict[str, Any]]:
    return DataLoader(Images(rows, seed, known=known), batch_size=batch)


TRAIN, TEST, UNKNOWN = Images(90, 0), Images(70, 1), Images(50, 2, known=False)
ID = {"train": DataLoader(TRAIN, batch_size=32), "val": loader(10, 3)}


class BasePostprocessor:
    """OpenOOD's base class, as far as its Evaluator cares."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def setup(self, net: Any, id_loader_dict: Any, ood_loader_dict: Any) -> None:
        pass

    def postprocess(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inference(self, net: Any, data_loader: Any, progress: bool = True) -> tuple[NDArray[Any], ...]:
        with torch.no_grad():
            found = [(*self.postprocess(net, batch["data"]), batch["label"]) for batch in data_loader]
        return tuple(torch.cat(parts).numpy() for parts in zip(*found, strict=True))


class TheirMSP(BasePostprocessor):
    """conf = max_c softmax(z)_c; without a setup_flag, as theirs is."""

    def postprocess(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor]:
        conf, pred = net(data).softmax(dim=1).max(dim=1)
        return pred, conf


class TheirKNN(BasePostprocessor):
    """conf = -squared distance of unit features to the K-th nearest in `activation_log`."""

    def __init__(self, k: int) -> None:
        super().__init__(SimpleNamespace(K=k))
        self.K, self.setup_flag = k, False

    def setup(self, net: Any, id_loader_dict: Any, ood_loader_dict: Any) -> None:
        found = [unit(net(batch["data"], return_feature=True)[1]) for batch in id_loader_dict["train"]]
        self.activation_log = np.concatenate(found)
        self.setup_flag = True

    def postprocess(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor]:
        logits, feature = net(data, return_feature=True)
        squared = np.square(unit(feature)[:, None] - self.activation_log).sum(axis=2)
        return logits.argmax(dim=1), -torch.from_numpy(np.sort(squared, axis=1)[:, self.K - 1])


class TheirReweightOOD(BasePostprocessor):
    """conf = max_c -(u - m_c)' S^+ (u - m_c) of unit features, tied S; as slow as theirs, a (B, B) product a class."""

    setup_flag = False

    def setup(self, net: Any, id_loader_dict: Any, ood_loader_dict: Any) -> None:
        batches = [
            (net.intermediate_forward(batch["data"]).detach(), batch["label"]) for batch in id_loader_dict["train"]
        ]
        feature, label = (torch.cat(parts) for parts in zip(*batches, strict=True))
        self.class_mean = torch.stack([feature[label == c].mean(dim=0) for c in range(CLASSES)])
        centred = (feature - self.class_mean[label]).double()
        self.precision = torch.linalg.pinv(centred.T @ centred / len(centred), hermitian=True, rtol=1e-6).float()
        self.setup_flag = True

    def postprocess(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor]:
        feature = net.intermediate_forward(data)
        score = [((feature - m) @ self.precision @ (feature - m).T).diag() for m in self.class_mean]
        conf = -torch.stack(score).amin(dim=0)
        return torch.zeros_like(conf), conf


def unit(feature: Tensor) -> NDArray[np.float32]:
    array = feature.detach().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def features(net: nn.Module, images: Images) -> Tensor:
    with torch.no_grad():
        found: Tensor = net.model.encoder(images.data)  # type: ignore[operator, union-attr]
    return found


class Rows(nn.Module):
    """A network whose features are its input; logits by hand."""

    def forward(self, x: Tensor, return_feature: bool = False) -> Any:
        logits = x @ torch.tensor([[1.0, 0], [0, 1], [2, 0]])
        return (logits, x) if return_feature else logits


def test_three_points_against_two_give_what_was_worked_out_by_hand() -> None:
    x, y, z = torch.eye(3)
    train = [{"data": torch.stack([3 * x, y]), "label": torch.tensor([0, 1])}]
    post = Postprocessor(KNN(k=1))
    post.setup(Rows(), {"train": train}, {})
    pred, conf = post.postprocess(Rows(), torch.stack([x, x + 2 * y, z]))
    assert pred.tolist() == [0, 1, 0]
    torch.testing.assert_close(conf, torch.tensor([0, 4 / 5**0.5 - 2, -2]))  # 2 - 2 cos, cos = 2 / sqrt 5


SCORES: list[Callable[[], Detector]] = [
    lambda: KNN(k=5),
    Mahalanobis,
    lambda: Mahalanobis(unit=True),
    MSP,
    Energy,
    lambda: ViM(dim=4),
]


@pytest.mark.parametrize("make", SCORES, ids=lambda it: type(it()).__name__)
def test_a_classifier_s_confidences_are_the_detector_s_scores_with_the_sign_changed(
    make: Callable[[], Detector],
) -> None:
    net = ResNet()
    direct = make()
    train, test = (net.model(images.data) for images in (TRAIN, TEST))
    expected = -direct.fit(train, TRAIN.label, net.model.classifier).score(test)
    post = Postprocessor(make())
    post.setup(net, ID, {})
    pred, conf, label = post.inference(net, DataLoader(TEST, batch_size=32), progress=False)
    np.testing.assert_allclose(conf, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert np.array_equal(pred, test.logits.argmax(dim=1).numpy())
    assert np.array_equal(label, TEST.label.numpy())
    assert [it.shape for it in (pred, conf, label)] == [(70,)] * 3
    assert pred.dtype == label.dtype == np.dtype(int)


@pytest.mark.parametrize(
    ("ours", "theirs", "net"),
    [
        (KNN(k=5), TheirKNN(5), ResNet()),
        (Mahalanobis(unit=True), TheirReweightOOD(), CIDERNet()),
        (MSP(), TheirMSP(), ResNet()),
    ],
    ids=["KNN", "ReweightOOD", "MSP"],
)
def test_ours_and_theirs_of_one_formula_agree_through_the_same_loaders(ours: Detector, theirs: Any, net: Any) -> None:
    post = Postprocessor(ours)
    found = []
    for one in (post, theirs):
        one.setup(net, ID, {})
        _, conf, _ = one.inference(net, DataLoader(TEST, batch_size=32), progress=False)
        found.append(conf)
    np.testing.assert_allclose(*found, rtol=2e-3, atol=1e-5)


def test_a_network_without_logits_predicts_the_nearest_class_mean_of_its_training_features() -> None:
    net = CIDERNet()
    post = Postprocessor(KNN(k=5))
    post.setup(net, ID, {})
    pred, conf, _ = post.inference(net, DataLoader(TEST, batch_size=32))
    train, test = unit(features(net, TRAIN)), unit(features(net, TEST))
    direction = [train[TRAIN.label == c].mean(axis=0) for c in range(CLASSES)]
    slow = [max(range(CLASSES), key=lambda c: row @ direction[c] / np.linalg.norm(direction[c])) for row in test]
    assert pred.tolist() == slow
    assert np.mean(pred == TEST.label.numpy()) > 0.6  # an argmax over the 5 columns of the embedding names others
    np.testing.assert_allclose(conf, -KNN(k=5).fit(train).score(test).numpy(), **SLIGHTLY)


def test_a_last_batch_of_one_image_scores_as_in_any_other() -> None:
    class OfEmbeddings(PrototypeCosine):
        reads = "embedding"

    net = CIDERNet()
    with pytest.raises(IndexError):
        net.intermediate_forward(TEST.data[:1])
    for detector in (KNN(k=5), OfEmbeddings()):
        post = Postprocessor(detector)
        post.setup(net, {"train": DataLoader(TRAIN, batch_size=89)}, {})
        one, many = (post.inference(net, DataLoader(TEST, batch_size=size)) for size in (69, 70))
        assert one[1].shape == (70,)
        np.testing.assert_allclose(one[1], many[1], **SLIGHTLY)


def test_a_detector_of_embeddings_reads_them() -> None:
    class OfEmbeddings(PrototypeCosine):
        reads = "embedding"

    net = CIDERNet()
    post = Postprocessor(OfEmbeddings())
    post.setup(net, ID, {})
    pred, conf, _ = post.inference(net, DataLoader(TEST, batch_size=32))
    with torch.no_grad():
        direct = PrototypeCosine().fit(net(TRAIN.data), TRAIN.label)
        embedding = net(TEST.data)
    np.testing.assert_allclose(conf, -direct.score(embedding).numpy(), **SLIGHTLY)
    assert pred.tolist() == (embedding @ direct.prototype.T).argmax(dim=1).tolist()


def test_setup_is_done_once_in_evaluation_mode_and_looks_at_no_ood_image() -> None:
    net = ResNet().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    post = Postprocessor(KNN(k=5))
    assert (post.setup_flag, post.APS_mode, post.hyperparam_search_done) == (False, False, False)
    unread: Any = None
    post.setup(net, ID, unread)
    assert post.setup_flag
    assert not net.training
    bank = post.detector.bank
    post.setup(net, {"train": loader(60, 9)}, unread)
    assert post.detector.bank is bank
    net.train()
    post.inference(net, DataLoader(TEST, batch_size=32))
    assert all(
        torch.equal(value, before[name]) for name, value in net.state_dict().items()
    )  # batch-norm's averages too


def test_a_failed_setup_can_be_repeated() -> None:
    post = Postprocessor(KNN(k=80))
    with pytest.raises(FitError, match="k=80 is larger than the bank of 60"):
        post.setup(ResNet(), {"train": loader(60, 9)}, {})
    assert not post.setup_flag
    post.setup(ResNet(), ID, {})
    assert post.setup_flag


def test_of_a_score_that_learns_nothing_the_first_batch_will_do() -> None:
    for detector, images in ((MSP(), 32), (KNN(k=5), 90)):
        net = ResNet()
        Postprocessor(detector).setup(net, ID, {})
        assert net.seen == images


def test_no_graph_is_kept_of_training_or_of_test_images() -> None:
    class Watched(ResNet):
        def forward(self, x: Tensor, return_feature: bool = False, return_feature_list: bool = False) -> Any:
            assert not torch.is_grad_enabled()
            return super().forward(x, return_feature, return_feature_list)

    net, post = Watched(), Postprocessor(KNN(k=5))
    with torch.enable_grad():
        post.setup(net, ID, {})
        _, conf = post.postprocess(net, TEST.data)
    assert not conf.requires_grad


def test_a_network_in_float64_is_read_in_float32() -> None:
    post, net = Postprocessor(KNN(k=5)), CIDERNet()
    post.setup(net.double(), {"train": [{"data": TRAIN.data.double(), "label": TRAIN.label}]}, {})
    pred, conf = post.postprocess(net, TEST.data.double())
    assert conf.dtype == torch.float32
    single = Postprocessor(KNN(k=5))
    single.setup(net.float(), ID, {})
    expected = single.postprocess(net, TEST.data)
    assert torch.equal(pred, expected[0])
    torch.testing.assert_close(conf, expected[1], **SLIGHTLY)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", SCORES, ids=lambda it: type(it()).__name__)
def test_on_a_gpu_images_follow_the_network_and_its_classifier_stays(make: Callable[[], Detector]) -> None:
    net, there = ResNet(), ResNet().cuda()
    post, over = Postprocessor(make()), Postprocessor(make())
    post.setup(net, ID, {})
    over.setup(there, ID, {})
    assert there.get_fc_layer().weight.is_cuda
    expected, found = (one.inference(at, DataLoader(TEST, batch_size=32)) for one, at in ((post, net), (over, there)))
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-2, atol=1e-3)
    assert from_openood(over, classifier=there.get_fc_layer()).score(features(net, TEST)).shape == (70,)


@pytest.mark.parametrize("shown", ["get_fc_layer", "fc", "get_fc"])
def test_the_classifier_is_found_by_any_of_its_three_names(shown: str) -> None:
    class Shows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = ResNet()

        def forward(self, x: Tensor, return_feature: bool = False) -> Any:
            return self.net(x, return_feature)

    net = Shows()
    if shown == "fc":
        net.fc = net.net.get_fc_layer()
    else:
        setattr(net, shown, getattr(net.net, shown))
    post, whole = Postprocessor(ViM(dim=4)), Postprocessor(ViM(dim=4))
    post.setup(net, ID, {})
    whole.setup(net.net, ID, {})
    torch.testing.assert_close(post.postprocess(net, TEST.data), whole.postprocess(net.net, TEST.data))


def test_a_pickled_one_scores_the_same_and_is_set_up() -> None:
    net = CIDERNet()
    post = Postprocessor(KNN(k=5))
    post.setup(net, ID, {})
    again = pickle.loads(pickle.dumps(post))
    again.setup(net, {}, {})
    for mine, other in zip(post.postprocess(net, TEST.data), again.postprocess(net, TEST.data), strict=True):
        assert torch.equal(mine, other)


def test_with_the_base_class_behind_it_every_method_is_still_ours() -> None:
    class Ours(Postprocessor, BasePostprocessor):
        pass

    ours = Ours(KNN(k=5))
    assert isinstance(ours, BasePostprocessor)
    ours.setup(ResNet(), ID, {})
    assert ours.setup_flag
    assert Ours.inference is Postprocessor.inference


def set_up(post: Any, net: Any) -> Any:
    post.setup(net, ID, {})
    return post


THEIRS = pytest.mark.parametrize(
    ("theirs", "net"),
    [
        (lambda net: TheirMSP(), ResNet()),
        (lambda net: set_up(TheirKNN(5), net), ResNet()),
        (lambda net: set_up(TheirReweightOOD(), net), CIDERNet()),
        (lambda net: set_up(Postprocessor(KNN(k=5)), net), ResNet()),  # there and back
    ],
    ids=["MSP", "KNN", "ReweightOOD", "ours"],
)


def as_detector(post: Any, net: nn.Module) -> Scorer:
    return from_openood(post, classifier=net.get_fc_layer() if isinstance(net, ResNet) else None)


@THEIRS
def test_their_post_processor_scores_features_as_it_scores_the_images(theirs: Any, net: Any) -> None:
    post = theirs(net)
    detector = as_detector(post, net)
    assert isinstance(detector, Detector)
    of_features = [detector.score(features(net, images)) for images in (TEST, UNKNOWN)]
    of_images = [
        -post.inference(net, DataLoader(images, batch_size=32), progress=False)[1].astype(float)
        for images in (TEST, UNKNOWN)
    ]
    for mine, other in zip(of_features, of_images, strict=True):
        assert mine.dtype == torch.float64
        np.testing.assert_allclose(mine.numpy(), other, rtol=1e-3, atol=1e-5)
    assert auroc(*of_features) == pytest.approx(auroc(*of_images), abs=1e-3)


def test_a_threshold_on_it_promises_as_on_any_other_score() -> None:
    net = ResNet()
    detector = as_detector(set_up(TheirKNN(5), net), net)
    held_out = detector.score(features(net, Images(200, 4)))
    limit = threshold(held_out, false_alarm_rate=0.1)
    alarms = detector.score(features(net, Images(300, 5))) > limit
    assert float(alarms.float().mean()) <= 0.1
    assert float((held_out > limit).float().mean()) > 0  # it is not simply beyond all


def test_no_more_rows_are_asked_at_once_than_a_batch_of_theirs_has() -> None:
    sizes = []

    class Counts(TheirMSP):
        def postprocess(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor]:
            sizes.append(len(data))
            return super().postprocess(net, data)

    net = ResNet()
    rows = torch.randn(450, 16)
    whole = MSP().score(net.get_fc_layer()(rows))
    torch.testing.assert_close(as_detector(Counts(), net).score(rows), whole, check_dtype=False)
    assert sizes == [200, 200, 50]


def test_features_in_float64_reach_them_as_a_network_s_would() -> None:
    class Asks(TheirMSP):
        def postprocess(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor]:
            assert data.dtype == torch.float32
            return super().postprocess(net, data)

    detector = as_detector(Asks(), ResNet())
    assert detector.score(np.ones((4, 16))).shape == detector.score(np.ones((4, 16), np.float16)).shape == (4,)


def test_it_comes_fitted_and_fit_only_checks() -> None:
    net = ResNet()
    detector = as_detector(set_up(TheirKNN(5), net), net)
    before = detector.score(features(net, TEST))
    assert detector.fit(features(net, UNKNOWN)) is detector
    assert torch.equal(detector.score(features(net, TEST)), before)
    assert detector.name == "Scorer(TheirKNN)"


def test_the_stand_in_answers_as_the_networks_do() -> None:
    net, rows = ResNet(), torch.randn(6, 16)
    stand_in = FeatureNet(net.get_fc_layer())
    logits = net.get_fc_layer()(rows)
    with_feature, feature = stand_in(rows, return_feature=True)
    with_list, layers = stand_in(rows, return_feature_list=True)
    for found in (stand_in(rows), with_feature, with_list, stand_in.fc(rows), stand_in.get_fc_layer()(rows)):
        assert torch.equal(found, logits)
    assert torch.equal(feature, rows)
    assert torch.equal(layers[-1], rows.view(6, 16, 1, 1))
    np.testing.assert_allclose(
        rows.numpy() @ stand_in.get_fc()[0].T + stand_in.get_fc()[1], logits.detach(), **SLIGHTLY
    )
    torch.testing.assert_close(stand_in.intermediate_forward(rows), rows / rows.norm(dim=1, keepdim=True))
    assert not hasattr(FeatureNet(None), "fc")


class Asks(TheirMSP):
    """A post-processor that asks its network for something."""

    def __init__(self, what: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.what = what

    def postprocess(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor]:
        conf = self.what(net, data)
        return conf, conf


FC = nn.Linear(16, CLASSES)
ROW = torch.ones(1, 16)
NO_FC = "Asks: asks its network for fc. Pass classifier=net.get_fc_layer()."
MORE = [
    (None, lambda net, data: net(data), NO_FC),
    (None, lambda net, data: net(data, return_feature=True)[1][:, 0], NO_FC),
    (None, lambda net, data: data @ net.get_fc()[0], NO_FC),
    (None, lambda net, data: net.get_fc_layer()(data), NO_FC),
    (
        FC,
        lambda net, data: net.forward_threshold(data, 1.0),
        "Asks: asks its network for forward_threshold. Features alone cannot answer that.",
    ),
    (
        FC,
        lambda net, data: net(data, return_feature_list=True)[1][0],
        "from_openood: asks for inner layers. Features alone cannot answer that.",
    ),
    (
        FC,
        lambda net, data: sum(net(data, return_feature_list=True)[1]),
        "from_openood: asks for inner layers. Features alone cannot answer that.",
    ),
]


@pytest.mark.parametrize(("classifier", "what", "message"), MORE, ids=range(len(MORE)))
def test_what_features_cannot_tell_is_an_error_by_its_name(
    classifier: nn.Linear | None, what: Callable[[Any, Tensor], Tensor], message: str
) -> None:
    detector = from_openood(Asks(what), classifier=classifier)
    for ask in (detector.score, detector.fit):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            ask(ROW)


def test_an_error_of_its_own_comes_through() -> None:
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'nothing'"):
        from_openood(Asks(lambda net, data: data.nothing)).score(ROW)
    with pytest.raises(RuntimeError, match="does not require grad"):  # ODIN's would be another score on features
        from_openood(Asks(lambda net, data: net(data).sum().backward()), classifier=FC).score(ROW)


def test_what_is_no_fitted_post_processor_is_refused() -> None:
    cases: list[tuple[type[SpheroodError], Callable[[], Any], str]] = [
        (
            NotFittedError,
            lambda: from_openood(TheirKNN(5)),
            "from_openood: TheirKNN is not set up. Call setup(net, id_loader_dict, ood_loader_dict) first.",
        ),
        (
            ConfigError,
            lambda: from_openood(KNN()),
            "from_openood: KNN has no postprocess(net, data). Pass one of OpenOOD's post-processors.",
        ),
        (
            ConfigError,
            lambda: from_openood(TheirMSP(), classifier=ResNet()),  # type: ignore[arg-type]
            "from_openood: classifier must be a torch.nn.Linear, got ResNet. Pass net.get_fc_layer().",
        ),
        (
            ShapeError,
            lambda: from_openood(TheirMSP(), classifier=FC).score(torch.ones(2, 15)),
            "Scorer(TheirMSP).score: features have 15 columns, the fitted ones had 16. "
            "Was it fitted on another encoder?",
        ),
        (
            ShapeError,
            lambda: from_openood(Asks(lambda net, data: data)).score(torch.ones(2, 16)),
            "Scorer(Asks).score: score_samples gave (2, 16) for 2 rows, expected (2,). "
            "A classifier gives one column a class: pass those to a score of logits, such as MSP.",
        ),
    ]
    for kind, ask, message in cases:
        with pytest.raises(kind, match=f"^{re.escape(message)}$"):
            ask()


def test_a_bundle_of_it_is_refused_under_the_name_of_the_post_processor(tmp_path: Path) -> None:
    detector = from_openood(TheirMSP(), classifier=FC)
    x = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    bundle = Bundle.fit(x, score=detector, held_out=x)
    with pytest.raises(BundleError, match=r"^TheirMSP: its state is no tensors"):
        bundle.save(tmp_path / "bundle")


def loaders(*batches: Any) -> dict[str, Any]:
    return {"train": batches}


IMAGES, LABEL = TRAIN.data[:6], TRAIN.label[:6]
FINE = {"data": IMAGES, "label": LABEL}
UNFIT: list[tuple[Detector, Any, dict[str, Any], type[SpheroodError], str]] = [
    (
        KNN(),
        ResNet(),
        {"val": [], "test": []},
        ConfigError,
        "Postprocessor(KNN).setup: no loader 'train', only: val, test.",
    ),
    (KNN(), ResNet(), {}, ConfigError, "Postprocessor(KNN).setup: no loader 'train', only: none."),
    (
        KNN(),
        ResNet(),
        loaders((IMAGES, LABEL)),
        DataError,
        "Postprocessor(KNN).setup: expected batches {'data': images, 'label': classes}, got a tuple. "
        "Pass one of OpenOOD's loaders.",
    ),
    (
        KNN(),
        ResNet(),
        loaders({"data": IMAGES, "target": LABEL}),
        DataError,
        "Postprocessor(KNN).setup: expected batches {'data': images, 'label': classes}, got a dict of data, target. "
        "Pass one of OpenOOD's loaders.",
    ),
    (
        KNN(),
        build_model(ModelSettings(encoder="resnet8", width=4), 2),
        loaders(FINE),
        ConfigError,
        "Postprocessor(KNN): Model gives no features: its forward takes no return_feature, and it has no "
        "intermediate_forward. Pass one of OpenOOD's networks; of a wrapped one, net.module.",
    ),
    (
        MSP(),
        CIDERNet(),
        loaders(FINE),
        ConfigError,
        "Postprocessor(MSP): reads logits, which CIDERNet does not give. Use a score of features, such as KNN.",
    ),
    (
        ViM(),
        CIDERNet(),
        loaders(FINE),
        FitError,
        "ViM.fit: needs the model's classifier. Call fit(feature, label, classifier=model.classifier).",
    ),
    (
        KNN(),
        ResNet(),
        loaders(),
        FitError,
        "KNN.fit: no data: the array or the iterable is empty. A used-up generator gives nothing.",
    ),
    (
        KNN(k=2),
        ResNet(),
        loaders({"data": IMAGES, "label": LABEL - 1}),
        ShapeError,
        "KNN.fit: labels begin at -1, expected 0 or more. Drop unknown labels first.",
    ),
    (
        KNN(k=2),
        CIDERNet(),
        loaders({"data": IMAGES, "label": 2 * LABEL}),
        FitError,
        "KNN.fit: class 1 has no sample. Labels must run 0..C-1 without gaps.",
    ),
]


@pytest.mark.parametrize(("detector", "net", "given", "kind", "message"), UNFIT, ids=range(len(UNFIT)))
def test_a_setup_that_cannot_be_done_says_why(
    detector: Detector, net: nn.Module, given: dict[str, Any], kind: type[SpheroodError], message: str
) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        Postprocessor(detector).setup(net, given, {})


def test_scoring_before_setup_and_an_empty_loader_are_told() -> None:
    net, post = ResNet(), Postprocessor(MSP())
    message = (
        "Postprocessor(MSP): not set up. Call setup(net, id_loader_dict, ood_loader_dict) first; an Evaluator does."
    )
    for ask in (lambda: post.postprocess(net, IMAGES), lambda: post.inference(net, [FINE])):
        with pytest.raises(NotFittedError, match=f"^{re.escape(message)}$"):
            ask()
    post.setup(net, ID, {})
    with pytest.raises(DataError, match=r"^Postprocessor\(MSP\)\.inference: the loader gave no batch\.$"):
        post.inference(net, [])


def test_progress_is_shown_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spherood.progress.QUIET_SECONDS", 0.0)
    net, post = ResNet(), Postprocessor(MSP())
    post.setup(net, ID, {})
    capsys.readouterr()
    post.inference(net, [FINE, FINE], progress=False)
    assert capsys.readouterr() == ("", "")
    post.inference(net, [FINE, FINE])
    out, err = capsys.readouterr()
    assert out == ""
    assert re.findall(r"^Postprocessor\(MSP\)\.inference: (\d)/2 batches", err, re.M) == ["1", "2"]


def test_the_python_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Evaluator:
        """What theirs does with a post-processor."""

        def __init__(self, net: Any, id_name: str, *, postprocessor: Any) -> None:
            if not isinstance(postprocessor, BasePostprocessor):
                raise TypeError("postprocessor should inherit BasePostprocessor in OpenOOD")
            postprocessor.setup(net, ID, {})
            self.net, self.postprocessor, self.id_name = net, postprocessor, id_name

        def eval_ood(self) -> float:
            conf = [self.postprocessor.inference(self.net, [vars(it)])[1] for it in (TEST, UNKNOWN)]
            return auroc(*(-one for one in conf))

    for name, offers in (("postprocessors", BasePostprocessor), ("evaluation_api", Evaluator)):
        module = ModuleType(f"openood.{name}")
        setattr(module, offers.__name__, offers)
        monkeypatch.setitem(sys.modules, f"openood.{name}", module)
    monkeypatch.setitem(sys.modules, "openood", ModuleType("openood"))
    net = ResNet()
    space: dict[str, Any] = {"net": net, "knn": set_up(TheirKNN(5), net)}
    space |= {"held_out": features(net, Images(100, 6)), "new": features(net, UNKNOWN)}
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(first, "docs/from-openood.md", "exec"), space)
    assert space["table"] > 0.5
    exec(compile(second, "docs/from-openood.md", "exec"), space)
    assert space["is_ood"].shape == (50,)
