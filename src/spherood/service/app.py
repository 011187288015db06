"""The service: one POST for verdicts, what a page and a monitor ask for, and nothing that a stranger can break.

    POST /v1/predict      images (multipart, base64 JSON, or one image as the body) or features -> verdicts
    GET  /v1/bundles, /v1/threshold, /v1/traffic, /v1/shadow, /healthz, /readyz, /metrics, /docs, /openapi.json, /

Errors are {"error": sentence}: 400 what makes no sense, 401, 404, 413 too large, 415 another kind of content, 422 no
image or features that do not fit, 503 no room (with Retry-After).
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from spherood.bundle.runtime import rows_read
from spherood.calibration.exceedances import least_rate
from spherood.errors import CalibrationError, ConfigError, ImageError, ShapeError
from spherood.service.asking import BODY, RESPONSES, RETRY, Refused, number, read
from spherood.service.batches import Batches, Full, Judged
from spherood.service.guarded import Guarded
from spherood.service.measures import Measures
from spherood.service.pictures import Limits
from spherood.service.served import Served
from spherood.service.shadow import Shadow
from spherood.service.traffic import Traffic
from spherood.version import __version__

LOOK_EVERY = 1.0  # seconds, at the bundles on disk


@dataclass(frozen=True)
class Settings:
    """How the service is run."""

    served: Mapping[str, Served]  # by name; the first answers who names none
    shadow: Served | None = None
    token: str | None = None
    batch: int = 32
    room: int = 512  # images that wait, of each bundle
    traffic: int = 200
    limits: Limits = field(default_factory=Limits)


def create_app(settings: Settings) -> FastAPI:
    """The application; its lifespan starts the workers, and finishes what was taken."""
    state = _State(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(state.look())
        yield
        state.ready = False
        looking.cancel()
        await asyncio.to_thread(state.close)

    app = FastAPI(title="spherood", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Guarded, measures=state.measures, body=settings.limits.body, token=settings.token)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": error.error}, error.status, headers=dict(error.headers or {}))

    async def unfit(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    for kind in (ShapeError, ConfigError, ImageError):  # of features, or of a bundle that takes none
        app.add_exception_handler(kind, unfit)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=dict(error.headers or {}))

    @app.post("/v1/predict", openapi_extra=BODY, responses=RESPONSES)
    async def predict(request: Request) -> JSONResponse:
        """Verdicts on images or on rows of features. With ?pictures=1 neighbours come with their small pictures."""
        images, rows, name, rate = await read(request, settings.limits)
        batches = state.find(name)
        _check_rate(batches, rate)
        shown = request.query_params.get("pictures") == "1"
        if rows is not None:
            return JSONResponse(await state.judge_rows(batches, rows, rate, shown))
        return JSONResponse(**await state.judge_images(batches, images, rate, shown))

    @app.get("/v1/bundles")
    async def bundles() -> list[dict[str, Any]]:
        """What is served, what it promises, and which false-alarm rates can be asked for."""
        return [state.told(batches) for batches in state.batches.values()]

    @app.get("/v1/threshold", responses=RESPONSES)
    async def threshold(false_alarm_rate: str, bundle: str = "") -> dict[str, Any]:
        """The threshold of a rate: of all, and by class where the promise goes by class."""
        batches = state.find(bundle or None)
        rate = number(false_alarm_rate)
        _check_rate(batches, rate)
        decision, classes = batches.served.now.bundle.decision(rate), batches.served.now.bundle.classes
        pooled = batches.served.now.bundle.threshold(rate)
        each = decision.thresholds(np.arange(len(classes))) if classes else np.empty(0)
        return {"threshold": pooled, "by_class": dict(zip(classes, map(float, each), strict=True))}

    @app.get("/v1/traffic", responses=RESPONSES)
    async def traffic() -> dict[str, Any]:
        """The last verdicts, and of those the most OOD."""
        if not state.traffic.on:
            raise Refused(404, "Recent traffic is not kept: it was switched off.")
        return {"latest": state.traffic.latest(24), "most_ood": state.traffic.most_ood(24)}

    @app.get("/v1/shadow", responses=RESPONSES)
    async def shadow() -> dict[str, Any]:
        """Where the shadow bundle differs."""
        if state.shadow is None:
            raise Refused(404, "There is no shadow bundle. Start with: spherood serve BUNDLE --shadow OTHER")
        return state.shadow.report()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok", "version": __version__}

    @app.get("/readyz", responses=RESPONSES)
    async def readyz() -> dict[str, Any]:
        """It takes requests."""
        if not state.ready:
            raise Refused(503, "Stopping.", {"Retry-After": RETRY})
        return {"status": "ready", "bundles": {name: one.served.now.version for name, one in state.batches.items()}}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(state.measures.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """The page for people."""
        return _html("page.html")

    @app.get("/page.js", response_class=Response)
    async def script() -> Response:
        """What the page does."""
        return Response(_ours("page.js"), media_type="text/javascript")

    @app.get("/docs", response_class=HTMLResponse)
    async def docs() -> HTMLResponse:
        """How to call it, on a page that names no other host."""
        return _html("docs.html")

    return app


class _State:
    """What the handlers share."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.ready = settings, True
        decoders = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        sizes: dict[str, Any] = {"batch": settings.batch, "decoders": decoders, "limits": settings.limits}
        self.batches = {name: Batches(served, room=settings.room, **sizes) for name, served in settings.served.items()}
        self.shadow = None
        if settings.shadow is not None:
            self.shadow = Shadow(Batches(settings.shadow, room=settings.room, **sizes))
        self.traffic = Traffic(settings.traffic)
        self.measures = Measures(lambda: {name: one.waiting for name, one in self.batches.items()})
        for name in self.batches:
            self.measures.refused.labels(name).set(0)

    async def look(self) -> None:
        """Now and then: is there another bundle on disk?"""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for batches in [*self.batches.values(), *([self.shadow.batches] if self.shadow else [])]:
                if await asyncio.to_thread(batches.served.refresh):
                    self.measures.swapped(batches.served.name)
                self.measures.refused.labels(batches.served.name).set(bool(batches.served.refused))

    def close(self) -> None:
        """Finish what was taken."""
        for batches in self.batches.values():
            batches.close()
        if self.shadow is not None:
            self.shadow.batches.close()

    def find(self, name: str | None) -> Batches:
        if name is None:
            return next(iter(self.batches.values()))
        if name not in self.batches:
            raise Refused(404, f"There is no bundle '{name[:80]}'. Served: {', '.join(self.batches)}.")
        return self.batches[name]

    def told(self, batches: Batches) -> dict[str, Any]:
        served, bundle = batches.served, batches.served.now.bundle
        low, high = np.quantile(bundle.held_out_score, (0.0, 0.995)).tolist()
        edges = np.linspace(low, high, 41)
        count, _ = np.histogram(bundle.held_out_score, edges)
        return {
            "name": served.name,
            "version": served.now.version,
            "refused": served.refused,
            "reads": "images" if bundle.preprocess is not None else rows_read(bundle.runtime.reads),
            "width": bundle.runtime.width,
            "classes": list(bundle.classes),
            "promise": bundle.promise.model_dump(mode="json"),
            "least_rate": least_rate(len(bundle.held_out_score), bundle.promise.each),
            "threshold": bundle.threshold(),
            "held_out": {"edges": edges.tolist(), "count": count.tolist()},
            "thumbnails": bundle.thumbnails is not None,
        }

    async def judge_rows(
        self, batches: Batches, rows: np.ndarray[Any, Any], rate: float | None, shown: bool
    ) -> dict[str, Any]:
        self._fits(batches, len(rows))
        names = [f"row {number}" for number in range(len(rows))]
        futures = _taken(lambda: batches.rows(rows, rate))
        found = [await asyncio.wrap_future(one) for one in futures]
        told = [self._row(batches, name, one, shown) for name, one in zip(names, found, strict=True)]
        return self._answer(batches, told, found)

    async def judge_images(
        self, batches: Batches, images: list[tuple[str, bytes]], rate: float | None, shown: bool
    ) -> dict[str, Any]:
        self._fits(batches, len(images))
        futures = []
        try:
            for name, content in images:
                futures.append(_taken(lambda name=name, content=content: batches.picture(content, name, rate)))
        except Refused:
            for one in futures:
                one.cancel()
            raise
        rows, found = [], []
        for (name, content), future in zip(images, futures, strict=True):
            try:
                judged = await asyncio.wrap_future(future)
            except ImageError as error:
                self.measures.unreadable.labels(batches.served.name).inc()
                rows.append({"image": name, "error": str(error)})
                continue
            found.append(judged)
            rows.append(self._row(batches, name, judged, shown))
            if self.shadow is not None:
                self.shadow.look(content, name, rate, judged.verdict)
        if not found:
            return {"content": {"error": rows[0]["error"], "verdicts": rows}, "status_code": 422}
        return {"content": self._answer(batches, rows, found)}

    def _fits(self, batches: Batches, n: int) -> None:
        if n > batches.room:
            raise Refused(413, f"{n:,} are more than may wait altogether ({batches.room:,}). Send fewer at once.")

    def _row(self, batches: Batches, name: str, judged: Judged, shown: bool) -> dict[str, Any]:
        self.measures.judged(batches.served.name, judged.version.bundle, judged.verdict)
        row = {"image": name, **asdict(judged.verdict), "error": None}
        thumbnails = judged.version.bundle.thumbnails
        if shown and thumbnails is not None:
            for neighbour, one in zip(row["neighbours"], judged.verdict.neighbours, strict=True):
                neighbour["picture"] = "data:image/jpeg;base64," + base64.b64encode(thumbnails[one.row]).decode()
        self.traffic.add({**row, "bundle": batches.served.name}, judged.picture)
        return row

    def _answer(self, batches: Batches, rows: list[dict[str, Any]], found: list[Judged]) -> dict[str, Any]:
        versions = list(dict.fromkeys(one.version.version for one in found))
        return {"bundle": batches.served.name, "version": versions[-1], "verdicts": rows}


def _check_rate(batches: Batches, rate: float | None) -> None:
    if rate is None:
        return
    if not 0 < rate < 1:
        raise Refused(400, f"false_alarm_rate: {rate:g} does not lie between 0 and 1.")
    try:
        batches.served.now.bundle.decision(rate)
    except CalibrationError as error:
        raise Refused(400, str(error)) from None


def _taken(take: Any) -> Any:
    """What a queue gives, or why it does not."""
    try:
        return take()
    except Full:
        raise Refused(503, "The queue is full. Try again in a moment.", {"Retry-After": RETRY}) from None


def _ours(file: str) -> str:
    return (resources.files("spherood.service") / file).read_text(encoding="utf-8")


def _html(file: str) -> HTMLResponse:
    policy = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'"
    return HTMLResponse(_ours(file), headers={"Content-Security-Policy": policy})
