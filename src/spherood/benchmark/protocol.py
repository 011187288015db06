"""A protocol: which images are ID, which are near and far OOD, and how they are resized. One YAML file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from spherood.benchmark.result import Kind
from spherood.data import Source
from spherood.errors import ConfigError, nearest
from spherood.schema import Strict, parse, read_yaml


class IdSets(Strict):
    """Three disjoint ID sets: train fits detectors, validation calibrates the threshold, test is reported."""

    train: Source
    validation: Source
    test: Source


class Protocol(Strict):
    """See benchmark/protocols/ for examples; ten lines make one's own."""

    name: str
    about: str
    version: str
    resize: Literal["short_side", "stretch"] = "short_side"
    false_alarm_rate: float = Field(default=0.05, gt=0, lt=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    id: IdSets
    near: dict[str, Source] = Field(default_factory=dict)
    far: dict[str, Source] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_differ(self) -> Protocol:
        both = self.near.keys() & self.far.keys()
        if both:
            raise ValueError(f"'{min(both)}' is both near and far.")
        for reserved in ("near", "far"):
            if reserved in self.near or reserved in self.far:
                raise ValueError(f"a set cannot be called '{reserved}': that is the name of a mean.")
        return self

    @property
    def ood(self) -> dict[str, tuple[Kind, Source]]:
        """Name -> kind and source, near sets first."""
        near: dict[str, tuple[Kind, Source]] = {name: ("near", source) for name, source in self.near.items()}
        return near | {name: ("far", source) for name, source in self.far.items()}


def protocol_names() -> list[str]:
    """The protocols that come with the package."""
    root = Path(str(files("spherood.benchmark") / "protocols"))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def load_protocol(name: str) -> Protocol:
    """A protocol of the package by name, or one's own by path; ConfigError offers the nearest name."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif name in protocol_names():
        path = Path(str(files("spherood.benchmark") / "protocols" / f"{name}.yaml"))
    else:
        hint = nearest(name, protocol_names())
        raise ConfigError(f"There is no protocol '{name}'. {hint} Your own: a path that ends in .yaml.")
    return parse(Protocol, read_yaml(path, "protocol"), str(path))
