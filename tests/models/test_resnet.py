from __future__ import annotations

from typing import Literal

import pytest
import torch

from spherood.models import ResNet
from spherood.models.resnet import Depth, Pad, Shortcut

DEPTHS: list[Depth] = ["resnet8", "resnet10", "resnet18", "resnet34", "resnet50"]
BLOCKS = {
    "resnet8": [1, 1, 1],
    "resnet10": [1, 1, 1, 1],
    "resnet18": [2, 2, 2, 2],
    "resnet34": [3, 4, 6, 3],
    "resnet50": [3, 4, 6, 3],
}


def counted(depth: Depth, width: int, stem: str) -> int:
    """Weights by the architecture's table: convolutions without bias, two numbers per normalised channel."""

    def conv(inward: int, outward: int, side: int) -> int:
        return inward * outward * side * side + 2 * outward

    total = conv(3, width, 7 if stem == "imagenet" else 3)
    inward = width
    for stage, blocks in enumerate(BLOCKS[depth]):
        inner = width * 2**stage
        outward = inner * (4 if depth == "resnet50" else 1)
        for block in range(blocks):
            if depth == "resnet50":
                total += conv(inward, inner, 1) + conv(inner, inner, 3) + conv(inner, outward, 1)
            else:
                total += conv(inward, inner, 3) + conv(inner, outward, 3)
            if block == 0 and inward != outward:
                total += conv(inward, outward, 1)
            inward = outward
    return total


def parameters(net: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_number_of_weights_is_that_of_the_architecture(depth: Depth, stem: Literal["cifar", "imagenet"]) -> None:
    assert parameters(ResNet(depth, width=8, stem=stem)) == counted(depth, 8, stem)


# torchvision's counts (11,689,512; 21,797,672; 25,557,032) without the last layer of 1,000 classes.
@pytest.mark.parametrize(
    ("depth", "stem", "published"),
    [
        ("resnet18", "cifar", 11_168_832),
        ("resnet18", "imagenet", 11_689_512 - 513_000),
        ("resnet34", "imagenet", 21_797_672 - 513_000),
        ("resnet50", "imagenet", 25_557_032 - 2_049_000),
    ],
)
def test_at_width_64_the_number_of_weights_is_the_published_one(
    depth: Depth, stem: Literal["cifar", "imagenet"], published: int
) -> None:
    with torch.device("meta"):
        net = ResNet(depth, width=64, stem=stem)
    assert parameters(net) == published


@pytest.mark.parametrize(("depth", "times"), list(zip(DEPTHS, [4, 8, 8, 8, 32], strict=True)))
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_features_have_the_width_that_dim_says(depth: Depth, times: int, stem: Literal["cifar", "imagenet"]) -> None:
    net = ResNet(depth, width=3, stem=stem).eval()
    assert net.dim == 3 * times
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 3 * times)


@pytest.mark.parametrize(
    ("depth", "stem", "sides"),
    [
        ("resnet8", "cifar", [32, 16, 8]),
        ("resnet18", "cifar", [32, 16, 8, 4]),
        ("resnet18", "imagenet", [8, 4, 2, 1]),
        ("resnet50", "cifar", [32, 16, 8, 4]),
    ],
)
def test_each_stage_but_the_first_halves_the_picture(
    depth: Depth, stem: Literal["cifar", "imagenet"], sides: list[int]
) -> None:
    net, seen = ResNet(depth, width=2, stem=stem).eval(), []
    for stage in range(1, len(sides) + 1):
        net.get_submodule(f"layer{stage}").register_forward_hook(lambda _, __, x: seen.append(x.shape[-1]))
    net(torch.zeros(1, 3, 32, 32))
    assert seen == sides


def test_keys_are_torchvisions() -> None:
    keys = list(ResNet("resnet18", width=2).state_dict())
    assert len(keys) == 120  # torchvision's resnet18 has 122 with fc.weight and fc.bias
    assert keys[:6] == ["conv1.weight", *(f"bn1.{name}" for name in BATCH_NORM)]
    block = [f"{layer}.weight" for layer in ("conv1", "conv2")] + [
        f"bn{n}.{name}" for n in (1, 2) for name in BATCH_NORM
    ]
    assert {f"layer1.0.{name}" for name in block} == {key for key in keys if key.startswith("layer1.0.")}
    shortcut = ["downsample.0.weight", *(f"downsample.1.{name}" for name in BATCH_NORM)]
    assert {f"layer2.0.{name}" for name in block + shortcut} == {key for key in keys if key.startswith("layer2.0.")}
    assert {"layer1.0.conv3.weight", "layer1.0.downsample.0.weight"} <= set(ResNet("resnet50", width=2).state_dict())


BATCH_NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_in_a_bottleneck_the_3_x_3_convolution_carries_the_stride() -> None:
    block = ResNet("resnet50", width=2).get_submodule("layer2.0")
    assert [block.get_submodule(f"conv{n}").stride for n in (1, 2, 3)] == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("depth", ["resnet10", "resnet50"])
def test_a_block_whose_own_path_is_silent_hands_on_its_input(depth: Depth) -> None:
    net = ResNet("resnet18" if depth == "resnet10" else depth, width=2).eval()
    block = net.get_submodule("layer1.1")
    last = "bn3" if depth == "resnet50" else "bn2"
    with torch.no_grad():
        block.get_submodule(last).weight.zero_()  # type: ignore[operator, union-attr]
    x = torch.rand(1, 8 if depth == "resnet50" else 2, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_the_feature_is_the_mean_over_all_places() -> None:
    net, last = ResNet("resnet8", width=2).eval(), []
    net.get_submodule("layer3").register_forward_hook(lambda _, __, x: last.append(x))
    feature = net(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(feature, last[0].flatten(2).mean(dim=2))


@pytest.mark.parametrize(
    ("depth", "stem", "shortcut", "widths"),
    [
        ("resnet20", "cifar", "pad", (4, 8, 16)),
        ("resnet18", "imagenet", "projection", (4, 8, 16, 32)),
        ("resnet50", "cifar", "projection", (16, 32, 64, 128)),
    ],
)
def test_the_pooled_stages_are_the_means_of_what_each_stage_gives_and_end_with_the_feature(
    depth: Depth, stem: Literal["cifar", "imagenet"], shortcut: Shortcut, widths: tuple[int, ...]
) -> None:
    net = ResNet(depth, width=4, stem=stem, shortcut=shortcut).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps: list[torch.Tensor] = []
    for stage in range(1, len(widths) + 1):
        net.get_submodule(f"layer{stage}").register_forward_hook(lambda _, __, x: maps.append(x))
    feature = net(images)
    expected = [x.flatten(2).mean(dim=2) for x in maps]
    pooled = net.pooled_stages(images)
    assert tuple(layer.shape for layer in pooled) == tuple((2, width) for width in widths)
    for ours, by_hook in zip(pooled, expected, strict=True):
        torch.testing.assert_close(ours, by_hook)
    assert torch.equal(pooled[-1], feature)


def test_convolutions_start_with_the_deviation_of_he_et_al() -> None:
    torch.manual_seed(0)
    weight = ResNet("resnet8", width=32).state_dict()["layer3.0.conv1.weight"]  # 64 to 128 channels
    assert float(weight.std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


# 0.27 million (He et al., table 6): option A adds none to the 19 convolutions
def test_resnet20_with_padded_shortcuts_has_the_published_weights() -> None:
    net = ResNet("resnet20", width=16, shortcut="pad")
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert not any("downsample" in key for key in shapes)
    assert parameters(net) == 269_722 - 650  # without the last layer of 10 classes
    assert len([key for key, shape in shapes.items() if len(shape) == 4]) == 19
    assert shapes["conv1.weight"] == (16, 3, 3, 3)
    assert shapes["layer2.0.conv1.weight"] == (32, 16, 3, 3)
    assert shapes["layer3.2.conv2.weight"] == (64, 64, 3, 3)
    assert net.dim == 64
    assert net.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 64)


def test_a_padded_shortcut_keeps_every_second_pixel_between_channels_of_zeros() -> None:
    x = torch.arange(1.0, 33.0).view(1, 2, 4, 4)
    zero = torch.zeros(2, 2)
    by_hand = torch.stack([zero, torch.tensor([[1.0, 3], [9, 11]]), torch.tensor([[17.0, 19], [25, 27]]), zero])
    assert torch.equal(Pad(2, 4, 2)(x), by_hand[None])
    assert Pad(2, 5, 1)(x).flatten(2).sum(dim=2).tolist() == [[0, 136, 392, 0, 0]]  # the odd one comes last


def test_a_block_whose_own_path_is_silent_hands_on_the_padded_input() -> None:
    block = ResNet("resnet20", width=4, shortcut="pad").eval().get_submodule("layer2.0")
    with torch.no_grad():
        block.get_submodule("bn2").weight.zero_()  # type: ignore[operator, union-attr]
    x = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()
