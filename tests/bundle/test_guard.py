from __future__ import annotations

import gc
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherood import Guard
from spherood.bundle import Bundle, Promise, Score
from spherood.bundle.guard import features_of
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.detectors import KNN, MSP, Detector, Layers
from spherood.errors import CalibrationError, ConfigError, ShapeError
from spherood.outputs import Outputs

RATE = 0.1


class Network(nn.Module):
    """Convolution, mean over the pixels, a layer to 6 values, a classifier of 3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.neck = nn.Linear(8, 6)
        self.rectify = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(6, 3)

    def forward(self, images: Tensor, shift: float = 0.0, *, scale: float = 1.0) -> Tensor:
        pooled = self.avgpool(self.conv(images)).flatten(1)
        return self.classifier(self.rectify(self.neck(pooled))) * scale + shift  # type: ignore[no-any-return]

    @torch.no_grad()
    def feature(self, images: Tensor) -> Tensor:
        """(B, 6), what the classifier takes."""
        return F.relu(self.neck(self.pooled(images)))

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """(B, 8)."""
        return self.avgpool(self.conv(images))[:, :, 0, 0]  # type: ignore[no-any-return]


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def fitted(feature: Tensor) -> Bundle:
    return Bundle.fit(feature, score="knn:k=2", false_alarm_rate=RATE)


@pytest.fixture
def model() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().eval()


@pytest.fixture
def bundle(model: Network) -> Bundle:
    return fitted(model.feature(images(200)))


def reading(detector: Detector, score: str) -> Bundle:
    """A bundle without class means, of held-out scores -1 to -0.34."""
    return Bundle(
        runtime=TorchRuntime(detector),
        classes=(),
        score=Score.model_validate({"use": score, "with": {}}),
        class_mean=None,
        held_out_score=np.linspace(-1, -0.34, 70),
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=70),
    )


def test_the_output_is_that_of_the_bare_model_and_the_verdicts_are_those_of_its_features(
    model: Network, bundle: Bundle
) -> None:
    batch = images(5, 1)
    output, verdicts = Guard(model, bundle)(batch)
    assert torch.equal(output, model(batch))
    assert verdicts == bundle.predict(model.feature(batch))
    assert len({verdict.score for verdict in verdicts}) == 5


def test_features_of_a_model_make_a_bundle_that_guards_it(model: Network) -> None:
    known = features_of(model, images(200).split(64))
    pooled = F.conv2d(images(200), model.conv.weight, model.conv.bias).mean(dim=(2, 3))
    torch.testing.assert_close(known, (pooled @ model.neck.weight.T + model.neck.bias).clamp(min=0).detach())
    bundle = fitted(known)
    batch = torch.cat([images(2, 1), 9 + images(2, 1)])
    _, verdicts = Guard(model, bundle)(batch)
    assert [verdict.is_ood for verdict in verdicts] == [False, False, True, True]
    assert verdicts == bundle.predict(features_of(model, [batch]))


def test_what_the_model_gives_back_is_handed_on_as_the_very_object(model: Network, bundle: Bundle) -> None:
    class Wrapped(nn.Module):
        def forward(self, batch: Tensor) -> dict[str, Tensor]:
            self.last = {"logits": model(batch)}
            return self.last

    wrapped = Wrapped()
    wrapped.inner = model
    assert Guard(wrapped, bundle)(images(2))[0] is wrapped.last


def test_training_through_the_guard_gives_the_gradients_of_the_bare_model(model: Network, bundle: Bundle) -> None:
    batch, label = images(5, 1), torch.tensor([0, 1, 2, 0, 1])
    model.train()
    F.cross_entropy(model(batch), label).backward()
    expected = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    output, verdicts = Guard(model, bundle)(batch)
    F.cross_entropy(output, label).backward()
    assert len(verdicts) == 5
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        assert gradient is not None
        assert weight.grad is not None
        assert torch.equal(weight.grad, gradient)
        assert bool(gradient.any())


def test_the_default_is_the_last_linear_layer_that_takes_the_width_of_the_bundle(model: Network) -> None:
    batch = images(5, 1)
    eight_wide = fitted(model.pooled(images(200)))  # what `neck` takes; the last linear layer takes 6
    assert Guard(model, eight_wide)(batch)[1] == eight_wide.predict(model.pooled(batch))


def test_a_layer_by_name_gives_its_output_with_maps_of_one_pixel_flattened(model: Network) -> None:
    batch = images(5, 1)
    known = features_of(model, [images(200)], layer="avgpool")  # (200, 8, 1, 1)
    assert torch.equal(known, model.pooled(images(200)))
    bundle = fitted(known)
    assert Guard(model, bundle, layer="avgpool")(batch)[1] == bundle.predict(
        model.avgpool(model.conv(batch))[:, :, 0, 0]
    )


def test_a_layer_that_works_in_place_afterwards_does_not_change_what_was_taken(model: Network) -> None:
    before_relu = features_of(model, [images(9)], layer="neck")
    torch.testing.assert_close(before_relu, model.neck(model.pooled(images(9))).detach())
    assert bool((before_relu < 0).any())


def test_a_misspelt_layer_offers_the_nearest(model: Network, bundle: Bundle) -> None:
    with pytest.raises(ConfigError) as caught:
        Guard(model, bundle, layer="avgpol")
    assert str(caught.value) == "Guard: the model has no layer 'avgpol'. Did you mean 'avgpool'?"
    with pytest.raises(ConfigError, match=r"features_of: the model has no layer 'nek'\. Did you mean 'neck'\?"):
        features_of(model, [images(1)], layer="nek")


def test_a_bundle_of_another_width_is_told(model: Network) -> None:
    five_wide = fitted(torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ConfigError) as caught:
        Guard(model, five_wide)
    assert str(caught.value) == (
        "Guard: the model has no linear layer that takes 5 values, the width that the bundle reads. Name the layer "
        "whose output is the feature: layer='avgpool'."
    )
    with pytest.raises(ShapeError) as late:
        Guard(model, five_wide, layer="conv")(images(2))
    assert str(late.value) == (
        "Guard: layer 'conv' gives (2, 8, 4, 4), that is 128 values for each image, and the bundle reads 5. Was it "
        "fitted on this layer? Name another: layer=..."
    )


def test_a_model_without_a_linear_layer_needs_the_name_of_one() -> None:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(ConfigError) as caught:
        features_of(pool, [images(2)])
    assert str(caught.value) == (
        "features_of: the model has no linear layer. Name the layer whose output is the feature: layer='avgpool'."
    )
    torch.testing.assert_close(features_of(pool, [images(2)], layer="1"), images(2).mean(dim=(2, 3)))


class Repeating(nn.Module):
    """One linear layer, run so often."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.layer = times, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x)
        return x


@pytest.mark.parametrize("times", [0, 2])
def test_a_layer_that_does_not_run_just_once_is_told(times: int) -> None:
    bundle = fitted(torch.randn(200, 4, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ShapeError) as caught:
        Guard(Repeating(times), bundle)(torch.zeros(1, 4))
    assert str(caught.value) == (
        f"Guard: layer 'layer' ran {times} times in one pass, expected once. Name another: layer=..."
    )


@pytest.mark.parametrize(
    ("given", "got"), [((torch.zeros(2, 6),), "tuple"), (torch.zeros(2), r"\(2,\)")], ids=["tuple", "one axis"]
)
def test_a_layer_that_gives_no_rows_of_values_is_told(given: Any, got: str, bundle: Bundle) -> None:
    class Giving(nn.Module):
        def forward(self, batch: Tensor) -> Any:
            return given

    expected = (
        rf"Guard: layer '0' gives {got}, expected a tensor \(B, F\) or \(B, F, 1, 1\)\. Name another: layer=\.\.\."
    )
    with pytest.raises(ShapeError, match=expected):
        Guard(nn.Sequential(Giving()), bundle, layer="0")(images(2))


def test_a_bundle_of_logits_reads_the_models_own(model: Network) -> None:
    batch, bundle = images(5, 1), reading(MSP(), "msp")
    output, verdicts = Guard(model, bundle)(batch)
    expected = -output.double().softmax(dim=1).amax(dim=1)
    assert [verdict.score for verdict in verdicts] == expected.tolist()

    class Named(nn.Module):
        def forward(self, batch: Tensor) -> Any:
            return type("Output", (), {"logits": model(batch)})

    assert Guard(Named(), bundle)(batch)[1] == verdicts
    assert torch.equal(Guard(model, bundle)(batch, 3.0, scale=2.0)[0], output * 2 + 3)
    assert Guard(model, bundle, layer="neck")(batch)[1] == bundle.predict(model.neck(model.pooled(batch)).detach())


def test_logits_that_cannot_be_found_and_embeddings_need_the_name_of_their_layer(model: Network) -> None:
    with pytest.raises(ShapeError) as caught:
        Guard(model.avgpool, reading(MSP(), "msp"))(images(2))
    assert str(caught.value) == (
        "Guard: the bundle reads logits, and the model's output is no matrix (B, C). Say which layer gives them: "
        "Guard(model, bundle, layer=...)."
    )

    class OfEmbeddings(KNN):
        reads = "embedding"

    batch, bundle = images(5, 1), reading(OfEmbeddings(k=1).fit(torch.eye(6)), "knn")
    with pytest.raises(ConfigError) as early:
        Guard(model, bundle)
    assert str(early.value) == (
        "Guard: the bundle reads embeddings. Say which layer gives them: Guard(model, bundle, layer=...)."
    )
    found = Guard(model, bundle, layer="rectify")(batch)[1]
    assert [verdict.score for verdict in found] == KNN(k=1).fit(torch.eye(6)).score(model.feature(batch)).tolist()


def test_further_arguments_go_to_the_model_and_the_rate_to_the_bundle(model: Network, bundle: Bundle) -> None:
    batch = images(5, 1)
    output, verdicts = Guard(model, bundle)(batch, 3.0, scale=2.0, false_alarm_rate=0.2)
    assert torch.equal(output, model(batch) * 2 + 3)
    assert verdicts == bundle.predict(model.feature(batch), 0.2)
    assert verdicts[0].threshold == bundle.threshold(0.2) < bundle.threshold()
    with pytest.raises(CalibrationError, match=r"a false-alarm rate of 0\.001 needs at least 2995"):
        Guard(model, bundle)(batch, false_alarm_rate=0.001)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_precision_keeps_it_and_its_features_are_judged_in_float32(
    model: Network, dtype: torch.dtype
) -> None:
    model.to(dtype)
    known = features_of(model, [images(200).to(dtype)])
    assert known.dtype == torch.float32
    bundle, batch = fitted(known), images(5, 1).to(dtype)
    output, verdicts = Guard(model, bundle)(batch)
    assert output.dtype == dtype
    assert torch.equal(output, model(batch))
    assert verdicts == bundle.predict(model.feature(batch).float())


def test_a_bundle_fitted_in_float32_guards_the_same_model_in_bfloat16(model: Network, bundle: Bundle) -> None:
    batch = images(5, 1)
    full = Guard(model, bundle)(batch)[1]
    rounded = Guard(model.bfloat16(), bundle)(batch.bfloat16())[1]
    assert [one.score for one in rounded] == pytest.approx([one.score for one in full], rel=0.3, abs=0.01)


def test_closing_takes_the_hook_off(model: Network, bundle: Bundle) -> None:
    def hooks() -> int:
        return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())

    for layer in (None, "rectify"):
        with Guard(model, bundle, layer=layer) as guard:
            assert hooks() == 1
            assert len(guard(images(2))[1]) == 2
        assert hooks() == 0
    guard.close()
    with Guard(model, reading(MSP(), "msp")):  # reads the output, needs none
        assert hooks() == 0
    features_of(model, [images(2)])
    assert hooks() == 0
    with pytest.raises(RuntimeError, match="size"):
        features_of(model, [torch.zeros(2, 7, 6, 6)])
    assert hooks() == 0


def test_the_bare_model_and_a_pass_that_broke_leave_nothing_behind(model: Network, bundle: Bundle) -> None:
    guard, batch = Guard(model, bundle), images(5, 1)
    model(batch)
    with pytest.raises(TypeError):
        guard(batch, scale="large")
    model(batch)
    assert guard(batch)[1] == bundle.predict(model.feature(batch))


def test_nothing_is_kept_of_what_the_model_does_between_two_passes_of_the_guard(model: Network, bundle: Bundle) -> None:
    def kept() -> int:
        return sum(type(thing) is Tensor and thing.shape == (5, 6) for thing in gc.get_objects())

    guard, batch = Guard(model, bundle), images(5, 1)
    guard(batch)
    before = kept()
    for _ in range(3):
        model(batch)
    assert kept() == before


def test_two_threads_with_one_guard_each_get_the_verdicts_of_their_own_images(model: Network, bundle: Bundle) -> None:
    both = threading.Barrier(2, timeout=20)

    def meet(*_: Any) -> None:
        both.wait()

    model.rectify.register_forward_hook(meet)  # both have begun before either is read
    guard = Guard(model, bundle, layer="rectify")
    batches = {seed: images(3, seed) for seed in (1, 2)}
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: guard(batches[seed])[1]})) for seed in batches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {seed: bundle.predict(model.feature(batch)) for seed, batch in batches.items()}


def test_features_are_taken_without_a_graph(model: Network) -> None:
    graph: list[bool] = []
    model.conv.register_forward_hook(lambda _, inputs, output: graph.append(output.requires_grad))
    features_of(model, [images(2)])
    assert graph == [False]


def test_of_the_pairs_of_a_loader_the_images_are_read(model: Network) -> None:
    label = torch.zeros(4)
    pairs = [(images(4), label), [images(4, 1), label]]
    assert torch.equal(features_of(model, pairs), features_of(model, [images(4), images(4, 1)]))


def test_features_of_refuses_a_model_that_trains_and_a_stream_that_is_empty(model: Network) -> None:
    with pytest.raises(ConfigError) as caught:
        features_of(model, iter([]))
    assert str(caught.value) == "features_of: no batch. A used-up generator gives nothing."
    with pytest.raises(ConfigError) as training:
        features_of(model.train(), [images(2)])
    assert str(training.value) == (
        "features_of: the model is in training mode, where drop-out and the statistics of the batch enter the feature. "
        "Call model.eval() first."
    )


def test_a_bundle_that_reads_several_layers_cannot_guard(model: Network) -> None:
    rows = model.feature(images(300))
    judge = Layers(score="knn:k=2").fit(Outputs(rows, layers=(rows[:, :2], rows)))
    bundle = replace(fitted(rows), runtime=TorchRuntime(judge))
    with pytest.raises(ConfigError, match=r"^Guard: the bundle reads several layers, and a guard takes one\."):
        Guard(model, bundle)
