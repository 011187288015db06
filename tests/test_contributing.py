"""The two examples of CONTRIBUTING.md, put where it says, pass their own tests, their room's contract, and ruff.

In a package of their own they pass the one line that proves the contract there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(\S+\.py)`\n\n```python\n(.*?)^```$", PAGE, re.M | re.S))
PROOFS = re.findall(r"^so\.testing\.check_(?:loss|detector)\(\"mylab\..*\)$", PAGE, re.M)
LINES = re.findall(r"^In `(\S+\.py)`, with the name added to `__all__`:\n\n```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and of the contracts, with the examples added."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    contracts = [*ROOT.glob("tests/**/conftest.py"), *ROOT.glob("tests/**/test_*_contract.py")]
    for file in contracts:
        copy = tree / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    for path, text in FILES.items():
        assert not (ROOT / path).exists(), f"{path} exists: choose another example"
        (tree / path).write_text(text, encoding="utf-8")
    for path, line in LINES:
        room, name = tree / path, line.split()[-1]
        text = room.read_text(encoding="utf-8")
        changed = text.replace("\nfrom ", f"\n{line}from ", 1).replace("__all__ = [", f'__all__ = ["{name}", ')
        room.write_text(changed, encoding="utf-8")
    return tree


def test_the_page_has_a_file_a_test_and_an_import_line_for_each_example() -> None:
    rooms = ("src/spherood/losses", "src/spherood/detectors", "tests/losses", "tests/detectors")
    assert sorted(str(Path(path).parent) for path in FILES) == sorted(rooms)
    assert [str(Path(path).parent) for path, _ in LINES] == list(rooms[:2])


def test_the_examples_pass_their_own_tests_and_the_contracts(tree: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}  # before an installed spherood
    words = ["-m", "pytest", "-p", "no:cacheprovider", "-k", "alignment or nearest_mean", "-rA"]
    done = subprocess.run(
        [sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    for file in ("test_alignment", "test_nearest_mean", "test_loss_contract", "test_detector_contract"):
        assert len(re.findall(rf"^PASSED tests/\w+/{file}\.py", done.stdout, re.M)) >= 3, file


def test_in_a_package_of_ones_own_the_line_of_each_room_passes(tmp_path: Path) -> None:
    assert [line.split("(")[0] for line in PROOFS] == ["so.testing.check_loss", "so.testing.check_detector"]
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "losses.py").write_text(FILES["src/spherood/losses/alignment.py"], encoding="utf-8")
    (tmp_path / "mylab" / "scores.py").write_text(FILES["src/spherood/detectors/nearest_mean.py"], encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    words = [sys.executable, "-c", "\n".join(["import spherood as so", *PROOFS])]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    "words", [["check", "--no-cache"], ["format", "--no-cache", "--check"]], ids=lambda words: words[0]
)
def test_the_examples_are_written_as_the_house_writes(tree: Path, words: list[str]) -> None:
    pytest.importorskip("ruff")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words, *FILES], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
