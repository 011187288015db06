"""How a loss or a score is named in YAML and on the command line: by its file, or by any import path.

`cider` is the class that `losses/cider.py` gives to its room; `mylab.losses:Mine` is anyone's. Nothing is registered.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import yaml

from spherood.errors import ConfigError, nearest


def members(room: str) -> dict[str, type[Any]]:
    """File name -> class, for what a room (`losses`, `detectors`) offers by name."""
    package = importlib.import_module(f"spherood.{room}")
    exported = (getattr(package, name) for name in package.__all__)
    classes = [it for it in exported if inspect.isclass(it) and hasattr(it, "forward") and not inspect.isabstract(it)]
    return {it.__module__.rpartition(".")[2]: it for it in classes}


def find(room: str, name: str) -> type[Any]:
    """The class called `name`; ConfigError offers the nearest name of the room."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
        except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: ':Mine', '.mine:Mine'
            raise ConfigError(f"{room}: cannot import '{name}': {error}. Write it as package.module:Class.") from None
    known = members(room)
    if name not in known:
        raise ConfigError(f"{room}: there is no '{name}'. {nearest(name, known)} Your own: package.module:Class.")
    return known[name]


def build(room: str, name: str, settings: dict[str, Any]) -> Any:
    """An instance of the class called `name`; ConfigError where a setting does not exist, with the nearest one."""
    found = find(room, name)
    check_settings(room, name, settings)
    try:
        return found(**settings)
    except TypeError as error:  # a value of the wrong type, or a setting without default left out
        raise ConfigError(f"{room}: cannot make '{name}' from {settings}: {error}. Check its settings.") from error


def check_settings(room: str, name: str, settings: Iterable[str]) -> None:
    """ConfigError where the class called `name` has no such setting, with the nearest one."""
    parameters = inspect.signature(find(room, name)).parameters.values()
    known = [it.name for it in parameters if it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD)]
    for key in settings:
        if key not in known and not any(it.kind is it.VAR_KEYWORD for it in parameters):
            raise ConfigError(f"{room}: '{name}' has no setting '{key}'. {nearest(key, known)}")


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """`knn:k=100:other=true` -> ("knn", {"k": 100, "other": True}). An import path keeps its colon.

    So does a value in quotes: `layers:score="knn:k=100"` -> ("layers", {"score": "knn:k=100"}).
    """
    name, *rest = split_unquoted(text, ":")
    if rest and "=" not in rest[0]:
        name = f"{name}:{rest.pop(0)}"
    settings = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not (name and key and equals):
            raise ConfigError(f"'{text}': expected name:setting=value, for example knn:k=100.")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"'{text}': cannot read the value '{value}' of {key}. Write it as in YAML.") from None
    return name, settings


def split_unquoted(text: str, separator: str) -> list[str]:
    """`text.split(separator)`, but for separators within "..." or '...'."""
    found = re.finditer(rf"""'[^']*'|"[^"]*"|{re.escape(separator)}""", text)
    cuts = [match.start() for match in found if match[0] == separator]
    return [text[start + 1 : stop] for start, stop in pairwise([-1, *cuts, len(text)])]
