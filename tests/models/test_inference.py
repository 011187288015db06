from __future__ import annotations

import pytest
import torch

from spherood.data import Preprocess
from spherood.errors import ConfigError
from spherood.models import Model, ModelSettings, build_model, choose_device, infer
from spherood.outputs import Outputs

PREPROCESS = Preprocess(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
PIXELS = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SETTINGS = ModelSettings(encoder="resnet8", width=4, head="linear", dim=6, classifier=True)


def test_it_normalises_the_pixels_and_reads_the_model_in_evaluation_mode() -> None:
    model = build_model(SETTINGS, classes=3)
    model(torch.randn(4, 3, 8, 8))  # running means unlike those of the batch
    model.train()
    found = infer(model, PIXELS, PREPROCESS)
    x = PIXELS.permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(PREPROCESS.mean).view(3, 1, 1)) / torch.tensor(PREPROCESS.std).view(3, 1, 1)
    expected = model.eval()(x)
    for ours, plain in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours, plain.detach(), rtol=1e-4, atol=1e-5)


def test_it_changes_no_weight_and_no_running_mean() -> None:
    model = build_model(SETTINGS, classes=3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    infer(model, PIXELS, PREPROCESS)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_half_precision_comes_home_in_float32_and_without_gradient() -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build_model(SETTINGS, classes=3)

        def forward(self, x: torch.Tensor) -> object:
            return type(found)(*(None if y is None else y.bfloat16() for y in self.inner(x)))

    found = infer(build_model(SETTINGS, classes=3), PIXELS, PREPROCESS)
    for outputs in (found, infer(Half(), PIXELS, PREPROCESS)):
        for x in outputs[:3]:
            assert x is not None
            assert (x.dtype, x.device.type, x.requires_grad) == (torch.float32, "cpu", False)


def test_what_the_model_lacks_stays_none() -> None:
    found = infer(build_model(ModelSettings(encoder="resnet8", width=4), classes=3), PIXELS[:1], PREPROCESS)
    assert found.feature.shape == (1, 16)
    assert (found.embedding, found.logits) == (None, None)


def test_layers_come_where_they_are_asked_for() -> None:
    model = build_model(SETTINGS, classes=3)
    plain, layered = infer(model, PIXELS, PREPROCESS), infer(model, PIXELS, PREPROCESS, layers=True)
    assert plain.layers is None
    assert layered.layers is not None
    assert torch.equal(layered.layers[-1], plain.feature)
    assert [layer.shape for layer in layered.layers] == [(5, 4), (5, 8), (5, 16)]


def test_the_longer_way_is_gone_only_for_who_asks() -> None:
    class Costly(Model):
        def layered(self, images: torch.Tensor) -> Outputs:
            raise NotImplementedError

    model = Costly(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), None, None)
    assert infer(model, PIXELS, PREPROCESS).feature.shape == (5, 2)
    with pytest.raises(NotImplementedError):
        infer(model, PIXELS, PREPROCESS, layers=True)


def test_layers_that_a_network_gives_of_itself_come_home_too_and_only_when_asked() -> None:
    class Own(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Outputs:
            return Outputs(x.mean(dim=(2, 3)), layers=(x.amax(dim=(2, 3)).bfloat16(), x.mean(dim=(2, 3))))

    found = infer(Own(), PIXELS, PREPROCESS, layers=True).layers
    assert found is not None
    assert [(layer.shape, layer.dtype) for layer in found] == [((5, 3), torch.float32)] * 2
    assert infer(Own(), PIXELS, PREPROCESS).layers is None


def test_a_network_without_layers_has_none_whoever_asks() -> None:
    class Bare(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Outputs:
            return Outputs(x.mean(dim=(2, 3)))

    assert infer(Bare(), PIXELS, PREPROCESS, layers=True).layers is None


def test_a_device_is_chosen_by_name_or_by_what_is_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == best


@pytest.mark.parametrize("name", ["cuda:99", "quantum"])
def test_a_device_that_this_machine_lacks_is_told_with_a_way_out(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^device {name}: not usable here \(.+\)\. Choose auto or cpu\.$"):
        choose_device(name)
