"""Out-of-distribution detection with embeddings on the unit sphere.

Rooms are imported when first touched, so that `import spherood` costs nothing and what needs no torch loads none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spherood.version import __version__ as __version__

if TYPE_CHECKING:
    from spherood import calibration, data, detectors, losses, metrics, models, sphere, testing, training
    from spherood.bundle import Bundle, Guard, Verdict
    from spherood.outputs import Outputs

__all__ = [
    "Bundle",
    "Guard",
    "Outputs",
    "Verdict",
    "calibration",
    "data",
    "detectors",
    "losses",
    "metrics",
    "models",
    "sphere",
    "testing",
    "training",
]

_HOMES = {
    "Bundle": "spherood.bundle",
    "Guard": "spherood.bundle",
    "Verdict": "spherood.bundle",
    "Outputs": "spherood.outputs",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'spherood' has no attribute '{name}'")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    return importlib.import_module(f"spherood.{name}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
