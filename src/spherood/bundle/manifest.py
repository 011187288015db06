"""bundle.json: what is in a bundle, and the hashes that prove it unaltered. Free of torch.

Other files carry their hash in their name and the manifest is replaced last, so that a bundle written over an older one
is at any moment either of the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError

from spherood.bundle.origin import Origin
from spherood.data.preprocess import Preprocess
from spherood.errors import BundleError, ConfigError, OutputError
from spherood.files import sha256_of_file, write_json, written_aside
from spherood.schema import Strict, parse

FORMAT = 3
READABLE = (2, 3)  # 3 added graphs, which hold the whole way from pixels to score
MANIFEST = "bundle.json"
ROLES = ("model", "detector", "bank", "thumbnails")
Contents = dict[str, tuple[str, Callable[[Path], None]]]  # role -> (suffix, function that writes a path)


class Score(Strict):
    """The score by name, and its settings."""

    use: str
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")


class Promise(Strict):
    """What the threshold was calibrated for; another rate can be asked for at any time.

    tried: settings that were compared on the held-out images. Each gets 1/tried of the doubt, so that the confidence
    holds for the one that won. by_class: each predicted class has a threshold of its own, but for the `pooled` ones,
    which had too few held-out images and share one. review_rate: images above the threshold of this larger rate, and
    not above the other, go to a person.
    """

    false_alarm_rate: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    held_out: int = Field(ge=1)
    tried: int = Field(default=1, ge=1)
    by_class: bool = False
    pooled: tuple[str, ...] = ()
    review_rate: float | None = Field(default=None, gt=0, lt=1)

    @property
    def each(self) -> float:
        """The confidence of every single threshold."""
        return shared_confidence(self.confidence, self.tried * (1 if self.review_rate is None else 2))


def shared_confidence(confidence: float, tried: int) -> float:
    """The confidence that each of `tried` settings needs, so that the one that wins has `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / tried


class Share(Strict):
    """A share of images that was measured, with its 95 % interval."""

    of: int = Field(ge=1)
    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Measured(Strict):
    """What the bundle did on one set of images when it was made. msp: maximum softmax at the same false-alarm rate."""

    name: str
    caught: Share
    msp: Share | None = None
    auroc: float | None = Field(default=None, ge=0, le=1)


class Results(Strict):
    """The benchmark table of the model card: false alarms on ID test images, and what was caught of each OOD source."""

    false_alarms: Share | None = None
    ood: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = ()


class Licences(Strict):
    """As the maker of the bundle stated them; nothing is looked up."""

    data: str = "not stated"
    weights: str = "not stated"


class File(Strict):
    """A file of the bundle."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")  # no way out of the folder
    sha256: str


class Manifest(Strict):
    """Everything but the tensors."""

    format: int
    spherood: str
    created: str
    classes: tuple[str, ...]
    model: Origin | None  # None: it reads features that someone else computes
    preprocess: Preprocess | None
    reads: str  # feature, embedding, logits or layers
    width: int | None  # columns of what it reads
    score: Score
    promise: Promise
    results: Results = Results()
    licences: Licences = Licences()
    provenance: dict[str, Any]
    files: dict[str, File]


def write_bundle(folder: Path, manifest: Manifest, contents: Contents) -> Manifest:
    """Write the files, then the manifest that names them, then remove what an older manifest named.

    OutputError where a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for role, (suffix, write) in contents.items():
        fresh = folder / f"{role}.new"
        with written_aside(fresh) as aside:
            try:
                write(aside)
            except SafetensorError as error:  # of a full disk too: it is no OSError
                raise OutputError(
                    f"{folder}: its {role} cannot be written ({error}). Mend that, or choose another place."
                ) from None
        digest = sha256_of_file(fresh)
        name = f"{role}-{digest[:16]}{suffix}"
        fresh.replace(folder / name)
        files[role] = File(name=name, sha256=digest)
    manifest = manifest.model_copy(update={"files": files})
    content = manifest.model_dump(mode="json", by_alias=True)
    write_json(folder / MANIFEST, content | {"sha256": _seal(content)})
    current = {file.name for file in files.values()}
    for role in ROLES:
        for old in folder.glob(f"{role}-{'[0-9a-f]' * 16}.*"):
            if old.name not in current:
                old.unlink()
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle whose files are all there and unaltered; BundleError otherwise."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder}: not a bundle (no {MANIFEST}). Make one with: spherood fit, or spherood evaluate")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format"]
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{path}: damaged: it is not the JSON of a bundle. Copy the bundle again.") from None
    if version not in READABLE:
        way_out = "Make it anew" if version in range(1, FORMAT) else "Update spherood"
        raise BundleError(f"{folder}: bundle format {version}, this version reads {FORMAT}. {way_out}.")
    if content.pop("sha256", None) != _seal(content):
        raise BundleError(f"{path} was altered (its hash differs). Copy the bundle again.")
    try:
        manifest = parse(Manifest, content, str(path))
    except ConfigError as error:
        raise BundleError(f"{error}\nThe manifest was altered. Copy the bundle again.") from None
    for file in manifest.files.values():
        if not (folder / file.name).is_file():
            raise BundleError(f"{folder}: {file.name} is missing. Copy the bundle again.")
        if sha256_of_file(folder / file.name) != file.sha256:
            raise BundleError(f"{folder}: {file.name} was altered (its hash differs). Copy the bundle again.")
    return manifest


def _seal(content: dict[str, Any]) -> str:
    """The hash of the manifest's own content, whatever its spaces and line ends."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
