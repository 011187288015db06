"""Colours of classes and lines, each with a second mark that does not need colour.

Ten colours by Petroff (arXiv:2107.02270, the sequence of ten), chosen by him for readers with any colour vision; from
the eleventh class on they come again in another shape: 80 classes differ. Lines of a chart differ in their dashes too.
"""

from __future__ import annotations

COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
SHAPES = ("circle", "square", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left", "diamond")
LINES = ("var(--id)", "var(--ood)", "#009e73", "#cc79a7", "var(--ink)", "#a96b59")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 2], [4, 4])


def colour(label: int) -> str:
    """Of a class 0..C-1."""
    return COLOURS[label % len(COLOURS)]


def shape(label: int) -> str:
    """Of a class 0..C-1, as Vega-Lite names it."""
    return SHAPES[label // len(COLOURS) % len(SHAPES)]
