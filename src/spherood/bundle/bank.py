"""The training images in the bank of a k-NN, as files of a bundle: their names and, where wanted, small pictures.

Free of torch. Shapes: N rows of the bank.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from spherood.bundle.manifest import Contents
from spherood.files import write_text


def names_file(names: Sequence[str]) -> Contents:
    """The names of the N images."""
    text = json.dumps(list(names), ensure_ascii=False)
    return {"bank": (".json", lambda path: write_text(path, text))}


def thumbnails_file(thumbnails: Sequence[bytes]) -> Contents:
    """N JPEGs, end to end, and where each ends."""
    whole = np.frombuffer(b"".join(thumbnails), np.uint8)
    arrays: dict[str, NDArray[Any]] = {"jpeg": whole, "end": np.array(list(accumulate(map(len, thumbnails))), np.int64)}
    return {"thumbnails": (".safetensors", lambda path: save_file(arrays, path))}


def read_thumbnails(file: Path) -> list[bytes]:
    """The N JPEGs."""
    found = load_file(file)
    content, ends = found["jpeg"].tobytes(), found["end"].tolist()
    return [content[start:end] for start, end in pairwise([0, *ends])]
