from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from spherood import __version__, cli
from spherood.errors import ConfigError, DataError, SpheroodError

Command = Callable[..., Any]


def test_the_version_is_the_packages(spherood: Command) -> None:
    told = spherood("--version")
    assert (told.code, told.out) == (0, f"{__version__}\n")


@pytest.mark.parametrize("words", [["-m", "spherood"], ["-c", "from spherood.cli import main; main()"]])
def test_the_module_and_the_console_script_are_one_command(words: list[str]) -> None:
    done = subprocess.run([sys.executable, *words, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("set it so"), 2), (DataError("no image"), 1), (SpheroodError("else"), 1)]
)
def test_a_users_mistake_is_one_message_and_its_exit_code(
    spherood: Command, monkeypatch: pytest.MonkeyPatch, error: SpheroodError, code: int
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    assert spherood() == (code, "", f"{error}\n")


def test_a_bug_keeps_its_traceback(spherood: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(KeyError, match="a bug"):
        spherood()


def test_a_reader_that_leaves_early_is_no_bug() -> None:
    code = "import spherood.cli as cli\ndef broken(): raise BrokenPipeError\ncli.app = broken; cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_an_unknown_command_or_option_is_a_misuse(spherood: Command) -> None:
    assert spherood("evalute").code == 2
    told = spherood("score", "--fals-alarm-rate", "0.1", "bundle", "x.png")
    assert told.code == 2
    assert "--false-alarm-rate" in told.err


def test_without_a_command_the_help_is_shown(spherood: Command) -> None:
    assert "Begin with spherood demo" in " ".join(spherood().out.split())


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "/data/x"), "/data/x: Permission denied. Mend that"),
        (OSError(28, "No space left on device"), "output: No space left on device. Mend that"),
    ],
)
def test_what_the_machine_refuses_is_a_message_and_no_traceback(
    spherood: Command, monkeypatch: pytest.MonkeyPatch, error: OSError, says: str
) -> None:
    def refused() -> None:
        raise error

    monkeypatch.setattr(cli, "app", refused)
    told = spherood()
    assert told.code == 1
    assert says in told.err
    assert "Traceback" not in told.err


def test_another_failure_of_the_system_keeps_its_traceback(spherood: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise FileNotFoundError(2, "No such file or directory", "forgotten")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(FileNotFoundError):
        spherood()
