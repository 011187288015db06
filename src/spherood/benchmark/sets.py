"""The image sets of a protocol: found, checked against each other and the model, read through the store once."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spherood import calibration
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.result import Kind
from spherood.benchmark.subject import Subject
from spherood.bundle.manifest import shared_confidence
from spherood.data import ImageSet
from spherood.data.overlap import check_disjoint
from spherood.errors import ConfigError, DataError, nearest
from spherood.features import FeatureStore, Stored
from spherood.outputs import Outputs


@dataclass(frozen=True)
class Images:
    """The sets of a protocol that are on disk, without a look at a single picture."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    csid: Mapping[str, ImageSet]  # of the full spectrum; empty where it was not asked for
    ood: Mapping[str, ImageSet]
    validation_ood: Mapping[str, ImageSet]
    kinds: Mapping[str, Kind]  # of every OOD set of the protocol
    absent: Collection[str]  # OOD sets that were left out, or are not on disk


@dataclass(frozen=True)
class Sets:
    """What the model says about them."""

    train: Stored
    validation: Stored | None
    test: Stored  # ID test alone
    csid: Mapping[str, Stored]
    ood: Mapping[str, Stored]
    validation_ood: Mapping[str, Stored]


def find_images(
    protocol: Protocol, data: Path, *, full_spectrum: bool = False, tried: int = 1, without: Collection[str] = ()
) -> Images:
    """Every set that is on disk. `without`: OOD sets to leave out, counted as absent. `tried`: settings of the largest
    sweep, which reads the validation sets.

    ConfigError where the protocol has no such set or no full spectrum; DataError where an ID set is absent, a list is
    incomplete, or two sets share an image.
    """
    for name in without:
        if name not in protocol.ood:
            raise ConfigError(f"{protocol.name}: there is no OOD set '{name}'. {nearest(name, protocol.ood)}")
    if full_spectrum and not protocol.csid:
        raise ConfigError(f"{protocol.name}: no sets of covariate shift, so there is no full spectrum. Leave it out.")
    if tried > 1 and not protocol.validation_ood:
        raise ConfigError(f"{protocol.name}: a sweep needs `validation_ood` in the protocol. Name one setting instead.")
    if tried > 1 and protocol.id.validation is None:
        raise ConfigError(f"{protocol.name}: a sweep needs an ID validation set. Name one setting instead.")
    absent = set(without)
    ood = {}
    for name, (_, source) in protocol.ood.items():
        if name in absent or not source.present(data):
            absent.add(name)
        else:
            try:
                ood[name] = source.load(data, name)
            except DataError as error:
                raise DataError(f"{error} To go on without this set: --without {name}") from None
    found = Images(
        train=protocol.id.train.load(data, "ID train"),
        validation=None if protocol.id.validation is None else protocol.id.validation.load(data, "ID validation"),
        test=protocol.id.test.load(data, "ID test"),
        csid={name: source.load(data, name) for name, source in protocol.csid.items()} if full_spectrum else {},
        ood=ood,
        validation_ood={n: source.load(data, n) for n, source in protocol.validation_ood.items()} if tried > 1 else {},
        kinds={name: kind for name, (kind, _) in protocol.ood.items()},
        absent=absent,
    )
    found.train.check_classes("evaluation")
    for images in (found.validation, found.test, *found.csid.values()):
        if images is not None:
            _check_labels(images, found.train.classes, protocol.name)
    named = {"ID train": found.train, "ID test": found.test, **found.csid, **ood}
    if found.validation is not None:
        named["ID validation"] = found.validation
        calibration.exceedances_or_refuse(
            len(found.validation), protocol.false_alarm_rate, shared_confidence(protocol.confidence, tried)
        )
    check_disjoint(named | {f"validation OOD {name}": images for name, images in found.validation_ood.items()})
    return found


def check_subject(subject: Subject, images: Images, protocol: Protocol) -> None:
    """DataError where the model knows other classes than the ID set has."""
    own, classes = subject.classes, images.train.classes
    if own is None or own == classes or own == len(classes):
        return
    knows = f"{own} classes" if isinstance(own, int) else f"{len(own)} classes ({_few(own)})"
    raise DataError(
        f"{protocol.name}: the model knows {knows}, the ID set of this protocol has {len(classes)} ({_few(classes)}). "
        "Choose another protocol."
    )


def read_sets(
    subject: Subject, images: Images, protocol: Protocol, store: FeatureStore, *, layers: bool = False
) -> Sets:
    """The features of every set, computed where they are not stored yet; layers too, where a score reads them."""

    def read(found: ImageSet) -> Stored:
        preprocess = subject.preprocess
        if found.name in protocol.as_is:
            preprocess = preprocess.model_copy(update={"resize": "none", "short_side": None})
        stored = store.read(subject.model, preprocess, found, layers=layers)
        for name, why in list(stored.unreadable.items())[:5]:
            print(f"skipped: {name}: {why}", file=sys.stderr)
        if stored.unreadable:
            print(f"{found.name}: skipped {len(stored.unreadable)} unreadable images.", file=sys.stderr)
        return stored

    def all_of(some: Mapping[str, ImageSet]) -> dict[str, Stored]:
        return {name: read(found) for name, found in some.items()}

    sets = Sets(
        train=read(images.train),
        validation=None if images.validation is None else read(images.validation),
        test=read(images.test),
        csid=all_of(images.csid),
        ood=all_of(images.ood),
        validation_ood=all_of(images.validation_ood),
    )
    sets.train.images.check_classes("evaluation")  # again: all images of a class may have been unreadable
    return sets


def pooled(parts: Sequence[Stored], name: str) -> Stored:
    """Several sets as one, in order: ID of the full spectrum."""
    if len(parts) == 1:
        return parts[0]
    images = [image for part in parts for image in part.images.images]
    classes = max((part.images.classes for part in parts), key=len)

    def joined(field: str) -> torch.Tensor | None:
        tensors = [getattr(part.outputs, field) for part in parts]
        return None if tensors[0] is None else torch.cat(tensors)

    feature = joined("feature")
    assert feature is not None  # every model gives one
    label: NDArray[np.int64] = np.concatenate([part.images.label for part in parts])
    names = [image for part in parts for image in part.images.names]
    together = ImageSet(name, images, label, names, classes)
    unreadable = {key: why for part in parts for key, why in part.unreadable.items()}
    return Stored(together, Outputs(feature, joined("embedding"), joined("logits")), unreadable)


def _check_labels(test: ImageSet, classes: Sequence[str], protocol: str) -> None:
    """DataError where a label means another class: a test folder that lacks one numbers the others anew."""
    for label in np.unique(test.label[test.label >= 0]):  # a class that is named by its number is taken as it is
        if label >= len(classes):
            raise DataError(
                f"{protocol}: {test.name} has the label {label}, the ID training set has {len(classes)} classes, "
                f"0..{len(classes) - 1}. Mend that label, or give unknown images -1."
            )
        if test.classes[label] not in (classes[label], str(label)) and classes[label] != str(label):
            raise DataError(
                f"{protocol}: class {label} is '{test.classes[label]}' in {test.name} and '{classes[label]}' in the ID "
                "training set. Give both the same folders, an empty one where there is no image."
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
