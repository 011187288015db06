"""Settings that are shares of a whole, strictly between 0 and 1: rates and confidences."""

from __future__ import annotations

from typing import Any

from spherood.errors import ConfigError


def check_fraction(where: str, name: str, value: Any) -> float:
    """`value` as a float in (0, 1); ConfigError otherwise."""
    try:
        if isinstance(value, str):  # float("0.05") would let text in, which fails later and elsewhere
            raise TypeError
        fraction = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {name} must be a number between 0 and 1, got {value!r}. Try 0.05.") from None
    if not 0 < fraction < 1:
        hint = f"For {fraction:g} % write {fraction / 100:g}." if 1 <= fraction < 100 else "Try 0.05 or 0.95."
        raise ConfigError(f"{where}: {name} must lie strictly between 0 and 1, got {fraction:g}. {hint}")
    return fraction
