"""Every kind of network that images may go through, and the way back out of a bundle."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from spherood.bundle import Bundle, read_manifest
from spherood.bundle.encoder import Encoder, brought_back, find_encoder, origin_of
from spherood.bundle.fit import Parts, fit
from spherood.bundle.origin import FunctionOrigin, OnnxOrigin, Origin, ResNetOrigin, TimmOrigin
from spherood.bundle.rows import Rows
from spherood.data import Preprocess
from spherood.errors import BundleError, CheckpointError, ConfigError
from spherood.models import Model, ModelSettings, build_model, infer
from spherood.schema import Strict, parse
from spherood.training.checkpoint import LAST, Checkpoint
from spherood.training.recipe import Recipe

Pixels = NDArray[np.uint8]
SMALL = Preprocess(size=8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
SETTINGS = ModelSettings(encoder="resnet8", width=2, head="linear", dim=4)
GONE = Path("runs/gone")


def pictures(count: int, seed: int, side: int = 8) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


NEW = [*pictures(4, 5, side=10), np.full((9, 9, 3), 255, np.uint8)]


def bundled(encoder: Encoder) -> Bundle:
    """k-NN on 20 pictures of noise; 59 calibrate."""

    def rows(count: int, seed: int) -> Rows:
        pixels = torch.from_numpy(pictures(count, seed, encoder.preprocess.size))
        return Rows("noise", infer(encoder.model, pixels, encoder.preprocess))

    return Bundle.of(fit(Parts(rows(20, 0), None, rows(59, 1)), ["knn:k=2"]), encoder)


def comes_back(encoder: Encoder, folder: Path, **kwargs: Any) -> Bundle:
    """Saved, loaded, and of the same verdicts as before."""
    made = bundled(encoder)
    made.save(folder)
    loaded = Bundle.load(folder, **kwargs)
    assert loaded.predict(NEW) == made.predict(NEW)
    assert len({verdict.score for verdict in loaded.predict(NEW)}) == len(NEW)
    assert (loaded.runtime.origin, loaded.preprocess) == (encoder.origin, encoder.preprocess)
    assert loaded.provenance["model"] == encoder.name
    return loaded


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of training as it leaves it; nobody trained it."""
    content = {
        "name": "noise",
        "data": {"arrays": "x.npy", "labels": "y.npy"},
        "preprocess": SMALL.model_dump(),
        "model": SETTINGS.model_dump() | {"classifier": True},
        "loss": [{"use": "supcon"}],
    }
    recipe = parse(Recipe, content, "recipe")
    model = build_model(recipe.model, 3, 7)
    Checkpoint(recipe, ("a", "b", "c"), 1, 0, model.state_dict(), {}, {}).save(tmp_path / "runs" / "noise" / LAST)
    return tmp_path / "runs" / "noise"


def test_a_run_is_found_by_name_or_by_folder_and_comes_back(run: Path, tmp_path: Path) -> None:
    for text, place in (("noise", run), (str(run), GONE)):
        found = find_encoder(text, place, "spherood fit")
        assert (found.name, found.preprocess, found.classes) == ("noise", SMALL, ("a", "b", "c"))
        assert isinstance(found.origin, ResNetOrigin)
        assert (found.origin.settings["encoder"], found.origin.outputs) == ("resnet8", 3)
        model = comes_back(found, tmp_path / f"{place.name}.bundle").runtime.model
        assert isinstance(model, Model)
        assert not model.training
        assert model.classifier is not None
        assert model.classifier.out_features == 3


def test_another_preprocess_replaces_the_runs_own(run: Path, tmp_path: Path) -> None:
    other = SMALL.model_copy(update={"resize": "stretch", "mean": (0.5, 0.5, 0.5)})
    found = find_encoder("noise", run, "spherood fit", preprocess=other)
    assert (found.name, found.preprocess, found.classes) == ("noise", other, ("a", "b", "c"))
    comes_back(found, tmp_path / "bundle")


def checkpoint(path: Path, classes: int) -> Path:
    """A CIFAR ResNet-18 as OpenOOD saves it, two channels wide."""
    model = build_model(ModelSettings(encoder="resnet18", width=2, classifier=True), classes, 3)
    state = {key.removeprefix("encoder.").replace("classifier.", "fc."): x for key, x in model.state_dict().items()}
    torch.save({key.replace(".downsample.", ".shortcut."): x for key, x in state.items()}, path)
    return path


def test_a_checkpoint_of_others_comes_back(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "theirs.ckpt", 10)
    found = find_encoder(str(path), GONE, "spherood fit")
    assert (found.name, found.classes, found.preprocess.size) == ("theirs.ckpt", 10, 32)
    assert isinstance(found.origin, ResNetOrigin)
    assert found.origin.outputs == 10
    comes_back(found, tmp_path / "bundle")


def test_a_checkpoint_that_does_not_say_how_its_images_were_normalised_needs_a_preprocess(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "theirs.ckpt", 7)
    with pytest.raises(ConfigError, match="the file does not say with which mean and std its images were normalised"):
        find_encoder(str(path), GONE, "spherood fit")
    found = find_encoder(str(path), GONE, "spherood fit", preprocess=SMALL)
    assert (found.classes, found.preprocess) == (7, SMALL)
    comes_back(found, tmp_path / "bundle")


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Path]:
    """``graph("B", 8)``: an ONNX file of 8-pixel images: convolution, pooling, and a linear layer for the logits."""
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    helper, kind, to_onnx = onnx.helper, onnx.TensorProto.FLOAT, onnx.numpy_helper.from_array
    generator = np.random.default_rng(0)
    weights = {"w": (5, 3, 3, 3), "g": (4, 5)}

    def write(batch: int | str = "B", side: int | str = 8, outputs: tuple[str, ...] = ("flat", "logits")) -> Path:
        nodes = [
            helper.make_node("Conv", ["image", "w"], ["map"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["map"], ["relu"]),
            helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "g"], ["logits"], transB=1),
        ]
        made = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("image", kind, (batch, 3, side, side))],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            [to_onnx(generator.normal(size=shape).astype(np.float32), name) for name, shape in weights.items()],
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / "their.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


@pytest.mark.parametrize("batch", ["B", 3])
def test_an_onnx_file_lies_in_the_bundle_as_it_was(
    graph: Callable[..., Path], tmp_path: Path, batch: int | str
) -> None:
    path = graph(batch)
    found = find_encoder(str(path), GONE, "spherood fit", preprocess=SMALL, feature="flat", logits="logits")
    assert (found.name, found.classes) == ("their.onnx", None)
    assert found.origin == OnnxOrigin(feature="flat", logits="logits")
    content = path.read_bytes()
    before = infer(found.model, torch.from_numpy(pictures(2, 0)), SMALL)
    path.rename(tmp_path / "elsewhere.onnx")
    loaded = comes_back(found, tmp_path / "bundle")
    (file,) = (tmp_path / "bundle").glob("model-*.onnx")
    assert file.read_bytes() == content
    assert read_manifest(tmp_path / "bundle").files["model"].name == file.name
    after = loaded.runtime.outputs(pictures(2, 0))
    assert before.logits is not None
    assert after.logits is not None
    assert torch.equal(after.feature, before.feature)
    assert torch.equal(after.logits, before.logits)
    loaded.save(tmp_path / "again")
    assert next((tmp_path / "again").glob("model-*.onnx")).read_bytes() == content


def test_an_inner_tensor_of_an_onnx_file_comes_back_by_its_name(graph: Callable[..., Path], tmp_path: Path) -> None:
    path = graph(side="S", outputs=("logits",))
    found = find_encoder(str(path), GONE, "spherood fit", preprocess=SMALL, feature="flat")
    assert found.origin == OnnxOrigin(feature="flat", logits=None)
    comes_back(found, tmp_path / "bundle")
    only = find_encoder(str(path), GONE, "spherood fit", preprocess=SMALL)
    assert only.origin == OnnxOrigin(feature="logits", logits=None)


def test_an_onnx_file_without_a_preprocess_says_what_to_write(graph: Callable[..., Path]) -> None:
    path = graph(outputs=("flat",))
    message = (
        f"{path}: an ONNX file does not say how its images are made. Write size, resize, mean and std into a YAML file "
        "and pass it: --preprocess FILE.yaml"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        find_encoder(str(path), GONE, "spherood fit")


def test_an_onnx_file_of_another_size_than_the_preprocess_is_refused(graph: Callable[..., Path]) -> None:
    path = graph(outputs=("flat",), side=16)
    message = f"{path}: takes images of 16 px, the preprocess makes 8 px."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        find_encoder(str(path), GONE, "spherood fit", preprocess=SMALL)


@pytest.mark.parametrize("named", ["feature", "logits"])
def test_only_an_onnx_file_has_outputs_by_name(run: Path, named: str) -> None:
    with pytest.raises(ConfigError, match=r"^spherood fit: noise is no \.onnx file, and only such a file has outputs"):
        find_encoder("noise", run, "spherood fit", **{named: "flat"})  # type: ignore[arg-type]


CODE = """
from pathlib import Path
import torch
from torch import nn
from spherood.data import Preprocess

Path(__file__).with_suffix(".imported").touch()

class Colour(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor({weight}))

    def forward(self, images):
        return images.flatten(2)[:, :, :4].flatten(1) * self.weight

def encoder():
    return Colour(), Preprocess(size=8, mean=(0.1, 0.2, 0.3))
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``theirs(2.0)``: a user's module whose network has that weight and whose import leaves a file; where it is."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # or a file changed within a second is not read again

    def write(weight: float) -> Path:
        sys.modules.pop("their_network", None)
        (tmp_path / "their_network.py").write_text(CODE.format(weight=weight))
        mark = tmp_path / "their_network.imported"
        mark.unlink(missing_ok=True)
        return mark

    yield write
    sys.modules.pop("their_network", None)


NAME = "their_network:encoder"


def test_a_function_of_ones_own_comes_back_where_it_is_trusted(theirs: Any, tmp_path: Path) -> None:
    theirs(2.0)
    found = find_encoder(NAME, GONE, "spherood fit")
    assert (found.name, found.classes) == (NAME, None)
    assert isinstance(found.origin, FunctionOrigin)
    comes_back(found, tmp_path / "bundle", trust=[NAME])
    assert set(read_manifest(tmp_path / "bundle").files) == {"detector", "bank"}


def test_a_function_that_is_not_trusted_is_not_imported_and_the_bundle_says_how_to(theirs: Any, tmp_path: Path) -> None:
    theirs(2.0)
    made = bundled(find_encoder(NAME, GONE, "spherood fit"))
    made.save(tmp_path / "bundle")
    mark = theirs(2.0)
    for trust in ((), ["their_network"], ["other:encoder"]):
        loaded = Bundle.load(tmp_path / "bundle", trust=trust)
        message = (
            f"the bundle's network is {NAME}, code of your own. If you trust it, say so: "
            f"Bundle.load(folder, trust=['{NAME}']), or --trust {NAME}"
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            loaded.predict(NEW)
    feature = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    assert loaded.predict(feature) == made.predict(feature)
    loaded.save(tmp_path / "again")  # nothing of the network is lost: nothing of it is in here
    assert not mark.exists()
    assert "their_network" not in sys.modules
    assert Bundle.load(tmp_path / "again", trust=[NAME]).predict(NEW) == made.predict(NEW)


def test_a_function_that_gives_other_weights_is_refused(theirs: Any, tmp_path: Path) -> None:
    theirs(2.0)
    bundled(find_encoder(NAME, GONE, "spherood fit")).save(tmp_path / "bundle")
    theirs(3.0)
    message = (
        f"{tmp_path / 'bundle'}: {NAME} gives other weights than those it was calibrated with. Load the same weights, "
        "or fit a new bundle with: spherood fit"
    )
    with pytest.raises(BundleError, match=f"^{re.escape(message)}$"):
        Bundle.load(tmp_path / "bundle", trust=[NAME])


class Tiny(nn.Module):
    """A timm classifier in what is called of it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(192, 6), nn.Linear(6, 5)

    def forward_features(self, images: Tensor) -> Tensor:
        found: Tensor = self.first(images.flatten(1))
        return found

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        logits: Tensor = x if pre_logits else self.last(x)
        return logits

    def get_classifier(self) -> nn.Module:
        return self.last


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """timm with one network of 8 pixels; pretrained weights are those of seed 1, others of seed 2."""
    found: Any = ModuleType("timm")
    found.list_models = lambda: ["tiny"]
    found.is_model = lambda name: name == "tiny"
    found.network = Tiny
    found.create_model = lambda name, pretrained: found.network(1 if pretrained else 2)
    found.data = ModuleType("timm.data")
    config = {
        "input_size": (3, 8, 8),
        "interpolation": "bicubic",
        "crop_pct": 0.8,
        "mean": (0.1,) * 3,
        "std": (0.5,) * 3,
    }
    found.data.resolve_model_data_config = lambda model: config
    monkeypatch.setitem(sys.modules, "timm", found)
    return found


def test_a_network_of_timm_comes_back_with_the_weights_it_had(timm: Any, tmp_path: Path) -> None:
    found = find_encoder("tiny", GONE, "spherood fit")
    assert (found.name, found.classes, found.origin) == ("tiny", 5, TimmOrigin(name="tiny"))
    assert found.preprocess == Preprocess(size=8, short_side=10, kernel="bicubic", mean=(0.1,) * 3, std=(0.5,) * 3)
    loaded = comes_back(found, tmp_path / "bundle")
    assert loaded.runtime.model is not None
    assert not loaded.runtime.model.training
    logits = loaded.runtime.outputs(pictures(2, 0)).logits
    expected = infer(found.model, torch.from_numpy(pictures(2, 0)), found.preprocess).logits
    assert logits is not None
    torch.testing.assert_close(logits, expected)


def test_another_version_of_timm_whose_network_differs_is_told(timm: Any, tmp_path: Path) -> None:
    bundled(find_encoder("tiny", GONE, "spherood fit")).save(tmp_path / "bundle")

    class Larger(Tiny):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.first = nn.Linear(192, 7)

    timm.network = Larger
    with pytest.raises(CheckpointError, match=r"does not fit timm's tiny: .*shape.* Is it another version of timm\?$"):
        Bundle.load(tmp_path / "bundle")


def test_what_is_no_run_and_no_network_says_both(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CheckpointError) as caught:
        find_encoder("noisy", run.parent / "noisy", "spherood fit")
    first, second = str(caught.value).splitlines()
    assert first == (
        f"spherood fit: no run at {run.parent / 'noisy'}. Did you mean 'noise'? Train one with: spherood train "
        "--recipe RECIPE.yaml --run noisy"
    )
    assert second.startswith("It could be a network of timm, but noisy: timm cannot be imported")


@pytest.mark.parametrize("text", ["folder/of/no/run", "absent.ckpt", "absent.safetensors"])
def test_a_path_to_nothing_is_no_network_of_timm(text: str) -> None:
    message = (
        f"spherood fit: no run at {GONE}, no checkpoint and no folder {text}. Train one with: spherood train --recipe "
        "RECIPE.yaml --run NAME"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        find_encoder(text, GONE, "spherood fit")


def test_a_manifest_without_the_file_of_its_network_is_told() -> None:
    for origin in (origin_of(SETTINGS, 2), OnnxOrigin(feature="flat"), TimmOrigin(name="tiny")):
        with pytest.raises(
            BundleError, match=r"^here: the manifest names no file for its model\. Copy the bundle again"
        ):
            brought_back(origin, None, "here", ())


def test_an_origin_is_told_by_its_kind_and_a_wrong_one_by_its_key() -> None:
    class Holder(Strict):
        origin: Origin

    origins = [
        origin_of(SETTINGS, 2),
        OnnxOrigin(feature="flat"),
        TimmOrigin(name="tiny"),
        FunctionOrigin(name=NAME, sha256="ab"),
    ]
    for origin in origins:
        assert Holder.model_validate_json(Holder(origin=origin).model_dump_json()).origin == origin
    assert [origin.kind for origin in origins] == ["resnet", "onnx", "timm", "function"]
    with pytest.raises(ConfigError, match="kind"):
        parse(Holder, {"origin": {"kind": "pickle", "name": "x"}}, "bundle.json")
    with pytest.raises(ConfigError, match="no key 'featur' here"):
        parse(Holder, {"origin": {"kind": "onnx", "featur": "x"}}, "bundle.json")
    with pytest.raises(ConfigError, match="outputs"):
        parse(Holder, {"origin": {"kind": "resnet", "settings": {}, "outputs": 0}}, "bundle.json")


def test_the_weights_of_a_bundle_are_those_of_the_network(tmp_path: Path) -> None:
    model = build_model(SETTINGS, 2, 5)
    encoder = Encoder("mine", model.to(memory_format=torch.channels_last), SMALL, None, origin_of(SETTINGS, 2))
    comes_back(encoder, tmp_path)
    (file,) = tmp_path.glob("model-*.safetensors")
    for name, value in load_file(file).items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
