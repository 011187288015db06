"""Unit vectors, and the precision they are compared in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalize(x: Tensor) -> Tensor:
    """Rows of x (..., D) at length 1; a zero row stays zero. Half precision goes in, at least float32 comes out."""
    return F.normalize(at_least_float32(x), dim=-1)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 if it came in half precision, else as it is: a cosine in bfloat16 has two digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def float64(x: Tensor) -> Tensor:
    """x in float64, on the CPU where its device has no such numbers (Apple's)."""
    return (x.cpu() if x.device.type == "mps" else x).double()
