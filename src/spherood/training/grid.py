"""Many runs of one recipe: seeds, and settings that are swept. Each is an ordinary run in a folder of its own.

The same command goes on where it stopped: what is trained is left alone, what was interrupted is resumed. One run that
fails does not stop the others; Ctrl-C stops all.
"""

from __future__ import annotations

import itertools
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from spherood.errors import ConfigError, SpheroodError, Stopped
from spherood.training.checkpoint import LAST, Checkpoint
from spherood.training.recipe import Recipe

UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")

State = Literal["absent", "begun", "trained", "another recipe"]


@dataclass(frozen=True)
class Member:
    """One run of the grid: its folder, its recipe, and what sets it apart from the others."""

    run: Path
    recipe: Recipe
    varied: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """How far it is, by its last checkpoint."""
        if not (self.run / LAST).exists():
            return "absent"
        before = Checkpoint.load(self.run / LAST)
        if before.recipe != _completed(self.recipe, before.recipe):
            return "another recipe"
        return "trained" if before.epoch >= self.recipe.training.epochs else "begun"


@dataclass(frozen=True)
class Outcome:
    """What became of a run; `why` is empty where it is trained."""

    member: Member
    what: Literal["trained", "was trained", "failed"]
    seconds: float = 0.0
    why: str = ""


def members(
    load: Callable[[Sequence[str]], Recipe], base: Path, seeds: int | None = None, sweep: Sequence[str] = ()
) -> list[Member]:
    """Every combination of the swept values, with so many seeds from the recipe's own on.

    load: gives the recipe with `key=value` changes. base: the folders' names begin so. sweep: "key=a,b,c", the values
    as in a YAML list. ConfigError where one makes no sense, or two runs would have one folder.
    """
    if seeds is not None and seeds < 1:
        raise ConfigError(f"--seeds {seeds}: expected 1 or more.")
    found = []
    for changes in itertools.product(*map(_swept, sweep)):
        first = load([f"{key}={_text(value)}" for key, value in changes])
        told = {key: _text(value) for key, value in changes}
        name = "".join(f"-{key.rpartition('.')[2]}={_text(value)}" for key, value in changes)
        for seed in range(first.seed, first.seed + seeds) if seeds is not None else (None,):
            one = first if seed is None else first.model_copy(update={"seed": seed})
            more = "" if seed is None else f"-seed{seed}"
            varied = told if seed is None else told | {"seed": str(seed)}
            found.append(Member(base.with_name(UNSAFE.sub("-", f"{base.name}{name}{more}")), one, varied))
    folders = [member.run for member in found]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"{folder}: two runs of the sweep would lie there. Name every value once.")
    return found


def train_all(grid: Sequence[Member], train: Callable[[Member, bool], Any]) -> Iterator[Outcome]:
    """Train what is not trained yet, one after the other; train(member, resume). Stopped, from Ctrl-C, goes through."""
    for member in grid:
        begin = time.monotonic()
        try:
            state = member.state
            if state == "trained":
                yield Outcome(member, "was trained")
                continue
            train(member, state != "absent")
        except Stopped:
            raise
        except SpheroodError as error:
            yield Outcome(member, "failed", time.monotonic() - begin, str(error))
        except Exception as error:  # of a loss of one's own, or of the device: the next run may do without it
            traceback.print_exc()
            yield Outcome(member, "failed", time.monotonic() - begin, f"{type(error).__name__}: {error}")
        else:
            yield Outcome(member, "trained", time.monotonic() - begin)


def _swept(text: str) -> list[tuple[str, Any]]:
    key, equals, values = text.partition("=")
    try:
        found = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError:
        found = None
    if not (key and equals and found):
        raise ConfigError(f"--sweep {text}: expected key=a,b,c, for example loss.cider.compactness_weight=0.5,1,2.")
    return [(key, value) for value in found]


def _text(value: Any) -> str:
    """As one would type it in YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=1e9).removesuffix("...\n").strip()


def _completed(recipe: Recipe, before: Recipe) -> Recipe:
    """The recipe with what training filled in for its encoder, see reading.py."""
    model = recipe.model.model_copy(update={"features": before.model.features})
    preprocess = recipe.preprocess if "preprocess" in recipe.model_fields_set else before.preprocess
    return recipe.model_copy(update={"model": model, "preprocess": preprocess})
