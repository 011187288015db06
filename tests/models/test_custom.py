"""Networks of one's own, by import path, and of timm.

timm imports torchvision, which fits one release of torch only, so a small stand-in named timm takes its place here: it
has the six names that are called, as timm 1.0 documents them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spherood.data import Preprocess
from spherood.errors import ConfigError, MissingExtraError
from spherood.models import ModelSettings, build_model
from spherood.models.custom import from_function, from_timm, source_of

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Written = Callable[..., str]
CODE = """
import torch
from torch import nn
from spherood.data import Preprocess
from spherood.outputs import Outputs

class Colour(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.9)

    def forward(self, images):
        feature = self.drop(images).mean(dim=(2, 3))
        return {returned}

def encoder():
    return {pair}
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """``written("feature")``: a module `theirs_N` of a user whose network returns that; its function's name."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def write(returned: str = "feature", pair: str = "Colour(), Preprocess(size=8, mean=(0.1, 0.2, 0.3))") -> str:
        made.append(f"theirs_{len(made)}")
        (tmp_path / f"{made[-1]}.py").write_text(CODE.format(returned=returned, pair=pair))
        return f"{made[-1]}:encoder"

    yield write  # type: ignore[misc]
    for name in made:
        sys.modules.pop(name, None)


def test_features_are_taken_as_they_are(written: Written) -> None:
    network, preprocess = from_function(written())
    feature, embedding, logits, _ = network(IMAGES)
    assert torch.equal(feature, IMAGES.mean(dim=(2, 3)))  # nothing drops out: it is in evaluation mode
    assert (embedding, logits) == (None, None)
    assert preprocess == Preprocess(size=8, mean=(0.1, 0.2, 0.3))


def test_outputs_are_taken_as_they_are(written: Written) -> None:
    network, _ = from_function(written("Outputs(feature, embedding=2 * feature, logits=3 * feature)"))
    feature, embedding, logits, _ = network(IMAGES)
    assert torch.equal(embedding, 2 * feature)
    assert torch.equal(logits, 3 * feature)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ("images", r"\(2, 3, 8, 8\)"),
        ("feature[0]", r"\(3,\)"),
        ("feature[:1]", r"\(1, 3\)"),
        ("(feature, feature)", "tuple"),
        ("{'feature': feature}", "dict"),
        ("None", "NoneType"),
    ],
)
def test_any_other_output_is_refused_with_what_is_expected(written: Written, returned: str, got: str) -> None:
    network, _ = from_function(written(returned))
    with pytest.raises(ConfigError, match=rf"the network gave {got}, expected spherood\.Outputs or features \(2, F\)"):
        network(IMAGES)


@pytest.mark.parametrize(
    ("pair", "got"),
    [
        ("Colour()", "Colour"),
        ("None", "NoneType"),
        ("Colour(), 32", "tuple"),
        ("Preprocess(), Colour()", "tuple"),
        ("Colour(), Preprocess(), 1", "tuple"),
        ("Colour, Preprocess()", "tuple"),
    ],
)
def test_what_is_not_a_network_with_its_preprocess_is_refused(written: Written, pair: str, got: str) -> None:
    name = written(pair=pair)
    with pytest.raises(ConfigError, match=rf"^{name}: gave {got}, expected a pair \(torch\.nn\.Module, .*Preprocess\)"):
        from_function(name)


@pytest.mark.parametrize("name", ["nowhere.at_all:encoder", "theirs_0:encode", "theirs_0", ":encoder"])
def test_what_cannot_be_imported_says_how_to_write_it(written: Written, name: str) -> None:
    written()
    with pytest.raises(
        ConfigError, match=rf"^{name}: cannot be imported: .+\. Write it as package\.module:function\.$"
    ):
        from_function(name)


class Tiny(nn.Module):
    """A timm classifier in what is called of it."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.last = last

    def forward_features(self, images: Tensor) -> Tensor:
        return images.flatten(2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean(dim=2)
        logits: Tensor = pooled if pre_logits else self.last(pooled)
        return logits

    def get_classifier(self) -> nn.Module:
        return self.last


CONFIG = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "crop_pct": 0.95,
    "crop_mode": "center",
}


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """timm with one network, `tiny_patch16_224`; `config` is what it says of its images, `last` its last layer."""
    found: Any = ModuleType("timm")
    found.config, found.last = dict(CONFIG), nn.Linear(3, 5)
    found.list_models = lambda: ["tiny_patch16_224", "resnet50"]
    found.is_model = lambda name: name in found.list_models()
    found.create_model = lambda name, pretrained: Tiny(found.last) if pretrained else None
    found.data = ModuleType("timm.data")
    found.data.resolve_model_data_config = lambda model: found.config
    monkeypatch.setitem(sys.modules, "timm", found)
    return found  # type: ignore[no-any-return]


def test_a_timm_network_gives_pooled_features_and_the_logits_of_its_own_head(timm: Any) -> None:
    network, _ = from_timm("tiny_patch16_224")
    feature, embedding, logits, _ = network(IMAGES)
    assert torch.equal(feature, IMAGES.flatten(2).mean(dim=2))
    assert embedding is None
    assert torch.equal(logits, Tiny(timm.last).forward_head(IMAGES.flatten(2)))
    assert network.get_submodule("classifier").out_features == 5
    assert not any(module.training for module in network.modules())


def test_a_timm_network_whose_last_layer_is_not_linear_gives_no_logits(timm: Any) -> None:
    timm.last = nn.Identity()
    network, _ = from_timm("tiny_patch16_224")
    assert network(IMAGES).logits is None


def test_timms_images_are_made_as_its_settings_say(timm: Any) -> None:
    expected = Preprocess(size=224, short_side=235, kernel="bicubic", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert from_timm("tiny_patch16_224")[1] == expected  # 224 / 0.95 = 235.8, and timm rounds down
    timm.config |= {"crop_pct": 0.875, "interpolation": "bilinear"}
    assert from_timm("tiny_patch16_224")[1] == expected.model_copy(update={"short_side": 256, "kernel": "bilinear"})
    timm.config |= {"crop_pct": 1.0}
    assert from_timm("tiny_patch16_224")[1].short_side == 224


def test_another_interpolation_is_refused(timm: Any) -> None:
    timm.config["interpolation"] = "lanczos"
    with pytest.raises(ConfigError, match="timm's tiny_patch16_224 wants lanczos interpolation; bilinear and bicubic"):
        from_timm("tiny_patch16_224")


def test_a_misspelt_timm_network_is_refused_with_the_nearest(timm: ModuleType) -> None:
    with pytest.raises(ConfigError, match=r"^timm has no network 'resnet5'\. Did you mean 'resnet50'\?$"):
        from_timm("resnet5")


def test_without_timm_its_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"^resnet50: timm cannot be imported \(.+\)\. .*: pip install timm$"):
        from_timm("resnet50")


def test_a_torchvision_for_another_torch_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingExtraError,
        match=r"\(operator torchvision::nms does not exist\)\. It needs torch and torchvision of one release",
    ):
        from_timm("resnet50")


def test_the_source_follows_the_code_of_a_foreign_class_and_nothing_else(written: Written) -> None:
    first, same, other = (source_of(from_function(written(code))[0]) for code in ("feature", "feature", "2 * feature"))
    assert "return feature" in first
    assert first == same
    assert "return 2 * feature" in other
    pair = "Colour(), Preprocess(size=9)"  # how images are made is no part of the network
    assert source_of(from_function(written(pair=pair))[0]) == first


def test_the_source_holds_what_a_foreign_class_inherits(written: Written) -> None:
    child = "type('Child', (Colour,), {})(), Preprocess()"
    first, other = (source_of(from_function(written(code, child))[0]) for code in ("feature", "2 * feature"))
    assert "Child" in first
    assert "return 2 * feature" in other
    assert first != other


def test_torchs_and_our_own_classes_have_no_foreign_source() -> None:
    assert source_of(build_model(ModelSettings(encoder="resnet8", width=2, head="mlp"), 2)) == ""
    assert source_of(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sequential(nn.ReLU()))) == ""


def test_a_class_typed_at_a_prompt_is_told_by_its_name() -> None:
    space: dict[str, Any] = {"__name__": "__prompt__", "nn": nn}
    exec("class Typed(nn.Module): pass", space)
    with pytest.raises((OSError, TypeError)):
        inspect.getsource(space["Typed"])
    assert source_of(space["Typed"]()) == "Typed"
