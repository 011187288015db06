"""Both views of a batch of CIFAR size, made by spherood and by kornia, and image by image by Pillow.

    python benchmarks/views.py          needs: pip install --no-deps kornia kornia_rs

Random resized crop (scale .2 to 1), flip, colour jitter with probability .8, grey with probability .2, normalisation,
on one core each (what the training loop gives them). Prints images a second and how many times as fast ours is; exit 1
where it is not 1.5 times as fast as kornia: then kornia should do it. What ours computes is tested against Pillow's
definitions image by image (tests/data/test_colours.py, test_crops.py).
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from spherood.training.batches import make_views
from training import MEAN, STD, Plain, recipe_of

BATCH, VIEWS, REPEATS = 128, 2, 15
CLAIM = 1.5


def kornia_way(pixels: Tensor) -> Callable[[], Tensor]:
    from kornia import augmentation

    chain = nn.Sequential(
        augmentation.RandomResizedCrop((32, 32), scale=(0.2, 1.0)),
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
        augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )

    def make() -> Tensor:
        both = pixels[:BATCH].repeat(VIEWS, 1, 1, 1).float() / 255
        return chain(both).contiguous(memory_format=torch.channels_last)

    return make


def pillow_way(pixels: Tensor) -> Callable[[], Tensor]:
    images = pixels[:BATCH].permute(0, 2, 3, 1).contiguous().numpy()
    one = Plain(images, np.zeros(BATCH))
    return lambda: torch.cat(
        [torch.stack(views) for views in zip(*(one[row][:2] for row in range(BATCH)), strict=True)]
    )


def main() -> int:
    torch.set_num_threads(1)
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    recipe, rows, epochs = recipe_of("resnet10", 32, BATCH, 0.2), np.arange(BATCH), iter(range(10**6))
    ways = {
        "ours": lambda: make_views(recipe, pixels, rows, next(epochs), VIEWS),
        "kornia": kornia_way(pixels),
        "Pillow": pillow_way(pixels),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + REPEATS):
        for name, make in ways.items():
            begin = time.perf_counter()
            assert make().shape == (BATCH * VIEWS, 3, 32, 32)
            times[name].append(time.perf_counter() - begin)
    print(f"{BATCH} images of 32 x 32, {VIEWS} views, one core, torch {torch.__version__}, {platform.machine()}")
    for name, some in times.items():
        median = statistics.median(some[1:])
        print(f"{name:8} {1e3 * median:8.1f} ms  {BATCH / median:8,.0f} images/s")
    ratio = {
        name: statistics.median([a / b for a, b in zip(times[name][1:], times["ours"][1:], strict=True)])
        for name in ("kornia", "Pillow")
    }
    print(f"ours is {ratio['kornia']:.1f} times as fast as kornia (claim {CLAIM}) and {ratio['Pillow']:.1f} as Pillow")
    return 0 if ratio["kornia"] >= CLAIM else 1


if __name__ == "__main__":
    sys.exit(main())
