"""Which parts of a model are trained, from which weights, and how fast.

A frozen part gets no gradient, is not in the optimiser, and stays in evaluation mode: its batch-norm keeps its running
statistics. (The released code of CIDER and ReweightOOD lets those drift.) A part is named as in the model, `head`,
`encoder`, `encoder.layer4.1`, or within the encoder, `layer4`.
"""

from __future__ import annotations

from pydantic import Field, field_validator
from torch import nn

from spherood.errors import ConfigError, nearest
from spherood.models import Model
from spherood.schema import Strict

PLACES = ("", "encoder.", "encoder.network.", "encoder.network.network.")  # where a part's name may begin
SHOWN = 12  # parts that a message lists


class FineTuning(Strict):
    """By default everything is trained from random weights, but for a network of timm or one's own, which bring theirs.

    weights: a checkpoint (torchvision, OpenOOD, CIDER, or a run's last.pt), see weights.py. train: the parts that are
    trained, all by default; the losses' own parameters always are. rates: factor on the schedule's learning rate by
    part; 1 for the others.
    """

    weights: str | None = None
    train: tuple[str, ...] | None = Field(default=None, min_length=1)
    rates: dict[str, float] = Field(default_factory=dict)

    @field_validator("rates")
    @classmethod
    def _positive(cls, rates: dict[str, float]) -> dict[str, float]:
        for part, factor in rates.items():
            if not factor > 0:
                raise ValueError(f"the rate of {part} must be a factor > 0, got {factor:g}. To freeze it, use train.")
        return rates

    def choose(self, model: Model) -> Trained:
        """Mark what is trained. ConfigError for a part that the model does not have."""
        names = None if self.train is None else [_place(model, part) for part in self.train]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(names is None or any(_within(name, part) for part in names))
        rates = {_place(model, part): factor for part, factor in self.rates.items()}
        for part, place in zip(self.rates, rates, strict=True):
            if not any(p.requires_grad for name, p in model.named_parameters() if _within(name, place)):
                raise ConfigError(f"fine_tuning.rates: {part} is not trained. Name it under fine_tuning.train too.")
        return Trained(model, names, rates)


class Trained:
    """The parts of a model that are trained; None: all of them."""

    def __init__(self, model: Model, names: list[str] | None, rates: dict[str, float]) -> None:
        self.model, self.names, self.rates = model, names, rates

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether nothing of the encoder changes: there are parts of it, or none that could."""
        return not any(parameter.requires_grad for parameter in self.model.encoder.parameters())

    @property
    def groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """The trained parameters by the factor on their learning rate."""
        found: dict[float, list[nn.Parameter]] = {1.0: []}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                places = [part for part in self.rates if _within(name, part)]
                factor = self.rates[max(places, key=len)] if places else 1.0
                found.setdefault(factor, []).append(parameter)
        return list(found.items())

    def train_mode(self) -> None:
        """Training mode for what is trained, evaluation mode for what is frozen."""
        self.model.train()
        if self.names is not None:
            for name, module in self.model.named_modules():
                module.training = any(_within(name, part) for part in self.names)


def _within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def _place(model: Model, part: str) -> str:
    """The full name of a part that has parameters; ConfigError offers the nearest."""
    names = [name for name, _ in model.named_parameters()]
    for place in PLACES:
        if any(_within(name, place + part) for name in names):
            return place + part
    parts = {name.removeprefix("encoder.").removeprefix("network.").partition(".")[0] for name in names}
    raise ConfigError(
        f"fine_tuning: the model has no part '{part}'. {nearest(part, parts)} Parts: "
        f"{', '.join(sorted(parts)[:SHOWN])}{', …' if len(parts) > SHOWN else ''}."
    )
