"""The service against requests that are made from its own description, right ones and wrong ones: no answer but a
described one, no 5xx but the 503 of a full queue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tests.service.conftest import make

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
pytest.importorskip("fastapi", reason="needs the extra serve")


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_request_gets_a_described_answer(mode: str, tmp_path: Path) -> None:
    from spherood.service.app import Settings, create_app
    from spherood.service.served import Served

    make().save(tmp_path / "bundle")
    app = create_app(Settings(served={"noise": Served("noise", tmp_path / "bundle")}))
    api = schemathesis.openapi.from_asgi("/openapi.json", app)
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
    ]
    asked: dict[str, int] = {}
    for found in api.get_all_operations():
        operation = found.ok()
        strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode])

        @hypothesis.settings(
            max_examples=60 if operation.method == "post" else 10,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=strategy)
        def ask(case: Any) -> None:
            answer = case.call()
            asked[f"{case.method} {case.path}"] = asked.get(f"{case.method} {case.path}", 0) + 1
            case.validate_response(answer, checks=checks)
            if answer.status_code >= 400:
                assert set(answer.json()) <= {"error", "verdicts", "detail"}

        try:
            ask()
        except hypothesis.errors.Unsatisfiable:
            assert mode == "NEGATIVE"  # what takes nothing cannot be asked wrongly
    assert asked["POST /v1/predict"] >= 20
