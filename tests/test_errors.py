from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spherood import errors
from spherood.errors import ImageError, MissingExtraError, SpheroodError, nearest, optional


def test_every_error_is_also_the_built_in_one_that_a_caller_expects() -> None:
    ours = [it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, SpheroodError)]
    assert len(ours) > 10
    for it in ours:
        if it is not SpheroodError:
            assert issubclass(it, ValueError | TypeError | OSError | ImportError), it
    assert issubclass(ImageError, OSError)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("cidr", "Did you mean 'cider'?"), ("xyz", "Known: cider, knn."), ("", "Known: cider, knn.")],
)
def test_a_mistyped_word_gets_the_nearest_or_all(word: str, hint: str) -> None:
    assert nearest(word, ["knn", "cider"]) == hint


def test_nothing_known_gives_no_hint() -> None:
    assert nearest("word", []) == ""


def test_a_library_that_is_there_is_imported() -> None:
    import json

    assert optional("json", "train", "spherood train") is json


def test_a_missing_library_comes_with_the_command_that_installs_it() -> None:
    message = r"^spherood train: needs no_such_library, which is not installed\. .* pip install 'spherood\[train\]'$"
    for module in ("no_such_library", "no_such_library.inner"):
        with pytest.raises(MissingExtraError, match=message):
            optional(module, "train", "spherood train")


def test_a_library_that_is_itself_broken_stays_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_library_of_this_test.py").write_text("import no_such_library")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="no_such_library") as caught:
        optional("broken_library_of_this_test", "train", "spherood train")
    assert not isinstance(caught.value, SpheroodError)
