"""Bundles to and from the Hugging Face hub. Free of torch.

A repository of type model holds what the folder of a bundle holds: bundle.json, the files it names, and README.md where
there is one. A push is one commit, so that whoever pulls meanwhile gets the old bundle or the new one. A pull fetches
these files and nothing else that may lie there.
The host is huggingface_hub's: HF_ENDPOINT, else huggingface.co. So are the token (HF_TOKEN, `hf auth login`), the cache
(HF_HOME) and the downloads that go on where they were interrupted.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from spherood.bundle.card import CARD
from spherood.bundle.manifest import MANIFEST, read_manifest
from spherood.errors import BundleError, ConfigError, OutputError, optional
from spherood.files import written_aside

LIBRARY = ("huggingface_hub", "huggingface_hub.constants", "huggingface_hub.errors", "huggingface_hub.utils")
COMMIT = re.compile("[0-9a-f]{40}")
# What write_bundle names: a role and a hash. No pickle, no path out of the folder, no wildcard passes for one.
NAME = re.compile(r"[a-z_]+-[0-9a-f]{16}\.(json|onnx|safetensors)")
LOGIN = "log in with `hf auth login`, set HF_TOKEN or pass a token"


def push(
    folder: Path, repo: str, *, private: bool = False, token: str | None = None, message: str = "spherood bundle"
) -> str:
    """Put a bundle into the repository "name/repository", made where it is absent; the address of the commit.

    Files of an older bundle there go in the same commit; anything else there stays. private: the repository must be, or
    is made so. BundleError where the folder is no whole bundle, or the hub is out of reach or refuses.
    """
    hub = _library(repo)
    files = read_manifest(folder).files.values()
    names = [file.name for file in files] + [name for name in (CARD, MANIFEST) if (folder / name).is_file()]
    api = hub.HfApi(token=token)
    with _explained(hub, repo):
        api.create_repo(repo, private=private or None, exist_ok=True)  # None: as the account's own rule says
        there = api.model_info(repo)
    if private and not there.private:
        raise ConfigError(f"{repo}: is public already. Make it private in its settings, or push without private.")
    present = {sibling.rfilename for sibling in there.siblings}
    left = sorted(name for name in present - set(names) if NAME.fullmatch(name))
    operations = [hub.CommitOperationAdd(name, folder / name) for name in names]
    operations += [hub.CommitOperationDelete(name) for name in left]
    with _explained(hub, repo):
        # parent_commit: `left`, and which files need no upload, are true of that commit alone
        done = api.create_commit(repo, operations, commit_message=message, parent_commit=there.sha)
    address: str = done.commit_url
    return address


def pull(repo: str, folder: Path | None = None, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of the bundle in the repository "name/repository", every file checked against its hash.

    It lies in the hub's cache, which is not to be written to; `folder` gets a copy, in place of an older bundle there.
    revision: branch (the default one if None), tag, or commit as 40 digits. A branch or tag is always looked up; a
    commit that is whole in the cache needs no network. BundleError where it is no bundle, was altered or is out of
    reach; ConfigError for a name or revision that does not exist.
    """
    hub = _library(repo)
    if folder is not None and (folder / CARD).exists() and not (folder / MANIFEST).exists():
        raise OutputError(f"{folder}: its {CARD} would be overwritten, and it is no bundle's. Choose another folder.")
    with _explained(hub, repo, revision):
        known = revision is not None and COMMIT.fullmatch(revision)
        commit = revision if known else hub.HfApi(token=token).model_info(repo, revision=revision).sha
        found = Path(hub.snapshot_download(repo, revision=commit, token=token, allow_patterns=[MANIFEST, CARD]))
        names = _names(found)
        if names:
            hub.snapshot_download(repo, revision=commit, token=token, allow_patterns=names)
    if not (found / MANIFEST).is_file():
        raise BundleError(f"{repo}: not a bundle (no {MANIFEST} at {commit}). Was another repository meant?")
    try:
        read_manifest(found)
    except BundleError as error:
        raise BundleError(
            f"{error}\nThis is {repo} at {commit}. If it was altered here, delete {found.parents[1]} and pull again; "
            "if it was altered there, push the bundle again."
        ) from None
    if folder is None:
        return found
    _copy(found, folder, names)
    return folder


def _copy(found: Path, folder: Path, names: list[str]) -> None:
    """The manifest after the files it names, then away with what only an older bundle had."""
    old = {*_names(folder), CARD}
    new = [*names, *(name for name in (MANIFEST, CARD) if (found / name).is_file())]
    for name in new:
        with written_aside(folder / name) as aside:
            shutil.copyfile(found / name, aside)
    for name in old.difference(new):
        (folder / name).unlink(missing_ok=True)


def _names(folder: Path) -> list[str]:
    """The files named by a bundle.json that nobody has checked; none where it is absent or unreadable."""
    try:
        named = [file["name"] for file in json.loads((folder / MANIFEST).read_bytes())["files"].values()]
        return [name for name in named if NAME.fullmatch(name)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def _library(repo: str) -> ModuleType:
    """huggingface_hub, once the name of the repository is one."""
    hub, *_ = (optional(name, "hub", "The Hugging Face hub") for name in LIBRARY)
    try:
        hub.utils.validate_repo_id(repo)
    except hub.errors.HFValidationError:
        pass
    else:
        if "/" in repo:
            return hub
    raise ConfigError(
        f"'{repo}' is no repository's name. Write name/repository, such as anna/pets: of letters, digits, '_', and "
        "single '-' and '.' between them."
    )


@contextmanager
def _explained(hub: ModuleType, repo: str, revision: str | None = None) -> Iterator[None]:
    """What huggingface_hub raises, in our errors."""
    errors, host = hub.errors, hub.constants.ENDPOINT
    try:
        yield
    except errors.RevisionNotFoundError:
        raise ConfigError(f"{repo}: no branch, tag or commit '{revision}'. See {host}/{repo}/commits") from None
    except errors.GatedRepoError:
        raise BundleError(f"{repo}: its owner admits users one by one. Ask at {host}/{repo}, then {LOGIN}.") from None
    except errors.RepositoryNotFoundError:
        raise BundleError(
            f"{repo}: absent from {host}, or private. Check the name; if it is private, {LOGIN}."
        ) from None
    except errors.HfHubHTTPError as error:
        answer = f"{repo}: {host} answered {error.response.status_code} ({error.server_message or 'no reason given'})"
        if error.response.status_code in (401, 403):
            raise BundleError(f"{answer}. To be let in, {LOGIN}; a push needs one that may write.") from None
        if error.response.status_code == 412:
            raise BundleError(f"{answer}. Somebody else pushed meanwhile: look at theirs, then push again.") from None
        raise BundleError(f"{answer}. Try again later.") from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        if hub.constants.is_offline_mode():
            raise BundleError(
                f"{repo}: HF_HUB_OFFLINE is set. Unset it, or pull what is in the cache with revision=COMMIT."
            ) from None
        raise BundleError(
            f"{repo}: {host} cannot be reached ({error.__cause__ or error}). Check the network and HF_ENDPOINT. "
            "A commit that was pulled before needs none: pull it with revision=COMMIT."
        ) from None
    except OSError as error:
        place = hub.constants.HF_HUB_CACHE
        raise OutputError(f"{repo}: {error}. Check room and rights in the cache, {place}; HF_HOME moves it.") from None
    except ValueError as error:  # an empty message, a README.md whose head is no YAML
        raise ConfigError(f"{repo}: {error}") from None
    except RuntimeError as error:
        if error.__cause__ is None:
            raise
        raise BundleError(f"{repo}: {error} {error.__cause__} Push again.") from None
