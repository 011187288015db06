"""A protocol: which images are ID, which are near and far OOD, and how they are resized. One YAML file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from spherood.benchmark.result import Kind
from spherood.data import Preprocess, Source
from spherood.data.preprocess import Triple
from spherood.errors import ConfigError, nearest
from spherood.schema import Strict, parse, read_yaml

MEASURES = Literal["fpr_ood_at_id95", "fpr_id_at_ood95", "fpr_ood_at_id95_cider", "fpr_id_at_ood95_openood"]
AREAS = Literal["aupr_in", "aupr_out", "average_precision"]


class IdSets(Strict):
    """Disjoint ID sets: train fits detectors, validation calibrates the threshold, test is reported.

    Without a validation set, as in CIDER's protocols, there are figures and no threshold, hence no bundle.
    """

    train: Source
    validation: Source | None = None
    test: Source


class Normalise(Strict):
    """Statistics that the protocol's own checkpoints expect, for files that do not tell."""

    mean: Triple
    std: Triple


class Published(Strict):
    """Under which name its numbers were published, and by which rule: one metric, several definitions."""

    protocol: str  # "openood-1.5", "cider"
    id_dataset: str  # "CIFAR-10"
    fpr: MEASURES
    aupr: tuple[AREAS, ...]


class Protocol(Strict):
    """See benchmark/protocols/ for examples; ten lines make one's own.

    near, far: OOD sets, each kind with its mean. extra: measured, in no mean. csid: ID under covariate shift, counted
    as ID by `--full-spectrum`. validation_ood: for sweeps alone. resize: see data/preprocess.py. crop: share of the
    short side that the model sees (224 of 256: .875). as_is: sets that lie at the model's size already. scores: what is
    computed where none are asked for.
    """

    name: str
    about: str
    version: str
    resize: Literal["short_side", "stretch"] = "short_side"
    crop: float = Field(default=1.0, gt=0, le=1)
    as_is: tuple[str, ...] = ()
    normalise: Normalise | None = None
    scores: tuple[str, ...] = ("knn:k=50", "mahalanobis:unit=true", "msp")
    published: Published | None = None
    false_alarm_rate: float = Field(default=0.05, gt=0, lt=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    id: IdSets
    near: dict[str, Source] = Field(default_factory=dict)
    far: dict[str, Source] = Field(default_factory=dict)
    extra: dict[str, Source] = Field(default_factory=dict)
    csid: dict[str, Source] = Field(default_factory=dict)
    validation_ood: dict[str, Source] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_differ(self) -> Protocol:
        seen: dict[str, Kind] = {}
        for kind, sets in self._kinds():
            for name in sets:
                if name in seen:
                    raise ValueError(f"'{name}' is both {seen[name]} and {kind}.")
                if name in ("near", "far"):
                    raise ValueError(f"a set cannot be called '{name}': that is the name of a mean.")
                seen[name] = kind
        for name in self.as_is:
            if name not in {*seen, *self.csid}:
                raise ValueError(f"as_is names '{name}', which is no set here. {nearest(name, {*seen, *self.csid})}")
        return self

    @property
    def ood(self) -> dict[str, tuple[Kind, Source]]:
        """Name -> kind and source: near sets, then far, then extra ones."""
        return {name: (kind, source) for kind, sets in self._kinds() for name, source in sets.items()}

    def applied_to(self, preprocess: Preprocess) -> Preprocess:
        """A model's preprocess with this protocol's resize rule."""
        short_side = round(preprocess.size / self.crop) if self.crop < 1 and self.resize == "short_side" else None
        return preprocess.model_copy(update={"resize": self.resize, "short_side": short_side})

    def _kinds(self) -> Iterator[tuple[Kind, dict[str, Source]]]:
        yield from (("near", self.near), ("far", self.far), ("extra", self.extra))


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
