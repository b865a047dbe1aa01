"""Conditional GET: an ETag of what is stored, and 304 for a client that has it (RFC 9110, 13).

Answers stay `no-store`: a program that keeps one knows what it does, and a cache on the way is not to have it.
"""

import hashlib
from http import HTTPStatus
from typing import Any

import marshmallow as ma
from flask import Response, request
from werkzeug.http import quote_etag


def answer_unless_known(shape: str, stored: Any) -> Any:
    """What a view has read, with its ETag; 304 when `If-None-Match` names it, and then no body is made of it.

    The ETag is a strong one: of all values that are stored, and of the shape of their schema, since another release
    may show them another way. A response that is made already is known by its bytes.
    """
    if isinstance(stored, Response):
        stored.set_etag(hash_of(stored.get_data()))
        return stored.make_conditional(request)
    etag = hash_of(repr((shape, plain(stored))).encode())
    headers = {"ETag": quote_etag(etag)}
    if request.if_none_match.contains_weak(etag):  # which is the comparison that RFC 9110 has for it
        return Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    return stored, HTTPStatus.OK, headers


def shape_of(schema: ma.Schema) -> dict[str, Any]:
    """The names of a schema's fields, with those of the schemas in it."""
    inner = {name: getattr(field, "inner", field) for name, field in schema.fields.items()}
    return {name: shape_of(one.schema) if isinstance(one, ma.fields.Nested) else None for name, one in inner.items()}


def plain(value: Any) -> Any:
    """A row, or something with rows in it, as plain values in a fixed order."""
    if isinstance(value, dict):
        return [(name, plain(value[name])) for name in sorted(value)]
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "_sa_instance_state"):
        return [(name, one) for name, one in sorted(vars(value).items()) if name != "_sa_instance_state"]
    return value


def hash_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
