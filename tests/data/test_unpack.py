"""Archives that are what they say, and archives that are not."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from spherood.data import unpack as module
from spherood.data.unpack import unpack
from spherood.errors import DataError


def tar(path: Path, files: dict[str, bytes], mode: Any = "w:gz", more: list[tarfile.TarInfo] | None = None) -> Path:
    with tarfile.open(path, mode) as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
        for info in more or ():
            out.addfile(info)
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return path


FILES = {"set/a/1.png": b"one", "set/b/2.png": b"two", "other/3.png": b"three", "set/": b""}


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "zip"])
def test_what_is_below_comes_without_it(kind: str, tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if not name.endswith("/")}
    path = tmp_path / f"set.{kind}"
    if kind == "zip":
        zipped(path, FILES)
    else:
        tar(path, files, "w:gz" if kind == "tar.gz" else "w")
    assert unpack(path, "set/", tmp_path / "into") == 2
    found = {str(file.relative_to(tmp_path / "into")): file.read_bytes() for file in (tmp_path / "into").rglob("*.png")}
    assert found == {"a/1.png": b"one", "b/2.png": b"two"}


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("set/link")
    info.type, info.linkname = kind, "../../etc/passwd"
    return info


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.png", "holds '../outside.png', which would leave its folder: refused."),
        ("/etc/outside.png", "holds '/etc/outside.png', which would leave its folder"),
        ("set/../../outside.png", "which would leave its folder"),
        ("C:\\outside.png", "which would leave its folder"),
        ("..\\outside.png", "which would leave its folder"),
    ],
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_no_path_leaves_the_folder(name: str, message: str, kind: str, tmp_path: Path) -> None:
    files = {"set/a.png": b"a", name: b"evil"}
    path = tar(tmp_path / "x.tar", files, "w") if kind == "tar" else zipped(tmp_path / "x.zip", files)
    with pytest.raises(DataError) as told:
        unpack(path, "", tmp_path / "deep" / "into")
    assert message in str(told.value)
    assert list(tmp_path.rglob("*.png")) == []
    assert not (tmp_path / "deep" / "into").exists()


@pytest.mark.parametrize(
    ("kind", "what"), [(tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"), (tarfile.FIFOTYPE, "a device")]
)
def test_links_and_devices_are_refused(kind: bytes, what: str, tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"set/a.png": b"a"}, "w", [link(kind)])
    with pytest.raises(DataError, match=f"holds {what}, 'set/link', which no image set does: refused"):
        unpack(path, "set/", tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("set/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        out.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="holds a link"):
        unpack(tmp_path / "x.zip", "set/", tmp_path / "into")


def test_an_absurd_expansion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 1000)
    path = zipped(tmp_path / "x.zip", {"set/zeros": bytes(10_000_000)})
    with pytest.raises(DataError, match="gives more than"):
        unpack(path, "set/", tmp_path / "into")
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize(("kind", "cut"), [("tar.gz", 400), ("zip", 20), ("zip", 400)])
def test_a_damaged_archive_is_told_and_leaves_nothing(kind: str, cut: int, tmp_path: Path) -> None:
    files = {f"set/{n}.png": bytes(range(200)) for n in range(20)}
    path = zipped(tmp_path / "x.zip", files) if kind == "zip" else tar(tmp_path / "x.tar.gz", files)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"damaged, or no archive .* Remove it and fetch it again"):
        unpack(path, "set/", tmp_path / "into")
    assert not (tmp_path / "into").exists()
    assert not list(tmp_path.glob(".into*"))


def test_another_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds nothing below set/"):
        unpack(tar(tmp_path / "x.tar", {"a": b"a"}, "w"), "set/", tmp_path / "into")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    with pytest.raises(DataError, match="is there already"):
        unpack(tar(tmp_path / "x.tar", {"set/a": b"a"}, "w"), "set/", tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []
