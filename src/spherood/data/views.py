"""Random views of a whole batch at once, on its device: crop, flip, colour jitter, greyscale.

What happens to an image is drawn on the host from (seed, epoch, image index, view), see data/draws.py; the device only
does arithmetic. Crop, resize and flip are one pair of matrix products per image: rows and columns of Pillow's bilinear
kernel (a triangle, widened when shrinking). Distributions are torchvision's: RandomResizedCrop, or RandomCrop with
padding; RandomHorizontalFlip; RandomApply(ColorJitter) with its four steps in an order drawn per image;
RandomGrayscale.
Shapes: B images, H x W stored pixels, S view size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from spherood.data.draws import uniform
from spherood.schema import Strict

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array(list(permutations(range(4))))  # (24, 4), the step at each place
CROP_TRIES = 10  # as torchvision, before it gives up on a shape that fits
GREY = (0.299, 0.587, 0.114)


class Views(Strict):
    """What may happen to an image. Defaults change nothing.

    scale: share of the area a crop takes, with ratio its width over height; or pad: shift within a black border of so
    many pixels. flip, jitter, grey: probabilities. brightness, contrast, saturation b: a factor in [1 - b, 1 + b];
    hue h: a turn in [-h, h] of the colour circle.
    """

    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = Field(default=0, ge=0)
    flip: float = Field(default=0, ge=0, le=1)
    jitter: float = Field(default=0, ge=0, le=1)
    brightness: float = Field(default=0.4, ge=0, le=1)
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    hue: float = Field(default=0.1, ge=0, le=0.5)
    grey: float = Field(default=0, ge=0, le=1)

    @property
    def still(self) -> bool:
        """Whether nothing happens to an image."""
        return self.scale is None and not (self.pad or self.flip or self.jitter or self.grey)

    @model_validator(mode="after")
    def _sensible(self) -> Views:
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high <= 1, got {list(self.scale)}.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be [low, high] with 0 < low <= high, got {list(self.ratio)}.")
        if self.scale is not None and self.pad:
            raise ValueError("give scale (a crop of random size) or pad (a shift), not both.")
        return self


@dataclass(frozen=True)
class Plan:
    """What is to happen to each of B images."""

    box: NDArray[np.int64]  # (B, 4): top, left, height, width, in stored pixels
    flip: NDArray[np.bool_]  # (B,)
    factor: NDArray[np.float64]  # (B, 4): brightness, contrast, saturation factors, hue turn
    order: NDArray[np.int64]  # (B, 4): the step at each place
    grey: NDArray[np.bool_]  # (B,)


def plan(views: Views, seed: int, epoch: int, image: NDArray[np.int64], view: int, height: int, width: int) -> Plan:
    """Draw for the images (B,), by their index in the training set, what view number `view` of this epoch shows."""
    u = uniform(seed, epoch, image, view, 10 + 4 * CROP_TRIES)
    strength = np.array([views.brightness, views.contrast, views.saturation, views.hue])
    still = np.array([1.0, 1.0, 1.0, 0.0])
    jittered = (u[:, :1] < views.jitter) & (strength > 0)
    factor = np.where(jittered, still + strength * (2 * u[:, 1:5] - 1), still)
    return Plan(
        box=_boxes(views, u[:, 10:], height, width),
        flip=u[:, 5] < views.flip,
        factor=factor,
        order=ORDERS[(u[:, 6] * len(ORDERS)).astype(np.int64)],
        grey=u[:, 7] < views.grey,
    )


def joined(plans: Sequence[Plan]) -> Plan:
    """One plan for the images of several, one after the other."""
    return Plan(*(np.concatenate([getattr(one, field.name) for one in plans]) for field in fields(Plan)))


def _boxes(views: Views, u: NDArray[np.float64], height: int, width: int) -> NDArray[np.int64]:
    if views.scale is None:
        shift = (u[:, :2] * (2 * views.pad + 1)).astype(np.int64) - views.pad
        return np.concatenate([shift, np.broadcast_to([height, width], shift.shape)], axis=1)
    area, ratio, top, left = u.reshape(len(u), CROP_TRIES, 4).transpose(2, 0, 1)  # each (B, tries)
    area = height * width * (views.scale[0] + (views.scale[1] - views.scale[0]) * area)
    low, high = np.log(views.ratio)
    ratio = np.exp(low + (high - low) * ratio)
    w, h = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (w > 0) & (h > 0) & (w <= width) & (h <= height)
    boxes = np.stack([(top * (height - h + 1)).astype(np.int64), (left * (width - w + 1)).astype(np.int64), h, w], 2)
    w0, h0 = min(width, round(height * views.ratio[1])), min(height, round(width / views.ratio[0]))
    centre = np.array([(height - h0) // 2, (width - w0) // 2, h0, w0])  # where no shape fitted: the largest, centred
    first = boxes[np.arange(len(u)), fits.argmax(axis=1)]
    return np.where(fits.any(axis=1, keepdims=True), first, centre)


def apply(images: Tensor, what: Plan, size: int) -> Tensor:
    """uint8 images (B, 3, H, W) to float views (B, 3, size, size) in 0..1."""
    x = _crop(images, what, size)
    _jitter(x, what)
    grey = np.flatnonzero(what.grey)
    if len(grey):
        rows = _to(grey, x)
        x.index_copy_(0, rows, _luminance(x[rows]).expand(-1, 3, -1, -1))
    return x


def _crop(images: Tensor, what: Plan, size: int) -> Tensor:
    top, left, height, width = _to(what.box.T.astype(np.float32), images)
    flip = _to(what.flip, images)
    rows = _kernel(top, height, size, images.shape[2], torch.zeros_like(flip))  # (B, S, H)
    columns = _kernel(left, width, size, images.shape[3], flip)  # (B, S, W)
    x = torch.bmm(images.float().flatten(1, 2), columns.transpose(1, 2))  # (B, 3 H, S)
    return (rows[:, None] @ x.view(*images.shape[:3], size)).div_(255)


def _kernel(start: Tensor, length: Tensor, size: int, pixels: int, flip: Tensor) -> Tensor:
    """Weights (B, S, P) of stored pixels in each pixel of the view, for boxes [start, start + length) of each image."""
    place = torch.arange(size, device=start.device, dtype=torch.float32) + 0.5  # (S,)
    place = torch.where(flip[:, None], size - place, place)  # (B, S)
    scale = (length / size)[:, None]
    width = scale.clamp(min=1)  # of half a triangle
    centre = (start[:, None] + place * scale) / width
    pixel = (torch.arange(pixels, device=start.device, dtype=torch.float32) + 0.5).expand(len(start), -1)  # (B, P)
    inside = (pixel > start[:, None]) & (pixel < (start + length)[:, None])
    pixel = (pixel / width).where(inside, torch.inf)  # infinitely far from every centre: weight 0
    weight = (pixel[:, None, :] - centre[:, :, None]).abs_().neg_().add_(1).clamp_(min=0)
    return weight.div_(weight.sum(dim=2, keepdim=True).clamp_(min=1e-6))  # a row outside the picture stays black


def _jitter(x: Tensor, what: Plan) -> None:
    """The four steps in each image's order, in place. Three are blends with a grey; the fourth turns the hue.

    Brightness and contrast are one line for the whole batch; the images whose turn it is for one of the others are
    taken out and put back.
    """
    still = np.array([1.0, 1.0, 1.0, 0.0])
    if (what.factor == still).all():
        return
    luminance = x.new_tensor(GREY)
    for place in range(4):
        step = what.order[:, place]
        factor = what.factor[np.arange(len(step)), step].astype(np.float32)
        blended = (step == BRIGHTNESS) | (step == CONTRAST)
        keep = _to(np.where(blended, factor, np.float32(1)), x)
        by_mean = (1 - keep) * _to((step == CONTRAST).astype(np.float32), x)  # (B,)
        grey = by_mean * (x.mean(dim=(2, 3)) @ luminance)
        torch.addcmul(grey.view(-1, 1, 1, 1), keep.view(-1, 1, 1, 1), x, out=x)
        x.clamp_(0, 1)
        for kind, colour in ((SATURATION, _saturate), (HUE, _turn_hue)):
            chosen = np.flatnonzero((step == kind) & (factor != still[kind]))
            if len(chosen):
                rows = _to(chosen, x)
                x.index_copy_(0, rows, colour(x.index_select(0, rows), _to(factor[chosen], x).view(-1, 1, 1)))


def _saturate(x: Tensor, keep: Tensor) -> Tensor:
    """Blend (B, 3, S, S) with its own grey; `keep` (B, 1, 1) is the share of the colours, above 1 for more of them."""
    keep = keep[:, None]
    return torch.addcmul((1 - keep) * _luminance(x), keep, x).clamp_(0, 1)


def _luminance(x: Tensor) -> Tensor:
    """(B, 3, S, S) to (B, 1, S, S)."""
    return (x.new_tensor([GREY]) @ x.flatten(2)).view(len(x), 1, *x.shape[2:])


def _turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of (B, 3, S, S) by `turn` (B, 1, 1) of the circle; value and chroma stay.

    Written without `where`, `remainder` and `max` over a dimension, which take ten times as long on a CPU.
    """
    red, green, blue = x.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    not_red, not_green = (value - red).sign_(), (value - green).sign_()  # 0 where that channel is the brightest, else 1
    ahead = torch.lerp(green - blue, torch.lerp(blue - red, red - green, not_green), not_red)
    third = torch.addcmul(turn, not_red, 1 + not_green, value=1 / 3)  # where that third of the circle begins
    hue = torch.addcdiv(third, ahead, chroma.clamp(min=1e-8), value=1 / 6)  # 1 is the whole circle; 0 for greys
    away = hue[:, None] + x.new_tensor([1 / 2, 1 / 6, -1 / 6]).view(3, 1, 1)  # (B, 3, S, S)
    away.sub_(away.round()).abs_().mul_(-6).add_(2).clamp_(0, 1)
    return torch.addcmul(value[:, None], chroma[:, None], away, value=-1)


def _to(array: NDArray[np.generic], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, non_blocking=True)
