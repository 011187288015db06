"""What to cite for a run: the papers behind its losses, network, scores, protocol, threshold and image sets.

references.yaml has a paper a line and what it stands behind. Whatever no paper stands behind is named, so that nobody
takes silence for none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from spherood import naming
from spherood.benchmark.comparison import read_evaluations
from spherood.benchmark.protocol import load_protocol, protocol_names
from spherood.benchmark.result import Evaluation
from spherood.schema import Strict, parse
from spherood.training.checkpoint import LAST, Checkpoint
from spherood.training.recipe import Recipe


class Reference(Strict):
    """A paper. of: what it stands behind, as `used` names that."""

    key: str
    author: str
    year: int
    title: str
    venue: str = ""
    arxiv: str = ""
    of: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for people."""
        names = [name.partition(",")[0] for name in self.author.split(" and ")]
        told = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        where = ", ".join(part for part in (self.venue, f"arXiv:{self.arxiv}" if self.arxiv else "") if part)
        return f"{told}, {self.year}. {self.title}{'' if self.title.endswith('?') else '.'} {where}."

    @property
    def bibtex(self) -> str:
        """An entry; double braces keep the capitals of the title."""
        fields = {"author": self.author, "title": f"{{{self.title}}}", "year": str(self.year)}
        if self.venue:
            fields["booktitle"] = self.venue
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@{'inproceedings' if self.venue else 'misc'}{{{self.key},\n{lines}}}"


@cache
def references() -> tuple[Reference, ...]:
    """All, in the order of the file."""
    text = files("spherood.benchmark").joinpath("references.yaml").read_text(encoding="utf-8")
    return tuple(parse(Reference, entry, "references.yaml") for entry in yaml.safe_load(text))


def used_by_run(run: Path) -> list[str]:
    """What a run used, and the evaluations in its folder. CheckpointError where there is no run."""
    recipe = Checkpoint.load(run / LAST).recipe
    evaluations = read_evaluations(run) if any((run / "tables").rglob("evaluation.json")) else []
    return used(recipe, evaluations)


def used(recipe: Recipe, evaluations: Sequence[Evaluation] = ()) -> list[str]:
    """`losses.cider`, `models.resnet`, `detectors.knn`, `protocol.openood`, `sets.svhn`, `threshold`, each once."""
    found = [f"losses.{term.use}" for term in recipe.loss]
    found.append("models.resnet" if recipe.model.ours else f"models.{recipe.model.encoder}")
    for evaluation in evaluations:
        found += [f"protocol.{evaluation.protocol.partition('/')[0]}", *_sets(evaluation)]
        for result in evaluation.scores.values():
            found += _scores(result.spec)
            found += ["threshold"] if result.calibrated else []
    return list(dict.fromkeys(found))


def behind(things: Iterable[str]) -> tuple[list[Reference], list[str]]:
    """The papers behind them, in the order of the file, and what no paper stands behind."""
    wanted = list(things)
    found = [one for one in references() if set(one.of) & set(wanted)]
    known = {name for one in references() for name in one.of}
    return found, [name for name in wanted if name not in known]


def _scores(text: str) -> list[str]:
    """A score and those that it is made of."""
    name, settings = naming.parse_spec(text)
    inner = [*settings.get("scores", ()), settings.get("score")]
    return [f"detectors.{name}", *(part for one in inner if isinstance(one, str) for part in _scores(one))]


def _sets(evaluation: Evaluation) -> list[str]:
    names = list(evaluation.kinds)
    if evaluation.protocol in protocol_names() and not evaluation.protocol.startswith("demo/"):
        names.append(evaluation.protocol.partition("/")[2].removesuffix("-sample"))
        names += load_protocol(evaluation.protocol).csid if evaluation.setting == "fsood" else ()
    return [f"sets.{name.lower()}" for name in names]
