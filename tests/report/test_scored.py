from __future__ import annotations

import math
import shutil
import subprocess
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherood.errors import DataError
from spherood.report.scored import Summary, summarise
from spherood.scoring.parts import write_part
from spherood.scoring.plan import open_plan
from spherood.scoring.shards import Shard

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><script>window.hacked = 1</script>.png"


def row(image: str, score: float | None = 0.1, **changed: Any) -> dict[str, Any]:
    """One of a scored folder: OOD above 0.5; no score: unreadable."""
    known = score is not None
    return {
        "image": image,
        "source": "lake/a",
        "time": "2026-03-01T12:00:00+00:00",
        "is_ood": known and score > 0.5 if known else None,
        "score": score,
        "p_value": (0.002 if score > 0.5 else 0.5) if known else None,
        "threshold": 0.5 if known else None,
        "nearest_class": "cat" if known else None,
        "needs_review": False if known else None,
        "reason": "a sentence" if known else None,
        "neighbours": [{"name": "cat/1.png", "cosine": 0.9, "row": 0}] if known else [],
        "error": None if known else f"{image}: damaged: what Pillow said {len(image)}. Copy it again.",
    } | changed


def scored(out: Path, *parts: Sequence[dict[str, Any]], planned: int | None = None) -> Path:
    """A folder as `spherood score` leaves it, with these rows in its parts."""
    shards = [Shard(kind="files", paths=("x.png",), rows=1)] * (planned or len(parts))
    plan = open_plan(out, {"bundle": "b", "false_alarm_rate": 0.05, "format": ".jsonl", "part_size": 9}, iter(shards))
    for number, rows in enumerate(parts):
        write_part(plan.part(number), rows)
    return out


def test_counts_are_those_of_the_rows_by_source_hour_class_and_p_value(tmp_path: Path) -> None:
    first = [row(f"{n}.png", 0.9 if n < 3 else 0.2) for n in range(10)]
    second = [
        row("x.png", 0.7, source="lake/b", time="2026-03-02T12:59:59+00:00", nearest_class="dog", needs_review=False),
        row("y.png", 0.4, source="lake/b", time=None, needs_review=True),
        row("broken.png", None),
        row("broken too.png", None),
    ]
    found = summarise(scored(tmp_path / "out", first, second, planned=3))
    assert (found.whole.images, found.whole.ood, found.review, found.unreadable, found.parts) == (12, 4, 1, 2, (2, 3))
    assert {name: (one.images, one.ood) for name, one in found.sources.items()} == {"lake/a": (10, 3), "lake/b": (2, 1)}
    assert found.classes == {"cat": 3, "dog": 1}
    assert (found.p_values[0], found.p_values[10], sum(found.p_values)) == (4, 8, 12)
    assert found.errors == {"damaged": (2, ["broken.png", "broken too.png"])}
    assert [one["image"] for one in found.most[:4]] == ["0.png", "1.png", "2.png", "x.png"]
    assert found.discoveries is None
    span, periods = found.periods()
    assert span == "hour"
    assert [(begin, one.images, one.ood) for begin, one in periods] == [
        ("2026-03-01T12:00:00+00:00", 10, 3),
        ("2026-03-02T12:00:00+00:00", 1, 1),
    ]
    # 3 of 10: the exact interval, from tables of the binomial law
    assert found.sources["lake/a"].share == pytest.approx((0.3, 0.0667, 0.6525), abs=1e-4)


def test_more_alarms_than_the_promise_explains_are_told_from_as_many(tmp_path: Path) -> None:
    some = summarise(scored(tmp_path / "some", [row(f"{n}.png", 0.9 if n < 4 else 0.2) for n in range(60)]))
    by_hand = 1 - sum(math.comb(60, k) * 0.05**k * 0.95 ** (60 - k) for k in range(4))
    assert some.explained == pytest.approx(by_hand)
    many = summarise(scored(tmp_path / "many", [row(f"{n}.png", 0.9 if n < 12 else 0.2) for n in range(60)]))
    assert many.explained < 0.01 < some.explained
    page = pytest.importorskip("spherood.report.scored_page")
    assert page.lead(some) == (
        "6.7 % of 60 images are OOD (1.8 % to 16.2 %): no more than false alarms alone would make, of which at most "
        "5.0 % are promised."
    )
    assert "more than false alarms alone explain" in page.lead(many)


def test_periods_are_as_short_as_sixty_of_them_allow(tmp_path: Path) -> None:
    for days, span in ((1, "hour"), (50, "day"), (300, "week"), (1500, "four weeks"), (9000, "year")):
        ends = [
            row("a.png"),
            row("b.png", time=str(np.datetime64("2026-03-01T12:00") + np.timedelta64(days, "D")) + "Z"),
        ]
        found, periods = summarise(scored(tmp_path / span, ends)).periods()
        assert (found, sum(one.images for _, one in periods)) == (span, 2)


def test_discoveries_are_counted_over_all_and_listed_from_the_lowest_p_value(tmp_path: Path) -> None:
    rows = [row(f"{n}.png", 0.9, p_value=(n + 1) / 1000, discovery=n < 250) for n in range(300)]
    found = summarise(scored(tmp_path / "out", rows))
    assert found.discoveries == 250
    assert [one["image"] for one in found.flagged] == [f"{n}.png" for n in range(200)]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    rows = [row(f"{n:06}.png", n / 2000) for n in range(2000)]
    out = scored(tmp_path / "out", *[rows] * 10)
    summarise(scored(tmp_path / "small", rows))
    tracemalloc.start()
    try:
        assert summarise(out).whole.images == 20_000
        assert tracemalloc.get_traced_memory()[1] < 10e6  # a part of 2,000 rows
    finally:
        tracemalloc.stop()


def test_a_folder_without_parts_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Score into it with: spherood score BUNDLE INPUT -o "):
        summarise(scored(tmp_path / "out", planned=1))


class TestPage:
    @pytest.fixture(autouse=True)
    def _libraries(self) -> None:
        for library in ("altair", "jinja2", "vl_convert"):
            pytest.importorskip(library, reason="the extra report is not installed")

    def page(self, summary: Summary, thumbnails: Sequence[bytes] | None = None) -> str:
        from spherood.report.scored_page import render

        return render(summary, "With confidence 0.95 at most 5 % raise a false alarm.", thumbnails)

    def test_the_most_ood_images_are_shown_with_their_neighbours_and_a_hostile_name_is_text(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "seen.png"
        Image.new("RGB", (9, 9), "red").save(file)
        small = file.read_bytes()
        rows = [row(str(file), 0.9), row(HOSTILE, 0.8, source=HOSTILE, nearest_class=HOSTILE), row(HOSTILE, None)]
        text = self.page(summarise(scored(tmp_path / "out", rows)), [small])
        assert "<script>window.hacked" not in text
        assert text.count("data:image/png;base64,") == 3  # the image, and the neighbour of both
        assert "not shown: it is no file of its own" in text
        assert "cat/1.png, cosine 0.900" in text

    def test_a_folder_in_which_nothing_could_be_read_has_a_page_too(self, tmp_path: Path) -> None:
        text = self.page(summarise(scored(tmp_path / "out", [row("a.png", None)])))
        assert "None of 1 images could be read." in text
        assert "damaged; a.png" in text

    def test_parts_that_are_not_there_yet_are_told(self, tmp_path: Path) -> None:
        text = self.page(summarise(scored(tmp_path / "out", [row("a.png")], planned=4)))
        assert "1 of 4 parts are there: the same spherood score does the rest" in text

    @pytest.mark.browser
    @pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
    def test_the_charts_are_drawn_in_a_browser(self, tmp_path: Path) -> None:
        rows = [row(f"{n}.png", (n % 17) / 17, time=f"2026-03-{1 + n % 20:02}T12:00:00+00:00") for n in range(400)]
        (tmp_path / "page.html").write_text(self.page(summarise(scored(tmp_path / "out", rows))), encoding="utf-8")
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
        done = subprocess.run(
            [str(CHROMIUM), *words, f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'page.html'}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert 'data-drawn="yes"' in done.stdout
        for name in ("p", "time"):
            assert f'id="chart-{name}"' in done.stdout
        assert done.stdout.count("<svg") >= 2
