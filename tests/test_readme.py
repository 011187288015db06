"""What the README says can be typed, can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spherood.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)


def test_the_python_of_the_readme_runs_and_prints_what_it_claims_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [text for language, text in BLOCKS if language == "python"]
    exec(compile(code, "README.md", "exec"), {})
    found = re.search(r"false alarms ([\d.]+)%, caught ([\d.]+)%, AUROC ([\d.]+)", capsys.readouterr().out)
    assert found is not None
    false_alarms, caught, auroc = map(float, found.groups())
    assert false_alarms <= 5 < caught
    assert auroc > 0.9


def test_every_make_target_of_the_readme_exists() -> None:
    targets = re.findall(r"^make (\w+)$", README, re.M)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_every_command_and_option_of_the_readme_exists() -> None:
    lines = [shlex.split(line) for _, text in BLOCKS for line in text.splitlines() if line.startswith("spherood ")]
    assert len(lines) >= 3
    for _, command, *rest in lines:
        said = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
        assert said.exit_code == 0
        assert all(option in said.output for option in rest if option.startswith("--")), rest


def test_every_file_the_readme_names_is_there() -> None:
    named = [
        *re.findall(r"\]\(([^)]+)\)", README),
        *re.findall(r"`((?:docs|tests|src|recipes)/[^`]*|[A-Z]+\.\w+)`", README),
    ]
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).exists()] == []
