"""The page in a real browser: images dropped, the slider moved, read by a keyboard and by axe-core."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.service.conftest import Client

from spherood.bundle import Bundle
from spherood.bundle.encoder import foreign_encoder
from spherood.bundle.fit import Parts, fit
from spherood.bundle.rows import Rows
from spherood.data.folders import read_folder
from spherood.features import FeatureStore
from spherood.service.served import Served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
sync = pytest.importorskip("playwright.sync_api")

Serve = Callable[..., Client]
Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Page]]:
    pages = []

    def open_(client: Client, width: int = 1100, scheme: str = "light") -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.problems.append(request.url) if _elsewhere(request, client) else None)
        page.goto(client.url)
        sync.expect(page.locator("#rate-value")).not_to_have_text("–")
        pages.append(page)
        return page

    yield open_
    for page in pages:
        assert page.problems == []
        page.close()


def _elsewhere(request: Any, client: Client) -> bool:
    return not request.url.startswith((client.url, "data:", "blob:"))


def drop(page: Page, *files: Path) -> None:
    """As a user drops files: a DragEvent with their bytes."""
    contents = [[file.name, list(file.read_bytes())] for file in files]
    data = page.evaluate_handle(
        """(files) => { const data = new DataTransfer();
        for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
        return data; }""",
        contents,
    )
    before = page.locator("#verdicts > li").count()
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    sync.expect(page.locator("#verdicts > li")).to_have_count(before + len(files))


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guard of a ResNet-20 that knows CIFAR-10, and images of CIFAR-10 and of textures."""
    shared = os.environ.get("SPHEROOD_SHARED")
    if not shared or not Path(shared, "data", "resnet20-cifar10.th").is_file():
        pytest.skip("SPHEROOD_SHARED names no folder with data/resnet20-cifar10.th and the packed real images")
    place = tmp_path_factory.mktemp("cifar")
    unpack = [sys.executable, f"{shared}/data/unpack.py", str(place), "cifar10-test", "texture32"]
    subprocess.run(unpack, check=True, capture_output=True)
    encoder = foreign_encoder(
        Path(shared, "data", "resnet20-cifar10.th"), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    images = read_folder(place / "cifar10" / "test", "known").draw(3000)
    rows = Rows.of_images(FeatureStore(place / ".features").read(encoder.model, encoder.images, images))
    order = np.random.default_rng(0).permutation(3000)
    parts = Parts(rows.subset(np.sort(order[:2000])), None, rows.subset(np.sort(order[2000:])))
    Bundle.of(fit(parts, ["knn:k=10"]), encoder, thumbnails=48).save(place / "bundle")
    return place


def test_a_cifar_image_is_known_a_texture_is_not_and_the_slider_changes_a_verdict(
    cifar: Path, serve: Serve, open_page: Callable[..., Page]
) -> None:
    bundle = Bundle.load(cifar / "bundle")
    known = sorted((cifar / "cifar10" / "test" / "ship").glob("*.png"))[:40]
    verdicts = bundle.predict(known)
    image = known[int(np.argmin([one.score for one in verdicts]))]
    strange = sorted((cifar / "texture32" / "banded").glob("*.png"))[0]
    between = known[int(np.argmin([abs(one.p_value - 0.3) for one in verdicts]))]
    page = open_page(serve({"cifar": Served("cifar", cifar / "bundle")}))
    drop(page, image, strange, between)
    cards = page.locator("#verdicts > li")
    assert [cards.nth(n).locator(".verdict").inner_text() for n in range(3)] == ["ID", "OOD", "ID"]  # newest first
    assert cards.nth(2).locator("dd").first.inner_text() == f"{verdicts[known.index(image)].p_value:.2g}".ljust(3, "0")
    assert cards.nth(1).locator(".near img").count() == 3
    assert page.inner_text("#rate-value") == "5 %"
    page.focus("#rate")
    page.keyboard.press("End")  # to one half
    sync.expect(page.locator("#rate-value")).to_have_text("50 %")
    sync.expect(cards.first.locator(".verdict")).to_have_text("OOD")
    assert [cards.nth(n).locator(".verdict").inner_text() for n in range(3)] == ["OOD", "OOD", "ID"]
    assert page.locator("#recent > li").count() == 3
    assert page.locator("#recent > li").first.locator("p").first.inner_text() == strange.name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_window(
    width: int, scheme: str, serve: Serve, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    path = tmp_path / "a picture with a name that is quite long and has no place to break_it_at_all.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    (tmp_path / "broken.png").write_bytes(b"none")
    page = open_page(serve(), width, scheme)
    drop(page, path, tmp_path / "broken.png")
    assert "broken.png: not an image" in page.locator("#verdicts .error").inner_text()
    found = axe.Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_reaches_everything(serve: Serve, open_page: Callable[..., Page]) -> None:
    page = open_page(serve())
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["bundle", "rate", "files", "refresh"]


def test_a_pasted_image_is_judged(serve: Serve, open_page: Callable[..., Page]) -> None:
    page = open_page(serve())
    page.evaluate(
        """async () => { const canvas = document.createElement('canvas'); canvas.width = canvas.height = 16;
        const blob = await new Promise((done) => canvas.toBlob(done));
        const data = new DataTransfer(); data.items.add(new File([blob], 'pasted.png', {type: 'image/png'}));
        document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data})); }"""
    )
    page.wait_for_selector("#verdicts > li")
    assert page.locator("#verdicts > li p").first.inner_text() == "pasted.png"
    assert page.inner_text("#state").startswith("1 judged")


def test_with_a_token_the_page_asks_for_it(serve: Serve, browser: Any) -> None:
    page = browser.new_page()
    page.goto(serve(token="a secret of some length").url)
    page.wait_for_selector("#token-field:not([hidden])")
    page.fill("#token", "a secret of some length")
    page.keyboard.press("Enter")
    sync.expect(page.locator("#rate-value")).not_to_have_text("–")
    assert page.inner_text("#bundle").strip() == "noise"
    page.close()


def test_the_page_of_the_interface_opens(serve: Serve, browser: Any) -> None:
    page = browser.new_page()
    page.goto(serve().url + "/docs")
    assert page.inner_text("h1") == "How to ask"
    page.close()
