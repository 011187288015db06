"""The model card: what a bundle is, what it promises, what it did, and what nobody can promise. Free of torch.

README.md is for people and not covered by the manifest's hashes: a hub's editor may change it, and nothing reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from spherood import calibration
from spherood.bundle.manifest import Manifest, Promise, Share
from spherood.bundle.origin import FunctionOrigin, GraphOrigin, OnnxOrigin, ResNetOrigin, TimmOrigin, own_code

CARD = "README.md"
RESTRICTED = re.compile(r"non[- ]?commercial|research|(?<![a-z])nc(?![a-z])")


def restricted(licence: str) -> bool:
    """Whether a licence reads as if commercial use were excluded. A hint for people, not legal advice."""
    return RESTRICTED.search(licence.lower()) is not None


def card(manifest: Manifest) -> str:
    """The card as Markdown, with the front matter that the Hugging Face hub reads."""
    about = manifest.provenance.get("model") or "features of a network of one's own"
    sections = [
        _front_matter(manifest),
        f"# Out-of-distribution guard for {_line(str(about))}",
        f"It gives a verdict on every {'row of features' if _reads_rows(manifest) else 'image'}: is it unlike "
        "everything that was known when it was made, how sure, and why.",
        _usage(manifest),
        "\n\n".join(["## The promise", *promised(manifest.promise)]),
        _table(manifest),
        LIMITS,
        _inside(manifest),
        _licences(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _reads_rows(manifest: Manifest) -> bool:
    return manifest.model is None or manifest.preprocess is None


LIMITS = """## What it does not promise

- How much OOD is caught. Nobody can without assumptions about it: what was measured holds for those sources alone.
- Anything for images that are not drawn like the held-out ones: another camera, season or site is another question.
  Recalibrate when they change.
- Anything if held-out images took part in training, in fitting or in choosing the score, or are copies of such images.
- `is_ood` follows the threshold alone. A p-value a little below the rate may pass: the threshold keeps its rate with a
  confidence, the p-value on average. A p-value is not the probability of being known."""


def _front_matter(manifest: Manifest) -> str:
    tags = ["out-of-distribution-detection", "spherood"]
    lines = ["---", "library_name: spherood", "tags:", *(f"- {tag}" for tag in tags)]
    if manifest.licences.weights != "not stated":
        lines += ["license: other", f"license_name: {json.dumps(manifest.licences.weights, ensure_ascii=False)}"]
    return "\n".join([*lines, "---"])


def _usage(manifest: Manifest) -> str:
    code = own_code(manifest.model)
    trust = "" if code is None else f", trust=[{code!r}]"
    rows, width = manifest.reads.removesuffix("s") + "s", manifest.width or "C"
    given, shape = (rows, f"  # (N, {width})") if _reads_rows(manifest) else ('["image.png"]', "")
    return f"""```python
import spherood as so

bundle = so.Bundle.load("."{trust})
for verdict in bundle.predict({given}):{shape}
    print(verdict.is_ood, verdict.p_value, verdict.reason)
```"""


def promised(promise: Promise) -> list[str]:
    """The promise in sentences, one to three of them."""
    rate, held_out = percent(promise.false_alarm_rate), f"{promise.held_out:,} held-out images"
    if promise.by_class:
        names = _line(", ".join(promise.pooled))
        shared = (
            f" Too few for their own, these share one, whose rate holds for them together and not for each: {names}."
            if names
            else ""
        )
        lines = [
            f"Each predicted class has its own threshold, from its part of the {held_out}. With confidence "
            f"{promise.confidence:g}, class by class and not for all at once, at most {rate} of further images of the "
            f"same kind raise a false alarm.{shared}"
        ]
    else:
        above = calibration.exceedances_or_refuse(promise.held_out, promise.false_alarm_rate, promise.each)
        mean, low, high = calibration.expected_rate(promise.held_out, above)
        lines = [
            f"With confidence {promise.confidence:g} over the draw of the {held_out}, at most {rate} of further images "
            f"of the same kind raise a false alarm. To expect: {percent(mean)}, and between {percent(low)} and "
            f"{percent(high)} for 95 of 100 such draws."
        ]
    if promise.review_rate is not None:
        lines.append(
            f"At most {percent(promise.review_rate)} raise an alarm or go to a person; both rates hold together."
        )
    if promise.tried > 1:
        lines.append(f"{promise.tried} settings were compared on those images; the confidence holds for the winner.")
    return lines


def _table(manifest: Manifest) -> str:
    results = manifest.results
    lines = []
    if results.false_alarms:
        lines.append(f"False alarms on {results.false_alarms.of:,} ID test images: {told(results.false_alarms)}.")
    if results.ood:
        softmax = any(one.msp for one in results.ood)
        head = ["OOD source", "images", "caught", *(["maximum softmax, same rate"] if softmax else []), "AUROC"]
        rows = [head, ["---"] * len(head)]
        for one in results.ood:
            msp = [told(one.msp) if one.msp else "–"] if softmax else []
            auroc = "–" if one.auroc is None else f"{100 * one.auroc:.2f}"
            rows.append([one.name, f"{one.caught.of:,}", told(one.caught), *msp, auroc])
        lines.append("\n".join(map(_row, rows)))
        lines.append("In percent, with 95 % intervals over images.")
    lines += map(_line, results.notes)
    return "\n\n".join(["## What it did when it was made", *lines]) if lines else ""


def _ours(origin: ResNetOrigin) -> str:
    head = f"a {origin.settings.get('head')} head, weights in safetensors"
    code = own_code(origin)
    if origin.encoder == "none":
        return f"none: it reads features, which go through {head}"
    if code is not None:
        return f"`{code}`, code that is not in here, with {head}"
    return f"{origin.encoder}, weights in safetensors"


def _inside(manifest: Manifest) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in manifest.score.with_.items())
    network = "none: it reads features"
    if isinstance(manifest.model, ResNetOrigin):
        network = _ours(manifest.model)
    elif isinstance(manifest.model, OnnxOrigin):
        network = f"ONNX file, output `{manifest.model.feature}`"
    elif isinstance(manifest.model, TimmOrigin):
        network = f"timm's {manifest.model.name}, weights in safetensors"
    elif isinstance(manifest.model, FunctionOrigin):
        network = (
            f"`{manifest.model.name}`, code that is not in here; its weights must have SHA-256 {manifest.model.sha256}"
        )
    elif isinstance(manifest.model, GraphOrigin):
        network = (
            f"{manifest.model.network}, with the score in one ONNX graph of opset {manifest.model.opset}: no torch"
        )
    classes = ", ".join(manifest.classes[:12]) + (
        f", … ({len(manifest.classes):,} in all)" if manifest.classes[12:] else ""
    )
    rows = [
        ("network", network),
        ("images", f"{manifest.preprocess.rule}; Pillow, turned upright by EXIF" if manifest.preprocess else "–"),
        ("score", f"{manifest.score.use} ({settings or 'defaults'}) on the {manifest.reads}"),
        ("classes", classes or "not labelled"),
        *((key, str(value)) for key, value in manifest.provenance.items()),
        ("made by", f"spherood {manifest.spherood}, {manifest.created}"),
    ]
    return "\n".join(["## Inside", "", "| | |", "| --- | --- |", *map(_row, rows)])


def _licences(manifest: Manifest) -> str:
    def line(what: str, licence: str) -> str:
        flag = " **Commercial use seems to be excluded: check before you use it.**" if restricted(licence) else ""
        return f"- {what}: {_line(licence)}.{flag}"

    stated = manifest.licences
    return "\n".join(["## Licences", "", line("Data", stated.data), line("Weights", stated.weights)])


def _row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(_line(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"


def _line(text: str) -> str:
    """On one line, since a name is whatever a file system or a CSV file allows."""
    return " ".join(text.split())


def percent(share: float) -> str:
    """5 %, 3.94 %, .10 %: three digits at most."""
    return f"{100 * share:.3g} %"


def told(share: Share) -> str:
    """3.94 (3.55 to 4.36), in percent."""
    return f"{100 * share.value:.2f} ({100 * share.low:.2f} to {100 * share.high:.2f})"
