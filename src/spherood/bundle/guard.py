"""One forward pass for a model and its guard: the model's own output, unchanged, and a verdict on every image.

A hook takes the feature on its way: the input of the last linear layer, or the output of a layer by name. The user's
preprocessing stays the user's, so the bundle should be one that reads features of that very model.
Shapes: B images, F feature width.
"""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spherood.bundle.bundle import Bundle
from spherood.bundle.verdict import Verdict
from spherood.errors import ConfigError, ShapeError, nearest
from spherood.outputs import Outputs


class Guard:
    """``output, verdicts = Guard(model, bundle)(batch)``."""

    def __init__(self, model: nn.Module, bundle: Bundle, *, layer: str | None = None) -> None:
        """layer: the module whose output is the feature; None: the input of the last linear layer of the right width.

        ConfigError where there is no such layer.
        """
        self.model, self.bundle = model, bundle
        self._taken: list[Tensor] = []
        self._hook: RemovableHandle | None = None
        linear, width = None, bundle.detector.width
        if layer is None and bundle.detector.reads == "feature":
            linear = _last_linear(model, width)
            self._hook = linear.register_forward_pre_hook(lambda _, inputs: self._take(inputs[0]))
        elif layer is not None:
            modules = dict(model.named_modules())
            if layer not in modules:
                raise ConfigError(f"Guard: the model has no layer '{layer}'. {nearest(layer, modules)}")
            self._hook = modules[layer].register_forward_hook(lambda _, inputs, output: self._take(output))
        elif bundle.detector.reads == "embedding":
            raise ConfigError(
                "Guard: the bundle reads embeddings. Say which layer gives them: Guard(model, bundle, layer=...)."
            )

    def __call__(
        self, batch: Any, *more: Any, false_alarm_rate: float | None = None, **named: Any
    ) -> tuple[Any, list[Verdict]]:
        """The model's own output for this batch, and B verdicts; whatever the model takes besides goes to it.

        ShapeError where the layer did not run just once, or gave another width than the bundle reads.
        """
        self._taken.clear()
        output = self.model(batch, *more, **named)
        return output, self.bundle.predict(self._outputs(output), false_alarm_rate)

    def features(self, batch: Any) -> Tensor:
        """What the hook takes, (B, F): with these a bundle is made, Bundle.fit(features, label)."""
        self._taken.clear()
        self.model(batch)
        return self._feature()

    def close(self) -> None:
        """Take the hook off the model."""
        if self._hook is not None:
            self._hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _take(self, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise ShapeError(f"Guard: the layer gives {type(value).__name__}, expected a tensor. Name another layer.")
        self._taken.append(value.detach())

    def _feature(self) -> Tensor:
        if len(self._taken) != 1:
            raise ShapeError(f"Guard: the layer ran {len(self._taken)} times in one pass, expected once. Name another.")
        feature = self._taken.pop()
        return feature.flatten(1).float().cpu()

    def _outputs(self, output: Any) -> Tensor | Outputs:
        if self.bundle.detector.reads != "logits":
            return self._feature()
        if not isinstance(output, Tensor) or output.ndim != 2:
            raise ShapeError("Guard: the bundle reads logits, and the model's output is no matrix (B, C).")
        return output.detach().float().cpu()


def _last_linear(model: nn.Module, width: int | None) -> nn.Linear:
    linear = [part for part in model.modules() if isinstance(part, nn.Linear) and width in (None, part.in_features)]
    if not linear:
        raise ConfigError(
            f"Guard: no linear layer of the model takes {width} values, the width that the bundle reads. Was it fitted "
            "on this model? Name the layer whose output is the feature: Guard(model, bundle, layer='avgpool')."
        )
    return linear[-1]
