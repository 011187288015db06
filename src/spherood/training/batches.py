"""Views of the batches of an epoch, made one batch ahead by a thread while the network works on the one before.

The thread computes on one core: its many small steps take twice as long on two, which wait for each other after each.
Shapes: B images of a batch, H x W stored pixels, S view size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spherood.data.tensors import standardise
from spherood.data.views import apply, joined, plan
from spherood.training.on_disk import Pictures
from spherood.training.recipe import Recipe

Rows = NDArray[np.int64]


def batches(
    recipe: Recipe, pixels: Tensor | Pictures, shares: Sequence[Rows], epoch: int, views: int
) -> Iterator[Tensor]:
    """For each share of row numbers its views, (views x B, 3, S, S) or (views x B, F), view after view, as the network
    reads them.
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1, "views", torch.set_num_threads, (1,)) as maker:
        made = None
        for rows in shares:
            coming = maker.submit(make_views, recipe, pixels, rows, epoch, views)
            if made is None:
                coming.result()
                torch.set_num_threads(threads)  # part of what the thread set for itself holds for all
            else:
                yield made.result()
            made = coming
        if made is not None:
            yield made.result()


def make_views(recipe: Recipe, pixels: Tensor | Pictures, rows: Rows, epoch: int, views: int) -> Tensor:
    """Views of the images `rows` of uint8 pixels (N, 3, H, W), normalised, channels last; features as they are."""
    if isinstance(pixels, Tensor) and pixels.ndim == 2:
        return pixels[torch.from_numpy(rows).to(pixels.device)].repeat(views, 1)
    images = pixels[torch.from_numpy(rows).to(pixels.device)].repeat(views, 1, 1, 1)
    height, width = images.shape[2:]
    plans = [plan(recipe.views, recipe.seed, epoch, rows, view, height, width) for view in range(views)]
    x = apply(images, joined(plans), recipe.preprocess.size)
    return standardise(x, recipe.preprocess).contiguous(memory_format=torch.channels_last)


def orders(recipe: Recipe, images: int, epoch: int) -> list[Rows]:
    """The batches of an epoch, as row numbers: a permutation drawn from (seed, epoch), cut."""
    order: NDArray[Any] = np.random.default_rng([recipe.seed, epoch]).permutation(images)
    return [order[start : start + recipe.training.batch] for start in range(0, images, recipe.training.batch)]
