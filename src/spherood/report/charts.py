"""The page's charts as Vega-Lite specifications. Colours are the page's CSS variables, so dark mode needs no redrawing.

Three kinds: a mirrored histogram (ID above the line, OOD below: side, not colour alone, tells them apart), a ROC curve,
a learning curve. The first two hold no data: the page fills "bars", "curve" and the parameters when a row is selected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spherood.errors import optional

Spec = dict[str, Any]

STYLE: Spec = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif",
    "view": {"stroke": None},
    "text": {"fontSize": 12, "color": "var(--ink)"},
    "rule": {"color": "var(--ink)"},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line-strong)",
        "tickColor": "var(--line-strong)",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 6,
    },
}

PARAMETERS: dict[str, dict[str, float | str]] = {
    "histogram": {"low": 0, "high": 1, "threshold": 0.5, "calibrated": 0.5, "ood": "OOD"},
    "roc": {"rejected": 0, "caught": 0, "calibrated_rejected": 0, "calibrated_caught": 0},
}


def load_altair() -> Any:
    """MissingExtraError where it is not installed."""
    return optional("altair", "report", "report")


def vega_lite_version() -> str:
    """The one that altair speaks, as vl-convert names it: "6.1"."""
    return ".".join(str(load_altair().SCHEMA_VERSION).lstrip("v").split(".")[:2])


def finish(chart: Any) -> Spec:
    """A chart as wide as its place on the page."""
    return styled(chart.properties(width="container", autosize={"type": "fit-x", "contains": "padding"}))


def styled(chart: Any) -> Spec:
    """Our style instead of whichever theme is active, and no address of a schema: the page names no other place."""
    spec: Spec = chart.to_dict()
    del spec["$schema"]
    return {**spec, "config": STYLE}


def _at(alt: Any, channel: str, expression: str, **more: Any) -> Any:
    """A position that follows a parameter of the view."""
    return getattr(alt, f"{channel}Datum")(alt.ExprRef(expression), type="quantitative", **more)


def histogram() -> Spec:
    """Bars {side, low, high, share, height}: height +1 (ID) or -1 (OOD) at the tallest bar of its side.

    Pale: decided rightly; full colour: beyond the threshold on the wrong side. Parameters: low, high, threshold,
    calibrated, and `ood`, the set's name.
    """
    alt = load_altair()
    scale = alt.Scale(domain=[alt.ExprRef("low"), alt.ExprRef("high")], nice=False, zero=False)
    axis = alt.Axis(grid=False, tickCount=6, labelOverlap=True, title="score (higher = more OOD)")
    height = alt.Y("height:Q", axis=None, scale=alt.Scale(domain=[-1.08, 1.08], nice=False))
    side = alt.Color("side:N", legend=None, scale=alt.Scale(domain=["ID", "OOD"], range=["var(--id)", "var(--ood)"]))
    tip = [alt.Tooltip("side:N", title="images"), alt.Tooltip("span:N", title="score"), alt.Tooltip("share:N")]
    bars = alt.Chart(alt.NamedData("bars")).mark_rect(aria=False)
    all_bars = bars.encode(
        x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", y=height, y2=alt.datum(0), color=side,
        opacity=alt.value(0.38), tooltip=tip,
    )  # fmt: skip
    wrong = (
        bars.transform_calculate(
            a="datum.side == 'ID' ? max(datum.low, threshold) : datum.low",
            b="datum.side == 'ID' ? datum.high : min(datum.high, threshold)",
        )
        .transform_filter("datum.b > datum.a")
        .encode(x=alt.X("a:Q", scale=scale), x2="b:Q", y=height, y2=alt.datum(0), color=side, tooltip=tip)
    )
    one = alt.Chart(alt.InlineData(values=[{}]))

    def label(text: Any, x: Any, y: int, **mark: Any) -> Any:
        return one.mark_text(aria=False, **mark).encode(x=x, y=alt.value(y), text=text)

    at_live, at_calibrated = (_at(alt, "X", name, scale=scale) for name in ("threshold", "calibrated"))
    at = "(threshold - low) / (high - low)"  # near an end there is no room for the word on that side
    leans = alt.ExprRef("calibrated > (low + high) / 2 ? 'right' : 'left'")
    return finish(
        alt.layer(
            all_bars,
            wrong,
            one.mark_rule(aria=False, color="var(--line-strong)").encode(y=alt.YDatum(0)),
            one.mark_rule(aria=False, strokeDash=[3, 3], strokeWidth=1.5).encode(x=at_calibrated),
            one.mark_rule(aria=False, strokeWidth=2).encode(x=at_live),
            label(alt.value("calibrated threshold"), at_calibrated, -24, align=leans, color="var(--muted)"),
            label(alt.value("← kept"), at_live, -9, align="right", dx=-6, opacity=alt.ExprRef(f"{at} > 0.17 ? 1 : 0")),
            label(alt.value("alarm →"), at_live, -9, align="left", dx=6, opacity=alt.ExprRef(f"{at} < 0.83 ? 1 : 0")),
            label(alt.value("ID"), alt.value("width"), 8, align="right", color="var(--id-ink)", fontWeight="bold"),
            one.mark_text(aria=False, align="left", dy=-8, color="var(--ood-ink)", fontWeight="bold").encode(
                x=alt.value(0), y=alt.value("height"), text=alt.value(alt.ExprRef("ood"))
            ),
        )
        .add_params(*(alt.param(name=name, value=value) for name, value in PARAMETERS["histogram"].items()))
        .properties(height=190, padding={"top": 4, "bottom": 4, "left": 4, "right": 8})
    )


def roc() -> Spec:
    """Lines {row, x, y, main}: the selected row in full, the others pale behind it; a dot where the slider stands.

    "band" {i, x, y}: the selected row with the bound of its false alarms in place of the measured ones, dashed.
    """
    alt = load_altair()

    def share(title: str) -> dict[str, Any]:
        axis = alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1], title=title, labelOverlap=True)
        return {"axis": axis, "scale": alt.Scale(domain=[0, 1], nice=False)}

    x, y = share("ID rejected (false alarms)"), share("OOD caught")
    one = alt.Chart(alt.InlineData(values=[{"x": 0, "y": 0, "to": 1}]))
    lines = alt.Chart(alt.NamedData("curve")).encode(
        x=alt.X("x:Q", **x), y=alt.Y("y:Q", **y), detail="row:N", order="i:Q", tooltip=alt.Tooltip("row:N", title="row")
    )
    return finish(
        alt.layer(
            one.mark_rule(aria=False, strokeDash=[2, 4], color="var(--line-strong)").encode(
                x=alt.X("x:Q", **x), y=alt.Y("y:Q", **y), x2="to:Q", y2="to:Q"
            ),
            lines.transform_filter("!datum.main").mark_line(aria=False, strokeWidth=1, color="var(--faint)"),
            lines.transform_filter("datum.main").mark_line(aria=False, strokeWidth=2.5, color="var(--ink)"),
            alt.Chart(alt.NamedData("band"))
            .mark_line(aria=False, strokeWidth=1.5, strokeDash=[5, 3], color="var(--id)")
            .encode(x=alt.X("x:Q", **x), y=alt.Y("y:Q", **y), order="i:Q"),
            one.mark_point(aria=False, size=70, strokeWidth=1.5, stroke="var(--ink)", fill="var(--paper)").encode(
                x=_at(alt, "X", "calibrated_rejected", **x), y=_at(alt, "Y", "calibrated_caught", **y)
            ),
            one.mark_point(aria=False, size=70, filled=True, opacity=1, color="var(--ood)").encode(
                x=_at(alt, "X", "rejected", **x), y=_at(alt, "Y", "caught", **y)
            ),
        )
        .add_params(*(alt.param(name=name, value=value) for name, value in PARAMETERS["roc"].items()))
        .properties(height=190, padding={"top": 8, "bottom": 4, "left": 4, "right": 12})
    )


def learning_curve(rows: Sequence[Mapping[str, float]]) -> Spec | None:
    """Loss over epochs; None where fewer than two rows have both, finite."""
    points = [{"epoch": row["epoch"], "loss": row["loss"]} for row in rows if "epoch" in row and "loss" in row]
    points = [point for point in points if all(map(math.isfinite, point.values()))]
    if len(points) < 2:
        return None
    alt = load_altair()
    line = alt.Chart(alt.InlineData(values=points)).encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(grid=False, tickMinStep=1, labelOverlap=True)),
        y=alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        tooltip=[alt.Tooltip("epoch:Q"), alt.Tooltip("loss:Q", format=".4g")],
    )
    return finish(
        alt.layer(
            line.mark_line(aria=False, strokeWidth=2, color="var(--ink)"),
            line.mark_point(aria=False, size=300, opacity=0),  # something to point at
        ).properties(height=170, padding={"top": 8, "bottom": 4, "left": 4, "right": 12})
    )
