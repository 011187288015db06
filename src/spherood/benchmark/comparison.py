"""Runs side by side: seeds grouped, means with deviations, the published row beside them, what a baseline would say.

A row is one score of one group: the runs of one recipe, the trials of one folder, or a row of a paper. Deviations over
seeds are those of the population (ddof 0), as OpenOOD prints them. Fractions inside, percent in print.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spherood import metrics
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.published import PublishedRow, leaderboard, leaderboard_date, position
from spherood.benchmark.result import MEANS, Evaluation, Interval, Kind, Setting
from spherood.errors import CheckpointError, ConfigError, nearest

FPRS = ("fpr_ood_at_id95", "fpr_id_at_ood95")


@dataclass(frozen=True)
class Figure:
    """One metric over seeds."""

    mean: float
    std: float | None = None  # None for a single run, or where a paper gives none
    by_seed: Mapping[str, float] = field(default_factory=dict)
    interval: Interval | None = None  # of a single run, over images

    @classmethod
    def over(cls, by_seed: Mapping[str, float], interval: Interval | None = None) -> Figure:
        """Mean and population deviation over seeds."""
        values = list(by_seed.values())
        if len(values) == 1:
            return cls(values[0], None, by_seed, interval)
        return cls(float(np.mean(values)), float(np.std(values)), by_seed)


@dataclass(frozen=True)
class Row:
    """One score of one group, or a published row."""

    name: str
    score: str
    figures: Mapping[str, Mapping[str, Figure]]  # OOD set or mean -> metric -> figure
    accuracy: Mapping[str, Figure]
    kinds: Mapping[str, Kind]
    absent: Mapping[str, Kind] = field(default_factory=dict)
    runs: int | None = None  # None where a paper does not say
    source: str = ""  # of a published row


def read_evaluations(run: Path) -> list[Evaluation]:
    """Every evaluation that a run folder holds; CheckpointError where there is none, or one that cannot be read."""
    files = sorted((run / "tables").rglob("evaluation.json"))
    if not files:
        raise CheckpointError(
            f"spherood compare: {run} holds no evaluation. Make one with: spherood evaluate {run} --protocol P"
        )
    found = []
    for file in files:
        try:
            records = json.loads(file.read_text(encoding="utf-8"))
            found += [Evaluation.from_json(record) for record in records]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file}: not an evaluation ({error}). Evaluate the run again.") from None
    return found


def only(evaluations: Sequence[Evaluation], protocol: str | None, setting: Setting) -> list[Evaluation]:
    """Those of one protocol and setting; ConfigError where that is none, or where `protocol` is needed to choose."""
    there = [one for one in evaluations if one.setting == setting]
    names = list(dict.fromkeys(one.protocol for one in there))
    spectrum = " of the full spectrum" if setting == "fsood" else ""
    if protocol is None and len(names) != 1:
        hint = f"Choose one with --protocol: {', '.join(names)}." if names else "Evaluate them first."
        raise ConfigError(f"spherood compare: the runs hold evaluations{spectrum} of {len(names)} protocols. {hint}")
    kept = [one for one in there if protocol in (None, one.protocol)]
    if not kept:
        raise ConfigError(f"spherood compare: no evaluation{spectrum} by {protocol}. {nearest(protocol or '', names)}")
    return kept


def rows_of(evaluations: Sequence[Evaluation]) -> list[Row]:
    """A row per group and score, in the order given."""
    groups: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        groups.setdefault(one.group or one.model, []).append(one)
    short = [group.partition("#")[0] for group in groups]
    rows = []
    for (group, members), name in zip(groups.items(), short, strict=True):
        title = members[0].model if len(members) == 1 else name if short.count(name) == 1 else group
        for text in dict.fromkeys(text for one in members for text in one.scores):
            rows.append(_row(title, text, [one for one in members if text in one.scores]))
    return rows


def _row(title: str, text: str, members: Sequence[Evaluation]) -> Row:
    seeds = {one.seed or str(number): one for number, one in enumerate(members)}
    if len(seeds) < len(members):
        twice = ", ".join(one.model for one in members)
        raise ConfigError(f"spherood compare: {twice} are runs of one recipe and one seed. Leave out all but one.")
    names = [name for name in members[0].scores[text].metrics if all(name in m.scores[text].metrics for m in members)]
    figures: dict[str, dict[str, Figure]] = {}
    for name in names:
        found = {seed: one.scores[text].metrics[name] for seed, one in seeds.items()}
        intervals = members[0].scores[text].intervals.get(name, {})
        figures[name] = {
            metric: Figure.over({seed: getattr(one, metric) for seed, one in found.items()}, intervals.get(metric))
            for metric in vars(next(iter(found.values())))
        }
    ways = [way for way in members[0].accuracy if all(way in one.accuracy for one in members)]
    accuracy = {way: Figure.over({seed: one.accuracy[way] for seed, one in seeds.items()}) for way in ways}
    kinds = {name: kind for one in members for name, kind in one.kinds.items() if name in figures}
    absent = {name: kind for one in members for name, kind in one.absent.items()}
    chosen = list(dict.fromkeys(one.scores[text].spec for one in members))
    score = text if chosen == [text] else f"{text} ({', '.join(chosen)})"
    return Row(title, score, figures, accuracy, kinds, absent, len(members))


def published_row(row: PublishedRow, protocol: Protocol) -> Row:
    """A paper's row as one of ours, each metric under the rule that its protocol published it by."""
    rules = protocol.published
    if rules is None:
        raise ConfigError(f"{protocol.name}: names no published numbers. Leave --published out.")
    fields = {"FPR95": rules.fpr, "AUROC": "auroc", "AUPR_IN": "aupr_in", "AUPR_OUT": "aupr_out"}
    fields["AUPR"] = "average_precision"
    figures: dict[str, dict[str, Figure]] = {}
    for name, found in row.figures.items():
        if name:
            figures["far" if name == "average" else name] = {
                fields[metric]: Figure(value / 100, None if std is None else std / 100)
                for metric, (value, std) in found.items()
                if metric in fields
            }
    accuracy = {}
    for found in row.figures.values():
        if "ACC" in found:
            value, std = found["ACC"]
            accuracy["classifier"] = Figure(value / 100, None if std is None else std / 100)
    kinds = {name: kind for name, (kind, _) in protocol.ood.items() if name in figures}
    whose = "a user's run" if "user" in f"{row.note} {row.source}" else "published"
    return Row(
        f"{row.method} ({whose})", row.score, figures, accuracy, kinds, {}, row.runs, f"{row.source}, {row.where}"
    )


def significance(rows: Sequence[Row]) -> list[str]:
    """For each mean AUROC, the best measured row against the others, paired by seed; the untested ones in one line."""
    lines = []
    for kind in MEANS:
        found = [(row, row.figures[kind]["auroc"]) for row in rows if not row.source and kind in row.figures]
        if len(found) < 2:
            continue
        best, top = max(found, key=lambda pair: pair[1].mean)
        untested = []
        for row, figure in found:
            shared = [seed for seed in top.by_seed if seed in figure.by_seed]
            if row is best or row.name == best.name:
                continue
            points = f"{100 * (top.mean - figure.mean):.2f} points above {row.name}, {row.score}"
            gap = f"{kind} AUROC: {best.name}, {best.score} is {points}"
            if _sets(row, kind) != _sets(best, kind):
                lines.append(f"{gap}; over other OOD sets, so no test.")
                continue
            if len(shared) < 2:
                untested.append(f"{row.name}, {row.score}")
                continue
            p = metrics.paired_t([top.by_seed[seed] - figure.by_seed[seed] for seed in shared])
            lines.append(f"{gap}; paired t-test over {len(shared)} seeds: p = {p:.2g}.")
        if untested:
            lines.append(
                f"{kind} AUROC: {best.name}, {best.score} is above {'; '.join(untested)}: fewer than two seeds in "
                "common, so no test."
            )
    return lines


def mean_fpr(row: Row, metric: str) -> float | None:
    """Over all sets of near and far together; None where one is missing."""
    values = [
        row.figures[name][metric].mean
        for name, kind in row.kinds.items()
        if kind in MEANS and metric in row.figures[name]
    ]
    return float(np.mean(values)) if values and not any(math.isnan(value) for value in values) else None


def _sets(row: Row, *kinds: Kind) -> set[str]:
    return {name for name, kind in row.kinds.items() if kind in kinds}


def against_baseline(rows: Sequence[Row], baseline: Sequence[Row]) -> list[str]:
    """Change of the mean FPR over all sets, in points and relative, by both definitions; against the same score."""
    lines = []
    for row in rows:
        if any(row.name == one.name for one in baseline):
            continue
        base = next((one for one in baseline if one.score == row.score), baseline[0])
        if not row.source and _sets(row, *MEANS) != _sets(base, *MEANS):
            lines.append(f"{row.name}, {row.score} against {base.name}, {base.score}: other OOD sets, so no change.")
            continue
        for metric in FPRS:
            old, new = mean_fpr(base, metric), mean_fpr(row, metric)
            if old is None or new is None:
                continue
            relative = f"{100 * (new - old) / old:+.2f} %" if old > 0 else "no relative change from 0"
            lines.append(
                f"{row.name}, {row.score} against {base.name}, {base.score}: mean {metric} {100 * old:.2f} -> "
                f"{100 * new:.2f}: {100 * (new - old):+.2f} points, {relative}."
            )
    return lines


def standing(rows: Iterable[Row], protocol: Protocol, setting: Setting) -> list[str]:
    """Where each measured row would stand among the leaderboard's rows that are held here."""
    rules = protocol.published
    board = leaderboard(setting, rules.id_dataset) if rules else []
    if not board:
        raise ConfigError(f"{protocol.name}: no leaderboard is held for it. Leave --leaderboard out.")
    lines = []
    for row in rows:
        for kind in MEANS:
            if row.source or kind not in row.figures:
                continue
            value = 100 * row.figures[kind]["auroc"].mean
            place, of = position(value, board, kind)
            incomplete = " (incomplete mean)" if kind in row.absent.values() else ""
            lines.append(
                f"{row.name}, {row.score}: {kind} AUROC {value:.2f}{incomplete} would be number {place} beside the "
                f"{of} rows of the OpenOOD leaderboard of {leaderboard_date(board)}."
            )
    return lines


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain records; fractions, NaN as null."""

    def plain(figure: Figure) -> dict[str, Any]:
        return {
            "mean": figure.mean if math.isfinite(figure.mean) else None,
            "std": figure.std if figure.std is not None and math.isfinite(figure.std) else None,
            "by_seed": {seed: value if math.isfinite(value) else None for seed, value in figure.by_seed.items()},
            "interval": figure.interval,
        }

    return [
        {
            "name": row.name,
            "score": row.score,
            "runs": row.runs,
            "source": row.source,
            "absent": dict(row.absent),
            "accuracy": {way: plain(figure) for way, figure in row.accuracy.items()},
            "figures": {
                name: {metric: plain(figure) for metric, figure in found.items()} for name, found in row.figures.items()
            },
        }
        for row in rows
    ]
