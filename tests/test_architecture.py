"""Who may import whom, read off the imports; docs/architecture.md is the map.

A room imports only from rooms before it in ORDER. `naming` finds losses and detectors by name when asked, so the arrow
to them is none of its imports.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "spherood"
ORDER = """
    version errors files schema naming progress processes outputs
    sphere metrics calibration losses detectors testing data models features training bundle scoring service benchmark
    sklearn openood report cli __main__
"""
WITHOUT_TORCH = """
    version errors files schema naming progress outputs calibration/* metrics/* data data/decode data/preprocess
    data/feature_file data/groups data/parts
    bundle bundle/bank bundle/bundle bundle/card bundle/decision bundle/hub bundle/manifest bundle/onnx_runtime
    bundle/origin bundle/runtime bundle/trust bundle/verdict scoring scoring/* service service/* cli/*
"""
ROOMS, FREE_OF_TORCH = ORDER.split(), WITHOUT_TORCH.split()


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever the statement stands: `a.b.c` for `from a.b import c`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ("." * node.level + f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """None outside spherood; the package itself is no room, who imports it may reach anything."""
    top, _, rest = module.partition(".")
    return (rest.partition(".")[0] or "the package") if top == "spherood" else None


FILES = {path: path.relative_to(SRC).parts[0].removesuffix(".py") for path in sorted(SRC.rglob("*.py"))}
INSIDE = {path: room for path, room in FILES.items() if room != "__init__"}  # spherood/__init__ offers every room


def test_every_room_has_its_place_in_the_order() -> None:
    assert set(INSIDE.values()) == set(ROOMS)


def test_a_room_imports_only_from_rooms_above_it() -> None:
    wrong = [
        f"{path.relative_to(SRC)} imports {module}"
        for path, room in INSIDE.items()
        for module in imports(path)
        if (other := room_of(module)) and (other not in ROOMS or ROOMS.index(other) > ROOMS.index(room))
    ]
    assert wrong == []


def test_imports_are_absolute() -> None:
    assert [path for path in FILES if any(module.startswith(".") for module in imports(path))] == []


def test_the_sphere_needs_torch_alone_and_numbers_need_numpy_alone() -> None:
    allowed = {"sphere": {"torch"}, "metrics": {"numpy"}, "calibration": {"numpy"}, "losses": {"torch"}}
    for room, libraries in allowed.items():
        used = {module.partition(".")[0] for path in INSIDE if INSIDE[path] == room for module in imports(path)}
        assert used - sys.stdlib_module_names - {"spherood"} <= libraries, room


def test_what_is_imported_by_statement_is_installed_with_the_core() -> None:
    """An extra is reached through errors.optional, which says how to install it; torchvision is no extra either."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {requirement.partition(">")[0] for requirement in project["dependencies"]}
    served = {"fastapi", "starlette"}  # cli/serve.py asks for the extra before it imports service/app.py
    used = {
        library
        for path in FILES
        for module in imports(path)
        if (library := module.partition(".")[0]) not in served or path.parent.name != "service"
    }
    foreign = used - sys.stdlib_module_names - {"spherood"}
    homes = packages_distributions()
    assert [name for name in foreign if not core & {home.lower() for home in homes.get(name, [])}] == []


def test_what_is_free_of_torch_imports_without_it() -> None:
    modules = [
        "spherood." + ".".join(path.relative_to(SRC).with_suffix("").parts)
        for entry in FREE_OF_TORCH
        for path in sorted(SRC.glob(f"{entry}.py")) or [SRC / entry]
    ]
    assert len(modules) > 2 * len(FREE_OF_TORCH)
    code = (
        "import importlib, sys; sys.modules['torch'] = None\n"
        "for name in sys.argv[1:]:\n"
        "    try: importlib.import_module(name)\n"
        "    except ImportError as error: print(name, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert done.stdout == ""
