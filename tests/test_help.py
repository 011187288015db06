"""Every command's help: there without torch, with an example whose options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import typer

from spherood.cli import app

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; sys.argv[0] = 'spherood'; from spherood.cli import main; main()"
)


def spherood(*words: str) -> str:
    """What a successful command prints, without colours: CI may ask for them."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return re.sub("\x1b\\[[0-9;]*m", "", done.stdout)


def test_the_commands_are_these() -> None:
    known = "cite compare data demo evaluate export fit pull push report reproduce score serve train"
    assert known.split() == COMMANDS


def test_help_needs_no_torch_and_lists_every_command() -> None:
    text = spherood("--help")
    assert all(re.search(rf"\b{name}\b", text) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_needs_no_torch_and_shows_an_example(name: str) -> None:
    assert f"Example: spherood {name}" in " ".join(spherood(name, "--help").split())


def test_the_version_needs_no_torch() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", spherood("--version"))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_understood(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    for one in (command, *getattr(command, "commands", {}).values()):
        example = re.search(r"Example: \*\*spherood (.*?)\*\*", one.help)
        assert example is not None, one.name
        first, *words = shlex.split(example[1])
        assert first == name
        if one is not command:
            assert words.pop(0) == one.name
        if not hasattr(one, "commands"):
            one.make_context(one.name, words)  # parses, and runs nothing
