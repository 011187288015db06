"""The shipped detector. Imported lazily, so that manifest and verdict stay free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spherood.bundle.manifest import Promise, Score, read_manifest
from spherood.bundle.verdict import Neighbour, Verdict

if TYPE_CHECKING:
    from spherood.bundle.bundle import Bundle

__all__ = ["Bundle", "Neighbour", "Promise", "Score", "Verdict", "read_manifest"]


def __getattr__(name: str) -> Any:
    if name != "Bundle":
        raise AttributeError(f"module 'spherood.bundle' has no attribute '{name}'")
    from spherood.bundle.bundle import Bundle

    return Bundle
