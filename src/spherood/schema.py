"""The one schema language of recipes, protocols and manifests: strict pydantic, with messages for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from spherood.errors import ConfigError, nearest

T = TypeVar("T", bound="Strict")


class Strict(BaseModel):
    """A record whose unknown keys are errors that offer the nearest known one. Values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in data:
                if key not in known and key not in cls.model_fields:
                    raise ValueError(f"there is no key '{key}' here. {nearest(str(key), known)}")
        return data


def parse(schema: type[T], data: Any, where: str) -> T:
    """Check `data` against `schema`; ConfigError names `where`, the key, and what was wrong with it."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "(top level)"
            lines.append(f"{where}: {key}: {problem['msg'].removeprefix('Value error, ')}")
        raise ConfigError("\n".join(lines)) from None


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file; ConfigError where it is absent or no YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"No {what} at {path}. Check the path.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a {what}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None


def write_yaml(record: Strict) -> str:
    """A record as YAML text, in the order of its fields."""
    return yaml.safe_dump(record.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True, width=120)
