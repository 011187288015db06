"""Where else a run's numbers may go: three methods, of anyone's tracker; TensorBoard's is here.

metrics.jsonl and validation.jsonl are always written. A tracker is named on the command line or passed to `train`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from spherood.errors import ConfigError, optional


class Tracker(Protocol):
    """Called by the first process alone; a resumed run calls `start` again."""

    def start(self, run: Path, recipe: Mapping[str, Any]) -> None:
        """A run begins, or goes on, in this folder."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after so many optimiser steps; a name may hold slashes."""

    def end(self) -> None:
        """The run is over, for whatever reason."""


class TensorBoard:
    """Event files under RUN/tensorboard: ``tensorboard --logdir runs``."""

    def start(self, run: Path, recipe: Mapping[str, Any]) -> None:
        """MissingExtraError where TensorBoard is not installed."""
        optional("tensorboard", "tensorboard", "The tracker 'tensorboard'")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))
        self.writer.add_text("recipe", f"```\n{recipe}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end(self) -> None:
        """Write what is left."""
        self.writer.close()


def named(text: str) -> Tracker:
    """`tensorboard`, or an import path to a class of one's own; ConfigError where there is none."""
    if text == "tensorboard":
        return TensorBoard()
    module, colon, name = text.partition(":")
    found: Any = None
    try:
        if colon:
            found = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"tracker '{text}': cannot be made: {error}. Write it as package.module:Class.") from None
    if not all(callable(getattr(found, method, None)) for method in ("start", "log", "end")):
        raise ConfigError(f"tracker '{text}': needs the methods start, log and end. Known by name: tensorboard.")
    tracker: Tracker = found
    return tracker


def flat(row: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """The numbers of a nested row, their keys joined by slashes; lists, words and flags are left out."""
    values: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{before}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            values[f"{before}{key}"] = value
    return values
