"""Code that a bundle names and does not hold: it is imported only where the user names it too. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from spherood import naming
from spherood.bundle.manifest import Score
from spherood.bundle.origin import Origin, own_code


def foreign_code(score: Score | None, origin: Origin | None) -> list[str]:
    """Import paths that bringing a bundle back would import; none for most."""
    own = [] if score is None else foreign_scores(score)
    network = own_code(origin)
    return own if network is None else [*own, network]


def foreign_scores(score: Score) -> list[str]:
    """Import paths that building a score would import: its own, and those of the scores that it is made of."""
    return _foreign(score.use, score.with_)


def _foreign(name: str, settings: Mapping[str, Any]) -> list[str]:
    inner = [*settings.get("scores", ()), settings.get("score")]  # of `combined`, of `layers`
    found = [_foreign(*naming.parse_spec(text)) for text in inner if isinstance(text, str)]
    return [*([name] if ":" in name else []), *chain(*found)]
