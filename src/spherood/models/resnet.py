"""Residual networks of any width, for small and for large images.

resnet8 and resnet20 have three stages (He et al.'s CIFAR family, n = 1 and 3), the others four. Stem "cifar": 3 x 3,
stride 1, no pooling; "imagenet": 7 x 7, stride 2, max-pooling. Shortcut, where the shape changes: "projection" (option
B) is a 1 x 1 convolution, "pad" (option A) every second pixel between channels of zeros, without a parameter.
Parameters are named as torchvision names them.
Shapes: B images, F features: width x 4 (three stages), x 8 (four), x 32 (resnet50).
Source: He et al., CVPR 2016, arXiv:1512.03385; width 64 is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Depth = Literal["resnet8", "resnet10", "resnet18", "resnet20", "resnet34", "resnet50"]
Shortcut = Literal["projection", "pad"]
STAGES: dict[Depth, tuple[int, ...]] = {
    "resnet8": (1, 1, 1),
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet20": (3, 3, 3),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inward: int, width: int, stride: int, shortcut: Shortcut = "projection") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inward, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inward, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inward, H, W) to (B, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which carries the stride) and 1 x 1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, inward: int, width: int, stride: int, shortcut: Shortcut = "projection") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inward, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(inward, 4 * width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inward, H, W) to (B, 4 width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Pad(nn.Module):
    """Every `stride`-th pixel of (B, inward, H, W), between channels of zeros: (B, outward, H / stride, W / stride)."""

    def __init__(self, inward: int, outward: int, stride: int) -> None:
        super().__init__()
        self.before, self.stride = (outward - inward) // 2, stride
        self.after = outward - inward - self.before

    def forward(self, x: Tensor) -> Tensor:
        """No parameter, hence no choice."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _shortcut(inward: int, outward: int, stride: int, kind: Shortcut) -> nn.Module:
    if stride == 1 and inward == outward:
        return nn.Sequential()
    if kind == "pad":
        return Pad(inward, outward, stride)
    return nn.Sequential(nn.Conv2d(inward, outward, 1, stride, bias=False), nn.BatchNorm2d(outward))


class ResNet(nn.Module):
    """``ResNet("resnet18")(images)``: images (B, 3, S, S) to pooled features (B, F)."""

    def __init__(
        self,
        depth: Depth,
        *,
        width: int = 64,
        stem: Literal["cifar", "imagenet"] = "cifar",
        shortcut: Shortcut = "projection",
    ) -> None:
        super().__init__()
        block = Bottleneck if depth == "resnet50" else BasicBlock
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(3, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.stages = len(STAGES[depth])
        inward = width
        for stage, blocks in enumerate(STAGES[depth]):
            layer = []
            for number in range(blocks):
                layer.append(block(inward, width * 2**stage, 2 if stage > 0 and number == 0 else 1, shortcut))
                inward = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.dim = inward
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S), normalised, to features (B, F)."""
        for x in self._maps(images):
            last = x
        return last.mean(dim=(2, 3))

    def pooled_stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """What each stage gives, averaged over height and width: (B, F_i), the last the feature itself."""
        return tuple(x.mean(dim=(2, 3)) for x in self._maps(images))

    def _maps(self, images: Tensor) -> Iterator[Tensor]:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            yield x
