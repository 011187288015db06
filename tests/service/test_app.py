"""What is asked and what is answered."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.service.conftest import Client, encoded, make, pictures

from spherood.bundle import Bundle
from spherood.bundle.export import export
from spherood.service import app as module
from spherood.service.batches import Batches
from spherood.service.pictures import Limits
from spherood.service.served import Served

Serve = Callable[..., Client]
NOISE = pictures(6, 7)
FILES = [(f"{number}.png", encoded(image)) for number, image in enumerate(NOISE)]
FACTS = ("is_ood", "p_value", "nearest_class", "reason", "needs_review")


def test_a_verdict_is_the_bundles_own_however_the_image_comes(serve: Serve, bundle: Bundle) -> None:
    client, expected = serve(), bundle.predict(list(NOISE))
    form = client.form(FILES)
    assert form.status == 200
    assert (form.body["bundle"], [row["image"] for row in form.body["verdicts"]]) == ("noise", [f for f, _ in FILES])
    plain = client.json({"images": [base64.b64encode(content).decode() for _, content in FILES]})
    named = client.json({"images": [{"name": name, "base64": base64.b64encode(it).decode()} for name, it in FILES]})
    single = [client.post("/v1/predict", content, "image/png") for _, content in FILES]
    pictured = client.form(FILES, "/v1/predict?pictures=1").body["verdicts"]
    assert pictured[0]["neighbours"][0]["picture"].startswith("data:image/jpeg;base64,")
    for rows in (
        form.body["verdicts"],
        plain.body["verdicts"],
        named.body["verdicts"],
        [one.body["verdicts"][0] for one in single],
    ):
        for row, verdict in zip(rows, expected, strict=True):
            assert row["score"] == pytest.approx(verdict.score, rel=1e-5)
            assert {key: row[key] for key in FACTS} == {key: getattr(verdict, key) for key in FACTS}
            assert [one["name"] for one in row["neighbours"]] == [one.name for one in verdict.neighbours]
            assert "picture" not in row["neighbours"][0]
            assert row["error"] is None


def test_features_are_judged_too(serve: Serve, bundle: Bundle) -> None:
    feature = np.random.default_rng(0).normal(size=(3, bundle.runtime.width or 0)).astype(np.float32)
    found = serve().json({"features": feature.tolist()})
    assert [row["score"] for row in found.body["verdicts"]] == pytest.approx(
        [verdict.score for verdict in bundle.predict(feature)], rel=1e-5
    )


def test_the_rate_is_the_requests_own_within_what_can_be_promised(serve: Serve, bundle: Bundle) -> None:
    client = serve()
    for found in (client.form(FILES, false_alarm_rate="0.2"), client.form(FILES, "/v1/predict?false_alarm_rate=0.2")):
        assert found.body["verdicts"][0]["threshold"] == pytest.approx(bundle.threshold(0.2))
    refused = client.form(FILES, false_alarm_rate="0.001")
    assert refused.status == 400
    assert "0.001" in refused.body["error"]
    told = client.get("/v1/threshold?false_alarm_rate=0.2").body
    assert told["threshold"] == pytest.approx(bundle.threshold(0.2))
    assert set(told["by_class"]) == {"cat", "dog"}


@pytest.mark.parametrize(
    ("ask", "status", "message"),
    [
        (lambda it: it.json({"images": ["AAAA"], "colour": 1}), 400, "the body: there is no key 'colour' here."),
        (lambda it: it.json({}), 400, "Give images or features, one of them."),
        (lambda it: it.json({"images": []}), 400, "images: expected at least one."),
        (lambda it: it.json({"images": ["not base64"]}), 422, "images.0: is no base64."),
        (lambda it: it.json({"images": ["AAAA"]}), 422, "image 0: not an image that Pillow can read, or damaged."),
        (lambda it: it.json({"features": [[1, 2], [3]]}), 422, "features: expected rows of one length"),
        (lambda it: it.json({"features": [[1.0, 2.0]]}), 422, "have 2 columns"),
        (lambda it: it.json({"images": ["AAAA"], "bundle": "x"}), 404, "There is no bundle 'x'. Served: noise."),
        (lambda it: it.json({"images": ["AAAA"], "false_alarm_rate": 2}), 400, "false_alarm_rate: Input should be"),
        (lambda it: it.post("/v1/predict", b"{", "application/json"), 400, "The body is no JSON."),
        (lambda it: it.post("/v1/predict", b"x", "text/plain"), 415, "Send multipart/form-data with images"),
        (lambda it: it.post("/v1/predict", b"", "image/png"), 422, "image: is empty."),
        (lambda it: it.post("/v1/predict", b"x", "multipart/form-data"), 400, "The form cannot be read"),
        (lambda it: it.form([], bundle="noise"), 400, "images: expected at least one file."),
        (lambda it: it.form(FILES, colour="red"), 400, "Unknown field 'colour'."),
        (lambda it: it.form(FILES, "/v1/predict?colour=red"), 400, "Unknown parameter 'colour'."),
        (lambda it: it.form(FILES, false_alarm_rate="many"), 400, "false_alarm_rate: 'many' is no number."),
        (lambda it: it.get("/v1/threshold?false_alarm_rate=nan"), 400, "does not lie between 0 and 1"),
        (lambda it: it.get("/v1/shadow"), 404, "There is no shadow bundle."),
        (lambda it: it.get("/nowhere"), 404, "Not Found"),
        (lambda it: it.get("/v1/predict"), 405, "Method Not Allowed"),
    ],
)
def test_what_makes_no_sense_gets_one_sentence(ask: Any, status: int, message: str, serve: Serve) -> None:
    found = ask(serve())
    assert found.status == status, found
    assert message in found.body["error"]


def test_one_bad_image_spoils_no_other(serve: Serve) -> None:
    good = FILES[0][1]
    found = serve().form([("a.png", good), ("b.png", good[: len(good) // 2]), ("c.png", b"GIF89a and no more")])
    assert found.status == 200
    first, second, third = found.body["verdicts"]
    assert first["error"] is None
    assert "b.png: damaged" in second["error"]
    assert "c.png" in third["error"]


def test_too_much_is_refused_before_it_is_decoded(serve: Serve) -> None:
    client = serve(limits=Limits(body=60_000, images=3, pixels=100_000))
    assert client.post("/v1/predict", bytes(70_000), "image/png").status == 413
    assert client.form(FILES[:4]).status in (400, 413)
    bomb = encoded(np.zeros((400, 400, 3), np.uint8))  # small in bytes
    found = client.post("/v1/predict", bomb, "image/png")
    assert (found.status, "400 x 400 pixels are more than are taken (100,000)" in found.body["error"]) == (422, True)
    assert client.form(FILES[:1]).status == 200  # nobody was harmed


def test_a_full_queue_says_when_to_come_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, plain = threading.Event(), Batches._answer

    def slow(self: Batches, group: Any) -> None:
        go_on.wait(20)
        plain(self, group)

    monkeypatch.setattr(Batches, "_answer", slow)
    client = serve(room=8)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.form, FILES)
        until = time.monotonic() + 20
        while 'spherood_queue{bundle="noise"} 6.0' not in client.get("/metrics").body and time.monotonic() < until:
            time.sleep(0.02)
        found = client.form(FILES)
        assert (found.status, found.headers["Retry-After"]) == (503, "1")
        assert found.body["error"] == "The queue is full. Try again in a moment."
        go_on.set()
        assert first.result().status == 200
    assert client.form(FILES).status == 200
    assert client.form(FILES * 2).status == 413  # would never have room


def test_a_token_opens_what_is_not_open_to_all(serve: Serve) -> None:
    client = serve(token="a secret of some length")
    assert client.get("/healthz").status == client.get("/").status == 200
    for path in ("/v1/bundles", "/metrics", "/v1/traffic"):
        refused = client.get(path)
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert client.get(path, Authorization="Bearer a secret of some other").status == 401
        assert client.get(path, Authorization="Bearer a secret of some length").status == 200
    assert client.form(FILES).status == 401


def test_monitors_read_what_happened(serve: Serve) -> None:
    client = serve()
    client.form([*FILES, ("broken.png", b"none")])
    client.get("/nowhere")
    text = client.get("/metrics").body
    assert 'spherood_requests_total{path="/v1/predict",status="200"} 1.0' in text
    assert 'spherood_requests_total{path="other",status="404"} 1.0' in text
    assert 'spherood_unreadable_images_total{bundle="noise"} 1.0' in text
    assert 'spherood_p_value_count{bundle="noise"} 6.0' in text
    assert 'spherood_score_count{bundle="noise"} 6.0' in text
    assert 'spherood_queue{bundle="noise"} 0.0' in text
    verdicts = [float(line.split()[1]) for line in text.splitlines() if line.startswith("spherood_verdicts_total{")]
    assert sum(verdicts) == 6
    assert client.get("/readyz").body["bundles"].keys() == {"noise"}


def test_recent_traffic_is_kept_in_memory_and_can_be_switched_off(serve: Serve) -> None:
    client = serve()
    client.form(FILES)
    found = client.get("/v1/traffic").body
    assert [row["image"] for row in found["latest"]] == [name for name, _ in FILES][::-1]
    p = [row["p_value"] for row in found["most_ood"]]
    assert p == sorted(p)
    assert found["latest"][0]["picture"].startswith("data:image/jpeg;base64,")
    off = serve(traffic=0)
    off.form(FILES)
    assert off.get("/v1/traffic").status == 404


def test_several_bundles_answer_by_name(folder: Path, serve: Serve, tmp_path: Path) -> None:
    make(1).save(tmp_path / "other")
    client = serve({"noise": Served("noise", folder), "other": Served("other", tmp_path / "other")})
    first, second = client.form(FILES).body, client.form(FILES, bundle="other").body
    assert (first["bundle"], second["bundle"]) == ("noise", "other")
    assert first["verdicts"][0]["score"] != second["verdicts"][0]["score"]
    assert [one["name"] for one in client.get("/v1/bundles").body] == ["noise", "other"]


def test_a_shadow_sees_the_same_and_answers_nobody(serve: Serve, bundle: Bundle, tmp_path: Path) -> None:
    make(1).save(tmp_path / "shadow")
    client = serve(shadow=Served("shadow", tmp_path / "shadow"))
    strange = [(f"{n}.png", encoded(np.full((16, 16, 3), 40 * n, np.uint8))) for n in range(6)]
    found = client.form([*FILES, *strange]).body["verdicts"]
    ours = bundle.predict([*NOISE, *(np.full((16, 16, 3), 40 * n, np.uint8) for n in range(6))])
    assert [row["is_ood"] for row in found] == [one.is_ood for one in ours]
    theirs = make(1).predict([*NOISE, *(np.full((16, 16, 3), 40 * n, np.uint8) for n in range(6))])
    until = time.monotonic() + 20
    while (report := client.get("/v1/shadow").body)["same"] + len(
        report["differing"]
    ) < 12 and time.monotonic() < until:
        time.sleep(0.02)
    more = sum(b.is_ood > a.is_ood for a, b in zip(ours, theirs, strict=True))
    fewer = sum(b.is_ood < a.is_ood for a, b in zip(ours, theirs, strict=True))
    assert (report["ood_here_alone"], report["ood_there_alone"]) == (more, fewer)
    assert report["same"] == 12 - more - fewer


def test_a_bundle_that_is_swapped_under_load_loses_no_request_and_gives_no_wrong_verdict(
    serve: Serve, folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    client, other = serve(), make(1)
    scores = [
        {round(one.score, 4): 1 for one in (a, b)}
        for a, b in zip(bundle.predict(list(NOISE)), other.predict(list(NOISE)), strict=True)
    ]

    def ask(number: int) -> tuple[int, str]:
        name, content = FILES[number % 6]
        found = client.form([(name, content)])
        score = found.body["verdicts"][0]["score"]
        assert any(abs(score - one) < 1e-3 * max(1, abs(one)) for one in scores[number % 6])
        return found.status, found.body["version"]

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(60)]
        other.save(folder)
        asked += [pool.submit(ask, number) for number in range(60)]
        found = [one.result() for one in asked]
    assert {status for status, _ in found} == {200}
    until = time.monotonic() + 20
    while client.get("/readyz").body["bundles"]["noise"] == found[0][1] and time.monotonic() < until:
        time.sleep(0.05)
    assert client.get("/readyz").body["bundles"]["noise"] != found[0][1]


def test_a_broken_new_bundle_is_refused_and_the_old_one_goes_on(
    serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    client = serve()
    before = [row["score"] for row in client.form(FILES).body["verdicts"]]
    (folder / "bundle.json").write_text("{}")
    until = time.monotonic() + 20
    while not (told := client.get("/v1/bundles").body[0])["refused"] and time.monotonic() < until:
        time.sleep(0.05)
    assert "damaged" in told["refused"]
    assert [row["score"] for row in client.form(FILES).body["verdicts"]] == pytest.approx(before, rel=1e-5)
    assert 'spherood_refused{bundle="noise"} 1.0' in client.get("/metrics").body
    shutil.rmtree(folder)
    assert [row["score"] for row in client.form(FILES).body["verdicts"]] == pytest.approx(before, rel=1e-5)


def test_closing_finishes_what_was_taken(folder: Path) -> None:
    batches = Batches(Served("noise", folder), batch=4, room=100, decoders=2, limits=Limits())
    taken = [batches.picture(content, name) for name, content in FILES * 5]
    batches.close()
    assert all(one.done() and one.exception() is None for one in taken)
    assert batches.waiting == 0


def test_mutated_images_get_a_clear_answer_each(serve: Serve) -> None:
    """Bytes of five formats, cut and altered at random; `benchmarks/serving.py` does it 10,000 times."""
    client, draw = serve(), np.random.default_rng(0)
    seeds = [encoded(NOISE[0], kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP")]
    for _ in range(200):
        content = bytearray(seeds[draw.integers(5)])
        for _ in range(draw.integers(1, 12)):
            content[draw.integers(len(content))] = draw.integers(256)
        if draw.random() < 0.3:
            content = content[: draw.integers(len(content) + 1)]
        found = client.post("/v1/predict", bytes(content), "image/png")
        assert found.status in (200, 422), found
    assert client.form(FILES).status == 200


def test_no_page_names_another_host(serve: Serve) -> None:
    client = serve()
    for path in ("/", "/page.js", "/docs"):
        text = client.get(path).body.replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text.replace("HTTP", "")
        assert "//" not in text.replace("// ", "").replace("://", "")
    assert "default-src 'none'" in client.get("/").headers["Content-Security-Policy"]


def test_a_picture_is_opened_as_the_bundle_opens_it(folder: Path, bundle: Bundle, tmp_path: Path, serve: Serve) -> None:
    """Turned by EXIF, grey of 16 bits, with a palette: the same bytes from a file and over the wire."""
    image = Image.fromarray(NOISE[0])
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(NOISE[0][..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    image.convert("P").save(tmp_path / "palette.gif")
    files = [tmp_path / name for name in ("turned.jpg", "deep.png", "palette.gif")]
    found = serve().form([(file.name, file.read_bytes()) for file in files]).body["verdicts"]
    assert [row["score"] for row in found] == pytest.approx([one.score for one in bundle.predict(files)], rel=1e-5)
    words = [sys.executable, "-m", "spherood", "score", str(folder), *map(str, files), "--json"]
    typed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    for row, line in zip(found, typed, strict=True):
        told = json.loads(line)
        assert told["score"] == pytest.approx(row["score"], rel=1e-5)
        assert {key: told[key] for key in FACTS} == {key: row[key] for key in FACTS}


def test_an_exported_bundle_is_served_too(serve: Serve, bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    np.save(folder.parent / "bundle-held-out.npy", pictures(200, 200))  # as tests/service/conftest.py draws them
    export(Bundle.load(folder), folder).bundle.save(tmp_path / "onnx")
    found = serve({"onnx": Served("onnx", tmp_path / "onnx")}).form(FILES).body["verdicts"]
    expected = [one.score for one in bundle.predict(list(NOISE))]
    assert [row["score"] for row in found] == pytest.approx(expected, rel=1e-4)
