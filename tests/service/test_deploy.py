"""What docs/deploy names exists: options, metrics, versions."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import typer
import yaml
from tests.service.conftest import Client, encoded, pictures

from spherood.cli import app

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs" / "deploy"


def options(words: list[str]) -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    command.make_context("serve", words)


def test_the_units_command_is_understood() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "spherood.service")
    program, command, *words = shlex.split(unit["Service"]["ExecStart"])
    assert (Path(program).name, command) == ("spherood", "serve")
    options(words)


def test_the_dockerfiles_command_is_understood_and_what_it_copies_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.M)
    words = yaml.safe_load(command)
    assert words[:2] == ["spherood", "serve"]
    options(words[2:])
    for line in re.findall(r"^COPY (.*)$", text, re.M):
        for source in line.split()[:-1]:
            assert source == "${BUNDLE}" or (ROOT / source).exists(), source


def test_the_pins_are_those_that_were_tested_together() -> None:
    tested = {line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = [line for line in (ROOT / "requirements-serve.txt").read_text().splitlines() if "==" in line]
    assert set(wanted) <= tested


def test_the_service_is_imported_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import spherood.service.app, spherood.service.served"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_metric_of_an_alert_is_measured(serve: Callable[..., Client]) -> None:
    client = serve()
    client.form([("a.png", encoded(pictures(1, 0)[0]))])
    text = client.get("/metrics").body
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"spherood_\w+", rule["expr"])}
    assert len(named) >= 4
    for name in named:
        assert re.search(rf"^{name}[{{ ]", text, re.M), name
