"""The page a run leaves behind: one HTML file, which loads nothing, of tables, charts and the images worth a look."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from spherood.benchmark.result import Evaluation, ScoreResult
from spherood.errors import ConfigError, nearest, optional
from spherood.files import write_text
from spherood.report import charts
from spherood.report.content import Content, Example, Pixels
from spherood.report.curves import Curves, Group, curves
from spherood.report.results import promise, results, sets
from spherood.report.table import percent

LARGEST = 128  # pixels; 36 images of 224 pixels would weigh 5 MB
SHOWN = 4  # sets outside near and far that get a figure of their own
SMALL = 96  # up to here an enlarged image shows its pixels rather than a blur


@dataclass(frozen=True)
class Picture:
    uri: str
    crisp: bool


@dataclass(frozen=True)
class Tile:
    """An example as the gallery shows it."""

    example: Example
    picture: Picture
    nearest: Picture | None
    score: str
    p_value: str
    verdict: str


def picture(pixels: Pixels) -> Picture:
    """A PNG inside its own address, shrunk where it is large."""
    image = Image.fromarray(pixels)
    crisp = max(image.size) <= SMALL
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), crisp)


def gallery(examples: Sequence[Example], result: ScoreResult, digits: int, right: str, wrong: str) -> list[Tile]:
    """`right` and `wrong` name the verdicts: an OOD image is caught or missed, an ID image kept or a false alarm."""

    def verdict(example: Example) -> str:
        return right if (example.score > result.threshold) == (right == "caught") else wrong

    return [
        Tile(
            one,
            picture(one.pixels),
            None if one.nearest_pixels is None else picture(one.nearest_pixels),
            f"{one.score:.{digits}f}",
            f"{one.p_value:.2g}",
            verdict(one),
        )
        for one in examples
    ]


def chosen_result(content: Content) -> ScoreResult:
    """ConfigError where the chosen pair was not evaluated, or two evaluations bear one name."""
    models = [one.model for one in content.evaluations]
    if twice := [model for model in models if models.count(model) > 1]:
        raise ConfigError(f"report: two evaluations are called {twice[0]}. Give each run its own name.")
    known = {f"{one.model} {name}": result for one in content.evaluations for name, result in one.scores.items()}
    wanted = " ".join(content.chosen)
    if wanted not in known:
        raise ConfigError(f"report: the chosen score {wanted} is not among the evaluations. {nearest(wanted, known)}")
    return known[wanted]


def group_json(group: Group) -> dict[str, Any]:
    return {"size": group.size, "bins": group.bins.tolist(), "outside": group.outside, "kept": group.kept.tolist()}


def row_json(evaluation: Evaluation, result: ScoreResult, drawn: Curves) -> dict[str, Any]:
    """What the script needs to draw one (model, score)."""
    return {
        "model": evaluation.model,
        "score": result.name,
        "promise": promise(result),
        "low": drawn.low,
        "high": drawn.high,
        "digits": drawn.digits,
        "grid": drawn.grid.tolist(),
        "calibrated": drawn.calibrated,
        "bound": drawn.bound.round(4).tolist(),
        "confidence": percent(result.confidence).removesuffix(".0"),
        "id": group_json(drawn.id_group),
        "ood": {name: group_json(group) for name, group in drawn.ood_group.items()},
        "roc": {name: [axis.round(4).tolist() for axis in axes] for name, axes in drawn.roc.items()},
        "auroc": {name: percent(m.auroc) for name, m in result.metrics.items()},
    }


def headline(content: Content, result: ScoreResult, evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(figure, its name, what it means) of the chosen row."""

    def means(field: str) -> str:  # empty where there is neither near nor far
        return " / ".join(
            f"{percent(getattr(result.metrics[kind], field))} %" for kind in ("near", "far") if kind in result.metrics
        )

    lacking = set(evaluation.absent.values())
    kinds = " / ".join(
        f"{kind} (incomplete)" if kind in lacking else kind for kind in ("near", "far") if kind in result.metrics
    )
    rate, low, high = astuple(result.achieved) if content.expected is None else content.expected
    alarms = "false alarms on ID test images" if content.expected is None else "false alarms to expect"
    found = [
        (f"{percent(rate)} %", alarms,
         f"promised: {promise(result)}; 95 % interval {percent(low)}–{percent(high)} %"),
        (means("caught"), f"OOD caught, {kinds}", "at the calibrated threshold; measured on these sets, not promised"),
        (means("auroc"), f"AUROC, {kinds}", "50 % is guessing, 100 % a clean separation; no threshold involved"),
    ]  # fmt: skip
    for way, share in list(evaluation.accuracy.items())[:1]:
        found.append((f"{percent(share)} %", "ID accuracy", f"known classes told apart by {way}"))
    for name, kind in evaluation.kinds.items():
        if kind == "extra" and len(evaluation.kinds) <= SHOWN:
            share = result.metrics[name].caught
            found.append(
                (f"{percent(share)} %", f"caught of {name}", "at the calibrated threshold; measured, not promised")
            )
    return [one for one in found if one[0]]


def render(content: Content) -> str:
    """The whole page as text. MissingExtraError without altair, jinja2 or vl-convert."""
    result = chosen_result(content)
    evaluations = sorted(content.evaluations, key=lambda one: one.model != content.chosen[0])
    cards = [(name, kind) for name, kind in sets(evaluations).items() if any(name in one.kinds for one in evaluations)]
    drawn = {(one.model, name): curves(one.model, r) for one in evaluations for name, r in one.scores.items()}
    rows = [row_json(one, r, drawn[one.model, name]) for one in evaluations for name, r in one.scores.items()]
    rows.sort(key=lambda row: (row["model"], row["score"]) != content.chosen)
    history = sorted(content.history.items(), key=lambda pair: pair[0] != content.chosen[0])
    learning = {model: spec for model, epochs in history if (spec := charts.learning_curve(epochs))}
    digits = drawn[content.chosen].digits
    return fill(
        "page.html.j2",
        "page.js",
        content=content,
        chosen=" · ".join(content.chosen),
        threshold=f"{result.threshold:.{digits}f}",
        headline=headline(content, result, next(one for one in evaluations if one.model == content.chosen[0])),
        promise=promise(result),
        results=results(content.evaluations, content.chosen),
        protocols=" and ".join(dict.fromkeys(one.protocol for one in evaluations)),
        cards=cards,
        rows=rows,
        ood_like_id=gallery(content.ood_like_id, result, digits, "caught", "missed"),
        id_like_ood=gallery(content.id_like_ood, result, digits, "kept", "false alarm"),
        learning=list(learning),
        data={
            "rows": rows,
            "cards": [name for name, _ in cards],
            "specs": {"histogram": charts.histogram(), "roc": charts.roc(), "learning": list(learning.values())},
        },
    )


def fill(template: str, script: str | None, **values: Any) -> str:
    """A page from its template and script, with the charts' library; without a script, neither. MissingExtraError
    without the extra.
    """
    jinja2 = optional("jinja2", "report", "report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_ours),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["tight"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    if script is not None:
        vl_convert = optional("vl_convert", "report", "report")
        library = str(vl_convert.javascript_bundle(vl_version=charts.vega_lite_version()))
        values |= {"library": _inside_script(library), "script": _inside_script(_ours(script))}
    text: str = environment.get_template(template).render(**values)
    return text


def _ours(file: str) -> str:
    return (resources.files("spherood.report") / file).read_text(encoding="utf-8")


def _inside_script(text: str) -> str:
    """Our own JavaScript, with what would end its element early split in a way that strings do not notice."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def write_page(path: Path, content: Content) -> None:
    """Write the page, whole or not at all. ConfigError where the content contradicts itself."""
    write_text(path, render(content))
