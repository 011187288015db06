"""docs/results.md is generated from the committed rows, never typed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_results_page_is_what_its_rows_make_it() -> None:
    spec = importlib.util.spec_from_file_location("make_results", DOCS / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    make_results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_results)
    written = (DOCS / "results.md").read_text(encoding="utf-8")
    assert written == make_results.generated(), "run: python docs/make_results.py"
    assert written.count("| cider-cifar10-small |") > 0
