"""Every error that a user can meet. Each message says what was wrong, where, and what to do next.

All derive from `SpheroodError`, and each also from the built-in error a caller would expect, so that code which catches
ValueError or OSError goes on working. The command line prints the message alone; anything else is a bug and shows its
traceback.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class SpheroodError(Exception):
    """Something the user can mend; the message says how."""


class ConfigError(SpheroodError, ValueError):
    """A setting, recipe, protocol or name that does not make sense."""


class ShapeError(SpheroodError, ValueError):
    """An array of the wrong shape, type or range."""


class FitError(SpheroodError, ValueError):
    """A detector that cannot be fitted on what it was given."""


class NotFittedError(SpheroodError, ValueError):
    """A detector that was asked before it was fitted."""


class CalibrationError(SpheroodError, ValueError):
    """A promise that the held-out scores cannot keep."""


class DataError(SpheroodError, ValueError):
    """A set of images that is missing, empty or contradicts itself."""


class OutputError(SpheroodError, OSError):
    """A place that nothing can be written to."""


class ImageError(SpheroodError, OSError):
    """A file that cannot be read as an image."""


class CheckpointError(SpheroodError, ValueError):
    """A checkpoint that is absent, damaged or of another model."""


class BundleError(SpheroodError, ValueError):
    """A folder that is no bundle, or one that was altered."""


class TrainingError(SpheroodError, ValueError):
    """A training run that cannot go on."""


class Stopped(TrainingError):
    """Training that the user stopped; what was done is kept."""


class MissingExtraError(SpheroodError, ImportError):
    """An optional library that is not installed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest known one, else all of them (the empty string if there are none)."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(choices)}." if choices else ""


def optional(module: str, extra: str, wanted_by: str) -> ModuleType:
    """Import an optional library, or raise MissingExtraError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # the library is there and itself broken: a bug report, not a missing extra
        raise MissingExtraError(
            f"{wanted_by}: needs {error.name}, which is not installed. Install it with: pip install 'spherood[{extra}]'"
        ) from None
