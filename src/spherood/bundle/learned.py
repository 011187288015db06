"""What was learned, as files of a bundle: the detector's buffers, class means, held-out scores, names, small images.

Safetensors and JSON. A detector is built by its name; code that is no part of spherood only where it is trusted.
Shapes: C classes, F feature width, n held-out images, N rows of the bank.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spherood import naming
from spherood.bundle.encoder import Contents
from spherood.bundle.manifest import Score
from spherood.detectors import Detector
from spherood.errors import BundleError
from spherood.files import write_text

HALF = torch.float16
PREFIX = "detector."


def learned_file(detector: Detector, others: Mapping[str, Tensor | None], *, half: bool) -> Contents:
    """The detector's buffers and what else was learned; half: the bank of a k-NN in half precision."""
    tensors = {
        f"{PREFIX}{name}": value.to(HALF) if half and value.ndim == 2 and name.endswith("bank") else value
        for name, value in detector.state_dict().items()
    }
    tensors |= {name: value for name, value in others.items() if value is not None}
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


def foreign_scores(score: Score) -> list[str]:
    """Import paths that building a score would import: its own, and those of the scores that it is made of."""
    return _foreign(score.use, score.with_)


def _foreign(name: str, settings: Mapping[str, Any]) -> list[str]:
    inner = [*settings.get("scores", ()), settings.get("score")]  # of `combined`, of `layers`
    found = [_foreign(*naming.parse_spec(text)) for text in inner if isinstance(text, str)]
    return [*([name] if ":" in name else []), *chain(*found)]


def names_file(names: Sequence[str]) -> Contents:
    """The names of the N images of the bank."""
    text = json.dumps(list(names), ensure_ascii=False)
    return {"bank": (".json", lambda path: write_text(path, text))}


def thumbnails_file(thumbnails: Sequence[bytes]) -> Contents:
    """N JPEGs, end to end, and where each ends."""
    whole = np.frombuffer(b"".join(thumbnails), np.uint8).copy()
    tensors = {"jpeg": torch.from_numpy(whole), "end": torch.tensor(list(accumulate(map(len, thumbnails))))}
    return {"thumbnails": (".safetensors", lambda path: save_file(tensors, path))}


def read_thumbnails(file: Path) -> list[bytes]:
    """The N JPEGs."""
    found = load_file(file)
    content, ends = found["jpeg"].numpy().tobytes(), found["end"].tolist()
    return [content[start:end] for start, end in pairwise([0, *ends])]
