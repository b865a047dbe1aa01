"""Stripe's form encoding: nesting in brackets, every value a string.

`a[b]=1` is an object, `a[]=1` and `a[0]=1` are lists (https://docs.stripe.com/api).
"""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from sandbox.stripe.errors import parameter_invalid, parameter_missing

Params = dict[str, Any]


def parse_form(pairs: Iterable[tuple[str, str]]) -> Params:
    """Nested objects and lists from flat pairs, in the order they came."""
    tree: Params = {}
    for name, value in pairs:
        first, *rest = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name) or [name]
        node = tree
        for step, following in zip([first, *rest], rest, strict=False):
            key = step or str(len(node))
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise parameter_invalid(name, f"Invalid request: {following!r} is inside a plain value.")
            node = child
        last = rest[-1] if rest else first
        node[last or str(len(node))] = value
    return {name: _with_lists(value) for name, value in tree.items()}


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(key.isdecimal() for key in node):
        return [_with_lists(node[key]) for key in sorted(node, key=int)]
    return {key: _with_lists(value) for key, value in node.items()}


def as_text(params: Params, name: str) -> str | None:
    """A plain value; empty means null."""
    value = params.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise parameter_invalid(name, f"Invalid string: {value}")
    return value


def as_required_text(params: Params, name: str) -> str:
    """A plain value that must be there."""
    value = as_text(params, name)
    if value is None:
        raise parameter_missing(name)
    return value


def as_int(params: Params, name: str, default: int | None = None) -> int | None:
    """A whole number."""
    value = as_text(params, name)
    if value is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,15}", value):
        raise parameter_invalid(name, f"Invalid integer: {value}", "parameter_invalid_integer")
    return int(value)


def as_bool(params: Params, name: str, default: bool = False) -> bool:
    """`true` or `false`."""
    value = as_text(params, name)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise parameter_invalid(name, f"Invalid boolean: {value}")
    return value == "true"


def as_object(params: Params, name: str) -> Params:
    """A nested object; absent or empty gives an empty one."""
    value = params.get(name) or {}
    if not isinstance(value, dict):
        raise parameter_invalid(name, "Invalid object")
    return value


def as_list(params: Params, name: str) -> list[Any]:
    """A list; absent or empty gives an empty one."""
    value = params.get(name) or []
    if not isinstance(value, list):
        raise parameter_invalid(name, "Invalid array")
    return value


def as_url(params: Params, name: str) -> str | None:
    """An http or https address."""
    value = as_text(params, name)
    if value is not None and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).netloc):
        raise parameter_invalid(name, "Not a valid URL", "url_invalid")
    return value


def merged_metadata(old: dict[str, str], params: Params) -> dict[str, str]:
    """Metadata after an update: an empty value unsets a key, an empty `metadata` unsets all.

    https://docs.stripe.com/api/metadata
    """
    if params.get("metadata") == "":
        return {}
    merged = old | as_object(params, "metadata")
    return {key: str(value) for key, value in merged.items() if value != ""}
