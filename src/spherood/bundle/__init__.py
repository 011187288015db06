"""The shipped detector. Imported lazily, so that manifest and verdict stay free of torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spherood.bundle.manifest import Promise, Score, read_manifest
from spherood.bundle.verdict import Neighbour, Verdict

if TYPE_CHECKING:
    from spherood.bundle.bundle import Bundle
    from spherood.bundle.guard import Guard

__all__ = ["Bundle", "Guard", "Neighbour", "Promise", "Score", "Verdict", "read_manifest"]


def __getattr__(name: str) -> Any:
    if name not in ("Bundle", "Guard"):
        raise AttributeError(f"module 'spherood.bundle' has no attribute '{name}'")
    return getattr(importlib.import_module(f"spherood.bundle.{name.lower()}"), name)
