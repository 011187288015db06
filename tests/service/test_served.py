"""A bundle that changes while it is being read is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.service.conftest import make

from spherood.bundle import Bundle
from spherood.service import served as module
from spherood.service.served import Served


def test_one_that_is_replaced_while_the_old_one_is_loaded_is_taken_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, other = Bundle.load, make(1)

    def slow(place: Path, **settings: Any) -> Bundle:
        found = plain(place, **settings)
        other.save(place)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module.Bundle, "load", slow)
        served = Served("noise", folder)
    first = served.now
    assert served.refresh()
    assert served.now.version != first.version
    assert served.now.bundle.held_out_score.tolist() == pytest.approx(other.held_out_score.tolist())
    assert not served.refresh()
