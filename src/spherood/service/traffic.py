"""The last verdicts, for the page: in memory alone, gone with the process; switched off where nobody should look."""

from __future__ import annotations

import base64
import io
import itertools
import threading
from collections import deque
from typing import Any

from PIL import Image

SIDE = 96  # pixels of a small picture


class Traffic:
    """``Traffic(200)``; 0 keeps nothing."""

    def __init__(self, kept: int) -> None:
        self._rows: deque[dict[str, Any]] = deque(maxlen=kept)
        self._lock, self._number = threading.Lock(), itertools.count()

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self._rows.maxlen != 0

    def add(self, row: dict[str, Any], picture: Image.Image | None) -> None:
        """Keep a row of an answer, with its picture made small."""
        if self.on:
            with self._lock:
                self._rows.append(row | {"number": next(self._number), "picture": small(picture)})

    def most_ood(self, n: int) -> list[dict[str, Any]]:
        """The kept rows with the lowest p-values, and of those the highest scores."""
        with self._lock:
            rows = list(self._rows)
        return sorted(rows, key=lambda row: (row["p_value"], -row["score"]))[:n]

    def latest(self, n: int) -> list[dict[str, Any]]:
        """Newest first."""
        with self._lock:
            return list(self._rows)[-n:][::-1]


def small(picture: Image.Image | None) -> str | None:
    """A picture inside its own address."""
    if picture is None:
        return None
    copy = picture.copy()
    copy.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    copy.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
