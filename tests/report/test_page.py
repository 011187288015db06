from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherood.errors import ConfigError, MissingExtraError, ShapeError
from spherood.report import Content, Example, write_page
from spherood.report.page import picture, render

for library in ("altair", "jinja2", "vl_convert"):
    pytest.importorskip(library, reason="the extra report is not installed")


class Reader(HTMLParser):
    """Elements with their attributes, and the text of each cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


@pytest.fixture(scope="module")
def text(content: Content, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, content)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Reader:
    return Reader(text)


def test_figures_reasons_and_absent_sets_stand_in_the_page_itself(page: Reader) -> None:
    for word in ("80.1", "83.0", "4.2 (3.1–5.8)", "≤ 5.0", "kept", "91.2", "absent", "648", "in the bundle",
                 "OOD let through at 95 % ID kept", "ID rejected at 95 % OOD caught", "AUPR, ID positive",
                 "CIDER has no classifier, and msp reads logits", "far mean, incomplete",
                 "spherood score runs/demo/bundle photos/ -o verdicts.csv"):  # fmt: skip
        assert word in page.words, word
    hints = [attributes.get("title") for tag, attributes in page.elements if tag == "td"]
    assert "CIDER has no classifier, and msp reads logits" in hints


def test_the_page_loads_nothing(page: Reader, text: str) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (tag, address)
    assert "default-src 'none'" in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_headings_go_down_by_one_and_the_page_has_a_language_and_a_title(page: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert ("html", {"lang": "en"}) in page.elements
    assert "Digits against letters" in page.words


def test_every_id_is_there_once_and_every_link_leads_to_one(page: Reader) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes.get("href"))[1:] for tag, attributes in page.elements if tag == "a"]
    assert set(links) <= set(ids)


def test_images_have_texts_figures_and_verdicts(page: Reader) -> None:
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [image["alt"] for image in images] == [
        "OOD image digits/7 no. 1", "nearest training image digits/1 no. 1",
        "OOD image digits/7 no. 2", "nearest training image digits/1 no. 2", "ID image digits/7 no. 3",
    ]  # fmt: skip
    verdicts = [word for word in page.words if word in ("missed", "caught", "kept", "false alarm")]
    assert verdicts[-3:] == ["missed", "caught", "false alarm"]
    assert "0.25" in page.words


def data_of(text: str) -> Any:
    return json.loads(text.split('id="data">', 1)[1].split("</script>", 1)[0])


def test_scores_are_binned_rather_than_embedded(text: str, content: Content) -> None:
    data = data_of(text)
    assert [(row["model"], row["score"]) for row in data["rows"]] == [
        ("CIDER", "knn"),
        ("plain", "knn"),
        ("plain", "msp"),
    ]
    row = data["rows"][0]
    result = content.evaluations[1].scores["knn"]
    assert row["grid"][row["calibrated"]] == result.threshold
    assert row["id"]["kept"][row["calibrated"]] == 380  # the 380th of 400 scores is the threshold, and kept
    assert all(len(axis) <= 200 for curve in row["roc"].values() for axis in curve)
    many = np.random.default_rng(0)
    large = dataclasses.replace(
        result, id_score=many.normal(size=50_000), ood_score={"svhn": many.normal(3, 1, 50_000)}
    )
    evaluation = dataclasses.replace(content.evaluations[1], scores={"knn": large})
    assert len(render(dataclasses.replace(content, evaluations=[evaluation]))) < 1_200_000


def test_names_from_outside_stay_text(hostile: Content, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", hostile)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>window" not in text
    assert 'alt="OOD image &#34; onerror=' in text
    assert len(re.findall("</script", text)) == 3


def test_a_small_image_keeps_its_pixels_and_a_large_one_is_shrunk() -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    small, large = picture(pixels), picture(np.zeros((300, 600, 3), dtype=np.uint8))
    image = Image.open(io.BytesIO(base64.b64decode(small.uri.partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(image), pixels)
    assert (small.crisp, large.crisp) == (True, False)
    assert Image.open(io.BytesIO(base64.b64decode(large.uri.partition(",")[2]))).size == (128, 64)


def test_a_page_without_examples_history_or_next_steps_leaves_their_sections_out(
    content: Content, tmp_path: Path
) -> None:
    bare = dataclasses.replace(content, ood_like_id=[], id_like_ood=[], history={}, next_steps=[], facts=[])
    write_page(tmp_path / "page.html", bare)
    ids = {attributes.get("id") for _, attributes in Reader((tmp_path / "page.html").read_text("utf-8")).elements}
    assert ids.isdisjoint({"images", "training", "next"})


def test_content_that_contradicts_itself_is_refused(content: Content, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"score CIDER kn is not among the evaluations\. Did you mean 'CIDER knn'"):
        write_page(tmp_path / "page.html", dataclasses.replace(content, chosen=("CIDER", "kn")))
    twice = [*content.evaluations, content.evaluations[0]]
    with pytest.raises(ConfigError, match="two evaluations are called plain"):
        write_page(tmp_path / "page.html", dataclasses.replace(content, evaluations=twice))
    assert not (tmp_path / "page.html").exists()


def test_pixels_of_another_shape_say_what_to_do() -> None:
    with pytest.raises(ShapeError, match=r"expected pixels \(H, W, 3\) of uint8, got \(8, 8\), uint8. Use np.repeat"):
        Example(np.zeros((8, 8), dtype=np.uint8), "grey", 0.0, 1.0, None, "")


@pytest.mark.parametrize("library", ["altair", "jinja2", "vl_convert"])
def test_without_a_library_the_message_says_what_to_install(
    library: str, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"report: needs {library}.*pip install 'spherood\[report\]'"):
        write_page(tmp_path / "page.html", content)
