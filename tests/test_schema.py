from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, ValidationError

from spherood.errors import ConfigError
from spherood.schema import Strict, parse, read_yaml, write_yaml


class Inner(Strict):
    epochs: int = 1
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")


class Outer(Strict):
    name: str
    training: Inner = Inner()
    steps: tuple[Inner, ...] = ()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    record = parse(Outer, {"name": "größer", "training": {"with": {"k": 5}}, "steps": [{"epochs": 3}]}, "here")
    (tmp_path / "a.yaml").write_text(write_yaml(record), encoding="utf-8")
    assert parse(Outer, read_yaml(tmp_path / "a.yaml", "recipe"), "again") == record
    assert list(yaml.safe_load(write_yaml(record))) == ["name", "training", "steps"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "a", "trainin": {}}, r"^a\.yaml: \(top level\): there is no key 'trainin' here\. Did you mean 'tra"),
        ({"name": "a", "training": {"epoch": 2}}, r"^a\.yaml: training: there is no key 'epoch' .* mean 'epochs'\?$"),
        ({"name": "a", "training": {"wth": {}}}, r"^a\.yaml: training: .* mean 'with'\?$"),
        (
            {"name": "a", "steps": [{}, {"zzz": 2}]},
            r"^a\.yaml: steps\.1: there is no key 'zzz'.*Known: epochs, with\.$",
        ),
        ({"name": "a", "training": {"epochs": "x"}}, r"^a\.yaml: training\.epochs: Input should be a valid integer"),
        ({}, r"^a\.yaml: name: Field required$"),
        (None, r"^a\.yaml: \(top level\): Input should be a valid dictionary"),
        ({"name": "a", 3: 4}, r"there is no key '3' here"),
    ],
)
def test_a_mistake_is_told_with_file_key_and_way_out(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Outer, data, "a.yaml")


def test_two_mistakes_are_both_told() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"training": {"epochs": "x"}}, "a.yaml")
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["name", "training.epochs"]


def test_a_record_does_not_change() -> None:
    record = parse(Outer, {"name": "a"}, "here")
    with pytest.raises(ValidationError, match="frozen"):
        record.name = "b"


def test_a_file_that_is_absent_a_folder_or_no_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^No recipe at .*absent\.yaml\. Check the path\.$"):
        read_yaml(tmp_path / "absent.yaml", "recipe")
    with pytest.raises(ConfigError, match="cannot be read as a recipe: Is a directory"):
        read_yaml(tmp_path, "recipe")
    for content in (b"a: [1", b"\xff\xfe\xfa"):
        (tmp_path / "bad.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.yaml: not valid YAML: "):
            read_yaml(tmp_path / "bad.yaml", "recipe")


def test_yaml_makes_no_python_objects(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(tmp_path / "bad.yaml", "recipe")
