"""What is asked: the body of /v1/predict in its three forms, checked, and the errors that answer nonsense."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import Request
from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from spherood.schema import Strict
from spherood.service.pictures import Limits

RETRY = "1"  # seconds


class Image64(Strict):
    """An image in JSON."""

    name: str = "image"
    base64: str


class Asked(Strict):
    """The body of /v1/predict as JSON: images or features."""

    images: tuple[Image64 | str, ...] | None = Field(default=None, description="base64, or {name, base64}")
    features: tuple[tuple[float, ...], ...] | None = Field(default=None, description="rows of what the bundle reads")
    bundle: str | None = None
    false_alarm_rate: float | None = Field(default=None, gt=0, lt=1)


class Refused(Exception):
    """An answer that is no verdict."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers


_ERROR = {"content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": what, **_ERROR}
    for status, what in {
        400: "What makes no sense",
        401: "No token, or another",
        404: "Not here",
        413: "Too large",
        415: "Another kind of content",
        422: "No image, or features that do not fit",
        503: "No room in the queue",
    }.items()
}
_ASKED = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "images": {
            "type": "array",
            "minItems": 1,
            "items": {
                "oneOf": [
                    {"type": "string", "contentEncoding": "base64"},
                    {
                        "type": "object",
                        "required": ["base64"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "base64": {"type": "string", "contentEncoding": "base64"},
                        },
                    },
                ]
            },
        },
        "features": {"type": "array", "minItems": 1, "items": {"type": "array", "items": {"type": "number"}}},
        "bundle": {"type": "string"},
        "false_alarm_rate": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    },
}
_RATE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
BODY = {
    "parameters": [
        {"name": "bundle", "in": "query", "schema": {"type": "string"}},
        {"name": "false_alarm_rate", "in": "query", "schema": _RATE},
        {"name": "pictures", "in": "query", "schema": {"type": "string", "enum": ["0", "1"]}},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _ASKED},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "bundle": {"type": "string"},
                        "false_alarm_rate": {"type": "number"},
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}


async def read(
    request: Request, limits: Limits
) -> tuple[list[tuple[str, bytes]], np.ndarray[Any, Any] | None, str | None, float | None]:
    """Images or rows, the bundle's name and the rate, of whatever kind the body is."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = request.query_params
    if unknown := [key for key in query if key not in ("bundle", "false_alarm_rate", "pictures")]:
        raise Refused(400, f"Unknown parameter '{unknown[0][:80]}'. Known: bundle, false_alarm_rate, pictures.")
    name, rate = query.get("bundle"), number(query["false_alarm_rate"]) if "false_alarm_rate" in query else None
    if kind == "application/json":
        asked = _json(await request.body())
        images, rows = _of_json(asked)
        found = (images, rows, asked.bundle or name, rate if asked.false_alarm_rate is None else asked.false_alarm_rate)
    elif kind == "multipart/form-data":
        found = await _of_form(request, limits, name, rate)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        found = ([("image", await request.body())], None, name, rate)
    else:
        raise Refused(415, "Send multipart/form-data with images, application/json, or one image as the body.")
    if len(found[0]) > limits.images:
        raise Refused(413, f"{len(found[0]):,} images are more than one request may have ({limits.images:,}).")
    return found


def _json(body: bytes) -> Asked:
    try:
        return Asked.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "the body"
            raise Refused(400, f"{where}: {problem['msg'].removeprefix('Value error, ').rstrip('.')}.") from None
        raise Refused(400, "The body is no JSON.") from None


def _of_json(asked: Asked) -> tuple[list[tuple[str, bytes]], np.ndarray[Any, Any] | None]:
    if (asked.images is None) == (asked.features is None):
        raise Refused(400, "Give images or features, one of them.")
    if asked.features is not None:
        widths = {len(row) for row in asked.features}
        if len(widths) != 1:
            raise Refused(422, "features: expected rows of one length, at least one.")
        return [], np.array(asked.features, dtype=np.float32)
    images = []
    for number, one in enumerate(asked.images or ()):
        text, name = (one, f"image {number}") if isinstance(one, str) else (one.base64, one.name)
        try:
            plain = text.partition(",")[2] if text.startswith("data:") else text
            images.append((name, base64.b64decode(plain, validate=True)))
        except (binascii.Error, ValueError):
            raise Refused(422, f"images.{number}: is no base64.") from None
    if not images:
        raise Refused(400, "images: expected at least one.")
    return images, None


async def _of_form(
    request: Request, limits: Limits, name: str | None, rate: float | None
) -> tuple[list[tuple[str, bytes]], None, str | None, float | None]:
    try:
        form = await request.form(max_files=limits.images + 1, max_fields=8, max_part_size=limits.body)
    except HTTPException as error:
        raise Refused(400, f"The form cannot be read: {error.detail}") from None
    except (ValueError, KeyError, UnicodeDecodeError):
        raise Refused(400, "The form cannot be read.") from None
    images: list[tuple[str, bytes]] = []
    for key, value in form.multi_items():
        if key in ("images", "image") and isinstance(value, UploadFile):
            images.append((value.filename or f"image {len(images)}", await value.read()))
        elif key == "bundle" and isinstance(value, str):
            name = value
        elif key == "false_alarm_rate" and isinstance(value, str):
            rate = number(value)
        else:
            raise Refused(400, f"Unknown field '{key[:80]}'. Known: images (files), bundle, false_alarm_rate.")
    if not images:
        raise Refused(400, "images: expected at least one file.")
    return images, None, name, rate


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refused(400, f"false_alarm_rate: '{text[:40]}' is no number.") from None
