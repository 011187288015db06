"""The arithmetic of the colour jitter, against Pillow's enhancers and Python's colorsys."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from spherood.data.views import BRIGHTNESS, CONTRAST, HUE, ORDERS, SATURATION, Plan, apply

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
MUTED = RNG.integers(70, 150, (8, 8, 3), dtype=np.uint8)
FLAT = np.full((8, 8, 3), 90, dtype=np.uint8)
PICTURES = np.stack([NOISE, MUTED, FLAT])
STILL = (1.0, 1.0, 1.0, 0.0)
ROUNDING = 1.5 / 255  # Pillow works on uint8 and rounds the mean that contrast turns about


def planned(factors: list[tuple[float, ...]], orders: list[list[int]], grey: list[bool] | None = None) -> Plan:
    """Only colours."""
    rows = len(factors)
    return Plan(
        box=np.tile([0, 0, 8, 8], (rows, 1)),
        flip=np.zeros(rows, dtype=bool),
        factor=np.array(factors),
        order=np.array(orders),
        grey=np.array(grey or [False] * rows),
    )


def tensor(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def one_step(step: int, factor: float) -> Tensor:
    """PICTURES after one step, (3, 8, 8, 3)."""
    factors = [tuple(factor if place == step else STILL[place] for place in range(4))] * 3
    return apply(tensor(PICTURES), planned(factors, [[0, 1, 2, 3]] * 3), 8).permute(0, 2, 3, 1)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.25, 1.4, 2.0])
@pytest.mark.parametrize(
    ("step", "enhancer"),
    [
        (BRIGHTNESS, ImageEnhance.Brightness),
        (CONTRAST, ImageEnhance.Contrast),
        (SATURATION, ImageEnhance.Color),
    ],
)
def test_brightness_contrast_and_saturation_are_pillows(
    step: int, enhancer: type[ImageEnhance.Brightness], factor: float
) -> None:
    for view, picture in zip(one_step(step, factor), PICTURES, strict=True):
        expected = np.asarray(enhancer(Image.fromarray(picture)).enhance(factor)).astype(float) / 255
        assert np.abs(view.numpy() - expected).max() <= ROUNDING


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.03, 0.25, 0.5])
def test_the_hue_turns_as_in_colorsys(turn: float) -> None:
    for view, picture in zip(one_step(HUE, turn), PICTURES, strict=True):
        for row, column in np.ndindex(8, 8):
            h, s, v = colorsys.rgb_to_hsv(*(picture[row, column] / 255))
            expected = torch.tensor(colorsys.hsv_to_rgb((h + turn) % 1, s, v))
            torch.testing.assert_close(view[row, column].double(), expected.double(), rtol=0, atol=1e-5)


def test_the_steps_happen_in_each_images_own_order() -> None:
    factor = (1.3, 0.7, 1.6, 0.1)
    found = apply(tensor(NOISE[None].repeat(24, axis=0)), planned([factor] * 24, ORDERS.tolist()), 8)
    for view, order in zip(found, ORDERS, strict=True):
        x = np.asarray(NOISE) / 255.0
        for step in order:
            x = slow_step(x, int(step), factor[step])
        assert np.abs(view.permute(1, 2, 0).numpy() - x).max() < 1e-5
    gap = torch.pdist(found.flatten(1).double())
    assert float(gap.min()) > 1e-4  # so no two orders are one


def slow_step(
    x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], step: int, factor: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """One step on a picture (8, 8, 3) in 0..1, from its definition."""
    if step == HUE:
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(-1, 3)]
        return np.array([colorsys.hsv_to_rgb((h + factor) % 1, s, v) for h, s, v in hsv]).reshape(x.shape)
    grey = x @ [0.299, 0.587, 0.114]
    other = {BRIGHTNESS: np.zeros_like(grey), CONTRAST: np.full_like(grey, grey.mean()), SATURATION: grey}[step]
    return np.clip(factor * x + (1 - factor) * other[..., None], 0, 1)


def test_an_image_without_jitter_stays_among_jittered_ones() -> None:
    found = apply(tensor(PICTURES), planned([(1.3, 0.7, 1.6, 0.1), STILL, STILL], [[3, 2, 1, 0]] * 3), 8)
    torch.testing.assert_close(found[1:], tensor(PICTURES)[1:] / 255, rtol=0, atol=1e-6)
    assert float((found[0] - tensor(PICTURES)[0] / 255).abs().max()) > 0.1


def test_grey_is_pillows_luminance_and_only_where_drawn() -> None:
    found = apply(tensor(PICTURES), planned([STILL] * 3, [[0, 1, 2, 3]] * 3, [True, False, True]), 8)
    for row in (0, 2):
        expected = torch.from_numpy(np.asarray(Image.fromarray(PICTURES[row]).convert("L")) / 255.0)
        for channel in found[row]:
            assert float((channel - expected).abs().max()) <= 1.01 / 255
    assert torch.equal(found[1], tensor(PICTURES)[1] / 255)
