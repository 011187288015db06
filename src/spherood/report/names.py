"""Where the name of a mark stands: beside it, over no other name and over no other mark, or nowhere.

Shapes: K marks. Pixels: x to the right, y downwards; widths are estimated from the number of letters.
"""

from __future__ import annotations

from collections.abc import Sequence

from spherood.report.projection import Vectors

LONGEST = 18  # letters of a class's name that are shown; a pointer shows all
LETTER, HEIGHT = 7.0, 15.0  # of a name in 12 px, bold
GAP, MARK = 10.0, 7.0  # from a mark's middle to its name, and to the edge of what no name may cover

Box = tuple[float, float, float, float]  # left, top, right, bottom


def short(name: str) -> str:
    """At most LONGEST letters."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def placed(pixel: Vectors, names: Sequence[str], served: Sequence[int], side: float) -> dict[int, tuple[float, float]]:
    """Left top corner by mark, for the names that fit into the square: right of it, left, above or below.

    pixel: positions (K, 2) of all marks. served: whose names are wanted, the most important first.
    """
    marks = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in pixel.tolist()]
    taken: list[Box] = []
    found: dict[int, tuple[float, float]] = {}
    for k in served:
        others = [*marks[:k], *marks[k + 1 :], *taken]
        x, y = pixel[k].tolist()
        width = LETTER * len(names[k])
        for left, top in (
            (x + GAP, y - HEIGHT / 2),
            (x - GAP - width, y - HEIGHT / 2),
            (x - width / 2, y - GAP - HEIGHT),
            (x - width / 2, y + GAP),
        ):
            box = (left, top, left + width, top + HEIGHT)
            if min(box) >= 0 and max(box) <= side and not any(_overlap(box, other) for other in others):
                taken.append(box)
                found[k] = (left, top)
                break
    return found


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
