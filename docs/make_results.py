"""docs/results.md from the rows in docs/results/, and a new row from a run that was evaluated.

python docs/make_results.py                                   writes docs/results.md
python docs/make_results.py add RUN --hardware "two cores"    keeps RUN's tables as a row first
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
METRICS = {"auroc": "AUROC", "fpr_ood_at_id95": "FPR OOD@ID95", "fpr_id_at_ood95": "FPR ID@OOD95"}


def row_of(run: Path, hardware: str) -> dict[str, Any]:
    """What is kept of a run: its recipe's name and seed, the commit, the hardware, and every figure."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    tables = run / "tables" / recipe["protocol"].replace("/", "-")  # of the protocol that the recipe names
    (evaluation,) = json.loads((tables / "evaluation.json").read_text())
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return {
        "recipe": recipe["name"],
        "seed": recipe["seed"],
        "commit": commit.stdout.strip(),
        "hardware": hardware,
        "epochs": recipe["training"]["epochs"],
        "images_per_second": round(median(line["images_per_second"] for line in log)),
        "last": {key: round(log[-1][key], 3) for key in ("loss", "compactness", "dispersion") if key in log[-1]},
        "protocol": evaluation["protocol"],
        "kinds": evaluation["kinds"],
        "accuracy": evaluation["accuracy"],
        "scores": {
            name: {"metrics": score["metrics"], "achieved": score["achieved"], "promised": score["false_alarm_rate"]}
            for name, score in evaluation["scores"].items()
        },
    }


def page(rows: list[dict[str, Any]], notes: str) -> str:
    """The Markdown page: the notes, then a table per protocol and metric, best figure of a column in bold."""
    parts = ["# Results", "", notes.strip(), ""]
    for protocol in sorted({row["protocol"] for row in rows}):
        members = [row for row in rows if row["protocol"] == protocol]
        sets = list(dict.fromkeys(name for row in members for name in row["kinds"]))
        columns = [*sets, *(kind for kind in ("near", "far") if kind in members[0]["kinds"].values())]
        parts += [f"## {protocol}", ""]
        for metric, title in METRICS.items():
            parts += [f"### {title}, percent", "", *_table(members, columns, metric), ""]
        parts += ["### The promise, and ID accuracy", "", *_promises(members), ""]
        parts += ["### Where the rows come from", "", *_origins(members), ""]
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]], columns: list[str], metric: str) -> list[str]:
    lines = ["| recipe | seed | score | " + " | ".join(columns) + " |", "|---|---|---|" + "---:|" * len(columns)]
    figures = [(row, name, score["metrics"]) for row in rows for name, score in row["scores"].items()]
    better = max if metric == "auroc" else min
    best = [better(round(100 * found[column][metric], 1) for _, _, found in figures) for column in columns]
    for row, name, found in figures:
        cells = []
        for column, top in zip(columns, best, strict=True):
            value = round(100 * found[column][metric], 1)
            cells.append(f"**{value:.1f}**" if value == top else f"{value:.1f}")
        lines.append(f"| {row['recipe']} | {row['seed']} | {name} | " + " | ".join(cells) + " |")
    return lines


def _promises(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| recipe | seed | score | false alarms achieved | promised | ID accuracy |",
        "|---|---|---|---:|---:|---|",
    ]
    for row in rows:
        accuracy = ", ".join(f"{name} {100 * value:.1f}" for name, value in row["accuracy"].items())
        for name, score in row["scores"].items():
            value, low, high = (100 * score["achieved"][key] for key in ("value", "low", "high"))
            achieved = f"{value:.1f} [{low:.1f}, {high:.1f}]"
            promised = f"{100 * score['promised']:g}"
            lines.append(f"| {row['recipe']} | {row['seed']} | {name} | {achieved} | {promised} | {accuracy} |")
    return lines


def _origins(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| recipe | seed | commit | hardware | epochs | images/s | last loss |", "|---|---|---|---|---:|---:|---|"]
    for row in rows:
        last = ", ".join(f"{name} {value}" for name, value in row["last"].items())
        lines.append(
            f"| {row['recipe']} | {row['seed']} | {row['commit']} | {row['hardware']} | {row['epochs']} "
            f"| {row['images_per_second']:,} | {last} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    add = commands.add_parser("add", help="keep an evaluated run as a row")
    add.add_argument("run", type=Path)
    add.add_argument("--hardware", required=True)
    arguments = parser.parse_args()
    if arguments.command == "add":
        row = row_of(arguments.run, arguments.hardware)
        file = HERE / "results" / f"{row['recipe']}-seed{row['seed']}-{row['commit']}.json"
        file.write_text(json.dumps(row, indent=1) + "\n")
        print(file)
    (HERE / "results.md").write_text(generated())


def generated() -> str:
    """docs/results.md as the committed rows and notes make it."""
    rows = [json.loads(file.read_text()) for file in sorted((HERE / "results").glob("*.json"))]
    return page(rows, (HERE / "results" / "notes.md").read_text())


if __name__ == "__main__":
    main()
