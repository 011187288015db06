"""Weights by name into a module: every one, no more and no fewer, each of its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spherood.errors import CheckpointError

SHOWN = 8  # differences that a message lists


def load_state(module: nn.Module, state: Mapping[str, Any], what: str, hint: str) -> None:
    """Load `state`; CheckpointError lists what is missing, unknown or of another shape, and ends with `hint`."""
    own = module.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unknown {key}" for key in state if key not in own]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].numel() and state[key].shape != own[key].shape
    ]
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise CheckpointError(f"The checkpoint does not fit {what}: {'; '.join(problems[:SHOWN])}{more}. {hint}")
    module.load_state_dict(dict(state))
