"""One forward pass for a model and its guard: the model's own output, unchanged, and a verdict on every image.

    feature = features_of(model, batches)
    output, verdicts = Guard(model, Bundle.fit(feature, label))(batch)

A hook takes the feature on its way: the input of the last linear layer, or the output of a layer by name, flattened.
The user's preprocessing stays the user's, so the bundle should be one that reads features of that very model. The
gradient of the output is that of the model alone. The model runs in the mode it is in; while it trains, drop-out and
the statistics of the batch enter the feature, and the bundle promises nothing.
Shapes: B images, N those of all batches, F feature width, C classes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn

from spherood.bundle.bundle import Bundle
from spherood.bundle.verdict import Verdict
from spherood.errors import ConfigError, ShapeError, nearest


class Guard:
    """``output, verdicts = Guard(model, bundle)(batch)``."""

    def __init__(self, model: nn.Module, bundle: Bundle, *, layer: str | None = None) -> None:
        """layer: the module whose output the bundle reads. None: the input of the last linear layer of that width, and
        for a bundle that reads logits the model's output, or its `logits`.

        ConfigError where there is no such layer.
        """
        self.model, self.bundle = model, bundle
        self._tap: _Tap | None = None
        reads = bundle.runtime.reads
        if layer is None and reads == "embedding":
            raise ConfigError(
                "Guard: the bundle reads embeddings. Say which layer gives them: Guard(model, bundle, layer=...)."
            )
        if reads == "layers":
            raise ConfigError(
                "Guard: the bundle reads several layers, and a guard takes one. Use bundle.predict(images), or a "
                "bundle whose score reads the feature."
            )
        if layer is not None or reads == "feature":
            self._tap = _Tap("Guard", model, layer, bundle.runtime.width)

    def __call__(
        self, batch: Any, *more: Any, false_alarm_rate: float | None = None, **named: Any
    ) -> tuple[Any, list[Verdict]]:
        """The model's own output for this batch, and B verdicts; whatever the model takes besides goes to it.

        ShapeError where the layer did not run just once, or gave another width than the bundle reads; errors as of
        `Bundle.predict`.
        """
        if self._tap is None:
            output = self.model(batch, *more, **named)
            read = _logits(output)
        else:
            output, read = self._tap.run(batch, *more, **named)
        return output, self.bundle.predict(read, false_alarm_rate)

    def close(self) -> None:
        """Take the hook off the model."""
        if self._tap is not None:
            self._tap.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@torch.no_grad()
def features_of(model: nn.Module, batches: Iterable[Any], layer: str | None = None) -> Tensor:
    """What a Guard sees of all batches, (N, F), float32 on the CPU: a bundle is fitted on it.

    batches: what the model takes, on its device; of a pair (images, label), as a loader gives it, the first. layer: as
    of Guard. ConfigError for a model in training mode, an unknown layer, or no batch; ShapeError as of Guard.
    """
    if model.training:
        raise ConfigError(
            "features_of: the model is in training mode, where drop-out and the statistics of the batch enter the "
            "feature. Call model.eval() first."
        )
    tap = _Tap("features_of", model, layer, None)
    try:
        found = [tap.run(batch[0] if isinstance(batch, tuple | list) else batch)[1] for batch in batches]
    finally:
        tap.close()
    if not found:
        raise ConfigError("features_of: no batch. A used-up generator gives nothing.")
    return torch.cat(found)


class _Tap:
    """A hook on one layer of a model; `where` begins its messages, `width` is that of the feature where it is known."""

    def __init__(self, where: str, model: nn.Module, layer: str | None, width: int | None) -> None:
        self.where, self.model, self.width = where, model, width
        self._pass = threading.local()  # a service may run one model in several threads
        modules = dict(model.named_modules(remove_duplicate=False))
        self.layer = self._last_linear(modules) if layer is None else layer
        if self.layer not in modules:
            raise ConfigError(
                f"{where}: the model has no layer '{layer}'. {nearest(self.layer, filter(None, modules))}"
            )
        tapped = modules[self.layer]
        self._hook = (
            tapped.register_forward_pre_hook(lambda _, x, named: self._take(*x, *named.values()), with_kwargs=True)
            if layer is None
            else tapped.register_forward_hook(lambda _, x, output: self._take(output))
        )

    def run(self, *inputs: Any, **named: Any) -> tuple[Any, Tensor]:
        """The model's output, and the feature (B, F), float32 on the CPU."""
        taken: list[Any] = []
        self._pass.taken = taken
        try:
            output = self.model(*inputs, **named)
        finally:
            self._pass.taken = None  # between our passes the model is the user's, and nothing is kept
        return output, self._feature(taken)

    def close(self) -> None:
        self._hook.remove()

    def _take(self, value: Any) -> None:
        taken = getattr(self._pass, "taken", None)
        if taken is not None:  # a copy: the next layer may work in place
            taken.append(value.detach().clone() if isinstance(value, Tensor) else value)

    def _feature(self, taken: list[Any]) -> Tensor:
        where = f"{self.where}: layer '{self.layer}'"
        if len(taken) != 1:
            raise ShapeError(f"{where} ran {len(taken)} times in one pass, expected once. Name another: layer=...")
        (value,) = taken
        if not isinstance(value, Tensor) or value.ndim < 2:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"{where} gives {got}, expected a tensor (B, F) or (B, F, 1, 1). Name another: layer=...")
        feature = value.flatten(1).float().cpu()
        if self.width not in (None, feature.shape[1]):
            raise ShapeError(
                f"{where} gives {tuple(value.shape)}, that is {feature.shape[1]} values for each image, and the bundle "
                f"reads {self.width}. Was it fitted on this layer? Name another: layer=..."
            )
        return feature

    def _last_linear(self, modules: dict[str, nn.Module]) -> str:
        linear = [name for name, part in modules.items() if isinstance(part, nn.Linear)]
        fitting = [name for name in linear if self.width in (None, modules[name].in_features)]
        if not fitting:
            of_width = "" if self.width is None else f" that takes {self.width} values, the width that the bundle reads"
            raise ConfigError(
                f"{self.where}: the model has no linear layer{of_width}. Name the layer whose output is the feature: "
                "layer='avgpool'."
            )
        return fitting[-1]


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ShapeError(
            "Guard: the bundle reads logits, and the model's output is no matrix (B, C). Say which layer gives them: "
            "Guard(model, bundle, layer=...)."
        )
    return logits.detach().float().cpu()
