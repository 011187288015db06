"""What both checks stand on: a walk along many checks, what to say of one that fails, settings and their variation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import torch
from torch import Tensor, nn

from spherood import naming
from spherood.errors import ConfigError, nearest
from spherood.outputs import Outputs

SIZES = ("classes", "dim", "feature_dim")  # filled in, as a recipe does
HALVES = (torch.float16, torch.bfloat16)

Case = TypeVar("Case")


def walk(where: str, checks: Sequence[Callable[[Case], None]], case: Case) -> None:
    """Run the checks; whatever one raises is its failure."""
    for check in checks:
        try:
            check(case)
        except Exception as error:
            found = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            title = check.__name__.removeprefix("_check_").removeprefix("_").replace("_", " ")
            todo = " ".join((check.__doc__ or "").split())
            raise AssertionError(f"{where}, {title}: {found.rstrip('.')}. {todo}") from error


def expect(condition: bool, otherwise: str) -> None:
    """AssertionError, which -O does not silence."""
    if not condition:
        raise AssertionError(otherwise)


def close(one: Tensor, other: Tensor, rtol: float, atol: float, what: str) -> None:
    """AssertionError with the largest difference."""
    one, other = one.double(), other.double()
    if not torch.allclose(one, other, rtol=rtol, atol=atol):
        raise AssertionError(f"{what} differ by up to {float((one - other).abs().max()):.3g}")


def raised(kind: type[Exception], call: Callable[[], object]) -> bool:
    """Whether the call raises an error of this kind; one of another kind passes through."""
    try:
        call()
    except kind:
        return True
    return False


def mapped(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """x, with every tensor in it changed."""
    if isinstance(x, Outputs):
        return Outputs(*(mapped(part, change) for part in x))
    if isinstance(x, tuple):
        return tuple(mapped(part, change) for part in x)
    return None if x is None else change(x)


def parts(x: Any) -> list[Tensor]:
    """Every tensor in x."""
    if isinstance(x, Tensor):
        return [x]
    return [] if x is None else [tensor for part in x for tensor in parts(part)]


def orthogonal(dim: int) -> Tensor:
    """A turn of the space, (dim, dim), float64."""
    turn: Tensor = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(3)).double()).Q
    return turn


def constructor(room: str, thing: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """What makes instances; ConfigError for an instance."""
    if isinstance(thing, nn.Module):
        raise ConfigError(
            f"{room}: expected a class, got a {type(thing).__name__} that is made. Pass its class and settings, or a "
            "function that makes one: checks begin with fresh instances."
        )
    return naming.find(room, thing) if isinstance(thing, str) else thing


def seeded(made: Callable[..., nn.Module], settings: Mapping[str, Any], start: int = 0) -> nn.Module:
    """A fresh instance; the same settings give the same, even where its parameters come from torch's own generator."""
    torch.default_generator.manual_seed(start)  # torch.manual_seed would reseed the GPUs' generators too
    return made(**settings)


def known_laws(names: Collection[str], known: Collection[str]) -> Collection[str]:
    """The names; ConfigError offers the nearest for one that is unknown."""
    if isinstance(names, str):
        raise ConfigError(f"laws: expected a tuple of names, got '{names}'. Write ('{names}',).")
    for name in names:
        if name not in known:
            raise ConfigError(f"laws: there is no law '{name}'. {nearest(name, known)}")
    return names


def settings_of(made: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a constructor, but for sizes."""
    try:
        found = inspect.signature(made, eval_str=True).parameters
    except NameError:  # an annotation that only a type checker can read
        found = inspect.signature(made).parameters
    return {
        name: it
        for name, it in found.items()
        if name not in SIZES and it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD)
    }


def check_names(made: Callable[..., Any], others: Collection[str], idle: Collection[str]) -> None:
    """ConfigError where others or idle name a setting that there is not."""
    known = settings_of(made)
    for name in (*others, *idle):
        if name not in known:
            raise ConfigError(f"others, idle: there is no setting '{name}'. {nearest(name, known)}")


def changes(
    made: Callable[..., Any], settings: Mapping[str, Any], others: Mapping[str, Any], idle: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """Every setting with other values of it. AssertionError where its type tells none."""
    for name, parameter in settings_of(made).items():
        value = settings.get(name, parameter.default)
        found = [others[name]] if name in others else _alternatives(parameter.annotation, value)
        expect(bool(found) or name in idle, f"what is another value of {name}={value!r}? Pass others={{{name!r}: ...}}")
        yield from ((name, other) for other in found)


def _alternatives(hint: Any, value: Any) -> list[Any]:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1]
        case float():
            return [value / 2 or 0.5, *words]
        case tuple() if value and all(isinstance(it, int | float) for it in value):
            return [(*value[:i], it / 2 or 0.5, *value[i + 1 :]) for i, it in enumerate(value)]
    numbers = [number for kind, number in ((int, 2), (float, 0.3)) if kind in options]
    return [other for other in (*words, *numbers) if other != value]
