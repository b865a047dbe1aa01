"""The API's description: OpenAPI 3.1, its introduction, its security schemes, and how it is served."""

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import flask_smorest
import marshmallow as ma
from flask import Flask, Response, request
from werkzeug.routing import UUIDConverter

from app.core import fields
from app.core.api import Blueprint, conditional_get
from app.core.schemas import Problem
from app.messages.schemas import STREAM_EVENT

TITLE = "Gemini Backend"
VERSION = "1.0.0"
API_KEY = "A key of `POST /user/api-keys`, on the routes of its scopes."
INTRODUCTION = Path(__file__).with_name("introduction.md").read_text(encoding="utf-8")
# Every other field of a response is always present, even if it is null.
MAY_BE_MISSING = {
    ("SentCodeOut", "otp"), ("SentCodesOut", "otp"), ("SentCodesOut", "current_otp"), ("Problem", "errors"),
}  # fmt: skip


class Api(flask_smorest.Api):  # type: ignore[misc]
    """flask-smorest's description, whose errors are all problem documents."""

    ERROR_SCHEMA = Problem
    DEFAULT_ERROR_RESPONSE_NAME = None


def without_null(_: object, field: ma.fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """Keep null out of the description of query strings and headers: a client leaves an argument out instead."""
    if field.load_default is None:
        del ret["schema"]["default"]
        ret["schema"]["type"] = ret["schema"]["type"][0]
    return {}


def describe(blueprints: Sequence[Blueprint]) -> dict[str, Any]:
    """Return the OpenAPI description of the blueprints' routes."""
    # flask-smorest describes what it registers on an app, so it gets an app of its own
    app = Flask("description", static_folder=None)
    app.url_map.converters["id"] = UUIDConverter
    app.config.update(API_TITLE=TITLE, API_VERSION=VERSION, OPENAPI_VERSION="3.1.0")
    bearer = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    api = Api()
    api.init_app(
        app,
        spec_kwargs={
            "info": {"description": INTRODUCTION, "license": {"name": "MIT", "identifier": "MIT"}},
            "servers": [{"url": "/"}],
            "components": {
                "securitySchemes": {
                    "accessToken": bearer | {"description": "The `access_token` of a login."},
                    "apiKey": bearer | {"bearerFormat": "gbk_…", "description": API_KEY},
                    "refreshToken": bearer | {"description": "The `refresh_token` of a login, for /auth/refresh."},
                }
            },
        },
    )
    api.register_field(fields.Url, "string", "uri")
    api.ma_plugin.converter.add_parameter_attribute_function(without_null)
    api.spec.components.schema("StreamEvent", STREAM_EVENT)
    for blueprint in blueprints:
        api.register_blueprint(blueprint)
    description: dict[str, Any] = api.spec.to_dict()
    schemas = description["components"]["schemas"]
    schemas.pop("PaginationMetadata")  # flask-smorest's; no route has it
    schemas["ChatroomChangesIn"]["minProperties"] = 1
    for name, schema in schemas.items():
        if name.endswith("Out") or name == "Problem":
            schema["required"] = [field for field in schema["properties"] if (name, field) not in MAY_BE_MISSING]
            schema.pop("additionalProperties")  # strict clients would refuse a field that a later version adds
    return description


def register_description(app: Flask, blueprints: Sequence[Blueprint]) -> None:
    """Serve the description of these blueprints at /openapi.json.

    It is built on the first request for it: that takes longer than the rest of create_app, and most processes never get
    such a request.
    """
    making = Lock()

    @cache
    def serialized() -> tuple[bytes, bytes]:
        """Return the description as JSON, and the same gzipped."""
        plain = json.dumps(describe(blueprints), separators=(",", ":")).encode()
        return plain, gzip.compress(plain, mtime=0)

    def answer() -> Response:
        is_gzip = request.accept_encodings.quality("gzip") > 0
        with making:
            response = Response(serialized()[is_gzip], mimetype="application/json")
        if is_gzip:
            response.content_encoding = "gzip"
        response.vary.add("Accept-Encoding")
        response.headers["Cache-Control"] = "no-cache"  # cache it, and revalidate each time
        return response

    app.add_url_rule("/openapi.json", "openapi", conditional_get(answer))
