"""Around the whole service: the token, the size of a body, the count and time of requests."""

from __future__ import annotations

import hmac
import time
from typing import Any

from fastapi.responses import JSONResponse

from spherood.service.asking import Refused
from spherood.service.measures import Measures

OPEN = frozenset({"/", "/page.js", "/docs", "/openapi.json", "/healthz", "/readyz"})  # without a token
_ASKING = {"WWW-Authenticate": "Bearer"}


class Guarded:
    """``app.add_middleware(Guarded, ...)``."""

    def __init__(self, app: Any, measures: Measures, body: int, token: str | None) -> None:
        """body: bytes of a request, at most."""
        self.app, self.measures, self.body, self.token = app, measures, body, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status, most = time.perf_counter(), 0, self.body
        headers = {key.lower(): value for key, value in scope["headers"]}
        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise Refused(413, _too_large(most))
            return message

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            length = headers.get(b"content-length", b"0")
            if not length.isdigit():
                raise Refused(400, "Content-Length is no number.")
            if int(length) > most:
                raise Refused(413, _too_large(most))
            if self.token is not None and scope["path"] not in OPEN:
                given = headers.get(b"authorization", b"")
                if not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
                    raise Refused(401, "A bearer token is needed: Authorization: Bearer TOKEN.", _ASKING)
            await self.app(scope, counted, noted)
        except Refused as error:
            if status == 0:
                answer = JSONResponse({"error": error.error}, error.status, headers=dict(error.headers or {}))
                await answer(scope, receive, noted)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self.measures.requests.labels(path, str(status)).inc()
            self.measures.latency.labels(path).observe(time.perf_counter() - begin)


def _too_large(most: int) -> str:
    return f"The body is larger than {most / 1e6:,.0f} MB. Send fewer or smaller images."
