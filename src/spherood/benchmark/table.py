"""Evaluations as a table: text for people, CSV and JSON for machines. Fractions inside, percent in print."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from spherood.benchmark.result import MEANS, Evaluation, Kind, Metrics, ScoreResult
from spherood.files import write_json, write_text

TITLES = {
    "auroc": "AUROC",
    "fpr_ood_at_id95": "FPR OOD@ID95",
    "fpr_id_at_ood95": "FPR ID@OOD95",
    "caught": "caught",
}
LEGEND = (
    "AUROC and rates: means over {means} sets. "
    "FPR OOD@ID95: OOD let through while 95 % of ID is kept (CIDER's papers). "
    "FPR ID@OOD95: ID rejected while 95 % of OOD is caught (OpenOOD v1.5). "
    "caught: OOD above the calibrated threshold. ID acc.: best of class mean, k-NN, classifier."
)


def header(evaluations: Sequence[Evaluation]) -> list[str]:
    """Columns of the summary."""
    found = [score for evaluation in evaluations for score in evaluation.scores.values() if score.calibrated]
    rates = {100 * score.false_alarm_rate for score in found}
    promised = f" (promised {min(rates):g})" if len(rates) == 1 else ""
    return ["model", "score", *TITLES.values(), f"false alarms{promised}", "ID acc."]


def rows(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """A row per model and score, in percent, near / far; "–": there is no such figure, "*": incomplete mean."""
    found = []
    kinds = means(evaluations)
    for evaluation in evaluations:
        id_accuracy = f"{100 * max(evaluation.accuracy.values()):.1f}" if evaluation.accuracy else "–"
        for text, result in evaluation.scores.items():
            cells = [" / ".join(_mean(evaluation, result, kind, metric) for kind in kinds) for metric in TITLES]
            achieved, alarms = result.achieved, "–"
            if result.calibrated:
                alarms = f"{100 * achieved.value:.1f} [{100 * achieved.low:.1f}, {100 * achieved.high:.1f}]"
            found.append([evaluation.model, text, *cells, alarms, id_accuracy])
        for text in evaluation.unavailable:
            found.append([evaluation.model, text, *["–"] * (len(TITLES) + 1), id_accuracy])
    return found


def _mean(evaluation: Evaluation, result: ScoreResult, kind: Kind, metric: str) -> str:
    measured = result.metrics.get(kind)
    figure = percent(getattr(measured, metric)) if measured else "–"
    return figure + "*" * (kind in evaluation.absent.values() and figure != "–")


def percent(share: float, digits: int = 1) -> str:
    """.0625 -> "6.2"; "–" where it was not measured."""
    return f"{100 * share:.{digits}f}" if math.isfinite(share) else "–"


def means(evaluations: Sequence[Evaluation]) -> list[Kind]:
    """The kinds that some evaluation has a mean of, or lacks the sets for."""
    seen = {kind for evaluation in evaluations for kind in (*evaluation.kinds.values(), *evaluation.absent.values())}
    return [kind for kind in MEANS if kind in seen]


def title(evaluation: Evaluation) -> str:
    """The protocol, and whether the full spectrum is meant."""
    return evaluation.protocol + (", full spectrum" if evaluation.setting == "fsood" else "")


def slug(evaluation: Evaluation) -> str:
    """A folder's name for the results of one protocol and setting."""
    return evaluation.protocol.replace("/", "-") + ("-full-spectrum" if evaluation.setting == "fsood" else "")


def notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """What the reader must know beside the numbers."""
    lines = [LEGEND.format(means=" / over ".join(means(evaluations)))]
    lines += [f"Images: {evaluation.resize}." for evaluation in evaluations if evaluation.resize]
    for evaluation in evaluations:
        lines += [f"–: {text} {why}." for text, why in evaluation.unavailable.items()]
        lines += evaluation.notes
        for text, result in evaluation.scores.items():
            if result.sweep:
                tried = ", ".join(f"{one} {percent(auroc)}" for one, auroc in result.sweep.auroc.items())
                seen = ", ".join(result.sweep.ood)
                lines.append(f"{text}: {result.sweep.chosen} chosen on ID validation against {seen} (AUROC: {tried}).")
    absent = {name: kind for evaluation in evaluations for name, kind in evaluation.absent.items()}
    for name, kind in absent.items():
        lines.append(
            f"absent: {name} ({kind})."
            if kind == "extra"
            else f"* absent: {name} ({kind}); the {kind} mean is incomplete."
        )
    return list(dict.fromkeys(lines))


def write_tables(folder: Path, evaluations: Sequence[Evaluation]) -> Path:
    """metrics.csv (every set and metric, and the means) and evaluation.json under `folder`, which is returned."""
    metrics = [field.name for field in fields(Metrics)]
    sets = [["model", "score", "set", "kind", *metrics]]
    for evaluation in evaluations:
        for text, result in evaluation.scores.items():
            for name, measured in result.metrics.items():
                kind = evaluation.kinds.get(name, "mean")
                sets.append([evaluation.model, text, name, kind, *(f"{getattr(measured, m):.6f}" for m in metrics)])
    write_text(folder / "metrics.csv", _csv(sets))
    write_json(folder / "evaluation.json", [evaluation.to_json() for evaluation in evaluations])
    return folder


def _csv(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
