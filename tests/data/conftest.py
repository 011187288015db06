"""Small pictures on disk, and the real ones where this machine has them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture of random pixels to tmp_path / name."""

    def write(name: str, size: tuple[int, int] = (6, 4), seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's packed image sets."""
    place = os.environ.get("SPHEROOD_SHARED")
    if not place or not (Path(place) / "data" / "unpack.py").exists():
        pytest.skip("SPHEROOD_SHARED names no folder with data/unpack.py, the packed real images")
    return Path(place) / "data"


@pytest.fixture(scope="session")
def scenes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 photographs of 100 x 100 in six folders."""
    place = tmp_path_factory.mktemp("scenes")
    subprocess.run([sys.executable, shared_data / "unpack.py", place, "scenes"], check=True, capture_output=True)
    return place / "scenes"
