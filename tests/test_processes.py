"""What two processes compute together, started as torchrun starts them, against what one computes alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from itertools import chain
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spherood.processes import Processes

ROWS = 23
UNREADABLE = ("02.png", "21.png")  # one for each process
SCRIPT = """
import os, sys
from pathlib import Path
import torch
from spherood.data import ImageSet, Preprocess
from spherood.data.folders import read_folder
from spherood.features import FeatureStore, store
from spherood.models import ModelSettings, build_model

torch.set_num_threads(1)
store.BLOCK, store.SAVE_EVERY = 2, 1
cache, read = Path(sys.argv[1]), ImageSet.read
log = (cache.parent / f"{cache.name}.{os.environ.get('RANK', 'alone')}.txt").open("w")

def counted(images, index):
    log.write(images.names[index] + "\\n")
    return read(images, index)

ImageSet.read = counted
model = build_model(ModelSettings(encoder="resnet8", width=2, head="linear", dim=4, classifier=True), 3, 0)
found = FeatureStore(cache).read(model, Preprocess(size=8), read_folder(cache.parent / "set"))
log.close()
os.write(1, (" ".join(["unreadable:", *found.unreadable]) + "\\n").encode())  # at once: two processes share a pipe
"""
NETWORK = """
import torch
from spherood.data import Preprocess

class MeanColour(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, images):
        return images.mean(dim=(2, 3)) * self.scale

def network():
    return MeanColour(), Preprocess(size=8)
"""


def painted(folder: Path, rows: int, seed: int) -> None:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of images, and the script that reads them."""
    painted(tmp_path / "set", ROWS, 0)
    for name in UNREADABLE:
        (tmp_path / "set" / name).write_bytes(b"text")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    return tmp_path


def python(*words: str | Path, cwd: Path, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """`python ...`, or by several processes at once."""
    several: list[str] = []
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        several = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "1"}  # unset, torchrun says it sets it
    command = [sys.executable, *several, *map(str, words)]
    found = subprocess.run(
        command, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert found.returncode == 0, found.stderr
    return found


def decoded(place: Path, cache: str) -> list[list[str]]:
    """The names that each process read, sorted: two threads of each read at once."""
    return [sorted(path.read_text().split()) for path in sorted(place.glob(f"{cache}.*.txt"))]


def stored(cache: Path) -> dict[str, bytes]:
    """Every file of the one entry."""
    (entry,) = cache.iterdir()
    return {f"{entry.name}/{path.name}": path.read_bytes() for path in entry.iterdir()}


def test_two_processes_leave_the_files_of_one_and_decode_each_image_once(place: Path) -> None:
    alone = python("script.py", place / "one", cwd=place)
    together = python("script.py", place / "two", cwd=place, processes=2)
    assert stored(place / "two") == stored(place / "one")
    assert len(stored(place / "one")) == 4  # feature, embedding, logits, and what could not be read
    names = sorted(path.name for path in (place / "set").iterdir())
    assert decoded(place, "one") == [names]
    assert decoded(place, "two") == [names[:12], names[12:]]  # six blocks of two, then the other six
    said = "unreadable: " + " ".join(UNREADABLE) + "\n"
    assert (alone.stdout, together.stdout) == (said, 2 * said)  # both know of the other's

    python("script.py", place / "two", cwd=place, processes=2)
    assert decoded(place, "two") == [[], []]


@pytest.mark.parametrize("left_by", [1, 3])
def test_what_another_number_of_processes_left_is_started_afresh(place: Path, left_by: int) -> None:
    python("script.py", place / "one", cwd=place)
    (name,) = (path.name for path in (place / "one").iterdir())
    part = place / "two" / f"{name}.part"
    part.mkdir(parents=True)
    (part / "feature.npy").write_bytes(b"another shape")
    for rank in range(left_by):  # the notes say that all is done
        note = {"done": ROWS, "unreadable": {"5": "no"}}
        (part / f"done-{rank}-of-{left_by}.json").write_text(json.dumps(note))
    python("script.py", place / "two", cwd=place, processes=2)
    assert stored(place / "two") == stored(place / "one")
    assert sorted(chain.from_iterable(decoded(place, "two"))) == sorted(path.name for path in (place / "set").iterdir())


def test_two_interrupted_processes_go_on_each_behind_its_own_note(place: Path) -> None:
    python("script.py", place / "two", cwd=place, processes=2)
    whole = stored(place / "two")
    (entry,) = (place / "two").iterdir()
    part = entry.rename(entry.with_name(f"{entry.name}.part"))
    (part / "unreadable.json").unlink()
    for rank, (done, unreadable) in enumerate([(8, ["2"]), (18, [])]):  # the second had not come to row 21
        reasons = {row: json.loads(whole[f"{entry.name}/unreadable.json"])[row] for row in unreadable}
        (part / f"done-{rank}-of-2.json").write_text(json.dumps({"done": done, "unreadable": reasons}))
    python("script.py", place / "two", cwd=place, processes=2)
    assert stored(place / "two") == whole
    assert decoded(place, "two") == [[f"{row:02}.png" for row in rows] for rows in (range(8, 12), range(18, 23))]


@given(items=st.integers(0, 500), block=st.integers(1, 64), size=st.integers(1, 9))
def test_every_item_is_in_one_share_and_no_block_is_cut(items: int, block: int, size: int) -> None:
    shares = [Processes(rank, size).share(items, block) for rank in range(size)]
    assert Counter(item for share in shares for item in share) == Counter(range(items))
    assert all(share.start % block == 0 or not share for share in shares)
    blocks = ceil(items / block)
    assert max(ceil(len(share) / block) for share in shares) == ceil(blocks / size)  # nobody has more than its part


def test_alone_there_is_nobody_to_wait_for() -> None:
    alone = Processes.join()
    assert (alone, alone.first) == (Processes(0, 1), True)
    alone.wait()
    assert alone.share(23, 2) == range(23)


def test_two_processes_print_one_table_and_write_one_result(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    for seed, (part, rows) in enumerate({"train": 20, "validation": 40, "test": 20}.items()):
        for label in ("a", "b"):
            painted(tmp_path / part / label, rows, 10 * seed + (label == "b"))
    painted(tmp_path / "new", 9, 99)
    (tmp_path / "network.py").write_text(NETWORK, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        "name: own\nabout: Noise.\nversion: '1'\nid:\n"
        + "".join(f"  {part}: {{folder: {part}}}\n" for part in ("train", "validation", "test"))
        + "far: {new: {folder: new}}\n"
    )
    # "--": torchrun would take --run for a short form of its own --run-path
    words = ["-m", "--", "spherood", "evaluate", "network:network", "--protocol", "own.yaml", "--data", "."]
    words += ["--scores", "knn:k=3", "--device", "cpu", "--run"]
    alone = python("-m", *words[2:], "one", cwd=tmp_path)
    together = python(*words, "two", cwd=tmp_path, processes=2)
    assert together.stdout == alone.stdout.replace("runs/one", "runs/two")
    assert together.stdout.count("own, in percent") == 1
    assert "Traceback" not in together.stderr
    one, two = (tmp_path / "runs" / name / "tables" / "own" / "evaluation.json" for name in ("one", "two"))
    assert one.read_text() == two.read_text()
