"""huggingface_hub itself, against a hub on this machine."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spherood.bundle.hub import pull, push
from spherood.bundle.manifest import FORMAT, Manifest, Promise, Score, read_manifest, write_bundle
from spherood.errors import BundleError, ConfigError, MissingExtraError, OutputError

pytest.importorskip("huggingface_hub")


def server() -> ModuleType:
    """The file beside this one; tests are no package."""
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    assert spec
    assert spec.loader
    module = sys.modules["hub_server"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITER = server().WRITER


def forget_the_library() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The library reads its settings when it is imported, and is imported when it is first needed."""
    with server().Hub() as hub, pytest.MonkeyPatch.context() as patch:
        forget_the_library()
        patch.setenv("HF_ENDPOINT", hub.address)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("HF_HUB_DISABLE_XET", "1")  # its servers are others than the hub
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
            patch.delenv(name, raising=False)
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield hub
        hub.shutdown()
        forget_the_library()


@pytest.fixture
def constants(hub: Any) -> Any:
    return importlib.import_module("huggingface_hub.constants")


def make(folder: Path, weights: bytes = b"first") -> Path:
    manifest = Manifest(
        format=FORMAT,
        spherood="0",
        created="2026-01-01T00:00:00+00:00",
        classes=("cat", "größe"),
        model=None,
        preprocess=None,
        reads="feature",
        width=2,
        score=Score(use="knn"),
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=70),
        provenance={},
        files={},
    )
    contents = {
        "detector": (".safetensors", lambda path: path.write_bytes(weights)),
        "bank": (".json", lambda path: path.write_bytes(b'["a.png"]')),
    }
    write_bundle(folder, manifest, contents)
    (folder / "README.md").write_text(f"# A bundle of {weights!r}\n", encoding="utf-8")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_pulled_is_what_was_pushed(hub: Any, tmp_path: Path) -> None:
    made = make(tmp_path / "made")
    address = push(made, "anna/round", token=WRITER, message="The first")
    assert re.fullmatch(rf"{hub.address}/anna/round/commit/[0-9a-f]{{40}}", address)
    found = pull("anna/round")
    assert content(found) == content(made)
    assert read_manifest(found) == read_manifest(made)
    copy = pull("anna/round", tmp_path / "a" / "copy")
    assert copy == tmp_path / "a" / "copy"
    assert content(copy) == content(made)
    assert not any(path.is_symlink() for path in copy.iterdir())


def test_a_push_is_one_commit_of_the_bundle_s_files_and_no_others(hub: Any, tmp_path: Path) -> None:
    made = make(tmp_path)
    expected = content(made)
    (tmp_path / "notes.txt").write_text("not to be shown")
    (tmp_path / "detector-0123456789abcdef.safetensors").write_bytes(b"left by nobody")
    push(made, "anna/one", token=WRITER)
    first, second = dict(hub.repositories["anna/one"].values()).values()
    assert list(first) == [".gitattributes"]
    assert second == first | expected


def test_a_second_push_takes_the_older_files_away_and_leaves_what_is_not_a_bundle_s(hub: Any, tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    push(first, "anna/twice", token=WRITER)
    foreign = {
        "notes.txt": b"by hand",
        "photo-0123456789abcdef.png": b"alike",
        "old/detector-0123456789abcdef.json": b"in a folder",
    }
    hub.commit("anna/twice", hub.repositories["anna/twice"]["main"][1] | foreign)
    second = make(tmp_path / "second", b"second")
    push(second, "anna/twice", token=WRITER)
    attributes = {".gitattributes": b"*.safetensors filter=lfs"}
    assert hub.repositories["anna/twice"]["main"][1] == attributes | foreign | content(second)


def test_a_bundle_without_a_card_has_none_at_the_hub(hub: Any, tmp_path: Path) -> None:
    made = make(tmp_path)
    (made / "README.md").unlink()
    push(made, "anna/bare", token=WRITER)
    assert content(pull("anna/bare")) == content(made)


def test_a_pull_fetches_what_a_bundle_needs_and_nothing_else(hub: Any, tmp_path: Path) -> None:
    files = content(make(tmp_path / "made"))
    named = json.loads(files["bundle.json"])
    for role, name in {"all": "*", "code": "model-0123456789abcdef.pkl", "up": "../out"}.items():
        named["files"][role] = {"name": name, "sha256": ""}
    rest = {"model-0123456789abcdef.pkl": b"runs", "run.py": b"runs", "old/bundle.json": b"{}"}
    hub.commit("eve/more", files | rest | {"bundle.json": json.dumps(named).encode()})
    hub.requests.clear()
    with pytest.raises(BundleError, match=r"bundle\.json was altered"):
        pull("eve/more", tmp_path / "copy")
    fetched = [request.rpartition("/")[2] for request in hub.requests if request.startswith("GET eve/more/resolve/")]
    assert sorted(fetched) == sorted(files)
    assert not (tmp_path / "copy").exists()


def test_a_commit_that_is_in_the_cache_is_pulled_without_a_request(hub: Any, tmp_path: Path) -> None:
    made = make(tmp_path)
    (made / "README.md").unlink()  # that there is none must not be asked again
    commit = push(made, "anna/cached", token=WRITER).rpartition("/")[2]
    found = pull("anna/cached")
    hub.requests.clear()
    assert pull("anna/cached", revision=commit) == found
    assert hub.requests == []


def test_a_revision_is_a_commit_a_tag_or_a_branch(hub: Any, tmp_path: Path) -> None:
    first, second = make(tmp_path / "first"), make(tmp_path / "second", b"second")
    commit = push(first, "anna/revised", token=WRITER).rpartition("/")[2]
    push(second, "anna/revised", token=WRITER)
    hub.repositories["anna/revised"]["v1"] = hub.repositories["anna/revised"][commit]
    assert content(pull("anna/revised", revision=commit)) == content(first)
    assert content(pull("anna/revised", revision="v1")) == content(first)
    assert content(pull("anna/revised", revision="main")) == content(second)
    assert content(pull("anna/revised")) == content(second)


def test_a_pull_takes_the_place_of_an_older_bundle_in_the_folder(hub: Any, tmp_path: Path) -> None:
    folder, second = make(tmp_path / "folder"), make(tmp_path / "second", b"second")
    (folder / "notes.txt").write_text("by hand")
    (second / "README.md").unlink()
    push(second, "anna/newer", token=WRITER)
    pull("anna/newer", folder)
    assert content(folder) == content(second) | {"notes.txt": b"by hand"}


def test_a_copy_that_fails_half_way_leaves_the_older_bundle_whole(hub: Any, tmp_path: Path) -> None:
    folder, second = make(tmp_path / "folder"), make(tmp_path / "second", b"second")
    before = read_manifest(folder)
    push(second, "anna/halted", token=WRITER)
    (folder / read_manifest(second).files["detector"].name).mkdir()
    with pytest.raises(IsADirectoryError):
        pull("anna/halted", folder)
    assert read_manifest(folder) == before


def test_a_pull_does_not_overwrite_a_readme_that_is_no_bundle_s(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My project")
    with pytest.raises(OutputError) as raised:
        pull("anna/any", tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}: its README.md would be overwritten, and it is no bundle's. Choose another folder."
    )


@pytest.mark.parametrize("name", ["", "pets", "a/b/c", "anna/my pets", "anna/pets--2", "/pets", "../pets"])
def test_a_malformed_name_is_told_before_anything_is_asked(hub: Any, tmp_path: Path, name: str) -> None:
    hub.requests.clear()
    message = (
        f"'{name}' is no repository's name. Write name/repository, such as anna/pets: of letters, digits, '_', and "
        "single '-' and '.' between them."
    )
    for go in (lambda: pull(name), lambda: push(tmp_path, name)):
        with pytest.raises(ConfigError) as raised:
            go()
        assert str(raised.value) == message
    assert hub.requests == []


def test_a_private_repository_is_absent_for_those_without_a_token(hub: Any, tmp_path: Path) -> None:
    push(make(tmp_path), "anna/secret", private=True, token=WRITER)
    assert hub.private == {"anna/secret"}
    for name in ("anna/secret", "anna/never-made"):
        with pytest.raises(BundleError) as raised:
            pull(name)
        assert str(raised.value) == (
            f"{name}: absent from {hub.address}, or private. Check the name; if it is private, log in with "
            "`hf auth login`, set HF_TOKEN or pass a token."
        )
    assert content(pull("anna/secret", token=WRITER)) == content(tmp_path)


def test_a_push_that_must_be_private_does_not_go_to_a_public_repository(hub: Any, tmp_path: Path) -> None:
    push(make(tmp_path), "anna/open", token=WRITER)
    before = dict(hub.repositories["anna/open"])
    with pytest.raises(ConfigError) as raised:
        push(make(tmp_path, b"secret"), "anna/open", private=True, token=WRITER)
    assert str(raised.value) == (
        "anna/open: is public already. Make it private in its settings, or push without private."
    )
    assert hub.repositories["anna/open"] == before
    assert hub.private.isdisjoint({"anna/open"})


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("hf_reader", 403)])
def test_a_push_without_the_right_to_write_says_how_to_get_it(
    hub: Any, tmp_path: Path, token: str | None, status: int
) -> None:
    with pytest.raises(BundleError) as raised:
        push(make(tmp_path), "anna/unwritten", token=token)
    assert str(raised.value) == (
        f"anna/unwritten: {hub.address} answered {status} (This may not write.). To be let in, log in with "
        "`hf auth login`, set HF_TOKEN or pass a token; a push needs one that may write."
    )


def test_a_revision_that_is_not_there_is_named(hub: Any, tmp_path: Path) -> None:
    push(make(tmp_path), "anna/pets", token=WRITER)
    for revision in ("v9", "0" * 40):
        with pytest.raises(ConfigError) as raised:
            pull("anna/pets", revision=revision)
        assert str(raised.value) == (
            f"anna/pets: no branch, tag or commit '{revision}'. See {hub.address}/anna/pets/commits"
        )


def test_a_repository_that_is_no_bundle_is_told_and_not_fetched(hub: Any) -> None:
    commit = hub.commit("anna/model", {"pytorch_model.bin": b"pickle", "config.json": b"{}"})
    hub.requests.clear()
    with pytest.raises(BundleError) as raised:
        pull("anna/model")
    assert str(raised.value) == (
        f"anna/model: not a bundle (no bundle.json at {commit}). Was another repository meant?"
    )
    assert not any("resolve" in request for request in hub.requests)


def test_a_bundle_altered_at_the_hub_or_in_the_cache_is_refused(hub: Any, tmp_path: Path) -> None:
    files = content(make(tmp_path))
    weights = next(name for name in files if name.startswith("detector"))
    commit = hub.commit("eve/altered", files | {weights: b"other"})
    with pytest.raises(BundleError) as raised:
        pull("eve/altered")
    found, cache = re.search(r"^(\S+): .*\n.*delete (\S+) and", str(raised.value)).groups()  # type: ignore[union-attr]
    assert str(raised.value) == (
        f"{found}: {weights} was altered (its hash differs). Copy the bundle again.\n"
        f"This is eve/altered at {commit}. If it was altered here, delete {cache} and pull again; if it was altered "
        "there, push the bundle again."
    )
    assert Path(cache).name == "models--eve--altered"

    push(tmp_path, "anna/altered", token=WRITER)
    found = pull("anna/altered")
    (found / weights).write_bytes(b"other")
    with pytest.raises(BundleError, match="models--anna--altered and pull again"):
        pull("anna/altered")


def test_a_file_that_the_hub_lacks_is_named(hub: Any, tmp_path: Path) -> None:
    files = content(make(tmp_path))
    bank = next(name for name in files if name.startswith("bank"))
    hub.commit("eve/lacking", {name: value for name, value in files.items() if name != bank})
    with pytest.raises(BundleError, match=rf"{bank} is missing"):
        pull("eve/lacking")


@pytest.mark.parametrize("text", ["{", "{}", "[]", "7", '{"files": [1]}', '{"files": {"a": {"name": 1}}}', "\udcff"])
def test_a_manifest_that_is_none_is_damaged(hub: Any, text: str) -> None:
    hub.commit("eve/damaged", {"bundle.json": text.encode(errors="surrogateescape")})
    with pytest.raises(BundleError, match=r"damaged"):
        pull("eve/damaged")


def test_an_altered_bundle_is_not_pushed(hub: Any, tmp_path: Path) -> None:
    made = make(tmp_path)
    next(made.glob("bank-*")).write_bytes(b"[]")
    hub.requests.clear()
    with pytest.raises(BundleError, match="was altered"):
        push(made, "anna/broken", token=WRITER)
    assert hub.requests == []


def test_a_push_that_another_one_overtook_changes_nothing(hub: Any, tmp_path: Path) -> None:
    class Rival(dict[str, bytes]):
        def __setitem__(self, oid: str, body: bytes) -> None:
            super().__setitem__(oid, body)
            hub.commit("anna/contested", {"theirs.txt": b""})

    hub.uploads, before = Rival(), hub.uploads
    try:
        with pytest.raises(BundleError) as raised:
            push(make(tmp_path), "anna/contested", token=WRITER)
    finally:
        hub.uploads = before
    assert str(raised.value) == (
        f"anna/contested: {hub.address} answered 412 (A commit has happened since.). Somebody else pushed meanwhile: "
        "look at theirs, then push again."
    )
    assert hub.repositories["anna/contested"]["main"][1] == {"theirs.txt": b""}


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (("Busy.", 503, ""), "anna/shut: {} answered 503 (Busy.). Try again later."),
        (("", 503, ""), "anna/shut: {} answered 503 (no reason given). Try again later."),
        (
            ("Ask.", 403, "GatedRepo"),
            "anna/shut: its owner admits users one by one. Ask at {}/anna/shut, then log in with `hf auth login`, set "
            "HF_TOKEN or pass a token.",
        ),
    ],
)
def test_what_the_hub_answers_instead_is_passed_on(hub: Any, refusal: tuple[str, int, str], message: str) -> None:
    hub.refused["anna/shut"] = refusal
    with pytest.raises(BundleError) as raised:
        pull("anna/shut")
    assert str(raised.value) == message.format(hub.address)


def test_an_upload_that_fails_half_way_leaves_no_commit(hub: Any, tmp_path: Path) -> None:
    made = make(tmp_path, b"too large")
    file = read_manifest(made).files["detector"]
    hub.refused[f"lfs/{file.sha256}"] = ("No room.", 413, "")
    with pytest.raises(BundleError) as raised:
        push(made, "anna/full", token=WRITER)
    assert str(raised.value).startswith(f"anna/full: Error while uploading '{file.name}' to the Hub. ")
    assert "No room." in str(raised.value)
    assert str(raised.value).endswith(" Push again.")
    assert list(hub.repositories["anna/full"]["main"][1]) == [".gitattributes"]


def test_without_a_network_the_host_is_named(
    hub: Any, constants: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library asks five times for a commit, 23 seconds in all
    for go in (
        lambda: pull("anna/far"),
        lambda: pull("anna/far", revision="0" * 40),
        lambda: push(make(tmp_path), "anna/far"),
    ):
        with pytest.raises(BundleError) as raised:
            go()
        assert str(raised.value) == (
            "anna/far: http://127.0.0.1:9 cannot be reached ([Errno 111] Connection refused). Check the network and "
            "HF_ENDPOINT. A commit that was pulled before needs none: pull it with revision=COMMIT."
        )


def test_offline_mode_is_told_apart_from_a_lost_network(
    hub: Any, constants: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = push(make(tmp_path), "anna/offline", token=WRITER).rpartition("/")[2]
    found = pull("anna/offline")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pull("anna/offline", revision=commit) == found
    for go in (lambda: pull("anna/offline"), lambda: pull("anna/offline", revision="0" * 40)):
        with pytest.raises(BundleError) as raised:
            go()
        assert str(raised.value) == (
            "anna/offline: HF_HUB_OFFLINE is set. Unset it, or pull what is in the cache with revision=COMMIT."
        )


def test_a_cache_that_cannot_be_written_is_named(
    hub: Any, constants: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    push(make(tmp_path / "made"), "anna/nowhere", token=WRITER)
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", place)
    with pytest.raises(OutputError) as raised:
        pull("anna/nowhere")
    assert str(raised.value).endswith(f"Check room and rights in the cache, {place}; HF_HOME moves it.")


def test_a_commit_without_a_message_is_refused(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"anna/silent: .*can't be empty"):
        push(make(tmp_path), "anna/silent", token=WRITER, message="")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_the_library()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError) as raised:
        pull("anna/pets")
    assert str(raised.value) == (
        "The Hugging Face hub: needs huggingface_hub, which is not installed. "
        "Install it with: pip install 'spherood[hub]'"
    )
