"""The training loop against the bare network and against a loop in the references' style: images a second.

    python benchmarks/training.py --data DATA [--encoder resnet10 --width 32] [--device cuda] [--to-accuracy .7]

Three ways through the same network in one run, in turns:
    bare       forward, backward and step on one fixed batch, again and again: nothing can be faster with this network
    ours       the loop of `spherood train`: two views made of each image, CIDER, logging
    plain      in the style of the references: views by Pillow image by image in DataLoader workers, float32, contiguous
               memory, prototypes moved by a loop over rows
Prints the median of five and what ours is of the others; exit 1 where a claim fails: 90 % of the bare network and 4
times the plain loop on a CPU, 85 % and 8 times on a GPU. With --to-accuracy it also trains ours and plain until k-NN
(k = 50, bank of 5,000 training images, 2,000 test images) gets that share right, and prints the minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor, nn

from spherood.data import Preprocess
from spherood.data.source import Source
from spherood.data.views import Views
from spherood.models import ModelSettings, build_model, choose_device, infer
from spherood.models.model import Model
from spherood.processes import Processes
from spherood.sphere import normalize
from spherood.sphere.classify import by_neighbours
from spherood.training.batches import batches, orders
from spherood.training.network import forward_backward
from spherood.training.objective import Objective
from spherood.training.pixels import load_pixels
from spherood.training.recipe import LossTerm, Recipe, Training

REPEATS, STEPS, PLAIN_STEPS = 5, 8, 2
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CLAIMS = {"cpu": (0.90, 4.0), "cuda": (0.85, 8.0)}
BANK, QUERIES = 5_000, 2_000


def recipe_of(encoder: str, width: int, batch: int, lr: float) -> Recipe:
    return Recipe(
        name="benchmark",
        data=Source(folder="cifar10/train"),
        preprocess=Preprocess(size=32, mean=MEAN, std=STD),
        views=Views(scale=(0.2, 1.0), flip=0.5, jitter=0.8, grey=0.2),
        model=ModelSettings(encoder=encoder, width=width, head="mlp"),  # type: ignore[arg-type]
        loss=(LossTerm(use="cider"),),
        training=Training(batch=batch, precision="bf16-mixed"),
        seed=0,
    )


class Plain(torch.utils.data.Dataset[tuple[Tensor, Tensor, int]]):
    """Two views of an image, by Pillow, one image at a time."""

    def __init__(self, pixels: np.ndarray, label: np.ndarray) -> None:
        self.pixels, self.label = pixels, label
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        image = Image.fromarray(self.pixels[row])
        return self.view(image), self.view(image), int(self.label[row])

    def view(self, image: Image.Image) -> Tensor:
        draw = np.random.default_rng(torch.randint(2**31, (1,)).item()).uniform
        area, ratio = 1024 * draw(0.2, 1), np.exp(draw(np.log(3 / 4), np.log(4 / 3)))
        width, height = min(32, round((area * ratio) ** 0.5)), min(32, round((area / ratio) ** 0.5))
        left, top = int(draw(0, 33 - width)), int(draw(0, 33 - height))
        image = image.resize((32, 32), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
        if draw() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if draw() < 0.8:
            for step in np.random.default_rng(int(draw(0, 2**31))).permutation(4):
                if step < 3:
                    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
                    image = enhance(image).enhance(draw(0.6, 1.4))
                else:
                    hue, saturation, value = image.convert("HSV").split()
                    turned = (np.asarray(hue).astype(np.int16) + round(255 * draw(-0.1, 0.1))).astype(np.uint8)
                    image = Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
        if draw() < 0.2:
            image = image.convert("L").convert("RGB")
        return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - self.mean) / self.std


class RowByRow(nn.Module):
    """CIDER with prototypes that are moved by one row after the other, as the released code moves them."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("prototypes", normalize(torch.randn(classes, dim)))

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        prototypes = self.prototypes.clone()
        for row in range(len(label)):
            own = label[row].item()
            prototypes[own] = F.normalize(prototypes[own] * 0.95 + embedding[row] * 0.05, dim=0)
        logit = embedding @ prototypes.detach().T / 0.1
        compactness = 0.1 / 0.07 * F.cross_entropy(logit, label)
        between = (prototypes @ prototypes.T / 0.1).exp() * (1 - torch.eye(len(prototypes), device=label.device))
        dispersion = (between.sum(dim=1) / (len(prototypes) - 1)).log().mean()
        self.prototypes = prototypes.detach()
        return 2 * compactness + dispersion


class Ours:
    """Steps of the loop of `spherood train`, epoch after epoch."""

    def __init__(self, recipe: Recipe, pixels: Tensor, label: Tensor, device: torch.device) -> None:
        self.recipe, self.label = recipe, label
        self.model = build_model(recipe.model, 10, 0).to(device, memory_format=torch.channels_last).train()
        self.objective = Objective(recipe, self.model, 10).to(device)
        self.optimiser = sgd(self.model)
        self.pixels = pixels.permute(0, 3, 1, 2).contiguous().to(device)
        self.steps = self._forever()

    def _forever(self) -> Iterator[int]:
        epoch = 0
        while True:
            todo = orders(self.recipe, len(self.label), epoch)
            for rows, x in zip(todo, batches(self.recipe, self.pixels, todo, epoch, 2), strict=True):
                label, image = self.label[rows].repeat(2), torch.from_numpy(rows).repeat(2)
                self.optimiser.zero_grad(set_to_none=True)
                forward_backward(self.model, self.objective, x, label, image, Processes(), 2, self.recipe.training)
                self.optimiser.step()
                yield len(rows)
            epoch += 1

    def step(self) -> int:
        return next(self.steps)


class Bare:
    """Forward, backward and step on a fixed batch."""

    def __init__(self, ours: Ours, device: torch.device) -> None:
        self.ours = ours
        size = ours.recipe.training.batch
        self.model = build_model(ours.recipe.model, 10, 0).to(device, memory_format=torch.channels_last).train()
        self.optimiser, self.size = sgd(self.model), size
        self.x = next(batches(ours.recipe, ours.pixels, [np.arange(size)], 0, 2))
        self.way = normalize(torch.randn(2 * size, ours.recipe.model.dim, device=device))

    def step(self) -> int:
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.x.device.type, torch.bfloat16):
            embedding = self.model(self.x).embedding
        (embedding.float() * self.way).sum().backward()
        self.optimiser.step()
        return self.size


class PlainLoop:
    """The references' style."""

    def __init__(self, recipe: Recipe, pixels: Tensor, label: Tensor, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.model = build_model(recipe.model, 10, 0).to(device).train()
        self.loss, self.optimiser = RowByRow(10, recipe.model.dim).to(device), sgd(self.model)
        self.loader = torch.utils.data.DataLoader(
            Plain(pixels.numpy(), label.numpy()), recipe.training.batch, shuffle=True, num_workers=os.cpu_count() or 1
        )
        self.steps = self._forever()

    def _forever(self) -> Iterator[int]:
        while True:
            for first, second, label in self.loader:
                embedding = self.model(torch.cat([first, second]).to(self.device)).embedding
                self.optimiser.zero_grad()
                self.loss(embedding, label.repeat(2).to(self.device)).backward()
                self.optimiser.step()
                yield len(label)

    def step(self) -> int:
        return next(self.steps)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)


def rate(step: Callable[[], int], steps: int, device: torch.device) -> float:
    begin = time.perf_counter()
    images = sum(step() for _ in range(steps))
    if device.type == "cuda":
        torch.cuda.synchronize()
    return images / (time.perf_counter() - begin)


def minutes_to(
    accuracy: float, way: Ours | PlainLoop, pixels: Tensor, label: Tensor, test: tuple[Tensor, Tensor]
) -> str:
    """Training time, without the looks at the accuracy, taken every 25,000 images."""
    spent, seen, last = 0.0, 0, 0
    while spent < 3600:
        begin = time.perf_counter()
        seen += way.step()
        spent += time.perf_counter() - begin
        if seen - last < 25_000:
            continue
        last = seen
        found = knn_accuracy(way.model, pixels, label, test)
        way.model.train()
        print(f"  {type(way).__name__}: {spent / 60:.1f} minutes, {seen:,} images, k-NN {found:.3f}", file=sys.stderr)
        if found >= accuracy:
            return f"{spent / 60:.1f} minutes ({seen:,} images)"
    return "not within an hour"


def knn_accuracy(model: Model, pixels: Tensor, label: Tensor, test: tuple[Tensor, Tensor]) -> float:
    preprocess = Preprocess(size=32, mean=MEAN, std=STD)
    unit = [
        normalize(torch.cat([infer(model, some, preprocess).feature for some in part.split(250)]))
        for part in (pixels[:BANK], test[0])
    ]
    return float((by_neighbours(unit[1], unit[0], label[:BANK], 10, 50) == test[1]).float().mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SPHEROOD_DATA", "data")))
    parser.add_argument("--encoder", default="resnet10")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--to-accuracy", type=float, default=None)
    wanted = parser.parse_args()
    device = choose_device(wanted.device)
    recipe = recipe_of(wanted.encoder, wanted.width, wanted.batch, 0.2)
    examples = load_pixels(recipe.data.load(wanted.data), recipe.preprocess)
    mixed = torch.from_numpy(np.random.default_rng(0).permutation(len(examples.label)))
    pixels, label = examples.pixels[mixed], examples.label[mixed]

    ours = Ours(recipe, pixels, label, device)
    ways = {"bare": Bare(ours, device), "ours": ours, "plain": PlainLoop(recipe, pixels, label, device)}
    steps = {"bare": STEPS, "ours": STEPS, "plain": PLAIN_STEPS}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        rate(way.step, 2, device)
    for _ in range(REPEATS):
        for name, way in ways.items():
            rates[name].append(rate(way.step, steps[name], device))
        time.sleep(3)  # the workers of the plain loop fill their queues
    median = {name: statistics.median(some) for name, some in rates.items()}
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{wanted.encoder} of width {wanted.width}, batch {wanted.batch}, {what}, torch {torch.__version__}")
    for name, some in rates.items():
        print(f"{name:6} {median[name]:8,.0f} images/s  ({min(some):,.0f} to {max(some):,.0f})")
    share = statistics.median([a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)])
    times = statistics.median([a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)])
    least, more = CLAIMS.get(device.type, CLAIMS["cpu"])
    print(f"the bare network is {median['bare'] / median['plain']:.1f} times as fast as plain: no loop can be faster")
    print(f"ours: {100 * share:.0f} % of bare (claim {100 * least:.0f}), {times:.1f} times plain (claim {more:g})")
    if wanted.to_accuracy is not None:
        images = Source(folder="cifar10/test").load(wanted.data).draw(QUERIES)
        test = load_pixels(images, recipe.preprocess)
        for way in (Ours(recipe, pixels, label, device), PlainLoop(recipe, pixels, label, device)):
            told = minutes_to(wanted.to_accuracy, way, pixels, label, (test.pixels, test.label))
            print(f"{type(way).__name__}: k-NN accuracy {wanted.to_accuracy:g} after {told}")
    return 0 if share >= least and times >= more else 1


if __name__ == "__main__":
    sys.exit(main())
