"""Writes docs/recipes.md, the list of recipes/, from the recipes and their heads.

python docs/make_recipes.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
INTRODUCTION = """# Recipes

One file of `recipes/` per experiment; written by `docs/make_recipes.py`. Each begins with the two commands to type, how
long it takes, what was published for it, and where the reference's code differs. `--set training.epochs=20` changes one
value, `--run NAME` keeps the result apart.

- A recipe named `-as-released` has the learning rate of the released code, negative in its first epoch where it is
  large; its namesake's is never negative.
- Images are found where the protocols look for them: CIDER's `datasets/`, OpenOOD's `data/`, or folders such as
  `cifar10/train`, below `--data`. What a network starts from lies in `weights/` there.
- A batch counts the images of all processes, each with all its views.
- A recipe without an encoder trains a head on features that somebody has already.
- Published figures are percent. FPR OOD@ID95: OOD let through while 95 % of ID is kept; FPR ID@OOD95: ID rejected while
  95 % of OOD is caught. None of the large recipes was trained here; `docs/results.md` has what the small ones gave.
"""
SMALL, HEADS = "Small, for two cores", "On features"
COLUMNS = ("recipe", "what", "network", "trained", "epochs", "batch", "rate", "published")


def page(texts: dict[str, str]) -> str:
    """The Markdown page of recipes by name, a table per protocol; those made for two cores last."""
    tables: dict[str, list[str]] = {}
    for name, text in texts.items():
        title = SMALL if "-small" in name else yaml.safe_load(text).get("protocol", HEADS)
        tables.setdefault(title, []).append(f"| {' | '.join(_row(name, text))} |")
    parts = [INTRODUCTION]
    for title in sorted(tables, key=lambda title: (title in (SMALL, HEADS), title)):
        rule = "|" + "---|" * len(COLUMNS)
        parts.append("\n".join([f"## {title}", "", f"| {' | '.join(COLUMNS)} |", rule, *tables[title], ""]))
    return "\n".join(parts)


def _row(name: str, text: str) -> list[str]:
    recipe: dict[str, Any] = yaml.safe_load(text)
    model, training, schedule = recipe["model"], recipe["training"], recipe["schedule"]
    lines = [line.removeprefix("#").strip() for line in text.partition("\nname:")[0].splitlines()]
    network = f"{model['encoder']}, width {model['width']}" if model.get("width", 64) != 64 else model["encoder"]
    if network == "none":
        network = f"none, {model['head']} head"
    published = re.findall(r"Expected: ([^:]*)\. Published: [^,]*, ([^,]*), ([^.]*)\.", " ".join(lines))
    return [
        f"[{name}](../recipes/{name}.yaml)",
        lines[0],
        network,
        ", ".join(recipe.get("fine_tuning", {}).get("train", ["everything"])),
        str(training["epochs"]),
        str(training["batch"]),
        f"{schedule['lr']:g}" + (f", {schedule['rule']}" if "rule" in schedule else ""),
        "; ".join(f"{figures} ({score}, {source})" for figures, score, source in published) or "–",
    ]


def generated() -> str:
    """docs/recipes.md as the recipes make it."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (HERE.parent / "recipes").glob("*.yaml")}
    return page(dict(sorted(texts.items())))


if __name__ == "__main__":
    (HERE / "recipes.md").write_text(generated(), encoding="utf-8")
