"""Checkpoints under the names that others publish them with, made here from our own networks."""

from __future__ import annotations

import os
import re
import zipfile
from argparse import Namespace
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from spherood.errors import CheckpointError, ConfigError
from spherood.models import Model, ModelSettings, build_model, read_foreign
from spherood.models.foreign import to_openood
from spherood.outputs import Outputs

State = dict[str, Tensor]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIDER = ((0.491, 0.482, 0.447), (0.247, 0.244, 0.262))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def network(settings: str, classes: int) -> Model:
    """Every tensor unlike the others: fresh ones are equal by the hundred, and a swap would not show."""
    model = build_model(ModelSettings.model_validate_json(settings), classes)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("num_batches_tracked"):
                value.fill_(7)
            elif value.ndim == 1:
                value.copy_(torch.rand(value.shape, generator=generator(sum(key.encode()))) + 0.5)
    return model.eval()


def own(classes: int = 10, **settings: Any) -> Model:
    return network(ModelSettings.model_validate(settings).model_dump_json(), classes)


def small(classes: int = 10, **settings: Any) -> Model:
    return own(classes, width=2, **settings)


def published(model: Model, encoder: str = "", fc: str = "fc.", shortcut: str = "shortcut") -> State:
    """The weights under another's names: what stands before the encoder's and the classifier's, and the shortcut's."""
    found = {}
    for key, value in model.state_dict().items():
        name = key.replace(".downsample.", f".{shortcut}.")
        found[re.sub(r"^classifier\.", fc, re.sub(r"^encoder\.", encoder, name))] = value
    return found


def with_untrained_fc(state: State, classes: int, width: int) -> State:
    return state | {"fc.weight": torch.rand(classes, width), "fc.bias": torch.rand(classes)}


def numbered(state: State) -> State:
    """torchvision's layers in a Sequential; 2 is the ReLU and 3 the pooling."""
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {re.sub(r"^encoder\.(\w+)", lambda hit: f"encoder.{places[hit[1]]}", key): x for key, x in state.items()}


def images(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=generator())


@torch.no_grad()
def outputs(model: nn.Module, size: int) -> Outputs:
    found: Outputs = model(images(size))
    return found


def assert_same(found: nn.Module, expected: nn.Module, size: int = 32) -> None:
    for ours, original in zip(outputs(found, size)[:3], outputs(expected, size)[:3], strict=True):
        assert (ours is None) == (original is None)
        assert ours is None or original is None or torch.equal(ours, original)


class Case(NamedTuple):
    """A published network: how ours becomes it, what its authors' has, and what is read off it."""

    settings: dict[str, Any]
    classes: int
    rename: Callable[[Model], State]
    entries: int
    shapes: dict[str, tuple[int, ...]]
    layout: str
    known_classes: int | None
    normalise: Any
    given: Any = None


MLP = {"head.0.weight": (512, 512), "head.2.weight": (128, 512)}
CASES = {
    "CIDER-resnet18-cifar10": Case(
        {"head": "mlp"},
        10,
        lambda model: with_untrained_fc(published(model, "encoder."), 10, 512),
        126,
        MLP | {"encoder.layer2.0.shortcut.0.weight": (128, 64, 1, 1), "fc.weight": (10, 512)},
        "CIDER",
        None,
        CIDER,
    ),
    "CIDER-resnet34-cifar100": Case(
        {"encoder": "resnet34", "head": "mlp"},
        100,
        lambda model: with_untrained_fc(published(model, "encoder."), 100, 512),
        222,
        MLP | {"encoder.layer3.5.bn2.running_var": (256,), "fc.weight": (100, 512)},
        "CIDER",
        None,
        CIDER,
    ),
    "CIDER-imagenet100": Case(
        {"encoder": "resnet34", "stem": "imagenet", "head": "mlp"},
        100,
        lambda model: with_untrained_fc(numbered(published(model, "encoder.", shortcut="downsample")), 100, 512),
        222,
        MLP | {"encoder.0.weight": (64, 3, 7, 7), "encoder.7.0.downsample.1.bias": (512,)},
        "CIDER",
        None,
        IMAGENET,
    ),
    "OpenOOD-cifar10": Case(
        {"classifier": True},
        10,
        published,
        122,
        {"conv1.weight": (64, 3, 3, 3), "layer4.0.shortcut.1.running_mean": (512,), "fc.weight": (10, 512)},
        "OpenOOD",
        10,
        CIFAR10,
    ),
    "OpenOOD-cifar100": Case(
        {"classifier": True}, 100, published, 122, {"fc.weight": (100, 512)}, "OpenOOD", 100, CIFAR100
    ),
    "cider_net": Case(
        {"head": "mlp"},
        10,
        lambda model: published(model, "backbone."),
        124,
        MLP | {"backbone.conv1.weight": (64, 3, 3, 3), "backbone.layer4.1.bn2.bias": (512,)},
        "OpenOOD",
        None,
        OWN,
        OWN,
    ),
    "torchvision-resnet50": Case(
        {"encoder": "resnet50", "stem": "imagenet", "classifier": True},
        1000,
        lambda model: published(model, shortcut="downsample"),
        320,
        {
            "conv1.weight": (64, 3, 7, 7),
            "layer4.2.conv3.weight": (2048, 512, 1, 1),
            "layer1.0.downsample.0.weight": (256, 64, 1, 1),
            "fc.weight": (1000, 2048),
        },
        "OpenOOD",
        1000,
        IMAGENET,
    ),
    "ResNet-20": Case(
        {"encoder": "resnet20", "width": 16, "shortcut": "pad", "classifier": True},
        10,
        lambda model: {f"module.{key}": value for key, value in published(model, fc="linear.").items()},
        116,  # 19 convolutions, 19 x 5 of batch norm, 2
        {"module.conv1.weight": (16, 3, 3, 3), "module.linear.weight": (10, 64)},
        "ResNet-20",
        10,
        IMAGENET,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_published_network_gives_what_the_original_gives(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    original = own(case.classes, **case.settings)
    state = case.rename(original)
    assert len(state) == case.entries
    assert {key: tuple(state[key].shape) for key in case.shapes} == case.shapes
    torch.save(state, tmp_path / "best.ckpt")
    found = read_foreign(tmp_path / "best.ckpt", case.given)
    large = case.settings.get("stem") == "imagenet"
    assert_same(found.model, original, 64 if large else 32)
    assert not any(module.training for module in found.model.modules())
    assert found.settings == ModelSettings.model_validate(case.settings)
    assert (found.layout, found.classes) == (case.layout, case.known_classes)
    assert (found.preprocess.mean, found.preprocess.std) == case.normalise
    assert found.preprocess.size == (224 if large else 32)


# From the authors' code: 11.50 M parameters at 10 classes, 21.66 M at 100, with the classifier that nobody trains
@pytest.mark.parametrize(("name", "millions"), [("CIDER-resnet18-cifar10", 11.50), ("CIDER-resnet34-cifar100", 21.66)])
def test_ciders_networks_have_as_many_parameters_as_its_authors(name: str, millions: float) -> None:
    case = CASES[name]
    state = case.rename(own(case.classes, **case.settings))
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(value.numel() for key, value in state.items() if not key.endswith(buffers))
    assert round(count / 1e6, 2) == millions


def test_ciders_classifier_that_nobody_trained_gives_no_logits(tmp_path: Path) -> None:
    torch.save(with_untrained_fc(published(small(head="mlp"), "encoder."), 10, 16), tmp_path / "a.pt")
    found = read_foreign(tmp_path / "a.pt")
    assert outputs(found.model, 32).logits is None
    assert not found.settings.classifier


def test_t2fnorm_divides_the_scores_but_not_the_offset_by_its_temperature(tmp_path: Path) -> None:
    original, tau = small(classifier=True), torch.tensor(0.1)
    torch.save(published(original, "backbone.", "backbone.fc.") | {"tau": tau}, tmp_path / "best.ckpt")
    found = read_foreign(tmp_path / "best.ckpt")
    feature, _, logits, _ = outputs(found.model, 32)
    weight, bias = (original.state_dict()[f"classifier.{name}"] for name in ("weight", "bias"))
    assert torch.equal(feature, outputs(original, 32).feature)
    torch.testing.assert_close(logits, feature @ weight.T / 0.1 + bias)
    assert (found.layout, found.classes) == ("T2FNorm", 10)
    assert (found.preprocess.mean, found.preprocess.std) == CIFAR10


def test_t2fnorm_on_1000_classes_was_fine_tuned_without_its_temperature(tmp_path: Path) -> None:
    original = small(1000, stem="imagenet", classifier=True)
    state = published(original, "backbone.", "backbone.fc.", "downsample") | {"tau": torch.tensor(0.1)}
    torch.save(state, tmp_path / "best.ckpt")
    found = read_foreign(tmp_path / "best.ckpt")
    assert_same(found.model, original)
    assert (found.layout, found.classes, found.preprocess.size) == ("T2FNorm", 1000, 224)


def test_a_linear_head_is_told_from_its_single_layer(tmp_path: Path) -> None:
    original = small(head="linear", dim=6)
    state = published(original, "encoder.")
    assert {key for key in state if key.startswith("head")} == {"head.weight", "head.bias"}
    torch.save(state, tmp_path / "a.pt")
    found = read_foreign(tmp_path / "a.pt")
    assert_same(found.model, original)
    assert (found.settings.head, found.settings.dim) == ("linear", 6)


PLAIN = published(small(classifier=True))
CONTAINERS: dict[str, dict[str, Any]] = {
    "state_dict, as CIDER saves it": {
        "epoch": 500,
        "state_dict": PLAIN,
        "opt_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.5}]},
        "dis_state_dict": {"prototypes": torch.rand(10, 128)},
        "uni_state_dict": {},
    },
    "model": {"model": PLAIN, "optimizer": {"conv1.weight": torch.zeros(3)}, "epoch": 3},
    "model of a DataParallel": {"model": {f"module.{key}": value for key, value in PLAIN.items()}},
    "bare, of a DataParallel": {f"module.{key}": value for key, value in PLAIN.items()},
    "numbers beside the weights": PLAIN | {"epoch": 7, 3: torch.zeros(2)},
    "before torch counted batches": {key: value for key, value in PLAIN.items() if "num_batches" not in key},
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_in_whatever_holds_them(name: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_500.pth.tar"
    torch.save(CONTAINERS[name], path, _use_new_zipfile_serialization=zipped)  # torch before 1.6 did not zip
    assert_same(read_foreign(path).model, small(classifier=True))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_safetensors_file_is_read_like_any_other(prefix: str, tmp_path: Path) -> None:
    save_file({prefix + key: value.clone() for key, value in PLAIN.items()}, tmp_path / "a.safetensors")
    assert_same(read_foreign(tmp_path / "a.safetensors").model, small(classifier=True))


@pytest.fixture(scope="session")
def resnet20() -> Path:
    place = os.environ.get("SPHEROOD_SHARED")
    path = Path(place or "", "data", "resnet20-cifar10.th")
    if not place or not path.is_file():
        pytest.skip("SPHEROOD_SHARED names no folder with data/resnet20-cifar10.th, a trained network")
    return path


def test_a_trained_resnet20_gives_the_outputs_that_its_authors_code_gives(resnet20: Path) -> None:
    found = read_foreign(resnet20)
    assert found.settings == ModelSettings(encoder="resnet20", width=16, shortcut="pad", classifier=True)
    assert (found.layout, found.classes, found.preprocess.size) == ("ResNet-20", 10, 32)
    assert (found.preprocess.mean, found.preprocess.std) == IMAGENET
    golden = np.load(Path(__file__).parents[1] / "golden" / "scores_resnet20.npz")
    with zipfile.ZipFile(resnet20.with_name("cifar10-test.zip")) as packed:
        first = [name.split("/")[0] for name in packed.read("paths.txt").decode().split()].count("airplane")
        named = packed.read("original_names.txt").decode().split()[:first]
        sheet = np.asarray(Image.open(BytesIO(packed.read("0003.webp"))).convert("RGB"))  # airplanes 375..499
    pixels = sheet.reshape(-1, 32, sheet.shape[1] // 32, 32, 3).transpose(0, 2, 4, 1, 3).reshape(125, 3, 32, 32)
    place = np.argsort(named, kind="stable")  # the golden file counts the airplanes by their first names
    known = np.flatnonzero(golden["id_label"] == 0)
    mine = [row for row in known if place[golden["id_index"][row]] // 125 == 3]
    x = torch.from_numpy(pixels[place[golden["id_index"][mine]] % 125]) / 255
    mean, std = (torch.tensor(triple).view(3, 1, 1) for triple in IMAGENET)
    with torch.no_grad():
        feature, _, logits, _ = found.model((x - mean) / std)
    assert len(x) >= 3
    torch.testing.assert_close(feature, torch.from_numpy(golden["id_feat"][mine]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, torch.from_numpy(golden["id_logits"][mine]), rtol=1e-4, atol=1e-3)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: no such checkpoint\. Check the path\.$"):
            read_foreign(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_told_wherever_it_ends(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(PLAIN, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for share in [0, 1e-4, *np.linspace(0, 0.4, 50), 0.999]:
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError, match=r"a\.pth: .*(Is the file whole\?|or it is damaged\.)"):
            read_foreign(path)


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content in (b"some text", b"\x80\x02}q\x00.", b"PK\x03\x04", b"{}"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.pth: .*(Is the file whole\?|or it is damaged\.)"):
            read_foreign(path)
    (tmp_path / "a.safetensors").write_bytes(b"some text")
    with pytest.raises(CheckpointError, match=r"not a readable safetensors file \(.+\)\. Is the file whole\?"):
        read_foreign(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {}}, {"a": "b"}, torch.zeros(3)])
def test_a_file_without_weights_says_what_to_save(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: holds no weights by name\. Save the network's state_dict\.$"):
        read_foreign(tmp_path / "a.pt")


class Trap(nn.Module):
    """Runs a command when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save({"state_dict": PLAIN, "args": Trap()}, "a.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"a\.pt: holds more than weights .*loading it would execute code"):
            read_foreign(Path("a.pt"))
    assert not Path("sprung").exists()
    torch.load("a.pt", weights_only=False)
    assert Path("sprung").exists()  # the trap is one


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (small(classifier=True), r"spherood\.models\.model\.Model"),
        ({"epoch": 3, "model": small(classifier=True)}, r"spherood\.models\.model\.Model"),
        ({"state_dict": PLAIN, "args": Namespace(lr=0.5)}, r"argparse\.Namespace"),
        (PLAIN | {"best": np.float64(0.9)}, r"numpy\.\w+\.multiarray\.scalar"),
    ],
    ids=["network", "network in a dict", "settings beside weights", "number beside weights"],
)
def test_more_than_weights_is_refused_with_a_command_that_converts_it(content: Any, named: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth.tar")
    with pytest.raises(CheckpointError, match=rf"holds more than weights \({named}\)") as told:
        read_foreign(tmp_path / "a.pth.tar")
    command = re.search(r'convert it once: python -c "([^"]+)"$', str(told.value))
    assert command is not None
    exec(command[1], {})
    converted = tmp_path / "a.pth.weights.pt"
    if "Model" in named:  # a network of ours has our names, which are another layout
        state = torch.load(converted, weights_only=True)
        assert list(state) == list(small(classifier=True).state_dict())
    else:
        assert_same(read_foreign(converted).model, small(classifier=True))


def test_what_another_architecture_has_otherwise_is_listed(tmp_path: Path) -> None:
    state = published(small(head="mlp"), "encoder.")
    state["encoder.layer1.0.se.weight"] = state.pop("encoder.layer1.0.bn1.weight")
    state["head.0.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as told:
        read_foreign(tmp_path / "a.pt")
    assert str(told.value) == (
        "The checkpoint does not fit the CIDER network that a.pt seems to be (resnet18): missing "
        "encoder.layer1.0.bn1.weight; unknown encoder.layer1.0.se.weight; head.0.bias has shape (3,), expected (16,). "
        "Known: ResNet-18, -34 and -50 of CIDER, OpenOOD and torchvision, and ResNet-20."
    )


def test_blocks_of_no_known_depth_are_told_with_the_known_ones(tmp_path: Path) -> None:
    deeper = PLAIN | {key.replace("layer3.1", "layer3.2"): x for key, x in PLAIN.items() if "layer3.1" in key}
    torch.save(deeper, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"basic blocks \(2, 2, 3, 2\) per stage are no .*resnet18.*:function\."):
        read_foreign(tmp_path / "a.pt")
    torch.save({"conv1.weight": torch.zeros(16, 3, 3, 3), "block1.bn1.weight": torch.zeros(16)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"basic blocks \(\) per stage are no network that is known here"):
        read_foreign(tmp_path / "a.pt")


@pytest.mark.parametrize("key", ["fc.weight", "head.weight", "head.2.weight"])
@pytest.mark.parametrize("shape", [(), (10,), (1, 16)])
def test_a_last_layer_that_is_no_matrix_is_told(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    state = {f"backbone.{name}": value for name, value in PLAIN.items() if not name.startswith("fc")}
    torch.save(state | {f"backbone.{key}" if key == "fc.weight" else key: torch.zeros(shape)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"weight has shape \(.*\), expected two rows or more\.$"):
        read_foreign(tmp_path / "a.pt")


def test_keys_of_no_known_layout_are_shown(tmp_path: Path) -> None:
    torch.save({f"blocks.{n}.attn.qkv.weight": torch.zeros(2) for n in range(6)}, tmp_path / "vit.pt")
    with pytest.raises(CheckpointError) as told:
        read_foreign(tmp_path / "vit.pt")
    assert str(told.value) == (
        f"{tmp_path / 'vit.pt'}: its keys (blocks.0.attn.qkv.weight, blocks.1.attn.qkv.weight, "
        "blocks.2.attn.qkv.weight, blocks.3.attn.qkv.weight, ...) are of no known layout. Known: CIDER, OpenOOD, "
        "ReweightOOD, T2FNorm, torchvision ResNets, ResNet-20. Your own network: package.module:function."
    )


@pytest.mark.parametrize(("head", "classes"), [("mlp", 10), (None, 7)])
def test_where_mean_and_std_cannot_be_told_the_protocol_must_say_them(
    head: str | None, classes: int, tmp_path: Path
) -> None:
    original = small(classes, head=head, classifier=head is None)
    torch.save(published(original, "backbone." if head else ""), tmp_path / "best.ckpt")
    with pytest.raises(ConfigError, match=r"best\.ckpt: .* Add `normalise: \{mean: \[.+\], std: \[.+\]\}` to the pro"):
        read_foreign(tmp_path / "best.ckpt")
    found = read_foreign(tmp_path / "best.ckpt", OWN)
    assert (found.preprocess.mean, found.preprocess.std) == OWN
    assert_same(found.model, original)


@pytest.mark.parametrize(
    ("settings", "classes", "like"),
    [
        ({"classifier": True}, 10, "OpenOOD-cifar10"),
        ({"head": "mlp"}, 10, "cider_net"),
        ({"encoder": "resnet50", "stem": "imagenet", "classifier": True}, 1000, "torchvision-resnet50"),
    ],
)
def test_what_is_written_for_openood_is_read_back(
    settings: dict[str, Any], classes: int, like: str, tmp_path: Path
) -> None:
    original = own(classes, **settings)
    state = to_openood(original, ModelSettings.model_validate(settings))
    assert set(state) == set(CASES[like].rename(original))
    torch.save(state, tmp_path / "best.ckpt")
    found = read_foreign(tmp_path / "best.ckpt", OWN)
    assert found.settings == ModelSettings.model_validate(settings)
    assert_same(found.model, original, 64 if "stem" in settings else 32)


@pytest.mark.parametrize(
    "settings",
    [
        {"classifier": True, "width": 16},
        {"classifier": True, "encoder": "resnet34"},
        {"classifier": True, "encoder": "resnet50"},
        {"classifier": True, "shortcut": "pad"},
        {"head": "linear"},
        {"head": "mlp", "classifier": True},
        {},
    ],
)
def test_a_network_that_openood_lacks_is_refused_with_those_it_has(settings: dict[str, Any]) -> None:
    asked = ModelSettings.model_validate(settings)
    with pytest.raises(ConfigError) as told:
        to_openood(small(), asked)
    assert str(told.value) == (
        f"OpenOOD has no network like this {asked.encoder} of width {asked.width}, stem cifar, shortcut "
        f"{asked.shortcut}, head {asked.head or 'none'}, classifier {'yes' if asked.classifier else 'no'}. It has "
        "ResNet-18 (stem cifar or imagenet) and ResNet-50 (imagenet), width 64, shortcut projection, with either a "
        "classifier or an MLP head."
    )
