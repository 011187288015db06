"""What a detector learned, as a file of a bundle: its buffers, and beside them what calibrates it.

Safetensors. A detector is built by its name; code that is no part of spherood only where it is trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from spherood import naming
from spherood.bundle.manifest import Contents, Score
from spherood.bundle.runtime import PREFIX
from spherood.bundle.trust import foreign_scores
from spherood.detectors import Detector
from spherood.errors import BundleError

HALF = torch.float16


def learned_file(detector: Detector, calibration: Mapping[str, NDArray[Any]], *, half: bool) -> Contents:
    """The detector's buffers and what calibrates it; half: the bank of a k-NN in half precision."""
    tensors = {
        f"{PREFIX}{name}": value.to(HALF) if half and value.ndim == 2 and name.endswith("bank") else value
        for name, value in detector.state_dict().items()
    }
    tensors |= {name: torch.from_numpy(value) for name, value in calibration.items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    return {"detector": (".safetensors", lambda path: save_file(tensors, path))}


def read_detector(score: Score, learned: Mapping[str, Tensor], where: str, trust: Collection[str]) -> Detector:
    """The detector, in single precision. BundleError for code of one's own that is not in `trust`."""
    for name in foreign_scores(score):
        if name not in trust:
            raise BundleError(
                f"{where}: its score is {name}, which is no part of spherood. If you trust that code, say so: "
                f"Bundle.load(folder, trust=['{name}']), or --trust {name}"
            )
    detector: Detector = naming.build("detectors", score.use, score.with_)
    state = {key.removeprefix(PREFIX): value for key, value in learned.items() if key.startswith(PREFIX)}
    detector.load_state_dict({name: value.float() if value.dtype == HALF else value for name, value in state.items()})
    return detector
