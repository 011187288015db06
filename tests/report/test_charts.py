from __future__ import annotations

import json
import math
import sys

import pytest

from spherood.errors import MissingExtraError
from spherood.report import charts

altair = pytest.importorskip("altair", reason="the extra report is not installed")


@pytest.mark.parametrize("kind", ["histogram", "roc"])
def test_a_chart_is_filled_later_names_no_address_and_has_the_parameters_that_the_page_sets(kind: str) -> None:
    spec = getattr(charts, kind)()
    assert {one["name"] for one in spec["params"]} == set(charts.PARAMETERS[kind])
    assert "http" not in json.dumps(spec)
    assert spec["width"] == "container"


@pytest.mark.parametrize("kind", ["histogram", "roc"])
def test_vega_lite_compiles_each_chart(kind: str) -> None:
    vl_convert = pytest.importorskip("vl_convert", reason="the extra report is not installed")
    signals = {one["name"] for one in vl_convert.vegalite_to_vega(getattr(charts, kind)())["signals"]}
    assert set(charts.PARAMETERS[kind]) <= signals


def test_a_learning_curve_keeps_finite_rows_with_a_loss() -> None:
    rows = [
        {"epoch": 1.0, "loss": 3.0},
        {"epoch": 2.0, "loss": math.nan},
        {"epoch": 3.0},
        {"epoch": 4.0, "loss": 1.0, "lr": 0.1},
    ]
    spec = charts.learning_curve(rows)
    assert spec is not None
    (values,) = spec["datasets"].values()
    assert values == [{"epoch": 1.0, "loss": 3.0}, {"epoch": 4.0, "loss": 1.0}]


def test_one_epoch_is_no_curve() -> None:
    assert charts.learning_curve([]) is None
    assert charts.learning_curve([{"epoch": 1.0, "loss": 3.0}]) is None


def test_without_altair_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtraError, match=r"report: needs altair.*pip install 'spherood\[report\]'"):
        charts.roc()
