"""Panels as files (SVG, PNG, PDF) without a browser, and as specifications for the page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from spherood.errors import ConfigError, optional
from spherood.files import written_aside
from spherood.report.charts import Spec, finish, load_altair, styled, vega_lite_version
from spherood.report.lines import Panel

ENDINGS = (".svg", ".png", ".pdf")
COLUMNS, WIDTH = 2, 330  # of small charts beside each other; pixels of one
SCALE = 2  # pixels of a PNG for each of the picture's


def for_page(panel: Panel) -> Spec:
    """As wide as its place on the page, unless it has a width of its own."""
    return finish(panel.chart) if panel.width is None else styled(panel.chart)


def for_file(panels: Sequence[Panel]) -> Spec:
    """All in one picture on white, titled where they are several, in the page's light colours."""
    alt = load_altair()
    charts = [panel.chart if panel.width else panel.chart.properties(width=WIDTH) for panel in panels]
    if len(charts) == 1:
        spec = styled(charts[0].properties(padding=10))
    else:
        titled = [chart.properties(title=panel.title) for chart, panel in zip(charts, panels, strict=True)]
        whole = alt.concat(*titled, columns=COLUMNS, spacing=28).resolve_scale(
            color="independent", strokeDash="independent"
        )
        spec = styled(whole.properties(padding=10))
    colours = light()
    text = re.sub(r"var\(--([a-z-]+)\)", lambda found: colours[found[1]], json.dumps(spec))
    plain: Spec = json.loads(text)
    return {**plain, "background": colours["paper"]}


def check_ending(path: Path) -> str:
    """ConfigError unless it is one of ENDINGS."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"{path}: a figure ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}.")
    return ending


def write_figure(path: Path, panels: Sequence[Panel]) -> None:
    """Write a picture, whole or not at all. MissingExtraError without altair or vl-convert."""
    ending = check_ending(path)
    convert, version = optional("vl_convert", "report", "report"), vega_lite_version()
    spec = for_file(panels)
    if ending == ".svg":
        content = str(convert.vegalite_to_svg(spec, vl_version=version)).encode()
    elif ending == ".png":
        content = bytes(convert.vegalite_to_png(spec, vl_version=version, scale=SCALE))
    else:
        content = bytes(convert.vegalite_to_pdf(spec, vl_version=version))
    with written_aside(path) as aside:
        aside.write_bytes(content)


@cache
def light() -> dict[str, str]:
    """The page's colours by day, by the names of its variables."""
    page = (resources.files("spherood.report") / "page.html.j2").read_text(encoding="utf-8")
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+);", page[page.index(":root") : page.index("@media")]))
