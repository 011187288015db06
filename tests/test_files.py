from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spherood.errors import OutputError
from spherood.files import HOST, sha256_of_file, write_json, write_text, written_aside


def test_text_and_json_are_written_into_folders_that_did_not_exist(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "Größe\n")
    write_json(tmp_path / "a" / "c.json", {"τ": 0.1})
    assert (tmp_path / "a" / "b.txt").read_bytes() == "Größe\n".encode()
    assert (tmp_path / "a" / "c.json").read_text(encoding="utf-8") == '{\n  "τ": 0.1\n}\n'
    assert sorted(it.name for it in (tmp_path / "a").iterdir()) == ["b.txt", "c.json"]


def test_until_the_writer_is_done_the_old_file_stands(tmp_path: Path) -> None:
    path = tmp_path / "score.txt"
    write_text(path, "old")
    with written_aside(path) as aside:
        aside.write_text("half")
        assert path.read_text() == "old"
        assert aside.parent == path.parent  # another file system could not rename it in one step
        aside.write_text("new")
    assert path.read_text() == "new"


def test_who_has_the_old_file_open_reads_on_in_it(tmp_path: Path) -> None:
    path = tmp_path / "score.txt"
    write_text(path, "old")
    with path.open() as reader:  # a copy into the old file would change it under the reader, half at first
        write_text(path, "new")
        assert reader.read() == "old"


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "score.txt"
    write_text(path, "old")

    def fail() -> None:
        with written_aside(path) as aside:
            aside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "score.txt"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_first_file_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "score.json", {"auroc": float("nan")})
    with pytest.raises(TypeError):
        write_json(tmp_path / "score.json", {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"text": "\n"}}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == value


def test_the_hash_is_that_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_a_killed_process_left_is_swept_up_by_the_next_writer(tmp_path: Path) -> None:
    dead = tmp_path / f".a.json.{HOST}.999999999.part"
    ours = tmp_path / f".a.json.{HOST}.{os.getppid()}.part"  # of a process that runs
    other = tmp_path / f".b.json.{HOST}.999999999.part"
    elsewhere = tmp_path / ".a.json.0123abcd.999999999.part"  # of another machine, whose processes nobody sees here
    for left in (dead, ours, other, elsewhere):
        left.write_text("half")
    write_text(tmp_path / "a.json", "whole")
    assert [left.exists() for left in (dead, ours, other, elsewhere)] == [False, True, True, True]


def test_two_containers_with_the_same_process_number_write_two_files(tmp_path: Path) -> None:
    code = "import sys; from spherood.files import HOST; print(HOST)"
    hosts = {
        subprocess.run([*inside, sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
        for inside in ([], ["unshare", "--fork", "--pid"])
    }
    if "" in hosts:
        pytest.skip("no new namespace of processes can be made here")
    assert len(hosts) == 2


def test_a_file_written_by_a_library_gets_the_permissions_of_any_other(tmp_path: Path) -> None:
    with written_aside(tmp_path / "private") as aside:
        aside.write_text("x")
        aside.chmod(0o600)
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "private").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file/a\.json: its folder cannot be made: .* Choose another place"):
        write_json(tmp_path / "file" / "a.json", {})
