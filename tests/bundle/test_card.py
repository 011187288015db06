from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spherood import calibration
from spherood.bundle import Promise
from spherood.bundle.card import card, percent, promised, restricted, told
from spherood.bundle.manifest import FORMAT, Manifest, Measured, Results, Share
from spherood.bundle.origin import FunctionOrigin, OnnxOrigin, ResNetOrigin, TimmOrigin

PROMISE = Promise(false_alarm_rate=0.05, confidence=0.95, held_out=1000)
NETWORK = ResNetOrigin(settings={"encoder": "resnet18"}, outputs=3)


def manifest(**kwargs: Any) -> Manifest:
    settings: dict[str, Any] = {
        "format": FORMAT,
        "spherood": "0.0",
        "created": "2026-01-02T03:04:05+00:00",
        "classes": ("cat", "dog"),
        "model": NETWORK,
        "preprocess": {"size": 32, "short_side": 36},
        "reads": "feature",
        "width": 512,
        "score": {"use": "knn", "with": {"k": 10}},
        "promise": PROMISE,
        "provenance": {"model": "pets"},
        "files": {},
    }
    return Manifest.model_validate(settings | kwargs)


def share(value: float, low: float, high: float, of: int = 200) -> Share:
    return Share(of=of, value=value, low=low, high=high)


def tables(text: str) -> list[list[list[str]]]:
    """Every table of a Markdown text, cell by cell: a backslash hides the sign behind it, so `\\|` ends no cell."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.findall(r"((?:\\.|[^|\\])*)\|", line)
            assert "|".join([*cells, ""]) == line
            found[-1].append([re.sub(r"\\(.)", r"\1", cell).strip() for cell in cells[1:]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def front_matter(text: str) -> Any:
    empty, head, _ = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head)


def test_the_head_is_what_the_hub_reads() -> None:
    assert front_matter(card(manifest())) == {
        "library_name": "spherood",
        "tags": ["out-of-distribution-detection", "spherood"],
    }
    licensed = front_matter(card(manifest(licences={"weights": 'MIT: "as is" # größe'})))
    assert (licensed["license"], licensed["license_name"]) == ("other", 'MIT: "as is" # größe')


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1))
def test_any_licence_makes_a_head_that_is_yaml(licence: str) -> None:
    assert front_matter(card(manifest(licences={"weights": licence})))["license_name"] == licence


def test_the_title_names_the_network() -> None:
    assert "\n# Out-of-distribution guard for pets\n" in card(manifest())
    plain = card(manifest(provenance={}, model=None, preprocess=None))
    assert "\n# Out-of-distribution guard for features of a network of one's own\n" in plain
    assert "a verdict on every row of features:" in plain
    assert "a verdict on every image:" in card(manifest())


def test_the_promise_comes_with_its_numbers() -> None:
    """Of 1,000 scores 38 may lie above the threshold (FACTS: allowed exceedances), so Beta(39, 962): mean .0390."""
    text = section(card(manifest()), "The promise")
    mean, low, high = calibration.expected_rate(1000, 38)
    assert mean == 39 / 1001
    assert text.strip() == (
        "With confidence 0.95 over the draw of the 1,000 held-out images, at most 5 % of further images of the same "
        f"kind raise a false alarm. To expect: 3.9 %, and between {100 * low:.3g} % and {100 * high:.3g} % for 95 of "
        "100 such draws."
    )


def test_a_promise_by_class_says_that_it_is_none_for_all_at_once_and_who_shares() -> None:
    lines = promised(PROMISE.model_copy(update={"by_class": True, "pooled": ("cat", "dog")}))
    assert lines == [
        "Each predicted class has its own threshold, from its part of the 1,000 held-out images. With confidence 0.95, "
        "class by class and not for all at once, at most 5 % of further images of the same kind raise a false alarm. "
        "Too few for their own, these share one, whose rate holds for them together and not for each: cat, dog."
    ]
    assert "share" not in promised(PROMISE.model_copy(update={"by_class": True}))[0]


def test_a_review_rate_and_the_settings_that_were_tried_are_told() -> None:
    lines = promised(PROMISE.model_copy(update={"review_rate": 0.125, "tried": 4}))
    assert lines[1:] == [
        "At most 12.5 % raise an alarm or go to a person; both rates hold together.",
        "4 settings were compared on those images; the confidence holds for the winner.",
    ]
    each = 1 - 0.05 / 8
    above = calibration.allowed_exceedances(1000, 0.05, each)
    assert above is not None
    assert f"To expect: {percent((above + 1) / 1001)}," in lines[0]


RESULTS = Results(
    false_alarms=share(0.04, 0.02, 0.0712, of=1500),
    ood=(
        Measured(name="night", caught=share(0.5, 0.4294, 0.5706), msp=share(0.25, 0.2, 0.3), auroc=0.98765),
        Measured(name="fog", caught=share(1, 0.98, 1, of=12345), auroc=None),
    ),
    notes=("One thing.", "Another."),
)


def test_the_table_shows_every_source_with_its_intervals() -> None:
    text = card(manifest(results=RESULTS))
    assert tables(section(text, "What it did when it was made")) == [
        [
            ["OOD source", "images", "caught", "maximum softmax, same rate", "AUROC"],
            ["---"] * 5,
            ["night", "200", "50.00 (42.94 to 57.06)", "25.00 (20.00 to 30.00)", "98.77"],
            ["fog", "12,345", "100.00 (98.00 to 100.00)", "–", "–"],
        ]
    ]
    assert "False alarms on 1,500 ID test images: 4.00 (2.00 to 7.12)." in text
    assert "\n\nIn percent, with 95 % intervals over images.\n\nOne thing.\n\nAnother.\n" in text


def test_without_a_classifier_there_is_no_column_of_its_softmax_and_without_results_no_table() -> None:
    plain = Results(ood=(Measured(name="fog", caught=share(1, 0.98, 1), auroc=0.5),))
    (table,) = tables(section(card(manifest(results=plain)), "What it did when it was made"))
    assert table[0] == ["OOD source", "images", "caught", "AUROC"]
    assert "What it did" not in card(manifest())


def test_what_nobody_can_promise_is_said() -> None:
    text = section(card(manifest()), "What it does not promise")
    assert [line for line in text.splitlines() if line.startswith("- ")] == [
        "- How much OOD is caught. Nobody can without assumptions about it: what was measured holds for those "
        "sources alone.",
        "- Anything for images that are not drawn like the held-out ones: another camera, season or site is another "
        "question.",
        "- Anything if held-out images took part in training, in fitting or in choosing the score, or are copies of "
        "such images.",
        "- `is_ood` follows the threshold alone. A p-value a little below the rate may pass: the threshold keeps its "
        "rate with a",
    ]


def rows_inside(**kwargs: Any) -> dict[str, str]:
    (table,) = tables(section(card(manifest(**kwargs)), "Inside"))
    assert all(len(row) == 2 for row in table)
    return {row[0]: row[1] for row in table[2:]}


def test_inside_says_what_it_was_made_from() -> None:
    assert rows_inside() == {
        "network": "resnet18, weights in safetensors",
        "images": "short side to 36 px, centre 32 px, bilinear; Pillow, turned upright by EXIF",
        "score": "knn (k=10) on the feature",
        "classes": "cat, dog",
        "model": "pets",
        "made by": "spherood 0.0, 2026-01-02T03:04:05+00:00",
    }
    features = rows_inside(model=None, preprocess=None, classes=(), score={"use": "knn"})
    assert (features["network"], features["images"]) == ("none: it reads features", "–")
    assert (features["classes"], features["score"]) == ("not labelled", "knn (defaults) on the feature")


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        (OnnxOrigin(feature="flat"), "ONNX file, output `flat`"),
        (TimmOrigin(name="vit_tiny"), "timm's vit_tiny, weights in safetensors"),
        (
            FunctionOrigin(name="mine:net", sha256="ab"),
            "`mine:net`, code that is not in here; its weights must have SHA-256 ab",
        ),
    ],
)
def test_every_kind_of_network_is_named(origin: Any, said: str) -> None:
    assert rows_inside(model=origin)["network"] == said


def test_of_many_classes_twelve_are_named() -> None:
    names = tuple(f"c{number}" for number in range(1200))
    assert rows_inside(classes=names)["classes"] == ", ".join(names[:12]) + ", … (1,200 in all)"
    assert rows_inside(classes=names[:12])["classes"] == ", ".join(names[:12])


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (NETWORK, 'bundle = so.Bundle.load(".")\nfor verdict in bundle.predict(["image.png"]):\n'),
        (None, 'bundle = so.Bundle.load(".")\nfor verdict in bundle.predict(features):  # (N, 512)\n'),
        (
            FunctionOrigin(name="mine:net", sha256="ab"),
            'bundle = so.Bundle.load(".", trust=[\'mine:net\'])\nfor verdict in bundle.predict(["image.png"]):\n',
        ),
    ],
)
def test_the_usage_fits_the_bundle_and_is_python(model: Any, line: str) -> None:
    code = re.findall(r"```python\n(.*?)```", card(manifest(model=model)), re.DOTALL)
    assert len(code) == 1
    ast.parse(code[0])
    assert line in code[0]


def test_a_bundle_that_reads_logits_of_any_number_asks_for_logits() -> None:
    text = card(manifest(model=None, preprocess=None, reads="logits", width=None, score={"use": "msp"}))
    assert "bundle.predict(logits):  # (N, C)\n" in text


NASTY = "a|b\nc\\|d\r\n| e \u2028f"
PLAIN = "a|b c\\|d | e f"


@pytest.mark.parametrize("where", ["class", "source", "provenance", "key", "setting", "model", "pooled", "note"])
def test_a_pipe_or_a_line_break_in_a_name_breaks_no_table(where: str) -> None:
    measured = Measured(name=NASTY if where == "source" else "fog", caught=share(1, 0.98, 1), auroc=0.5)
    made = manifest(
        classes=(NASTY, "dog") if where == "class" else ("cat", "dog"),
        results=Results(ood=(measured,), notes=(f"Copies: {NASTY}.",) if where == "note" else ()),
        provenance={"model": NASTY if where == "model" else "pets"}
        | ({NASTY if where == "key" else "known": NASTY} if where in ("key", "provenance") else {}),
        score={"use": "knn", "with": {"k": NASTY if where == "setting" else 1}},
        promise=PROMISE.model_copy(update={"by_class": True, "pooled": (NASTY,)}) if where == "pooled" else PROMISE,
    )
    plain = card(manifest(results=Results(ood=(measured.model_copy(update={"name": "fog"}),), notes=("Copies.",))))
    text = card(made)
    first, second = tables(text)
    assert {len(row) for row in first} == {4}
    assert {len(row) for row in second} == {2}
    assert re.findall("^#.*$", text, re.M)[1:] == re.findall("^#.*$", plain, re.M)[1:]
    shown = {"class": "classes", "provenance": "known", "key": PLAIN, "setting": "score", "model": "model"}
    if where in shown:
        assert PLAIN in {row[0]: row[1] for row in second}[shown[where]]
    elif where == "source":
        assert first[2][0] == PLAIN
    else:
        assert f" {PLAIN}." in text
    assert front_matter(text)


@pytest.mark.parametrize(
    ("licence", "flagged"),
    [
        ("CC BY-NC 4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("CC BY NC 4.0", True),
        ("CC_BY_NC", True),
        ("ImageNet terms: non-commercial research", True),
        ("Noncommercial use only", True),
        ("research only", True),
        ("Apache-2.0", False),
        ("CC BY 4.0", False),
        ("CC BY-SA 3.0", False),
        ("MIT", False),
        ("NCSA", False),
        ("BSD-3-Clause", False),
        ("not stated", False),
    ],
)
def test_a_licence_that_seems_to_exclude_commercial_use_is_flagged(licence: str, flagged: bool) -> None:
    assert restricted(licence) == flagged
    text = section(card(manifest(licences={"data": licence, "weights": "MIT"})), "Licences").strip()
    flag = " **Commercial use seems to be excluded: check before you use it.**" if flagged else ""
    assert text == f"- Data: {licence}.{flag}\n- Weights: MIT."


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "5 %"), (0.0394, "3.94 %"), (0.001, "0.1 %"), (0.12345, "12.3 %"), (1, "100 %")]
)
def test_a_share_is_printed_in_percent(value: float, text: str) -> None:
    assert percent(value) == text


def test_a_measured_share_is_printed_with_its_interval() -> None:
    assert told(share(0.0394, 0.0355, 0.0436)) == "3.94 (3.55 to 4.36)"
